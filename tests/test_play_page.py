"""The page of `private-models play` in a real browser, with a real server behind it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from PIL import Image

from workloads.datasets import mnist_sample

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE = 30
PHONE = {"width": 390, "height": 844}
THREE = [(0.3, 0.25), (0.5, 0.18), (0.68, 0.28), (0.66, 0.42), (0.5, 0.5), (0.68, 0.58),
         (0.7, 0.74), (0.5, 0.84), (0.28, 0.76)]  # fmt: skip


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the page that `private-models play` serves; Ctrl-C ends it, and what it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "private_models", "play", "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    yield found[0]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """Opened; any message on the console and any request elsewhere fails the test."""
    wrong: list[str] = []
    context = browser.new_context()
    made = context.new_page()
    made.on("console", lambda message: wrong.append(message.text))
    made.on("pageerror", lambda error: wrong.append(str(error)))
    origin = address.split("/?")[0]
    made.on(
        "request",
        lambda sent: (
            wrong.append(sent.url) if not sent.url.startswith((origin, "blob:", "data:")) else None
        ),
    )
    made.goto(address)
    made.wait_for_selector("[role=tab]")
    yield made
    context.close()
    assert wrong == []


def draw(page: Any, points: list[tuple[float, float]]) -> None:
    frame = page.locator("#board").bounding_box()
    places = [
        (frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in points
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def test_a_digit_that_is_drawn_is_read(page: Any) -> None:
    draw(page, THREE)
    page.wait_for_selector("#found:not([hidden])")
    assert page.inner_text("#label") == "3"
    assert len(page.query_selector_all("#scores li")) == 5
    words = page.inner_text("#journey")
    for part in ("encrypt, here", "server, on ciphertexts", "decrypt, here", "kB up", "of noise"):
        assert part in words
    pixels = page.evaluate(
        "[...document.getElementById('noise').getContext('2d').getImageData(0, 0, 96, 96).data]"
    )
    assert len(set(pixels[::4])) > 200  # noise has every grey
    first = page.inner_text("#noise-words")
    assert "17 kB" in first


def test_asking_again_is_other_noise(page: Any) -> None:
    read = "document.getElementById('noise').toDataURL()"
    draw(page, THREE)
    page.wait_for_selector("#found:not([hidden])")
    once = page.evaluate(read)
    page.click("#ask")
    deadline = monotonic() + PATIENCE
    while page.evaluate(read) == once:
        assert monotonic() < deadline
        page.wait_for_timeout(50)


def test_what_is_promised_is_on_the_page(page: Any) -> None:
    words = page.inner_text("#promise")
    for part in ("(1, 1e-05)-differential privacy", "128-bit", "scores", "how often"):
        assert part in words
    page.click("summary")
    assert "gradient of the loss" in page.inner_text("#statement")


def test_a_file_is_read_and_a_wrong_one_is_told(page: Any, tmp_path: Path) -> None:
    sample = mnist_sample()
    Image.fromarray((sample.images[0, 0] * 255).astype("uint8")).save(tmp_path / "seven.png")
    page.set_input_files("#digit-file", str(tmp_path / "seven.png"))
    page.wait_for_selector("#found:not([hidden])")
    assert page.inner_text("#label") == str(sample.labels[0])


def test_mistakes_are_told_in_a_line(browser: Any, address: str, tmp_path: Path) -> None:
    """The browser's own console notes refusals, so the console is left alone here."""
    context = browser.new_context()
    made = context.new_page()
    made.goto(address)
    made.wait_for_selector("[role=tab]")
    made.click("#ask")
    made.wait_for_selector("#fault:not([hidden])")
    assert "nothing is drawn" in made.inner_text("#fault")
    (tmp_path / "letter.png").write_text("Dear Sir")
    made.set_input_files("#digit-file", str(tmp_path / "letter.png"))
    made.get_by_text("expected PNG, JPEG or WebP").wait_for()
    made.click("#clear")
    assert made.is_hidden("#fault")
    made.goto(address.split("?")[0])
    assert "needs the address" in made.inner_text("body")
    context.close()


def test_by_keyboard_alone(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "tab"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "board"
    draw(page, THREE)
    page.wait_for_selector("#found:not([hidden])")
    page.focus("#board")
    page.keyboard.press("Delete")
    blank = page.evaluate(
        "document.getElementById('board').getContext('2d').getImageData(0, 0, 336, 336).data"
        ".every((value, at) => value === (at % 4 === 3 ? 255 : 0))"
    )
    assert blank


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, address: str, scheme: str) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, has_touch=True)
    made = context.new_page()
    made.goto(address)
    made.wait_for_selector("[role=tab]")
    draw(made, THREE)
    made.wait_for_selector("#found:not([hidden])")
    assert made.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    grounds = made.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", grounds)[:3])) > 384) is (scheme == "light")
    context.close()


def test_the_server_ends_with_the_page() -> None:
    """A second one, to be ended: nothing that it started is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "private_models", "play", "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    started = children.read_text().split() if children.exists() else []
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert not [pid for pid in started if os.path.exists(f"/proc/{pid}")]
