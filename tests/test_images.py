"""`workloads.images`: what people have becomes queries unchanged, or is refused by name."""

import os
import pickle
import struct
import zlib
from collections.abc import Callable
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
from workloads.images import read_images, read_named_images

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
    """One line that names the file and holds all the words."""
    with pytest.raises(DatasetError) as caught:
        read_images([path], shape)
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
    if shape == (5, 4):
        refused(npy(tmp_path / "a.npy", array), "(5, 4)", "(1, 5, 4)")
        return
    expected = array.reshape(-1, 1, 5, 4).astype(np.float32)
    if dtype is np.uint8:
        expected /= np.float32(255)
    found = read_images([npy(tmp_path / "a.npy", array)], GREY)
    assert np.array_equal(found, expected)
    assert found.dtype == np.float32


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
    with pytest.raises(DatasetError):
        read_images([], GREY)


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
    array = np.zeros((2, 1, 5, 4))
    array[1, 0, 2, 3] = value
    refused(npy(tmp_path / "a.npy", array), "NaN, infinite", "finite")


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


def test_files_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 10)
    refused(npy(tmp_path / "a.npy", PIXELS), "at most 10 bytes")


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
