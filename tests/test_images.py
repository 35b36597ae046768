"""`workloads.images`: what people have becomes queries unchanged, or is refused by name."""

import gzip
import os
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workloads import images
from workloads.datasets import DatasetError
from workloads.images import ImageStream, read_images, read_named_images

GREY = (1, 5, 4)
COLOUR = (3, 5, 4)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (5, 4, 3), dtype=np.uint8)
OPAQUE = np.full((5, 4), 255, np.uint8)

Array = npt.NDArray[Any]


def picture(path: Path, pixels: Array, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def npy(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def idx(path: Path, pixels: Array) -> Path:
    header = struct.pack(f">HBB{pixels.ndim}I", 0, 8, pixels.ndim, *pixels.shape)
    path.write_bytes(header + pixels.tobytes())
    return path


def refused(path: Path, *words: str, shape: tuple[int, ...] = GREY) -> None:
    with refusal(path, *words):
        read_images([path], shape)


@contextmanager
def refusal(path: Path, *words: str) -> Iterator[None]:
    """One line that names the file and holds all the words."""
    with pytest.raises(DatasetError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


# ---------------------------------------------------------------------------- what is taken

LOSSLESS = [".png", ".bmp", ".tif", ".PNG"]


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_grey_pictures_become_floats_between_zero_and_one(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"a{suffix}", PIXELS)
    found = read_images([path], GREY)
    assert found.dtype == np.float32
    assert np.array_equal(found, PIXELS[None, None].astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_colour_pictures_have_their_channels_first(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"a{suffix}", COLOURS)
    expected = COLOURS.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    assert np.array_equal(read_images([path], COLOUR), expected)


def test_grey_saved_as_colours_is_still_grey(tmp_path: Path) -> None:
    """Drawing programs do that; nothing is lost by taking it."""
    expected = read_images([picture(tmp_path / "a.png", PIXELS)], GREY)
    for number, channels in enumerate(
        ([PIXELS] * 3, [PIXELS, PIXELS, PIXELS, OPAQUE], [PIXELS, OPAQUE])
    ):
        path = picture(tmp_path / f"{number}.png", np.stack(channels, axis=-1))
        assert np.array_equal(read_images([path], GREY), expected)


def test_grey_and_palette_where_colours_are_asked_for(tmp_path: Path) -> None:
    expected = np.repeat(PIXELS[None, None].astype(np.float32) / np.float32(255), 3, axis=1)
    path = picture(tmp_path / "grey.png", PIXELS)
    assert np.array_equal(read_images([path], COLOUR), expected)
    Image.fromarray(PIXELS).convert("P").save(tmp_path / "palette.png")
    assert np.array_equal(read_images([tmp_path / "palette.png"], COLOUR), expected)


def test_black_and_white_pictures(tmp_path: Path) -> None:
    Image.fromarray(PIXELS > 127).save(tmp_path / "a.png")
    assert np.array_equal(read_images([tmp_path / "a.png"], GREY)[0, 0], PIXELS > 127)


@pytest.mark.parametrize("shape", [(5, 4), (1, 5, 4), (3, 5, 4), (3, 1, 5, 4)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_arrays_with_and_without_batch_and_channel(
    tmp_path: Path, shape: tuple[int, ...], dtype: type[Any]
) -> None:
    array = np.random.default_rng(2).integers(0, 2, shape).astype(dtype)
    expected = array.reshape(-1, 1, 5, 4).astype(np.float32)
    if dtype is np.uint8:
        expected /= np.float32(255)
    found = read_images([npy(tmp_path / "a.npy", array)], GREY)
    assert np.array_equal(found, expected)
    assert found.dtype == np.float32


def test_one_channel_is_added_and_no_other_axis(tmp_path: Path) -> None:
    bare = npy(tmp_path / "bare.npy", np.zeros((5, 4), np.float32))
    queries, names = read_named_images([bare], GREY)
    assert (queries.shape, names) == ((1, *GREY), ["bare.npy"])
    refused(bare, "(5, 4)", "(3, 5, 4)", shape=COLOUR)
    assert read_images([npy(tmp_path / "a.npy", np.zeros(7))], (1,)).shape == (7, 1)
    refused(npy(tmp_path / "b.npy", np.zeros(())), "shape ()", shape=(1,))
    refused(npy(tmp_path / "c.npy", np.zeros(4)), "(4,)", shape=GREY)
    refused(npy(tmp_path / "d.npy", np.zeros((2, 2, 1, 5, 4))), "(2, 2, 1, 5, 4)")


def test_float_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    array = np.array([[-3.5, 0.25, 1e6]], dtype=np.float32)
    assert np.array_equal(read_images([npy(tmp_path / "a.npy", array)], (3,)), array)
    assert np.array_equal(read_images([npy(tmp_path / "a.npy", array[0])], (3,)), array)


def test_arrays_of_other_order(tmp_path: Path) -> None:
    array = np.random.default_rng(3).random((2, 1, 5, 4)).astype(">f4")
    found = read_images([npy(tmp_path / "a.npy", np.asfortranarray(array))], GREY)
    assert np.array_equal(found, array)


def test_idx_files(tmp_path: Path) -> None:
    pixels = np.stack([PIXELS, 255 - PIXELS])
    found = read_images([idx(tmp_path / "a-idx3-ubyte", pixels)], GREY)
    assert np.array_equal(found, pixels[:, None].astype(np.float32) / np.float32(255))


def test_three_grey_pictures_are_not_the_channels_of_one(tmp_path: Path) -> None:
    """The first of an IDX file's sizes counts, by its format."""
    three = np.stack([PIXELS] * 3)
    path = idx(tmp_path / "a", three)
    assert read_images([path], GREY).shape == (3, *GREY)
    refused(path, "(3, 5, 4)", "(count, 3, 5, 4)", shape=COLOUR)
    assert read_images([npy(tmp_path / "a.npy", three)], COLOUR).shape == (1, *COLOUR)


def test_paths_keep_their_order_and_folders_are_sorted(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in ("c", "a", "b"):
        picture(folder / f"{name}.png", np.full((5, 4), ord(name), np.uint8))
    (folder / "notes.txt").write_text("not a picture")
    single = npy(tmp_path / "single.npy", np.full((1, 5, 4), ord("z"), np.uint8))
    found = read_images([single, folder, single], GREY)[:, 0, 0, 0] * 255
    assert "".join(map(chr, np.rint(found).astype(int))) == "zabcz"


# ---------------------------------------------------------------------------- what is refused


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "a.png", "No such file")
    refused(tmp_path / "a", "No such file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no pictures")
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file" / "a.png", "Not a directory")
    with pytest.raises(DatasetError, match="at least one"):
        read_images([], GREY)
    sound = picture(tmp_path / "sound.png", PIXELS)
    with refusal(tmp_path / "empty", "no pictures", ".png"):
        ImageStream([sound, tmp_path / "empty", sound], GREY)


def test_a_folder_that_is_called_like_a_file(tmp_path: Path) -> None:
    for name in ("a.png", "a.npy"):
        (tmp_path / name).mkdir()
        refused(tmp_path / name, "no pictures")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["a.png", "a.npy", "a"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "expected a file")


def test_other_sizes_name_both(tmp_path: Path) -> None:
    refused(picture(tmp_path / "a.png", PIXELS.T), "5 x 4 pixels", "4 x 5", "scale")
    refused(npy(tmp_path / "a.npy", np.zeros((2, 1, 4, 5))), "(2, 1, 4, 5)", "(1, 5, 4)")
    refused(npy(tmp_path / "b.npy", np.float32(1)), "shape ()", "(1, 5, 4)")
    refused(npy(tmp_path / "c.npy", np.zeros((0, 1, 5, 4))), "(0, 1, 5, 4)", "at least one")
    refused(idx(tmp_path / "d", np.zeros((2, 4, 5), np.uint8)), "(2, 4, 5)", "(1, 5, 4)")


@pytest.mark.parametrize("shape", [(20,), (2, 5, 4)])
def test_a_picture_needs_a_shape_of_pictures(tmp_path: Path, shape: tuple[int, ...]) -> None:
    refused(picture(tmp_path / "a.png", PIXELS), str(shape), ".npy", shape=shape)


def test_colours_are_not_turned_grey(tmp_path: Path) -> None:
    refused(picture(tmp_path / "a.png", COLOURS), "colours", "shades of grey")
    nearly = np.stack([PIXELS] * 3, axis=-1)
    nearly[2, 1, 2] ^= 1
    refused(picture(tmp_path / "b.png", nearly), "colours")


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_transparency_is_not_dropped(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Black ink on nothing at all would become black on black."""
    ink = np.stack([PIXELS * 0] * 3 + [PIXELS], axis=-1)
    refused(picture(tmp_path / "a.png", ink), "transparent", shape=shape)
    Image.fromarray(PIXELS).save(tmp_path / "b.png", transparency=int(PIXELS[0, 0]))
    refused(tmp_path / "b.png", "transparent", shape=shape)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_deep_pictures_are_not_clipped(tmp_path: Path, dtype: type[Any]) -> None:
    """Converted by Pillow, every value above 255 would be white."""
    suffix = ".png" if dtype is np.uint16 else ".tif"
    refused(picture(tmp_path / f"a{suffix}", PIXELS.astype(dtype) * 257), "mode I", "8 bits")


def test_several_pictures_in_one_file(tmp_path: Path) -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    refused(tmp_path / "a.tif", "2 pictures", "expected 1")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 5, 4), np.int64),
        np.zeros((1, 5, 4), bool),
        np.zeros((1, 5, 4), complex),
        np.zeros((1, 5, 4), "U3"),
        np.zeros((1, 5, 4), [("a", "f4")]),
    ],
    ids=lambda array: str(array.dtype.kind),
)
def test_other_dtypes(tmp_path: Path, array: Array) -> None:
    refused(npy(tmp_path / "a.npy", array), f"dtype {array.dtype}", "floats or uint8")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    array = np.zeros((9, 1, 5, 4))
    array[7:, 0, 2, 3] = value
    path = npy(tmp_path / "a.npy", array)
    refused(path, "NaN, infinite", "query 7", "finite")
    batches = ImageStream([path], GREY).batches(4)
    assert len(next(batches)[0]) == 4
    with refusal(path, "query 7"):
        next(batches)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    trace = tmp_path / "exploded"
    np.save(tmp_path / "a.npy", np.array([Bomb(trace)], dtype=object), allow_pickle=True)
    refused(tmp_path / "a.npy", "Python objects")
    for name in ("b.npy", "c.png", "d"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(trace)))
        refused(tmp_path / name)
    assert not trace.exists()
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert trace.exists()  # the bomb is a real one


def test_archives_are_no_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((1, 5, 4)))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    refused(tmp_path / "a.npy", "NUMPY")


def test_claims_are_not_believed(tmp_path: Path) -> None:
    """A short file that says it holds terabytes costs no memory."""
    header = b"{'descr':'<f4','fortran_order':False,'shape':(100000000000,1,5,4)}".ljust(117)
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    (tmp_path / "a.npy").write_bytes(magic + header + b"\n")
    refused(tmp_path / "a.npy")
    (tmp_path / "a").write_bytes(bytes.fromhex("00000803") + b"\xff" * 12)
    refused(tmp_path / "a", "values")


def png_that_claims(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT\x35\xaf\x06\x1e"


@pytest.mark.parametrize("side", [1000, 10_000, 60_000])
def test_picture_bombs(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png_that_claims(side, side))
    refused(tmp_path / "a.png")


def test_pictures_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 10)
    refused(picture(tmp_path / "a.png", PIXELS), "at most 10 bytes")
    assert len(read_images([npy(tmp_path / "a.npy", PIXELS)], GREY)) == 1  # mapped


def test_a_damaged_idx_file_of_ones_own_is_not_to_be_fetched(tmp_path: Path) -> None:
    path = idx(tmp_path / "a", PIXELS[None])
    whole = path.read_bytes()
    for content, words in (
        (whole[:-1], ("expected 20 values", "found 19", "cut short")),
        (whole + b"\0", ("expected 20 values", "found 21", "after its end")),
        (whole[:9], ("header of 16 bytes", "found 9 bytes", "cut short, damaged")),
        (whole[:3] + b"\x01" + whole[4:], ("rank 3", "begin 00000801", "another kind")),
    ):
        path.write_bytes(content)
        refused(path, *words)
        with pytest.raises(DatasetError) as caught:
            ImageStream([path], GREY)
        assert "etch" not in str(caught.value)


def test_a_compressed_idx_file_is_told_what_to_do(tmp_path: Path) -> None:
    whole = idx(tmp_path / "a", PIXELS[None]).read_bytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(whole))
    refused(tmp_path / "a.gz", "gunzip")


def test_an_array_cut_short(tmp_path: Path) -> None:
    path = npy(tmp_path / "a.npy", np.zeros(GREY))
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "not a whole .npy array")


def test_formats_that_nobody_asked_for(tmp_path: Path) -> None:
    """PostScript would be run by another program."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\nshowpage\n")
    refused(tmp_path / "a.png", "expected a picture")
    Image.fromarray(PIXELS).save(tmp_path / "b.png", format="PPM")
    refused(tmp_path / "b.png", "expected a picture")


def contents(folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    picture(folder / "a.png", COLOURS)
    picture(folder / "a.jpg", PIXELS)
    picture(folder / "a.tif", PIXELS)
    picture(folder / "a.bmp", PIXELS)
    picture(folder / "a.gif", PIXELS)
    npy(folder / "a.npy", np.zeros((1, 5, 4), np.float32))
    idx(folder / "a", PIXELS[None])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.gif", "a.npy", "a"])
def test_files_cut_short_give_one_kind_of_error(
    tmp_path: Path, sound: dict[str, bytes], name: str
) -> None:
    content = sound[name]
    for length in range(0, len(content), max(1, len(content) // 60)):
        (tmp_path / name).write_bytes(content[:length])
        try:
            found = read_images([tmp_path / name], COLOUR if name == "a.png" else GREY)
        except DatasetError as error:
            assert str(tmp_path / name) in str(error)
        else:
            assert found.shape[1:] in (GREY, COLOUR)  # only trailing bytes were missing


@given(data=st.data())
def test_damage_gives_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, sound: dict[str, bytes], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(sound)))
    content = bytearray(sound[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        found = read_images([path], GREY)
    except DatasetError as error:
        assert str(path) in str(error)
    else:
        assert found.shape[1:] == GREY
        assert np.isfinite(found).all()


def test_every_query_is_named_after_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", np.zeros((2, 1, 3, 3), np.float32))
    np.save(tmp_path / "one.npy", np.zeros((1, 3, 3), np.float32))
    queries, names = read_named_images([tmp_path / "two.npy", tmp_path / "one.npy"], (1, 3, 3))
    assert names == ["two.npy[0]", "two.npy[1]", "one.npy"]
    assert len(queries) == len(names)


def test_a_table_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("1,2,3\n")
    with pytest.raises(DatasetError, match=r"numpy\.save"):
        read_images([tmp_path / "table.csv"], (3,))


# ---------------------------------------------------------------------------- bit by bit


def as_idx(folder: Path, pixels: Array) -> list[Path]:
    return [idx(folder / f"{len(list(folder.iterdir()))}-idx3-ubyte", pixels)]


def as_npy(folder: Path, pixels: Array) -> list[Path]:
    return [npy(folder / f"{len(list(folder.iterdir()))}.npy", pixels)]


def as_fortran(folder: Path, pixels: Array) -> list[Path]:
    return as_npy(folder, np.asfortranarray(pixels))


def as_floats(folder: Path, pixels: Array) -> list[Path]:
    return as_npy(folder, pixels[:, None].astype(np.float32) / np.float32(255))


def as_pictures(folder: Path, pixels: Array) -> list[Path]:
    return as_npy(folder, pixels[0]) + [
        picture(folder / f"{len(list(folder.iterdir()))}.png", one) for one in pixels[1:]
    ]


def as_folder(folder: Path, pixels: Array) -> list[Path]:
    within = folder / str(len(list(folder.iterdir())))
    within.mkdir()
    for number, one in enumerate(pixels):
        picture(within / f"{number}.png", one)
    return [within]


FORMS = [as_idx, as_npy, as_fortran, as_floats, as_pictures, as_folder]


@given(
    files=st.lists(st.tuples(st.sampled_from(FORMS), st.integers(1, 7)), min_size=1, max_size=5),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_batches_joined_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[Callable[[Path, Array], list[Path]], int]],
    size: int,
    seed: int,
) -> None:
    """Full ones across the borders of files, whatever those are, and the rest in the last."""
    folder, chance = tmp_path_factory.mktemp("stream"), np.random.default_rng(seed)
    pixels = [chance.integers(0, 256, (count, 5, 4), np.uint8) for _, count in files]
    paths = [
        path for (form, _), part in zip(files, pixels, strict=True) for path in form(folder, part)
    ]
    expected = np.concatenate(pixels)[:, None].astype(np.float32) / np.float32(255)

    stream = ImageStream(paths, GREY)
    batches = list(stream.batches(size))
    assert len(stream) == len(expected)
    assert all(batch.dtype == np.float32 for batch, _ in batches)
    assert np.array_equal(np.concatenate([batch for batch, _ in batches]), expected)
    assert [len(batch) for batch, _ in batches[:-1]] == [size] * (len(batches) - 1)
    assert 1 <= len(batches[-1][0]) <= size
    assert all(len(batch) == len(names) for batch, names in batches)
    assert all(not np.shares_memory(one[0], other[0]) for one, other in pairwise(batches))

    queries, names = read_named_images(paths, GREY)
    assert np.array_equal(queries, expected)
    assert names == list(stream.names()) == [name for _, part in batches for name in part]
    assert np.array_equal(np.concatenate([batch for batch, _ in stream.batches(3)]), expected)


def test_names_across_borders(tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", np.zeros((2, *GREY), np.float32))
    picture(tmp_path / "one.png", PIXELS)
    stream = ImageStream([tmp_path / "two.npy", tmp_path, tmp_path / "two.npy"], GREY)
    assert [names for _, names in stream.batches(3)] == [
        ["two.npy[0]", "two.npy[1]", "one.png"],
        ["two.npy[0]", "two.npy[1]"],
    ]


def test_what_is_skipped_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    (folder / "more").mkdir(parents=True)
    picture(folder / "b.PNG", PIXELS)
    (folder / "notes.txt").write_text("not a picture")
    npy(folder / "array.npy", PIXELS)
    stream = ImageStream([folder, folder / "b.PNG"], GREY)
    assert stream.skipped == ("array.npy", "more/", "notes.txt")
    assert len(stream) == 2
    assert ImageStream([folder / "b.PNG"], GREY).skipped == ()


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_something(tmp_path: Path, size: int) -> None:
    stream = ImageStream([npy(tmp_path / "a.npy", PIXELS)], GREY)
    with pytest.raises(DatasetError, match=f"Expected size={size} >= 1"):
        stream.batches(size)  # at once, not with the first batch


def test_more_than_there_is_costs_nothing(tmp_path: Path) -> None:
    stream = ImageStream([npy(tmp_path / "a.npy", PIXELS)], GREY)
    assert [len(batch) for batch, _ in stream.batches(2**62)] == [1]


def early(folder: Path) -> list[tuple[Path, str]]:
    """Files that are known to be wrong by their headers, and a word of why."""
    (folder / "text.png").write_text("not a picture")
    (folder / "text").write_text("not an IDX file")
    return [
        (folder / "absent.png", "No such file"),
        (folder / "absent.npy", "No such file"),
        (folder / "absent", "No such file"),
        (folder / "text.png", "expected a picture"),
        (folder / "text", "not a picture, .npy or IDX file"),
        (picture(folder / "size.png", PIXELS.T), "expected 4 x 5"),
        (picture(folder / "deep.png", PIXELS.astype(np.uint16)), "8 bits"),
        (npy(folder / "shape.npy", np.zeros((2, 4, 5))), "(2, 4, 5)"),
        (npy(folder / "dtype.npy", np.zeros(GREY, np.int64)), "dtype int64"),
        (idx(folder / "shape", np.zeros((2, 4, 5), np.uint8)), "(2, 4, 5)"),
        (idx(folder / "rank", np.zeros(5, np.uint8)), "rank 3"),
    ]


def test_what_headers_tell_is_known_before_anything_is_read(tmp_path: Path) -> None:
    sound = npy(tmp_path / "sound.npy", np.zeros((3, *GREY)))
    for path, word in early(tmp_path):
        with refusal(path, word):
            ImageStream([sound, path, sound], GREY)


def damaged(path: Path) -> Path:
    """Without the second half of what its header announces."""
    content = picture(path, PIXELS).read_bytes()
    start = content.index(b"IDAT")
    path.write_bytes(content[: start + 12])
    return path


def test_damage_in_the_middle_is_found_in_its_turn(tmp_path: Path) -> None:
    for name in "abcde":
        picture(tmp_path / f"{name}.png", PIXELS)
    expected = read_images([tmp_path / "a.png"], GREY)
    damaged(tmp_path / "c.png")
    picture(tmp_path / "e.png", COLOURS)
    stream = ImageStream([tmp_path], GREY)
    assert len(stream) == 5
    batches = stream.batches(1)
    assert np.array_equal(next(batches)[0], expected)
    assert next(batches)[1] == ["b.png"]
    with refusal(tmp_path / "c.png"):
        next(batches)
    with refusal(tmp_path / "c.png"):
        next(stream.batches(4))


@pytest.mark.parametrize("form", [as_idx, as_npy, as_fortran, as_floats])
def test_a_file_that_changes_meanwhile(
    tmp_path: Path, form: Callable[[Path, Array], list[Path]]
) -> None:
    """Cut short under a mapping, it would take the process with it."""
    pixels = np.zeros((50_000, 5, 4), np.uint8)
    [path] = form(tmp_path, pixels)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        path.write_bytes(whole)
        batches = ImageStream([path], GREY).batches(100)
        next(batches)
        path.write_bytes(content)
        with refusal(path):
            next(batches)
    path.write_bytes(whole)
    batches = ImageStream([path], GREY).batches(100)
    next(batches)
    path.unlink()
    with refusal(path, "No such file"):
        next(batches)


@pytest.mark.parametrize("count", [40, 60])
def test_a_file_that_is_replaced_meanwhile(tmp_path: Path, count: int) -> None:
    path = npy(tmp_path / "a.npy", np.zeros((50, *GREY)))
    batches = ImageStream([path], GREY).batches(10)
    next(batches)
    npy(path, np.zeros((count, *GREY)))
    with refusal(path, "changed", f"from 50 queries to {count}"):
        next(batches)


# ---------------------------------------------------------------------------- in little memory

DIGIT = (1, 28, 28)
QUERIES = 1 << 20
BATCH = 256
BATCH_BYTES = BATCH * 28 * 28 * 4


def sparse_npy(path: Path, dtype: type[Any], *, fortran: bool = False) -> Path:
    """Many queries of zeros that take no room on the disk."""
    np.lib.format.open_memmap(path, "w+", dtype, (QUERIES, *DIGIT), fortran)
    return path


def sparse_idx(path: Path) -> Path:
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, QUERIES, 28, 28))
    os.truncate(path, 16 + QUERIES * 28 * 28)
    return path


SPARSE: dict[str, Callable[[Path], Path]] = {
    "float32": lambda folder: sparse_npy(folder / "a.npy", np.float32),
    "uint8": lambda folder: sparse_npy(folder / "a.npy", np.uint8),
    "fortran": lambda folder: sparse_npy(folder / "a.npy", np.uint8, fortran=True),
    "idx": lambda folder: sparse_idx(folder / "a"),
}


@contextmanager
def peak_below(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most


@pytest.mark.parametrize("kind", SPARSE)
def test_a_file_longer_than_memory(tmp_path: Path, kind: str) -> None:
    """The first batch of gigabytes costs that batch, and what it takes to check it."""
    path = SPARSE[kind](tmp_path)
    assert path.stat().st_size >= QUERIES * 28 * 28 > 8e8
    with peak_below(2 * BATCH_BYTES):
        stream = ImageStream([path], DIGIT)
        batch, names = next(stream.batches(BATCH))
    assert len(stream) == QUERIES
    assert batch.shape == (BATCH, *DIGIT)
    assert names[-1] == f"{path.name}[{BATCH - 1}]"
    path.unlink()


@pytest.mark.parametrize("form", [as_idx, as_npy, as_floats])
def test_all_batches_take_the_room_of_a_few(
    tmp_path: Path, form: Callable[[Path, Array], list[Path]]
) -> None:
    """The one that the caller holds, the one that is being read, and its check."""
    pixels = np.zeros((20 * BATCH, 28, 28), np.uint8)
    paths = form(tmp_path, pixels) * 2
    with peak_below(3 * BATCH_BYTES):
        total = sum(len(batch) for batch, _ in ImageStream(paths, DIGIT).batches(BATCH))
    assert total == 2 * len(pixels)


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="counts open files where they are listed")
def test_no_file_stays_open(tmp_path: Path) -> None:
    """Folders and command lines name more files than a process may open."""
    paths = [
        path
        for form in (as_idx, as_npy, as_folder)
        for path in form(tmp_path, np.stack([PIXELS] * 9))
    ]
    before = len(os.listdir("/dev/fd"))
    for _batch in ImageStream(paths, GREY).batches(2):
        assert len(os.listdir("/dev/fd")) == before


def test_more_than_fits_into_memory_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = ImageStream([npy(tmp_path / "a.npy", PIXELS)], GREY)

    def full(*_arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", full)
    with pytest.raises(DatasetError, match=r"1 queries of shape .* do not fit into memory"):
        next(stream.batches(5))
