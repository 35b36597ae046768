"""Digits for people: drawn in a terminal, or side by side in a PNG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from workloads.datasets import DatasetError

Images = npt.NDArray[np.float32]

_BRAILLE = 0x2800
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""The dot of a braille character at each of its four rows and two columns."""
_INK = 0.4
_GAP = "  "


@dataclass(frozen=True)
class Caption:
    """What stands under a digit, and whether it is right."""

    text: str
    right: bool


def terminal_digits(images: Images, captions: Sequence[Caption], width: int) -> Iterator[str]:
    """Lines of text, rich markup in the captions; as many digits side by side as `width` holds.

    images: (count, 1, height, width) in [0, 1]. Each character shows 2 × 4 pixels.
    """
    drawn = [_braille(image[0]) for image in images]
    cell = len(drawn[0][0])
    across = max(1, width // (cell + len(_GAP)))
    for start in range(0, len(drawn), across):
        row = drawn[start : start + across]
        for lines in zip(*row, strict=True):
            yield _GAP.join(lines)
        shown = captions[start : start + across]
        yield _GAP.join(_coloured(caption, cell) for caption in shown)


def _braille(image: npt.NDArray[np.float32]) -> list[str]:
    height, width = image.shape
    ink = np.zeros((-(-height // 4) * 4, -(-width // 2) * 2), dtype=np.int64)
    ink[:height, :width] = image > _INK
    blocks = ink.reshape(len(ink) // 4, 4, -1, 2).transpose(0, 2, 1, 3)
    codes = (blocks * _DOTS).sum((2, 3)) + _BRAILLE
    return ["".join(map(chr, row)) for row in codes]


def _coloured(caption: Caption, width: int) -> str:
    colour = "green" if caption.right else "bold red"
    return f"[{colour}]{caption.text.center(width)}[/]"


def save_picture(path: Path, images: Images, captions: Sequence[Caption], across: int = 10) -> None:
    """Write a PNG of the digits, `across` a row, green captions where right and red elsewhere.

    Raises `DatasetError` where the file cannot be written.
    """
    zoom, margin, line = 3, 8, 18
    height, width = images.shape[2] * zoom, images.shape[3] * zoom
    rows = -(-len(images) // across)
    columns = min(across, len(images))
    size = (columns * (width + margin) + margin, rows * (height + line + margin) + margin)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, across)
        x = margin + column * (width + margin)
        y = margin + row * (height + line + margin)
        pixels = Image.fromarray((255 * (1 - image[0])).astype(np.uint8)).resize((width, height))
        sheet.paste(pixels, (x, y))
        colour = "#1a7f37" if caption.right else "#cf222e"
        middle = (x + width // 2, y + height + line // 2)
        draw.text(middle, caption.text, fill=colour, font=font, anchor="mm")
    try:
        sheet.save(path, format="PNG")
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror or error}") from None
