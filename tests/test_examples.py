"""`examples/`: run as people run them, and held to what they say of themselves."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mpc_training
from workloads.datasets import mnist_sample

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((PROJECT / "examples").glob("*.py"))
PATIENCE = 120


def run(name: str, *arguments: str | Path) -> str:
    """What an example prints; a warning is an error, and so is anything on stderr."""
    command = [sys.executable, "-W", "error", str(PROJECT / "examples" / name)]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_example_is_run_here() -> None:
    assert [path.name for path in EXAMPLES] == [
        "by_files.py",
        "quickstart.py",
        "trained_together.py",
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_docstring_says_how_to_run_it(path: Path) -> None:
    assert f"\n    python examples/{path.name}" in path.read_text().split('"""')[1]


def test_quickstart() -> None:
    text = run("quickstart.py")
    assert "128-bit security" in text
    found = re.search(r"^encrypted \[(.*)\] clear \[(.*)\]$", text, re.MULTILINE)
    assert found is not None
    assert found[1] == found[2]
    assert len(found[1].split()) == 3
    precision = re.search(r"precision +([0-9.]+) bits", text)
    difference = re.search(r"^largest difference (\S+)$", text, re.MULTILINE)
    assert precision is not None
    assert difference is not None
    # Answers are below 1; six standard deviations of noise, and half a step of rounding.
    assert 0 < float(difference[1]) < 6.5 * 2.0 ** -float(precision[1])


def test_trained_together(tmp_path: Path) -> None:
    """What the parties trained answers under encryption as it does in the clear."""
    text = run("trained_together.py", tmp_path)
    network, weights = mpc_training.read_model(tmp_path / "model-0.safetensors")
    images = torch.from_numpy(np.float32(mnist_sample().images[:5])).reshape(-1, 1, 28, 28)
    labels = mpc_training.to_torch(network, weights)(images).argmax(1).numpy()
    found = re.search(r"^encrypted \[(.*)\] truth", text, re.MULTILINE)
    right = re.search(r"^in the clear (\d+)% of 100 are right$", text, re.MULTILINE)
    assert found is not None and found[1] == " ".join(map(str, labels))
    assert right is not None and int(right[1]) > 50  # guessing gets ten
    assert len({path.read_bytes() for path in tmp_path.glob("model-*.safetensors")}) == 1
    leftover = run_badly("trained_together.py", tmp_path)
    assert leftover.startswith("usage: ")


def run_badly(name: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(PROJECT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    return done.stderr


FOR_THE_SERVER = ("model.program", "evaluation.keys", "query.bin")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that owner, client and server share, and what the client printed."""
    folder = tmp_path_factory.mktemp("examples") / "shared"
    return folder, run("by_files.py", folder)


def test_by_files_gives_the_right_labels(shared: tuple[Path, str]) -> None:
    folder, text = shared
    truth = mnist_sample().labels[:3].tolist()
    assert text == f"labels {truth} truth {truth}\n"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ("answer.bin", "client-only.secret", "model.signature", *FOR_THE_SERVER)
    )


def test_by_files_serves_without_any_secret(shared: tuple[Path, str], tmp_path: Path) -> None:
    """The server's process does the same work where there is nothing but what it is meant for."""
    folder, text = shared
    for name in FOR_THE_SERVER:
        shutil.copy(folder / name, tmp_path / name)
    assert run("by_files.py", tmp_path, "server") == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ("answer.bin", *FOR_THE_SERVER)
    )
    for name in ("client-only.secret", "model.signature"):
        shutil.copy(folder / name, tmp_path / name)
    assert run("by_files.py", tmp_path, "client-reads") == text


def test_by_files_tells_the_server_nothing(shared: tuple[Path, str]) -> None:
    """Neither the secret key nor an image is in any file that the server reads."""
    folder, _ = shared
    secret = (folder / "client-only.secret").read_bytes()
    assert (folder / "client-only.secret").stat().st_mode & 0o777 == 0o600
    image = mnist_sample().images[0]
    forms = [image.astype(dtype).tobytes() for dtype in (np.float32, np.float64)]
    forms.append((image * 255).astype(np.uint8).tobytes())
    for name in FOR_THE_SERVER:
        seen = (folder / name).read_bytes()
        assert secret[200:264] not in seen
        assert not any(form[len(form) // 3 :][:64] in seen for form in forms)


def complaint(*arguments: str | Path) -> str:
    return run_badly("by_files.py", *arguments)


def test_by_files_takes_one_empty_folder(shared: tuple[Path, str]) -> None:
    assert "python examples/by_files.py FOLDER" in complaint()
    assert "is not empty" in complaint(shared[0])
