"""`examples/parties`: the settings files of two hospitals, a dealer and a client, used as they are.

Only addresses change, to ports that are free here.
"""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from workloads.datasets import mnist_sample

SETTINGS = Path(__file__).resolve().parent.parent / "examples" / "parties"
ROLES = ("alpha", "beta", "dealer")
PATIENCE = 120


def free_ports(count: int) -> list[int]:
    with ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "mpc_training", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with keys, and half of the sample of digits at each hospital."""
    folder = tmp_path_factory.mktemp("parties")
    texts = {path.name: path.read_text() for path in SETTINGS.glob("*.toml")}
    used = sorted(set(re.findall(r"127\.0\.0\.1:(\d+)", "".join(texts.values()))))
    moved = dict(zip(used, free_ports(len(used)), strict=True))
    for name, text in texts.items():
        (folder / name).write_text(re.sub(r":(9\d\d\d)\b", lambda m: f":{moved[m[1]]}", text))
        finished(start(folder, "keys", name.removesuffix(".toml")))
    sample = mnist_sample()
    pixels = np.rint(sample.images.reshape(len(sample.images), -1) * 255).astype(np.uint8)
    np.save(folder / "scans.npy", pixels)
    for place, name in enumerate(ROLES[:2]):
        np.save(folder / f"{name}.scans.npy", pixels[place::2])
        np.save(folder / f"{name}.labels.npy", sample.labels[place::2].astype(np.int64))
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    servers = [start(folder, "serve", f"{role}.toml") for role in ROLES]
    try:
        for server in servers:
            assert server.stderr is not None and "answers queries" in server.stderr.readline()
        yield
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.communicate(timeout=PATIENCE)


def test_they_train_and_serve(folder: Path) -> None:
    parties = [start(folder, "party", f"{role}.toml") for role in ROLES[:2]]
    parties.append(start(folder, "dealer", "dealer.toml"))
    for process in parties:
        assert re.search(r"\d+ steps", finished(process))
    models = {(folder / f"{role}.model.safetensors").read_bytes() for role in ROLES[:2]}
    assert len(models) == 1
    with serving(folder):
        asked = start(folder, "query", "client.toml", "scans.npy", "--divisor", "255")
        labels = np.array(finished(asked).splitlines()[0].split(), int)
    # Seen in training, after one epoch of a linear layer; guessing gets a tenth.
    assert (labels == mnist_sample().labels).mean() > 0.5
