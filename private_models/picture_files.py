"""Pictures from folders and IDX files, opened one at a time as they are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from private_models.errors import InputError
from private_models.feature_files import read_idx
from private_models.labelled_folders import labelled_files

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_MALFORMED = (ValueError, TypeError, EOFError, SyntaxError, MemoryError, OverflowError)


@dataclass(frozen=True)
class Pictures(Sequence[Image.Image]):
    """RGB pictures that are decoded each time they are asked for; millions need no memory."""

    sources: Sequence[Path] | npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, at: int) -> Image.Image: ...
    @overload
    def __getitem__(self, at: slice) -> "Pictures": ...
    def __getitem__(self, at: int | slice) -> "Image.Image | Pictures":
        """Raises `InputError` naming a file that cannot be decoded."""
        if isinstance(at, slice):
            return Pictures(self.sources[at])
        source = self.sources[at]
        return read_picture(source) if isinstance(source, Path) else _from_bytes(source)

    def __iter__(self) -> Iterator[Image.Image]:
        return (self[at] for at in range(len(self)))


def read_pictures(path: Path) -> tuple[Pictures, list[str] | None]:
    """Of a folder, sorted by name, or of an IDX file; and names of folders where each is a class.

    Raises `InputError` naming the first file that is no picture.
    """
    if not path.is_dir():
        array = read_idx(path)
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3) or not len(array):
            raise InputError(
                f"{path}: expected IDX pictures (n, height, width) or (n, height, width, 3), found "
                f"shape {array.shape}"
            )
        return Pictures(array), None
    files, names = labelled_files(path, PICTURES, "pictures")
    for file in files:
        _check(file)
    return Pictures(files), names


def _check(file: Path) -> None:
    """By its first bytes: what is damaged further on shows when it is decoded."""
    try:
        with Image.open(file, formats=_FORMATS):
            pass
    except UnidentifiedImageError:
        raise InputError(f"{file}: not a picture, or of a kind that is not read") from None
    except (OSError, *_MALFORMED, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: cannot be read as a picture: {str(error)[:120]}") from None


def read_picture(file: Path) -> Image.Image:
    """RGB. Raises `InputError` for what is none, or of a kind that is not read."""
    try:
        with Image.open(file, formats=_FORMATS) as picture:
            return picture.convert("RGB")
    except (OSError, *_MALFORMED, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: cannot be read as a picture: {str(error)[:120]}") from None


def _from_bytes(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).convert("RGB")
