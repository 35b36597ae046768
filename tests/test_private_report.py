"""The page of results: one file, readable on a phone, that calls no low bound a guarantee."""

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from private_models.accounting import Budget
from private_models.audit.findings import Bound
from private_models.audit.mechanism import MechanismAudit, audit_mechanism
from private_models.audit.pictures import histograms
from private_models.audit.report import REFUTED, Report, mechanism_section
from private_models.audit.subjects import subject
from private_models.audit.suite import Target, attack_rows
from private_models.features import ArrayRows
from private_models.head import PrivateHead
from private_models.training import Options, train

VOID = {"meta", "img", "br"}


@dataclass
class Page(HTMLParser):
    """What a parser makes of it: every tag closed in order, and its text."""

    open_tags: list[str] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open_tags and self.open_tags[-1] not in ("style", "title"):
            self.text.append(data)


def parsed(page: str) -> Page:
    found = Page()
    found.feed(page)
    found.close()
    assert not found.open_tags
    return found


@pytest.fixture(scope="module")
def report() -> Report:
    """Of a real audit, small: 8 × 8 pictures of two classes."""
    chosen = subject("fc", Budget(4.0, 1e-5))
    made = Report("fc", 4.0, 1e-5)
    made.sections.append(mechanism_section(audit_mechanism(chosen.fit, chosen.problem, 200)))
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300)
    images = 0.4 + 0.1 * rng.normal(size=(300, 8, 8))
    images[:, :4] += 0.3 * labels[:, None, None]
    features = images.clip(0, 1).reshape(300, 64)

    def fit(rows: np.ndarray, names: np.ndarray) -> PrivateHead:
        return train(
            ArrayRows(rows, names), Options(Budget(4.0, 1e-5), np.arange(2), rows=len(rows))
        )

    target = Target(fit, features, labels, 2, 1.0, 4.0, 1e-5, (8, 8))
    made.sections.extend(attack_rows(target, shadows=8, column=0))
    return made


def test_every_attack_is_on_it(report: Report) -> None:
    page = parsed(report.to_html())
    ids = {attrs.get("id") for tag, attrs in page.seen if tag == "section"}
    assert ids == {
        "mechanism", "membership", "canaries", "attributes", "inversion", "stealing",
    }  # fmt: skip
    values = report.to_dict()
    assert ids <= set(values) and values["refuted"] is False
    assert 0.3 < values["membership"]["area"] < 0.7
    assert values["stealing"]["queries"] == 65 and values["stealing"]["agreement"] == 1
    assert values["inversion"]["classes"][1]["confidence"] > 0.5
    assert sum(tag == "img" for tag, _ in page.seen) == 2
    assert str(report).count("\n") == 7


def test_it_needs_nothing_from_elsewhere(report: Report) -> None:
    page = report.to_html()
    assert "<!--" not in page
    assert not re.search(r"<script|@import|url\(|javascript:", page)
    for _, attrs in parsed(page).seen:
        for name in ("src", "href"):
            assert (attrs.get(name) or "data:").startswith("data:")


def test_phones_and_the_dark_are_thought_of(report: Report) -> None:
    page = report.to_html()
    meta = [attrs for tag, attrs in parsed(page).seen if tag == "meta"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in meta
    assert "prefers-color-scheme: dark" in page
    fixed = re.findall(r"[^-]width: ?(\d+)px", page)
    assert all(int(pixels) <= 320 for pixels in fixed)


def test_no_low_bound_is_called_a_guarantee(report: Report) -> None:
    text = " ".join(" ".join(parsed(report.to_html()).text).split())
    assert "A low one proves nothing" in text and "not evidence that it holds" in text
    assert not re.search(r"\b(safe|secure|guarantee[ds]?|passed|no leak)\b", text, re.IGNORECASE)
    assert "not refuted" in text and "claim refuted" not in text


def test_a_refuted_claim_is_said_loudly() -> None:
    side = np.arange(20.0)
    broken = MechanismAudit(Bound(1.0, 2.5, 1e-5, 0.999, 20, "Gaussian privacy"), side + 9, side)
    made = Report("a <head>", 1.0, 1e-5, [mechanism_section(broken)])
    page = parsed(made.to_html())
    assert made.is_refuted and REFUTED in page.text and "a <head>" in " ".join(page.text)
    assert "Do not publish" in made.to_html()
    assert "claim refuted" in str(made)


def test_pictures_of_nothing() -> None:
    assert "NaN" not in histograms(np.zeros(3), np.zeros(3)).replace("nan", "NaN")


def test_a_browser_draws_it(report: Report, tmp_path: Path) -> None:
    """Where there is a browser: at a phone's width it fills the picture with more than a colour."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium on this machine")
    page, shot = tmp_path / "report.html", tmp_path / "shot.png"
    page.write_text(report.to_html(), encoding="utf-8")
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,3000",
            f"--screenshot={shot}", page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(shot) as image:
        assert image.size[0] == 500
        colours = image.convert("RGB").resize((50, 300)).getcolors(15_000)
    assert colours is not None and len(colours) > 50
