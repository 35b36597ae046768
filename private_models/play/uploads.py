"""What comes from the page, checked before anything is made of it."""

import io

import numpy as np
from PIL import Image

from private_models.backbones.catalogue import Kind
from private_models.errors import InputError, OptionError
from private_models.play.drawing import centred

MAX_BYTES = 8 << 20
MAX_PIXELS = 32_000_000
MAX_CHARACTERS = 20_000
_FORMATS = ("PNG", "JPEG", "WEBP")
_MALFORMED = (
    OSError, ValueError, TypeError, EOFError, SyntaxError, MemoryError, OverflowError, IndexError,
    Image.DecompressionBombError,
)  # fmt: skip


def read_upload(
    kind: Kind, body: bytes
) -> tuple[object, "np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None"]:
    """What a backbone of that kind takes, and the digit as it sees it, (28, 28), where it is one.

    body: a picture's file, or a text in UTF-8. Raises `InputError`, and `OptionError` for a kind
    that a page cannot offer.
    """
    if kind == "vector":
        raise OptionError("this bundle takes arrays: ask it in Python, with hybrid.Client")
    if kind == "text":
        return _text(body), None
    picture = _picture(body)
    if kind == "picture":
        return picture.convert("RGB"), None
    digit = centred(picture)
    return digit, digit


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise InputError("expected a text in UTF-8") from None
    if not text.strip():
        raise InputError("nothing is written: write a sentence first")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{len(text)} characters: at most {MAX_CHARACTERS} are read")
    return text


def _picture(body: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(body), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(
                    f"a picture of {picture.width} x {picture.height}: at most "
                    f"{MAX_PIXELS // 1_000_000} million pixels are read"
                )
            return picture.convert("RGB")
    except InputError:
        raise
    except _MALFORMED:
        raise InputError("not a picture that can be read: expected PNG, JPEG or WebP") from None
