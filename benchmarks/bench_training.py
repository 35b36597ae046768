"""A training step on shares: ours, CrypTen as shipped and three of SPU's protocols, interleaved;
then a slow network, and queries to a model that stays shared.

Ours are real processes on real TLS sockets, as `mpc-training local` starts them; CrypTen's are
processes on plain sockets (gloo); SPU's are threads with queues in memory. Same networks, batch of
128.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import measure, our_parties
from benchmarks.peer_environment import PEERS_FOLDER, InstallError, peer_python
from benchmarks.slow_wire import slow_wire
from benchmarks.steps import Asked, Benchmark, Emit, Progress, Step

NETWORKS = ("mlp", "lenet")
BATCH = 128
STEPS = {"mlp": 8, "lenet": 4}
PEER_STEPS = {"mlp": 3, "lenet": 1}
"""After one that is not counted: a step of SPU's LeNet takes minutes."""
ROUNDS = 4
"""Of ours, whose steps are short: a slow moment of the machine is then one of four."""
SECONDS = 1800
FIGURES = ("cpu_seconds_per_step", "seconds_per_step", "bytes_per_step", "rounds_per_step")
DELAYS = (0.02, 0.005, 0.01, 0.04)
"""Seconds that every message takes longer on the slow network, one way."""
SLOW_STEPS = 8
RATE = 100e6 / 8
"""Bytes a second that a party can send there."""
DELAYED = SERVED = (3, 2)
"""With how many parties steps are made on the slow network, and queries answered."""
QUERIES = {1: 20, 128: 5}
"""Queries by their rows."""
_PIXELS = 784
_TWO_PARTY_NETWORKS = NETWORKS[:1]
"""What SPU's protocols for two train: LeNet takes them many minutes a step."""
Measured = Mapping[str, Any]


class System(NamedTuple):
    """What trains: what a step of a network costs it, whose it is, and what it protects."""

    name: str
    start: Callable[[str], Measured]
    source: str
    protection: str
    networks: Sequence[str] = NETWORKS


class _Failed(Exception):
    """A system that could not be measured; the message says why."""


def steps(asked: Asked) -> Iterable[Step]:
    """A slow network, queries, and training steps in rounds, of which rows are the medians; peers
    are in the first round of each network, and in two of the first network's, whose steps do not
    take them minutes."""
    networks = NETWORKS[:1] if asked.quick else NETWORKS
    delays = DELAYS[:1] if asked.quick else DELAYS
    systems = _SYSTEMS if asked.peers else _SYSTEMS[:2]
    for parties in DELAYED:
        for delay in delays:
            yield Step(f"{1e3 * delay:g} ms, {parties} owners", partial(_slow, parties, delay))
    for parties in SERVED:
        yield Step(f"queries, {parties} owners", partial(_run_queries, parties))
    for place, network in enumerate(networks):
        beside = 1 if place or asked.quick else 2
        rounds = 1 if asked.quick else ROUNDS
        yield Step(network, partial(_run_steps, network, rounds, beside, systems))


def _slow(parties: int, delay: float, emit: Emit, progress: Progress) -> None:
    progress(f"a network {1e3 * delay:g} ms slower", 0, 1)
    with slow_wire(delay, RATE) as wire:
        found = our_parties.step("mlp", parties, BATCH, SLOW_STEPS, wire.routes)
    where = {"delay_ms": 1e3 * delay, "megabits": 8e-6 * RATE}
    system = _SYSTEMS[3 - parties]
    emit(_row([found], system, "mlp") | {"kind": "slow network", **where})


def _run_steps(
    network: str, rounds: int, beside: int, systems: Sequence[System], emit: Emit,
    progress: Progress,
) -> None:  # fmt: skip
    """Ours in every round, peers in the first `beside`."""
    here = [system for system in systems if network in system.networks]
    found: dict[str, list[Measured]] = {system.name: [] for system in here}
    failed: dict[str, str] = {}
    for number in range(rounds):
        for system in here:
            progress(f"{network}: {system.name}", number, rounds)
            measured = system.source == measure.OURS or number < beside
            if measured and system.name not in failed:
                try:
                    found[system.name].append(system.start(network))
                except _Failed as error:
                    failed[system.name] = str(error)
    for system in here:
        whose = {"system": system.name, "source": system.source}
        if system.name in failed:
            emit({"kind": "failure", **whose, "reason": failed[system.name]})
        else:
            emit(_row(found[system.name], system, network) | {"protection": system.protection})


def _row(rounds: Sequence[Measured], system: System, network: str) -> measure.Row:
    row: measure.Row = {"kind": "training", "system": system.name, "source": system.source,
                        "network": network}  # fmt: skip
    for figure in FIGURES:
        values = [found[figure] for found in rounds if found.get(figure) is not None]
        row[figure] = statistics.median(values) if values else None
    steps = STEPS if system.source == measure.OURS else PEER_STEPS
    return row | {"batch": BATCH, "steps": steps[network], "rounds_measured": len(rounds)}


def _run_queries(parties: int, emit: Emit, progress: Progress) -> None:
    """Queries to the network of the first step; each connects anew, as a client would."""
    system = _SYSTEMS[3 - parties]
    rows = np.random.default_rng(0).uniform(0, 1, (max(QUERIES), _PIXELS))
    for count, queries in QUERIES.items():
        progress(f"queries of {count}", 0, 1)
        with tempfile.TemporaryDirectory() as folder:
            with our_parties.serving("mlp", parties, queries + 1, Path(folder)) as client:
                asked = [our_parties.asked(client, rows[:count]) for _ in range(queries + 1)]
            told = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
        among = sum(said["bytes_sent"] for said in told) / (queries + 1)
        emit(
            {
                "kind": "shared inference",
                "system": system.name,
                "source": system.source,
                "network": "mlp",
                "rows": count,
                "queries": queries,
                "milliseconds": 1e3 * statistics.median(seconds for seconds, _ in asked[1:]),
                "bytes": asked[0][1] + among,
                "client_bytes": asked[0][1],
                "rounds": next(said["rounds_per_query"] for said in told if said["party"] == 0),
            }
        )


def _ours(parties: int, network: str) -> Measured:
    found: Measured = our_parties.step(network, parties, BATCH, STEPS[network])
    return found


def _crypten(network: str) -> Measured:
    script = PEERS_FOLDER / "crypten_shipped.py"
    return _json([sys.executable, str(script), network, str(BATCH), str(PEER_STEPS[network])])


def _spu(protocol: str, network: str) -> Measured:
    try:
        python = peer_python("spu_parties")
    except InstallError as error:
        raise _Failed(str(error)) from None
    script = str(PEERS_FOLDER / "spu_parties.py")
    return _json([str(python), script, protocol, network, str(BATCH), str(PEER_STEPS[network])])


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


_PROTECTED = "semi-honest, one of three; mutual TLS 1.3; AES-256"
_SYSTEMS = (
    System("Sottovoce, three parties", partial(_ours, 3), measure.OURS, _PROTECTED),
    System("Sottovoce, two and a dealer", partial(_ours, 2), measure.OURS, _PROTECTED),
    System(
        "CrypTen as shipped",
        _crypten,
        measure.PEER,
        "none against party 0, or against its generator; no TLS",
    ),
    System(
        "SPU ABY3",
        partial(_spu, "ABY3"),
        measure.PEER,
        "semi-honest, one of three; no TLS here",
    ),
    System(
        "SPU SEMI2K",
        partial(_spu, "SEMI2K"),
        measure.PEER,
        "none against the first party, which makes the randomness; no TLS here",
        _TWO_PARTY_NETWORKS,
    ),
    System(
        "SPU Cheetah",
        partial(_spu, "CHEETAH"),
        measure.PEER,
        "semi-honest, one of two, no dealer; no TLS here",
        _TWO_PARTY_NETWORKS,
    ),
)


BENCHMARK = Benchmark(
    "training",
    "A training step on shares: CPU seconds, bytes, rounds; CrypTen and SPU with peers.",
    ("sottovoce", "numpy", "cryptography", "torch", "crypten"),
    steps,
)
