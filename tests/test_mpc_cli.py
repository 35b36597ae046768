"""`mpc-training`: real processes on real sockets, and one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from he_inference import terminal
from mpc_training import __main__ as command_line
from mpc_training import certificates, local_parties
from mpc_training.network import Linear, Network
from mpc_training.run import Run
from mpc_training.settings import read_settings
from mpc_training.sharing import Disclosure
from mpc_training.training import Recipe

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, **dict.fromkeys(local_parties.THREADS, "1"), "PYTHONPATH": str(ROOT)}
USER_ERROR = 2


class Outcome:
    """What one run of the command line said, in this process."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["mpc-training", *words])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        self.code = ended.value.code
        self.out, self.err = capsys.readouterr()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def go(*words: object) -> Outcome:
        return Outcome(monkeypatch, capsys, *map(str, words))

    yield go
    terminal.out.file, terminal.notes.file = None, None  # type: ignore[assignment]


def complaint(outcome: Outcome) -> str:
    """The one line, without a traceback."""
    assert outcome.code == USER_ERROR, outcome.err
    lines = outcome.err.strip().splitlines()
    assert lines and lines[0].startswith("mpc-training: ") and "Traceback" not in outcome.err
    return outcome.err


# ---------------------------------------------------------------------------- local


def test_local_says_all_that_it_measures() -> None:
    words = "local --parties 3 --data sample --network mlp --steps 2 --seed 1 --loss --json"
    done = subprocess.run(
        [sys.executable, "-m", "mpc_training", *words.split()],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    asked = {
        "accuracy", "plain_accuracy", "seconds_per_step", "cpu_seconds_per_step", "bytes_per_step",
        "rounds_per_step", "protocol", "steps",
    }  # fmt: skip
    assert asked <= set(found)
    assert found["steps"] == 1 and found["accuracy"] == found["plain_accuracy"]
    # One step from common weights: two ulps of an activation, times rate and inputs.
    assert found["largest_weight_difference"] < 1e-4
    assert found["rounds_per_step"] == 44
    assert 10e6 < found["bytes_per_step"] < 12e6


def test_two_parties_and_a_dealer_on_this_machine() -> None:
    words = "local --parties 2 --data sample --network logistic --epochs 2 --seed 1 --json"
    done = subprocess.run(
        [sys.executable, "-m", "mpc_training", *words.split()],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["protocol"].startswith("two parties and a dealer")
    assert found["accuracy"] == found["plain_accuracy"]
    assert found["largest_weight_difference"] < 1e-4


def test_a_dealer_and_a_party_are_told_apart(run: Any, tmp_path: Path) -> None:
    paths = small_run(tmp_path, steps=5, timeout=0.5, owners=2)
    assert [path.stem for path in paths] == ["party-0", "party-1", "dealer"]
    settings = read_settings(paths[2])
    assert settings.party == 2 and settings.run.owners == 2 and settings.holding() is None
    assert "start it with `mpc-training dealer`" in complaint(run("party", paths[2]))
    assert "start it with `mpc-training party`" in complaint(run("dealer", paths[0]))
    text = paths[2].read_text()
    for addition in ('model = "m"\n', "[data]\n"):
        paths[2].write_text(addition + text if "model" in addition else text + addition)
        assert "a dealer has no [data] and gets no model" in complaint(run("dealer", paths[2]))


# ---------------------------------------------------------------------------- faults of processes


def small_run(folder: Path, *, steps: int, timeout: float, owners: int = 3) -> list[Path]:
    rng = np.random.default_rng(0)
    pieces = [
        local_parties.Piece(rng.uniform(0, 1, (64, 20)), rng.integers(0, 3, 64))
        for _ in range(owners)
    ]
    recipe = Recipe(0.1, 0.9, 16, 1000)
    network = Network((Linear(20, 3),), (20,))
    opened = Disclosure(tuple(range(owners)))
    run = Run(network, recipe, opened, 1, steps, checkpoint_every=5, owners=owners)
    return local_parties.prepare(folder, run, pieces, 1.0, timeout)


def start(settings: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mpc_training", "party", str(settings), "--json", *options],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_killed_process_stops_the_others_and_all_resume(tmp_path: Path) -> None:
    """SIGKILL, and then SIGSTOP, of one party: one line from each other one within the time-out."""
    settings = small_run(tmp_path, steps=4000, timeout=5.0)
    for blow in (signal.SIGKILL, signal.SIGSTOP):
        options = ["--resume"] if blow == signal.SIGSTOP else []
        processes = [start(path, *options) for path in settings]
        deadline = time.monotonic() + 60
        seen = {path.name for path in (tmp_path / "checkpoints-1").glob("*.checkpoint")}
        while {p.name for p in (tmp_path / "checkpoints-1").glob("*.checkpoint")} <= seen:
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.05)
        processes[1].send_signal(blow)
        begun = time.monotonic()
        for index in (0, 2):
            out, err = processes[index].communicate(timeout=60)
            assert processes[index].returncode == USER_ERROR and out == ""
            assert err.startswith("mpc-training: ") and "Traceback" not in err
            # A party may hear it from the other one that was still there.
            assert "party" in err and len(err.strip().splitlines()) == 1
        assert time.monotonic() - begun < 20
        processes[1].kill()
        processes[1].communicate()


# ---------------------------------------------------------------------------- keys and settings


def test_keys(run: Any, tmp_path: Path) -> None:
    made = json.loads(run("keys", "alpha", "--folder", tmp_path, "--json").out)
    assert Path(made["private_key"]).stat().st_mode & 0o077 == 0
    certificate = certificates.read(Path(made["certificate"]))
    assert made["fingerprint"] == certificates.fingerprint(certificate)
    assert "never overwritten" in complaint(run("keys", "alpha", "--folder", tmp_path))


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 61, "é"])
def test_names_of_keys(run: Any, tmp_path: Path, name: str) -> None:
    assert "expected 1 to 60 letters" in complaint(run("keys", name, "--folder", tmp_path))


def test_keys_that_cannot_be_written(run: Any, tmp_path: Path) -> None:
    assert "cannot be written" in complaint(run("keys", "a", "--folder", tmp_path / "none"))
    assert "expected 1 to 3650" in complaint(run("keys", "a", "--folder", tmp_path, "--days", 0))


CHANGES = {
    "unknown option": ("timeout = 5.0", "timeout = 5.0\ncolour = 3", "holds colour"),
    "no TOML": ("party = 0", "party = = 0", "cannot be read as TOML"),
    "another party": ("party = 0", "party = 5", "expected 0 to 2"),
    "not itself": ("party = 0", "party = 1", "another certificate than party 1 in"),
    "lacking": ("seed = 1", "", "lacks 'seed'"),
    "no time": ("timeout = 5.0", "timeout = 0", "expected 0.1 to 86400"),
    "a text": ("timeout = 5.0", 'timeout = "x"', "wrong type"),
    "recipe": ("momentum = 0.9", "momentum = 1.5", "momentum 1.5: expected"),
    "unknown recipe": ("momentum = 0.9", "moment = 0.5", "holds moment"),
    "opened": ("model_to = [0, 1, 2]", "model_to = [7]", "a dealer gets nothing"),
    "kind": ('kind = "rows"', 'kind = "cells"', "expected rows or columns"),
    "layer": ('kind = "Linear"', 'kind = "Lambda"', "damaged"),
    "width": ("inputs = 20", "inputs = 21", "its input has shape"),
    "missing file": ('features = "features-0.npy"', 'features = "gone.npy"', "gone.npy"),
    "scale": ("divisor = 1.0", "divisor = 0.001", "divide them"),
    "seed": ("seed = 1", "seed = -1", "expected a seed"),
    "schema": ("[training]", "[schema]\nlow = 0\nhigh = 0.5\n[training]", "agreed is 0 to 0.5"),
    "folders": ('features = "features-0.npy"', 'features = "."', "in [schema] classes"),
    "no schema": ("[training]", "[schema]\nlow = 0\n[training]", "expected both or neither"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_mistakes_in_settings_are_one_line(run: Any, tmp_path: Path, change: str) -> None:
    path = small_run(tmp_path, steps=5, timeout=5.0)[0]
    before, after, said = CHANGES[change]
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    assert said in complaint(run("party", path))


def test_a_party_alone_gives_up_in_time(run: Any, tmp_path: Path) -> None:
    path = small_run(tmp_path, steps=5, timeout=0.5)[0]
    assert "did not connect in time" in complaint(run("party", path))


def test_keys_that_others_may_read(run: Any, tmp_path: Path) -> None:
    path = small_run(tmp_path, steps=5, timeout=0.5)[0]
    (tmp_path / "party-0.key.pem").chmod(0o644)
    assert "chmod 600" in complaint(run("party", path))
    (tmp_path / "party-0.key.pem").chmod(0o600)
    (tmp_path / "party-2.certificate.pem").write_text("nothing")
    assert "is not a certificate" in complaint(run("party", path))
    assert "cannot be read" in complaint(run("party", tmp_path / "none.toml"))


def test_settings_are_what_was_written(tmp_path: Path) -> None:
    for index, path in enumerate(small_run(tmp_path, steps=5, timeout=5.0)):
        settings = read_settings(path)
        assert settings.party == index and settings.run.steps == 5
        assert settings.run.network == Network((Linear(20, 3),), (20,))
        assert settings.holding().count == 64


def test_the_settings_file_in_the_readme_is_understood(tmp_path: Path) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    for name in ("alpha", "beta", "gamma"):
        certificates.make(name, tmp_path)
    (tmp_path / "alpha.toml").write_text(text)
    settings = read_settings(tmp_path / "alpha.toml")
    assert settings.run.owners == 3 and settings.run.schema.high == 1
    assert settings.run.network.input_shape == (784,)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("local --parties 4", "expected 3, or 2 with a dealer"),
        ("local --network vgg", "expected one of logistic"),
        ("local --data faces", "expected mnist or sample"),
        ("local --momentum 2", "expected 0 ≤ μ < 1"),
        ("local --steps 0", "1 or more"),
        ("local --seed -1", "expected 0 to"),
        ("local --data mnist --folder nowhere", "nowhere"),
        ("local --epochs many", "epochs"),
        ("nothing", "nothing"),
    ],
)
def test_mistakes_in_options_are_one_line(run: Any, words: str, said: str) -> None:
    assert said in complaint(run(*words.split()))


def test_help_shows_examples(run: Any) -> None:
    for verb in ("local", "keys", "party", "dealer", "serve", "query"):
        assert "Example: mpc-training" in run(verb, "--help").out
