"""A drawing, as people make it on a page, to a digit as MNIST has them."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from private_models.errors import InputError

SIDE, BOX, MIDDLE = 28, 20, 14
"""Of the page, of the ink, and where MNIST's digits have their centres of mass, in pixels."""
_INK = 16
"""Of 255: fainter is the page."""


def centred(picture: Image.Image) -> npt.NDArray[np.float32]:
    """Grey, white on black, of any size → (28, 28) in 0 to 1.

    The ink is scaled to fit 20 x 20 pixels and put with its centre of mass in the middle (LeCun et
    al. 1998). Raises `InputError` for an empty page.
    """
    grey = picture.convert("L")
    ink = grey.point(lambda value: 255 if value >= _INK else 0).getbbox()
    if ink is None:
        raise InputError("nothing is drawn: draw a digit first")
    cut = grey.crop(ink)
    scale = BOX / max(cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    small = np.asarray(cut.resize(size, Image.Resampling.LANCZOS), np.float32) / 255
    down, across = (_shift(small.sum(axis=1 - axis)) for axis in (0, 1))
    page = np.zeros((SIDE, SIDE), np.float32)
    page[down : down + size[1], across : across + size[0]] = small
    return page.clip(0, 1)


def _shift(profile: npt.NDArray[np.float32]) -> int:
    """Where a profile begins that has its centre of mass in the middle, or as near as fits."""
    centre = float((profile * np.arange(len(profile))).sum() / profile.sum())
    return min(max(0, round(MIDDLE - centre)), SIDE - len(profile))
