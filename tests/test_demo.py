"""The demonstration: what it prints for people and machines, and what it leaves behind."""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from he_inference.verbs import demo as verb
from workloads import demo
from workloads.datasets import DatasetError, mnist_sample
from workloads.demo import Report, run_demo

PATIENCE = 60.0
SAMPLE = mnist_sample()


def leftovers(session: int) -> list[int]:
    """Processes of that session that are there, zombies aside."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def assert_nothing_is_left(session: int) -> None:
    """After a moment's grace: what waits for the end of a pipe is told of it last."""
    deadline = time.monotonic() + 5
    while leftovers(session) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert leftovers(session) == []


def run(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """`he-inference demo` in a folder and a session of its own; nothing of it may remain."""
    (folder / "tmp").mkdir()
    command = [sys.executable, "-W", "error", "-m", "he_inference", "demo", *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), **environment},
    ) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert_nothing_is_left(process.pid)
    assert list((folder / "tmp").iterdir()) == []
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_for_machines(tmp_path: Path) -> None:
    done = run(tmp_path, "--json", "--queries", "3")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["queries"] == 3
    assert said["labels"] == SAMPLE.labels[:3].tolist()
    assert (said["accuracy"], said["agreement"]) == (1.0, 1.0)
    assert said["security_bits"] >= 128
    for name in ("client_ms", "server_ms", "upload_bytes", "download_bytes", "key_bytes"):
        assert said[name] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sottovoce-demo.png", "tmp"]
    with Image.open(tmp_path / said["picture"]) as picture:
        picture.verify()
        assert picture.format == "PNG"


def test_for_a_narrow_terminal_that_knows_ascii_only(tmp_path: Path) -> None:
    """Piped, 40 columns wide, in the C locale: no traceback, no question marks, no long lines."""
    ascii_only = {"PYTHONIOENCODING": "ascii", "LANG": "C", "COLUMNS": "40"}
    done = run(tmp_path, "--queries", "2", "--picture", "p.png", **ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode("ascii")
    assert "?" not in text
    assert max(map(len, text.splitlines())) <= 40
    assert "picture saved: p.png" in text
    assert "128 bits" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.png", "tmp"]


# ---------------------------------------------------------------------------- within this process


def report(queries: int = 4, wrong: int = 1) -> Report:
    """Of a run that never was: the last `wrong` labels of the encrypted network are off by one."""
    truth = SAMPLE.labels[:queries]
    clear = np.eye(10)[truth] * 8.0
    said = truth.copy()
    said[queries - wrong :] = (said[queries - wrong :] + 1) % 10
    return Report(
        images=SAMPLE.images[:queries],
        truth=truth,
        encrypted=np.eye(10)[said] * 8.0,
        clear=clear,
        client_ms=1.23456,
        server_ms=7.0,
        upload_bytes=1000,
        download_bytes=500,
        key_bytes=10_000_000,
        security_bits=128,
        picture=Path("a [bold] picture.png"),
    )


def test_accuracy_is_of_labels_and_agreement_of_both_networks() -> None:
    found = report(4, wrong=1)
    assert (found.accuracy, found.agreement) == (0.75, 0.75)
    misled = replace(found, clear=found.encrypted)
    assert (misled.accuracy, misled.agreement) == (0.75, 1.0)


def test_values_are_plain() -> None:
    values = report().values()
    assert json.loads(json.dumps(values)) == values
    expected = "accuracy agreement queries client_ms server_ms upload_bytes download_bytes"
    assert set(values) >= {*expected.split(), "key_bytes", "security_bits"}


def test_a_wrong_label_is_said_to_be_wrong() -> None:
    captions = report(4, wrong=1).captions()
    assert [caption.right for caption in captions] == [True, True, True, False]
    assert captions[0].text == str(SAMPLE.labels[0])
    assert captions[3].text == f"{SAMPLE.labels[3] + 1} (is {SAMPLE.labels[3]})"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_terminal_widths(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(verb.terminal, "out", Console(width=width))
    verb._show_demo(report(10))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "a [bold] picture.png" in lines[-1]
    assert any("10.00 MB" in line for line in lines)


@pytest.mark.parametrize("queries", [0, -1, 301])
def test_numbers_of_queries_that_the_sample_does_not_hold(tmp_path: Path, queries: int) -> None:
    with pytest.raises(DatasetError, match=f"{queries} queries: expected 1 to 300"):
        run_demo(queries, tmp_path / "p.png", lambda *_: None)


def test_a_picture_that_has_nowhere_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything else is done."""
    monkeypatch.setattr(demo, "mnist_sample", lambda: pytest.fail("it had begun"))
    with pytest.raises(DatasetError, match="is not a folder"):
        run_demo(1, tmp_path / "none" / "p.png", lambda *_: None)
    with pytest.raises(DatasetError, match="is a folder"):
        run_demo(1, tmp_path, lambda *_: None)
