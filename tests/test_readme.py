"""README.md is held to its word: its blocks run, and all that it names is there."""

import contextlib
import io
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from he_inference import from_torch
from he_inference.errors import UnsupportedModel
from tests.test_cli import run
from tests.test_private_cli import run as run_private

PROJECT = Path(__file__).resolve().parent.parent
README = PROJECT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.is_file() else ""

_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SKIPPED = re.compile(r"<!--\s*no-test\s*-->\s*$")
Block = tuple[int, str, str]
"""Line, language and content of a fenced block."""


def blocks(text: str) -> list[Block]:
    """Those that no comment `<!-- no-test -->` stands before."""
    return [
        (text[: found.start(2)].count("\n") + 1, found[1], found[2])
        for found in _FENCE.finditer(text)
        if not _SKIPPED.search(text[: found.start()])
    ]


def commands(text: str) -> list[str]:
    """Lines of blocks in no language or a shell's, and short pieces of code, less comments."""
    fenced = [b for _, language, b in blocks(text) if language in ("", "sh", "bash", "console")]
    lines = [line for block in fenced for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    return [re.sub(r"^\$ |\s+#.*$", "", line).strip() for line in (*lines, *inline)]


def tracked() -> list[Path]:
    """The project's files, with those that are about to be added."""
    listing = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(listing, cwd=PROJECT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no checkout: nothing says which files belong to the project")
    paths = [PROJECT / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_it_is_there() -> None:
    assert TEXT.startswith("# ")


# ---------------------------------------------------------------------------- blocks of Python


@pytest.mark.parametrize(
    ("line", "code"),
    [(line, code) for line, language, code in blocks(TEXT) if language == "python"],
    ids=lambda value: f"line {value}" if isinstance(value, int) else "",
)
def test_python_runs(line: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "readme"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile("\n" * (line - 1) + code, str(README), "exec"), namespace)


def test_there_is_python_to_run() -> None:
    assert any(language == "python" for _, language, _ in blocks(TEXT))


def test_the_finder_of_blocks() -> None:
    text = "a\n```python\nx\n```\n<!-- no-test -->\n```python\ny\n```\n\n```\nz\n```\n"
    assert blocks(text) == [(3, "python", "x\n"), (10 + 1, "", "z\n")]


# ---------------------------------------------------------------------------- what it names


def test_make_targets_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    named = {c.split()[1] for c in commands(TEXT) if re.match(r"make [a-z]", c)}
    assert {"demo", "test", "check"} <= named
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert named <= targets
    described = set(re.findall(r"^#   make ([a-z]+)", makefile, re.MULTILINE))
    assert described <= targets


def test_verbs_exist_and_take_the_options_named() -> None:
    asked = [c.split() for c in commands(TEXT) if re.match(r"he-inference( |$)", c)]
    assert len(asked) > 1
    for words in asked:
        verb = words[1] if len(words) > 1 and not words[1].startswith("-") else ""
        ran = run(*([verb] if verb else []), "--help")
        assert ran.code == 0, words
        offered = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", ran.out))
        assert {word for word in words if word.startswith("-")} <= offered, words


def test_verbs_of_private_models_exist_and_take_the_options_named() -> None:
    asked = [c.split() for c in commands(TEXT) if c.startswith("private-models ")]
    assert {"features", "fit", "account", "audit", "pate"} <= {words[1] for words in asked}
    for words in asked:
        ran = run_private(words[1], "--help")
        assert ran.code == 0, words
        offered = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", ran.out))
        assert {word for word in words if word.startswith("-")} <= offered, words


def test_the_private_head_scores_as_it_is_said_to() -> None:
    """0.82, as a mean of nine fits of a deviation of 0.02; and 0.89 without privacy."""
    (code,) = [b for _, _, b in blocks(TEXT) if "head.score(" in b]
    space: dict[str, Any] = {"__name__": "readme"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, str(README), "exec"), space)
    scores = [space["score"]]
    for _ in range(8):
        again = space["head"].fit(
            space["images"][space["private"]], space["labels"][space["private"]], classes=range(10)
        )
        scores.append(again.score(space["images"][space["test"]], space["labels"][space["test"]]))
    assert abs(np.mean(scores) - 0.82) < 5 * 0.02 / 3
    assert "(1, 0.0001)-differential privacy" in printed.getvalue()
    rows, names = space["images"], space["labels"]
    plain = LogisticRegression(max_iter=3000).fit(rows[space["private"]], names[space["private"]])
    assert abs(plain.score(rows[space["test"]], names[space["test"]]) - 0.89) < 0.01


def test_folders_in_prose_exist() -> None:
    for piece in re.findall(r"`([a-z_]+(?:/[a-z_]+)*/)`", _FENCE.sub("", TEXT)):
        assert (PROJECT / piece).is_dir(), piece


def test_the_tree_is_the_tree() -> None:
    """Every module and folder that the drawing names exists."""
    design = (PROJECT / "docs" / "design.md").read_text(encoding="utf-8")
    (drawing,) = [b for _, _, b in blocks(design) if b.startswith("he_inference/\n")]
    _, *parts = re.split(r"^([a-z_]+)/", drawing, flags=re.MULTILINE)
    checked = 0
    for folder, lines in zip(parts[::2], parts[1::2], strict=True):
        package = PROJECT / folder
        for line in re.findall(r"^  (\S.*?)(?:  .*)?$", lines, re.MULTILINE):
            for name in line.split():
                whole = package / name.removesuffix("/")
                assert whole.with_suffix(".py").is_file() or (whole / "__init__.py").is_file(), name
                checked += 1
    assert checked > 100
    for name in re.findall(r"^([a-z_]+)/", drawing, re.MULTILINE):
        assert (PROJECT / name).is_dir(), name


def test_the_refusal_is_what_is_said() -> None:
    """Its ellipses stand for anything."""
    (quoted,) = [b for _, _, b in blocks(TEXT) if b.startswith("the model cannot run")]
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    with pytest.raises(UnsupportedModel) as caught:
        from_torch(module.eval(), torch.zeros(1, 1, 8, 8))
    said = " ".join(str(caught.value).split())
    for piece in " ".join(quoted.split()).split("…"):
        assert piece.strip() in said


# ---------------------------------------------------------------------------- links

PAGES = sorted(
    path
    for folder in ("", "benchmarks", "docs", "workloads")
    for path in (PROJECT / folder).glob("**/*.md" if folder else "*.md")
    if not any(part.startswith(".") for part in path.relative_to(PROJECT).parts)
)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ +(.+)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    lowered = (re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in lowered}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_relative_links_resolve(page: Path) -> None:
    text = _FENCE.sub("", page.read_text("utf-8"))
    text = re.sub(r"`[^`\n]*`(?!\])", "", text)
    links = re.findall(r"\]\(\s*<?([^)>\s]+)", text)
    links += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
    links += re.findall(r"""(?:src|href)=["']([^"']+)""", text)
    for link in links:
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert PROJECT in (target.resolve(), *target.resolve().parents), (
            f"{link} leaves the project"
        )
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_pages_that_are_promised() -> None:
    names = {str(page.relative_to(PROJECT)) for page in PAGES}
    assert {"README.md", "SECURITY.md", "CHANGELOG.md"} <= names


# ---------------------------------------------------------------------------- no machine's paths

ROOTS = "|".join(("work", "home", "root", "Users", r"tmp/\w+_jobs"))
OF_A_MACHINE = re.compile(rf"(?<![\w.:/~-])/({ROOTS})/")


def test_the_finder_of_paths() -> None:
    for path in ("/wo" + "rk/main", '"/ho' + 'me/a/b"', "at /ro" + "ot/x"):
        assert OF_A_MACHINE.search(path)
    for path in ("a/wo" + "rk/b", "https://x.org/home/a", "../home/x", "/workloads/"):
        assert not OF_A_MACHINE.search(path)


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    found = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if OF_A_MACHINE.search(line):
                found.append(f"{path.relative_to(PROJECT)}:{number}: {line.strip()[:80]}")
    assert found == []
