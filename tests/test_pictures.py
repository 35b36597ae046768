"""`workloads.pictures`: digits in a terminal of any width, and side by side in a PNG."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from workloads.datasets import DatasetError, mnist_sample
from workloads.pictures import Caption, save_picture, terminal_digits

DIGITS = mnist_sample().images[:12]
RIGHT = [Caption("7", True)] * 12
CAPTIONS = [Caption(f"{n} (is 3)" if n == 4 else f"{n % 10}", n != 4) for n in range(12)]


def plain(width: int, braille: bool = True, captions: list[Caption] = CAPTIONS) -> list[str]:
    """As a terminal of that width shows it, without colours."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    for line in terminal_digits(DIGITS[: len(captions)], captions, width, braille=braille):
        console.print(line, highlight=False)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("braille", [True, False])
@pytest.mark.parametrize("width", [14, 15, 29, 30, 31, 40, 80, 200, 1000])
def test_lines_are_no_wider_than_the_terminal(width: int, braille: bool) -> None:
    lines = plain(width, braille)
    assert max(map(len, lines)) <= width
    across = max(1, (width + 2) // 16)
    assert len(lines) == -(-12 // across) * 8  # seven lines and a caption, nothing wrapped


def test_no_width_at_all_still_draws() -> None:
    assert len(list(terminal_digits(DIGITS, CAPTIONS, 0))) == 12 * 8


def test_every_caption_stands_under_its_digit() -> None:
    lines = plain(40)
    assert lines[7].split() == ["0", "1"]
    assert lines[15].split() == ["2", "3"]
    assert lines[23].split("  ")[0].strip() or "4 (is 3)" in lines[23]
    for column, text in ((0, "0"), (16, "1")):
        assert lines[7][column : column + 14].strip() == text


def test_dots_are_the_pixels() -> None:
    """A single pixel lights a single dot, of the character and row that it is in."""
    image = np.zeros((1, 1, 8, 4), np.float32)
    image[0, 0, 5, 2] = 1.0
    first, second, _ = terminal_digits(image, [Caption("x", True)], 80)
    assert first.rstrip() == "⠀⠀"
    assert second == "⠀⠂"


def test_shades_are_as_dark_as_the_dots_are_many() -> None:
    image = np.zeros((1, 1, 4, 18), np.float32)
    for dots in range(9):
        block = np.zeros(8)
        block[:dots] = 1
        image[0, 0, :, 2 * dots : 2 * dots + 2] = block.reshape(4, 2)
    line, _ = terminal_digits(image, [Caption("x", True)], 80, braille=False)
    assert line == " .:-=+*#@"


def test_without_braille_it_is_ascii() -> None:
    assert "".join(plain(80, braille=False)).isascii()
    assert not "".join(plain(80)).isascii()


def test_right_is_green_and_wrong_is_red() -> None:
    lines = list(terminal_digits(DIGITS[:1], [Caption("7", True)], 80))
    assert "[green]" in lines[-1]
    lines = list(terminal_digits(DIGITS[:1], [Caption("7 (is 1)", False)], 80))
    assert "red]" in lines[-1]


def test_captions_wider_than_a_small_digit() -> None:
    small = np.ones((6, 1, 4, 4), np.float32)
    captions = [Caption("7 (is 1)", False)] * 6
    lines = list(terminal_digits(small, captions, 20))
    assert len(lines) == 3 * 2  # two across


def test_sizes_that_are_no_multiples() -> None:
    image = np.ones((1, 1, 5, 3), np.float32)
    lines = list(terminal_digits(image, RIGHT[:1], 80, braille=False))
    assert [line.rstrip() for line in lines[:2]] == ["@=", ":."]


# ---------------------------------------------------------------------------- PNG


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (9, 1, 9), (10, 1, 10), (12, 2, 10)]
)
def test_a_sound_png_of_the_right_size(tmp_path: Path, count: int, rows: int, columns: int) -> None:
    path = tmp_path / "a.png"
    save_picture(path, DIGITS[:count], CAPTIONS[:count])
    with Image.open(path) as picture:
        picture.verify()
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (columns * 92 + 8, rows * 110 + 8)


def test_digits_are_dark_on_white_and_captions_coloured(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", DIGITS[:2], [Caption("7", True), Caption("2 (is 3)", False)])
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (pixels[0] == 255).all()  # the margin
    assert pixels[8:92, 8:92].min() < 30
    red_less_green = pixels[..., 0] - pixels[..., 1]
    assert red_less_green[92:110, :100].min() < -50  # green under the first
    assert red_less_green[92:110, 100:].max() > 50  # red under the second


def test_values_outside_the_range_do_not_wrap(tmp_path: Path) -> None:
    image = np.full((1, 1, 4, 4), 1.5, np.float32)
    image[0, 0, :2] = -0.5
    save_picture(tmp_path / "a.png", image, RIGHT[:1])
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels[9, 9] == 255
    assert pixels[18, 9] == 0


def test_the_same_digits_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_picture(tmp_path / name, DIGITS, CAPTIONS)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_any_name_is_a_png(tmp_path: Path) -> None:
    save_picture(tmp_path / "digits", DIGITS[:1], RIGHT[:1])
    with Image.open(tmp_path / "digits") as picture:
        assert picture.format == "PNG"


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none" / "a.png", tmp_path / "file" / "a.png", tmp_path):
        with pytest.raises(DatasetError, match="cannot be written"):
            save_picture(path, DIGITS[:1], RIGHT[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption leaves the picture of before, and nothing else."""
    path = tmp_path / "a.png"
    save_picture(path, DIGITS[:1], RIGHT[:1])
    before = path.read_bytes()

    def interrupted(_self: Image.Image, file: io.BytesIO, **_options: object) -> None:
        file.write(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_picture(path, DIGITS, CAPTIONS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
