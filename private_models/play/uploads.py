"""What comes from the page, checked before anything is made of it."""

import io
import json
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from private_models.backbones.catalogue import Kind
from private_models.errors import InputError, OptionError
from private_models.play.drawing import centred, inked

MAX_BYTES = 8 << 20
MAX_PIXELS = 32_000_000
MAX_CHARACTERS = 20_000
FILE, STROKES = "application/octet-stream", "application/json"
"""Types of bodies: neither can be sent by another site's form, nor without asking by its script."""
_FORMATS = ("PNG", "JPEG", "WEBP")
_MALFORMED = (
    OSError, ValueError, TypeError, EOFError, SyntaxError, MemoryError, OverflowError, LookupError,
)  # fmt: skip

Digit = npt.NDArray[np.float32]


def read_upload(kind: Kind, body: bytes, media: str = FILE) -> tuple[object, Digit | None]:
    """What a backbone of that kind takes, and the digit as it sees it, (28, 28), where it is one.

    body: a picture's file or a text in UTF-8 (media FILE), or a drawing's strokes in JSON (media
    STROKES). Raises `InputError`, and `OptionError` for a kind that a page cannot
    offer.
    """
    if kind == "vector":
        raise OptionError("this bundle takes arrays: ask it in Python, with hybrid.Client")
    if kind == "text":
        return _text(body), None
    if kind == "picture":
        return _picture(body), None
    digit = centred(_drawing(body) if media == STROKES else _picture(body))
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


def _drawing(body: bytes) -> Image.Image:
    try:
        strokes = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("the drawing did not arrive whole: draw it again") from None
    if not isinstance(strokes, list) or not all(isinstance(stroke, list) for stroke in strokes):
        raise InputError("expected a drawing as a list of strokes, each a list of points (x, y)")
    return inked(strokes)


def _picture(body: bytes) -> Image.Image:
    """RGB and upright, as cameras mean it. Its size is checked before a pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of odd metadata, which is not looked at
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(body), formats=_FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise InputError(
                        f"a picture of {picture.width} x {picture.height}: at most "
                        f"{MAX_PIXELS // 1_000_000} million pixels are read"
                    )
                return ImageOps.exif_transpose(picture).convert("RGB")
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"at most {MAX_PIXELS // 1_000_000} million pixels are read") from None
    except _MALFORMED:
        raise InputError("not a picture that can be read: expected PNG, JPEG or WebP") from None
