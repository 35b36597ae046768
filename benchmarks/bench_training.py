"""A training step of three parties: ours, CrypTen as shipped and SPU's ABY3, interleaved.

Ours are real processes on real TLS sockets, started by `mpc-training local`; CrypTen's are
processes on plain sockets (gloo); SPU's are threads with queues in memory. Same networks, batch of
128.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.bench_query import Emit, Progress
from benchmarks.peer_environment import PEERS_FOLDER, InstallError, peer_python

NETWORKS = ("mlp", "lenet")
BATCH, STEPS = 128, 4
SECONDS = 1800
FIGURES = ("cpu_seconds_per_step", "seconds_per_step", "bytes_per_step", "rounds_per_step")
Measured = Mapping[str, Any]


class _Failed(Exception):
    """A system that could not be measured; the message says why."""


def run(networks: Sequence[str], rounds: int, peers: bool, emit: Emit, progress: Progress) -> None:
    """Measure each network `rounds` times on every system in turn; medians of the rounds."""
    packages = ("sottovoce", "numpy", "cryptography", "torch", "crypten")
    emit(measure.environment(packages) | {"benchmark": "training"})
    for network in networks:
        systems = _SYSTEMS if peers else _SYSTEMS[:1]
        found: dict[str, list[Measured]] = {name: [] for name, *_ in systems}
        failed: dict[str, str] = {}
        for number in range(rounds):
            for name, start, *_ in systems:
                progress(f"{network}: {name}", number, rounds)
                if name not in failed:
                    try:
                        found[name].append(start(network))
                    except _Failed as error:
                        failed[name] = str(error)
        for name, _, source, protection in systems:
            if name in failed:
                emit({"kind": "failure", "system": name, "source": source, "reason": failed[name]})
            else:
                emit(_row(found[name], name, source, network) | {"protection": protection})


def _row(rounds: Sequence[Measured], name: str, source: str, network: str) -> measure.Row:
    row: measure.Row = {"kind": "training", "system": name, "source": source, "network": network}
    for figure in FIGURES:
        values = [found[figure] for found in rounds if found.get(figure) is not None]
        row[figure] = statistics.median(values) if values else None
    return row | {"batch": BATCH, "steps": STEPS, "rounds_measured": len(rounds)}


def _ours(network: str) -> Measured:
    words = f"local --data sample --network {network} --epochs {STEPS} --batch {BATCH} --json"
    return _json([sys.executable, "-m", "mpc_training", *words.split()])


def _crypten(network: str) -> Measured:
    script = PEERS_FOLDER / "crypten_shipped.py"
    return _json([sys.executable, str(script), network, str(BATCH), str(STEPS)])


def _spu(network: str) -> Measured:
    try:
        python = peer_python("spu_aby3")
    except InstallError as error:
        raise _Failed(str(error)) from None
    return _json([str(python), str(PEERS_FOLDER / "spu_aby3.py"), network, str(BATCH), str(STEPS)])


def _json(command: Sequence[str]) -> Measured:
    variables = measure.one_thread_environment()
    root = str(Path(__file__).resolve().parent.parent)
    variables["PYTHONPATH"] = os.pathsep.join([root, variables.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=SECONDS, env=variables
        )
        answer: Measured = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        raise _Failed(" ".join(str(error.stderr).split())[-200:]) from None
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise _Failed(type(error).__name__) from None
    return answer


System = tuple[str, Callable[[str], Measured], str, str]
_SYSTEMS: tuple[System, ...] = (
    (
        "Sottovoce",
        _ours,
        measure.OURS,
        "semi-honest, one of three; mutual TLS 1.3; AES-256",
    ),
    (
        "CrypTen as shipped",
        _crypten,
        measure.PEER,
        "none against party 0, or against its generator; no TLS",
    ),
    (
        "SPU ABY3",
        _spu,
        measure.PEER,
        "semi-honest, one of three; no TLS here",
    ),
)
