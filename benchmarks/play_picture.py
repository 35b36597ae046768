"""The picture of `private-models play` in the README, in a real browser with a real server.

    python -m benchmarks.play_picture docs/play.png [BUNDLE …]    # needs Chromium and playwright

Without bundles, the digits that ship. A three is drawn on the first tab that takes one, twice, so
that the page can say how little two ciphertexts of one question have in common.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT

from playwright.sync_api import Page, ViewportSize, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run")  # fmt: skip
"""Nothing is asked of the network; `--no-sandbox`, because root has none in a container."""
WIDE: ViewportSize = {"width": 1180, "height": 800}
THREE = ((0.3, 0.26), (0.38, 0.2), (0.5, 0.18), (0.62, 0.22), (0.67, 0.31), (0.63, 0.42),
         (0.5, 0.48), (0.64, 0.53), (0.71, 0.64), (0.67, 0.77), (0.52, 0.84), (0.36, 0.82),
         (0.28, 0.75))  # fmt: skip
_PATIENCE_SECONDS = 30


def browser() -> str | None:
    """Path of an installed Chromium, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def served(bundles: Sequence[Path | str]) -> Iterator[tuple[str, int]]:
    """Address of the page, and the process that serves it, ended as by Ctrl-C.

    Raises `RuntimeError` where it does not start, or does not end in peace.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "private_models", "play", "--no-browser", *map(str, bundles)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is not None:
            yield found[0], process.pid
    finally:
        process.send_signal(SIGINT)
        try:
            _, errors = process.communicate(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
    if found is None or process.returncode or "Traceback" in errors:
        raise RuntimeError(f"private-models play ended with {process.returncode}: {errors}")


def draw(page: Page, points: Sequence[tuple[float, float]] = THREE) -> None:
    """One stroke on the board, with the mouse; places are parts of its sides."""
    frame = page.locator("#board").bounding_box()
    assert frame is not None
    places = [
        (frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in points
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def answered(page: Page) -> str:
    """Waits until the answer is there; its label."""
    page.wait_for_selector("#label:not(:empty)")
    page.wait_for_selector("#ask:not([disabled])")
    return page.inner_text("#label")


def main(output: Path, bundles: Sequence[str]) -> None:
    """Write the picture."""
    with served(bundles) as (address, _), sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), args=FLAGS)
        page = chromium.new_page(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
        page.goto(address)
        page.wait_for_selector("[role=tab]")
        draw(page)
        answered(page)
        page.click("#ask")
        page.get_by_text("as the last time").wait_for()
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=output, full_page=True)
        chromium.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m benchmarks.play_picture FILE.png [BUNDLE …]")
    main(Path(sys.argv[1]), sys.argv[2:])
