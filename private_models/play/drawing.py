"""A drawing, as people make it on a page, to a digit as MNIST has them."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from private_models.errors import InputError

SIDE, BOX, MIDDLE = 28, 20, 14
"""Of the page, of the ink, and where MNIST's digits have their centres of mass, in pixels."""
PEN = 2.4
"""Width of the pen on that page: the ink of a drawing is then about as much as that of MNIST."""
MOST_POINTS = 20_000
_INK = 16
"""Of 255: fainter is the page."""
_FINE = 12
"""How many times as large drawings are made, and pictures read, before they are averaged."""

Strokes = Sequence[Sequence[Sequence[float]]]


def inked(strokes: Strokes) -> Image.Image:
    """Strokes, each of points (x, y) from 0 to 1 with y downwards, as a grey picture.

    The page sends strokes and not its pixels: the pen is as wide then however small somebody draws,
    and browsers that blur pixels against fingerprinting spoil nothing. Raises `InputError` for no
    points, for more than `MOST_POINTS`, and for anything that is no stroke.
    """
    lines = [_points(stroke) for stroke in strokes]
    if not lines:
        raise InputError("nothing is drawn: draw a digit first")
    every = np.concatenate(lines)
    if len(every) > MOST_POINTS:
        raise InputError(f"{len(every)} points: expected at most {MOST_POINTS}; clear, draw anew")
    corner, extent = every.min(0), float(np.ptp(every, axis=0).max())
    width = PEN * _FINE
    scale = (BOX - PEN) * _FINE / extent if extent > 1 / SIDE else SIDE * _FINE
    picture = Image.new("L", (SIDE * _FINE, SIDE * _FINE))
    draw = ImageDraw.Draw(picture)
    for line in lines:
        places = [(float(x), float(y)) for x, y in (line - corner) * scale + width]
        draw.line(places, fill=255, width=round(width))
        for x, y in places:  # round ends and joints
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return picture


def _points(stroke: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    try:
        points = np.asarray(stroke, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError("a stroke is not a list of points (x, y)") from None
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise InputError(f"a stroke has shape {points.shape}: expected (points, 2)")
    if not ((points >= 0) & (points <= 1)).all():  # nor is NaN
        raise InputError("a stroke leaves the board: expected coordinates from 0 to 1")
    return points


def centred(picture: Image.Image) -> npt.NDArray[np.float32]:
    """Grey, white on black, of any size → (28, 28) in 0 to 1.

    The ink is scaled to fit 20 x 20 pixels and put with its centre of mass in the middle (LeCun et
    al. 1998), to a fraction of a pixel. Raises `InputError` for an empty page.
    """
    grey = picture.convert("L")
    ink = grey.point(lambda value: 255 if value >= _INK else 0).getbbox()
    if ink is None:
        raise InputError("nothing is drawn: draw a digit first")
    cut = grey.crop(ink)
    cut.thumbnail((BOX * _FINE, BOX * _FINE), Image.Resampling.BOX)
    window = SIDE * max(cut.size) / BOX  # what becomes the page, in pixels of the cut
    left, top = (_begin(cut, axis, window) for axis in (0, 1))
    frame = math.ceil(window)
    around = Image.new("L", (cut.width + 2 * frame, cut.height + 2 * frame))
    around.paste(cut, (frame, frame))
    box = (left + frame, top + frame, left + frame + window, top + frame + window)
    page = around.resize((SIDE, SIDE), Image.Resampling.BOX, box)
    return np.asarray(page, np.float32) / np.float32(255)


def _begin(cut: Image.Image, axis: int, window: float) -> float:
    """Where the page begins, seen from the ink, along x (0) or y: with the centre of mass in its
    middle, or as near as all of the ink fits."""
    profile = np.asarray(cut, np.float64).sum(axis=axis)
    centre = float(profile @ (np.arange(len(profile)) + 0.5) / profile.sum())
    middle = window * (MIDDLE + 0.5) / SIDE  # pixel 14 has its middle at 14.5
    return min(max(centre - middle, len(profile) - window), 0.0)
