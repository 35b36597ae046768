"""The page of `private-models play` in a real browser, with a real server behind it."""

import base64
import os
import re
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from PIL import Image

from private_models import PrivateClassifier, hybrid
from private_models.backbones.orientations import orientations
from private_models.backbones.pixels import pixels
from private_models.head import load_head
from private_models.play import serving
from workloads.datasets import mnist_sample
from workloads.models import PRIVATE_DIGITS

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
play_picture = pytest.importorskip("benchmarks.play_picture")
answered, draw = play_picture.answered, play_picture.draw
pytestmark = pytest.mark.skipif(
    play_picture.browser() is None, reason="no Chromium: apt install chromium"
)
PHONE = {"width": 390, "height": 844}


def started_by(process: int) -> list[int]:
    """Processes that live as long as it does."""
    lists = Path(f"/proc/{process}/task").glob("*/children")  # of every thread
    return [int(pid) for each in lists for pid in each.read_text().split()]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two, a tab each: the private head that ships, and one on pixels."""
    folder = tmp_path_factory.mktemp("bundles")
    backbone = orientations()
    features = backbone.features(list(mnist_sample().images[:, 0]))
    head = load_head(PRIVATE_DIGITS)
    for name, by in (("digits", backbone), ("pixels", pixels())):
        if name == "pixels":
            features = by.features(list(mnist_sample().images[:, 0]))
            classifier = PrivateClassifier(8.0, 1e-4, rows=200, public_features=features[:100])
            labels = mnist_sample().labels
            head = classifier.fit(features[100:], labels[100:], classes=range(10)).head_
        made = hybrid.build(head, by, examples=features, layout="coefficients")
        made.save(folder / name)
    return [folder / "digits", folder / "pixels"]


@pytest.fixture(scope="module")
def address(bundles: list[Path]) -> Iterator[str]:
    """Of the page that `private-models play` serves; Ctrl-C ends it, and what it started."""
    with play_picture.served(bundles) as (found, process):
        started = started_by(process)
        yield found
    assert len(started) >= len(bundles) or not Path("/proc").exists()
    assert not [pid for pid in started if os.path.exists(f"/proc/{pid}")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(
            executable_path=play_picture.browser(), args=play_picture.FLAGS
        )


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """Opened; any message on the console and any request elsewhere fails the test."""
    wrong: list[str] = []
    context = browser.new_context()
    made = context.new_page()
    made.on("console", lambda message: wrong.append(message.text))
    made.on("pageerror", lambda error: wrong.append(str(error)))
    origin = address.split("?")[0]
    made.on("request", lambda sent: sent.url.startswith(origin) or wrong.append(sent.url))
    made.goto(address)
    made.wait_for_selector("[role=tab]")
    yield made
    context.close()
    assert wrong == []


def test_a_digit_that_is_drawn_is_read(page: Any) -> None:
    with page.expect_response("**/ask/0") as heard:
        draw(page)
    assert answered(page) == "3"
    assert len(page.query_selector_all("#scores li")) == 5
    names = [name.inner_text() for name in page.query_selector_all("#bars th")]
    assert names == ["Features", "Encrypt", "Server, on noise", "Decrypt"]
    for spent in page.query_selector_all("#bars .value"):
        assert re.fullmatch(r"\d+\.\d ms", spent.inner_text())
    # Every byte of what was sent is a dot, as the green of a tone between 16 and 224.
    query = base64.b64decode(heard.value.json()["query"])
    dots = page.evaluate(
        "(() => { const c = document.getElementById('noise');"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; })()"
    )
    shown = dots[1::4][: len(query)]
    assert all(
        abs(16 + 208 * byte / 255 - dot) <= 1 for byte, dot in zip(query, shown, strict=True)
    )
    assert f"{len(query) / 1000:.0f} kB went up" in page.inner_text("#noise-words")


def test_asking_again_is_other_noise(page: Any) -> None:
    draw(page)
    answered(page)
    page.click("#ask")
    page.get_by_text("as the last time").wait_for()
    share = float(page.inner_text("#same-words").split(" %")[0])
    assert share < 2  # a 256th by chance, and a header


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
    assert answered(page) == str(sample.labels[0])


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
    """A one is drawn, asked about, and cleared; then the other tab is shown."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "tab"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "board"
    for key in ("ArrowUp",) * 6 + (" ",) + ("ArrowDown",) * 14 + (" ",):
        page.keyboard.press(key)
    assert answered(page) == "1"
    page.keyboard.press("Delete")
    assert page.is_hidden("#found") and page.inner_text("#label") == "1"
    blank = page.evaluate(
        "(() => { const c = document.getElementById('board');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data; })()"
        ".every((value, at) => at % 4 !== 0 || value !== 255)"
    )
    assert blank


def test_a_browser_is_led_there_by_a_file_of_its_user_alone(
    browser: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that stands on a command line holds the token."""
    told: Queue[str] = Queue()
    monkeypatch.setattr(webbrowser, "open", told.put)
    with serving.shown(address) as path:
        uri = told.get(timeout=10)
        assert uri == path.as_uri() and address.split("=")[1] not in uri
        assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
        context = browser.new_context()
        made = context.new_page()
        made.goto(uri)
        made.wait_for_selector("[role=tab]")
        assert made.url == address
        context.close()
    assert not path.exists()


def test_each_bundle_has_a_tab(page: Any) -> None:
    assert [tab.inner_text() for tab in page.query_selector_all("[role=tab]")] == [
        "digits",
        "pixels",
    ]
    assert "(1, 1e-05)" in page.inner_text("#promise")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "pixels"
    assert "(8, 0.0001)" in page.inner_text("#promise")
    with page.expect_response("**/ask/1"):
        draw(page)
    answered(page)
    page.keyboard.press("Home")
    page.click("#tab-0")
    assert page.is_hidden("#found")  # the answer was another head's


def test_every_control_has_a_name(page: Any) -> None:
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, textarea, canvas, [tabindex]')].filter("
        "(e) => !e.getAttribute('aria-label') && !(e.labels && e.labels.length) && "
        "!e.textContent.trim() && e.tagName !== 'PRE').map((e) => e.id)"
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, address: str, scheme: str) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, has_touch=True)
    made = context.new_page()
    made.goto(address)
    made.wait_for_selector("[role=tab]")
    draw(made)
    answered(made)
    assert made.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    grounds = made.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", grounds)[:3])) > 384) is (scheme == "light")
    context.close()
