"""All parties on this machine: real processes, real sockets, certificates made for the occasion.

Each party is a process of its own that runs `mpc-training party` on a settings file of its own;
nothing passes between them but their TLS connections; with two, a third process runs
`mpc-training dealer`. This module is for trying and measuring:
whoever runs it has all data anyway.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from mpc_training import certificates
from mpc_training.errors import PeerError
from mpc_training.party import PARTIES
from mpc_training.run import Run

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_GRACE_SECONDS = 10.0
_LINES = ("--progress",)
"""Only party 0 is asked for lines of progress."""


@dataclass(frozen=True)
class Piece:
    """The records that one local party gets: rows with their labels."""

    features: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]


def spread(
    features: npt.NDArray[Any], labels: npt.NDArray[np.int64], seed: int, parties: int
) -> list[Piece]:
    """Rows given at random to so many parties, as evenly as possible."""
    order = np.random.default_rng([seed, parties]).permutation(len(features))
    return [
        Piece(features[rows], labels[rows]) for rows in map(np.sort, np.array_split(order, parties))
    ]


def prepare(
    folder: Path,
    run: Run,
    pieces: Sequence[Piece],
    divisor: float,
    timeout: float,
    routes: Callable[[int, Sequence[int]], Sequence[int]] | None = None,
) -> list[Path]:
    """Write keys, records and settings for each party, and for a dealer; the settings files.

    routes: from a party and the ports on which all listen to those by which it reaches them.
    """
    ports = free_ports(PARTIES)
    names = [f"party-{index}" for index in range(run.owners)] + ["dealer"] * (PARTIES - run.owners)
    for name in names:
        certificates.make(name, folder)
    paths = []
    for index, name in enumerate(names):
        if index < run.owners:
            np.save(folder / f"features-{index}.npy", pieces[index].features)
            np.save(folder / f"labels-{index}.npy", pieces[index].labels)
        path = folder / f"{name}.toml"
        reached = ports if routes is None else routes(index, ports)
        path.write_text(_settings(index, names, reached, run, divisor, timeout), encoding="utf-8")
        paths.append(path)
    return paths


def _settings(
    index: int,
    names: Sequence[str],
    ports: Sequence[int],
    run: Run,
    divisor: float,
    timeout: float,
) -> str:
    recipe = {**asdict(run.recipe), **({} if run.steps is None else {"steps": run.steps})}
    owner = index < run.owners
    lines = [
        *([f"party = {index}", f'model = "model-{index}.safetensors"'] if owner else []),
        f"timeout = {timeout}",
        f"seed = {run.seed}",
        f'checkpoints = "checkpoints-{index}"',
        f"checkpoint_every = {run.checkpoint_every}",
        "[identity]",
        f'certificate = "{names[index]}.certificate.pem"',
        f'private_key = "{names[index]}.key.pem"',
    ]
    for name, port in zip(names, ports, strict=True):
        lines.append("[dealer]" if name == "dealer" else "[[parties]]")
        lines.append(f'address = "127.0.0.1:{port}"')
        lines.append(f'certificate = "{name}.certificate.pem"')
    if owner:
        lines += [
            "[data]",
            'kind = "rows"',
            f'features = "features-{index}.npy"',
            f'labels = "labels-{index}.npy"',
            f"divisor = {divisor}",
        ]
    lines += [
        "[training]",
        *(f"{name} = {value}" for name, value in recipe.items()),
        "[opened]",
        f"model_to = {list(run.disclosure.model_to)}",
        f"loss = {str(run.disclosure.loss).lower()}",
        *_network_lines(run.network.describe()),
    ]
    return "\n".join(lines) + "\n"


def _network_lines(description: Mapping[str, Any]) -> list[str]:
    lines = ["[network]", f"input_shape = {description['input_shape']}"]
    for layer in description["layers"]:
        lines.append("[[network.layers]]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in layer.items()]
    return lines


def free_ports(count: int) -> list[int]:
    """Ports of this machine on which nobody listens just now."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [int(taken.getsockname()[1]) for taken in sockets]


def run_parties(
    settings: Sequence[Path], *, resume: bool, watch: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Start `mpc-training party`, or `dealer`, for each and wait: their reports, by party.

    watch: gets each line of progress of party 0. Raises `PeerError` with what the first party that
    failed said; the others are given ten seconds to say theirs, and are then ended.
    """
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    command = [sys.executable, "-m", "mpc_training"]
    options = ["--json", *(["--resume"] if resume else [])]
    processes: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        stack.callback(_end, processes)
        for index, path in enumerate(settings):
            log = stack.enter_context(path.with_suffix(".log").open("w+", encoding="utf-8"))
            processes.append(
                subprocess.Popen(
                    [*command, _verb(path), str(path), *options, *_LINES[index:1]],
                    env=environment, stdout=subprocess.PIPE, stderr=log, text=True,
                )
            )  # fmt: skip
        report = _follow(processes[0], watch)
        deadline = monotonic() + _GRACE_SECONDS
        said = [_rest(process, deadline) for process in processes[1:]]
        with suppress(subprocess.TimeoutExpired):
            processes[0].wait(max(deadline - monotonic(), 0.1))
        failed = [k for k, process in enumerate(processes) if process.returncode != 0]
        if failed:
            raise PeerError(_first_complaint(settings, failed))
        return [report, *map(json.loads, said)]


def figures(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a step took, from the reports of all parties: medians over the steps; seconds and rounds
    of party 0, CPU seconds and bytes of all together."""
    return {
        "seconds_per_step": median(reports[0]["step_seconds"]),
        "cpu_seconds_per_step": sum(median(report["step_cpu_seconds"]) for report in reports),
        "bytes_per_step": round(sum(median(report["step_bytes"]) for report in reports)),
        "rounds_per_step": round(median(reports[0]["step_rounds"])),
    }


def _verb(settings: Path) -> str:
    return "dealer" if settings.stem == "dealer" else "party"


def _follow(
    process: subprocess.Popen[str], watch: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Lines of a party until it ends: progress, and at last its report."""
    last: dict[str, Any] = {}
    for line in process.stdout or ():
        last = json.loads(line)
        if "done" in last:
            watch(last)
    return last


def _rest(process: subprocess.Popen[str], deadline: float) -> str:
    """All that a party printed, read while it ends, for a report is larger than a pipe."""
    try:
        said, _ = process.communicate(timeout=max(deadline - monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        return ""
    return said


def _first_complaint(settings: Sequence[Path], failed: Sequence[int]) -> str:
    said = {
        k: settings[k].with_suffix(".log").read_text(encoding="utf-8").strip().splitlines()
        for k in failed
    }
    told = [
        f"party {k}: {lines[-1].removeprefix('mpc-training: ')}"
        for k, lines in said.items()
        if lines
    ]
    # Who only reports another's farewell knows less than that other.
    told.sort(key=lambda line: "see what it says itself" in line or " stopped: " in line)
    return told[0] if told else f"party {failed[0]} ended without a word: it was killed"


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
