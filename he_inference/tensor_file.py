"""Reading our safetensors files, which may come from anybody: limits first, nothing executed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from he_inference.errors import ModelFileError

MAX_FILE_BYTES = 1 << 30
MALFORMED = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
"""What taking apart a hostile JSON value may raise."""


def write_tensors(
    path: str | Path, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, str]
) -> None:
    """Write a safetensors file, whole or not at all. Raises `ModelFileError`."""
    try:
        save_file(tensors, str(path), metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: cannot be written: {error}") from None


def read_tensors(
    path: str | Path, expected_format: str, version: int
) -> tuple[dict[str, str], dict[str, npt.NDArray[np.float64]]]:
    """Metadata and float64 tensors of one of our safetensors files, or `ModelFileError`."""
    path = Path(path)
    with _opened(path) as file:
        metadata = dict(file.metadata() or {})
        _check_format(path, metadata, expected_format, version)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        if tensor.dtype not in (np.float32, np.float64):
            raise ModelFileError(f"{path}: tensor {name} is {tensor.dtype}, expected float32 or 64")
    return metadata, {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


def map_tensor(
    path: str | Path, name: str, expected_format: str, version: int
) -> tuple[dict[str, str], npt.NDArray[np.float64]]:
    """Metadata and one float64 tensor, mapped and not read; `ModelFileError` as `read_tensors`.

    The array is writeable, and what is written stays in this process.
    """
    path = Path(path)
    with _opened(path) as file:
        metadata = dict(file.metadata() or {})
        _check_format(path, metadata, expected_format, version)
        if name not in file.keys() or file.get_slice(name).get_dtype() != "F64":  # noqa: SIM118
            raise ModelFileError(f"{path}: no float64 tensor {name!r}: make the file again")
        shape = tuple(file.get_slice(name).get_shape())
    with path.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        start = 8 + length + json.loads(content.read(length))[name]["data_offsets"][0]
    return metadata, np.asarray(np.memmap(path, np.float64, "c", start, shape))


def read_format(path: str | Path) -> str:
    """What a safetensors file says it holds; raises `ModelFileError` where it is none."""
    with _opened(Path(path)) as file:
        return str(dict(file.metadata() or {}).get("format", ""))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file within limits; whatever goes wrong inside is a `ModelFileError`."""
    try:
        if path.is_dir():
            raise ModelFileError(f"{path}: cannot be read: it is a folder")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelFileError(f"{path}: {size} bytes, at most {MAX_FILE_BYTES} are read")
        with safe_open(str(path), framework="numpy") as file:
            yield file
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path}: not a safetensors file: {error}") from None


def _check_format(path: Path, metadata: dict[str, str], expected: str, version: int) -> None:
    found = metadata.get("format", "no format at all")
    if found != expected:
        raise ModelFileError(f"{path}: expected a {expected} file, found {found[:60]!r}")
    if metadata.get("version") != str(version):
        raise ModelFileError(
            f"{path}: version {metadata.get('version')!r}, this release reads version {version}: "
            "make the file again with this release"
        )
