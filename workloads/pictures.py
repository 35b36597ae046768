"""Digits for people: drawn in a terminal, or side by side in a PNG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from workloads.datasets import DatasetError

Images = npt.NDArray[np.float32]

_BRAILLE = 0x2800
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""The dot of a braille character at each of its four rows and two columns."""
_SHADES = " .:-=+*#@"
"""For none to all eight dots."""
_INK = 0.4
_GAP = "  "


@dataclass(frozen=True)
class Caption:
    """What stands under a digit, and whether it is right."""

    text: str
    right: bool


def terminal_digits(
    images: Images, captions: Sequence[Caption], width: int, *, braille: bool = True
) -> Iterator[str]:
    """Lines of text, rich markup in the captions; as many digits side by side as `width` holds.

    images: (count, 1, height, width) in [0, 1]. Each character shows 2 × 4 pixels: as dots, or
    without `braille` by a character of ASCII that is as dark.
    """
    drawn = [_lines(image[0], braille) for image in images]
    cell = max((len(text) for text in (*drawn[0], *(c.text for c in captions))), default=1)
    across = max(1, (width + len(_GAP)) // (cell + len(_GAP)))
    for start in range(0, len(drawn), across):
        row = drawn[start : start + across]
        for lines in zip(*row, strict=True):
            yield _GAP.join(line.ljust(cell) for line in lines)
        shown = captions[start : start + across]
        yield _GAP.join(_coloured(caption, cell) for caption in shown)


def _lines(image: npt.NDArray[np.float32], braille: bool) -> list[str]:
    height, width = image.shape
    ink = np.zeros((-(-height // 4) * 4, -(-width // 2) * 2), dtype=np.int64)
    ink[:height, :width] = image > _INK
    blocks = ink.reshape(len(ink) // 4, 4, -1, 2).transpose(0, 2, 1, 3)
    if braille:
        codes = (blocks * _DOTS).sum((2, 3)) + _BRAILLE
        return ["".join(map(chr, row)) for row in codes]
    return ["".join(_SHADES[dots] for dots in row) for row in blocks.sum((2, 3))]


def _coloured(caption: Caption, width: int) -> str:
    colour = "green" if caption.right else "bold red"
    return f"[{colour}]{caption.text.center(width)}[/]"


def save_picture(path: Path, images: Images, captions: Sequence[Caption], across: int = 10) -> None:
    """Write a PNG of the digits, `across` a row, green captions where right and red elsewhere.

    The file is there as a whole or not at all. Raises `DatasetError` where it cannot be written.
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
        grey = (255 * (1 - np.clip(image[0], 0, 1))).astype(np.uint8)
        pixels = Image.fromarray(grey).resize((width, height))
        sheet.paste(pixels, (x, y))
        colour = "#1a7f37" if caption.right else "#cf222e"
        middle = (x + width // 2, y + height + line // 2)
        draw.text(middle, caption.text, fill=colour, font=font, anchor="mm")
    target = path.resolve()
    part = target.with_name(f".{token_hex(8)}.part")
    try:
        try:
            with part.open("xb") as file:
                sheet.save(file, format="PNG")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror or error}") from None
