"""Our parties as a user starts them: processes of the command line, on TLS sockets."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mpc_training import certificates, local_parties
from mpc_training.run import Run
from mpc_training.serving import query
from mpc_training.settings import read_client_settings
from mpc_training.sharing import Disclosure
from mpc_training.torch_modules import from_torch
from mpc_training.training import Recipe
from workloads.datasets import Splits, mnist_sample
from workloads.shared_networks import INPUT_SHAPE, NETWORKS

DIVISOR = 255.0
SEED = 1
_TIMEOUT = 60.0
Routes = Callable[[int, Sequence[int]], Sequence[int]]


def trained(
    run: Run, splits: Splits, folder: Path, routes: Routes | None = None
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Let parties train on a data set dealt to them: their settings files and reports."""
    pixels = np.rint(splits.train.images * DIVISOR).astype(np.uint8)
    pieces = local_parties.spread(pixels, splits.train.labels, run.seed, run.owners)
    settings = local_parties.prepare(folder, run, pieces, DIVISOR, _TIMEOUT, routes)
    reports = local_parties.run_parties(settings, resume=False, watch=lambda _: None)
    return settings, reports


def planned(network: str, parties: int, recipe: Recipe, steps: int | None = None) -> Run:
    """A run of one of the networks that the command line knows."""
    module = NETWORKS[network]()
    opened = Disclosure(tuple(range(parties)))
    return Run(from_torch(module, INPUT_SHAPE), recipe, opened, SEED, steps, owners=parties)


def step(network: str, parties: int, batch: int, steps: int, routes: Routes | None = None) -> Any:
    """What a training step takes, on the images that ship."""
    sample = mnist_sample()
    run = planned(network, parties, Recipe(batch=batch, epochs=steps), steps)
    with tempfile.TemporaryDirectory() as name:
        _, reports = trained(run, Splits(sample, sample), Path(name), routes)
    return local_parties.figures(reports)


@contextmanager
def serving(network: str, parties: int, queries: int, folder: Path) -> Iterator[Path]:
    """Parties that answer `queries` queries after one step of training: a client's settings."""
    sample = mnist_sample()
    run = planned(network, parties, Recipe(batch=128), 1)
    settings, _ = trained(run, Splits(sample, sample), folder)
    certificates.make("client", folder)
    ports = local_parties.free_ports(len(settings))
    client = ['identity = {certificate = "client.certificate.pem", private_key = "client.key.pem"}']
    for path, port in zip(settings, ports, strict=True):
        with path.open("a", encoding="utf-8") as file:
            file.write(f'[serving]\naddress = "127.0.0.1:{port}"\n')
            file.write('clients = ["client.certificate.pem"]\n')
        client.append("[dealer]" if path.stem == "dealer" else "[[parties]]")
        client.append(f'address = "127.0.0.1:{port}"')
        client.append(f'certificate = "{path.stem}.certificate.pem"')
    (folder / "client.toml").write_text("\n".join(client), encoding="utf-8")
    command = [sys.executable, "-m", "mpc_training", "serve"]
    environment = {**os.environ, **dict.fromkeys(local_parties.THREADS, "1")}
    with ExitStack() as stack:
        log = stack.enter_context((folder / "serve.log").open("w", encoding="utf-8"))
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, processes)
        for path in settings:
            told = stack.enter_context(path.with_suffix(".json").open("w", encoding="utf-8"))
            processes.append(
                subprocess.Popen(
                    [*command, str(path), "--queries", str(queries), "--json"],
                    env=environment, stdout=told, stderr=log,
                )
            )  # fmt: skip
        yield folder / "client.toml"
        for process in processes:
            process.wait(30)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with suppress(OSError):
            process.kill()
        process.wait()


def asked(client: Path, rows: np.ndarray[Any, Any]) -> tuple[float, int]:
    """Seconds that a query takes, connecting included, and the bytes that the client sent."""
    settings = read_client_settings(client)
    begun = time.perf_counter()
    _, sent = query(settings.addresses, settings.identity, rows, settings.timeout)
    return time.perf_counter() - begun, sent
