"""One query on one core and on two, in turn: how much sooner a server answers, and at what cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import he_inference
from benchmarks import measure
from benchmarks.measure import OURS, Row, Span
from he_inference.processors import processors

THREADS = (1, 2)


def measure_two_cores(
    program: Path, network: str, rounds: int, progress: Callable[[int, int], None]
) -> Row | None:
    """A row of medians over rounds, a server of each kind answering once in each, message to
    message; nothing where this process may use one core only."""
    if processors() < max(THREADS):
        return None
    loaded = he_inference.load_program(program)
    client = he_inference.Client(loaded.signature)
    servers = [he_inference.Server(loaded, threads=threads) for threads in THREADS]
    for server in servers:
        server.register(client.evaluation_keys())
    query = client.encrypt(np.zeros((1, *loaded.signature.input_shape)))
    spans: list[list[Span]] = [[] for _ in servers]
    for number in range(-1, rounds):  # the first round warms up
        progress(max(number, 0), rounds)
        for server, found in zip(servers, spans, strict=True):
            span, _ = measure.timed(lambda server=server: server.evaluate(query))  # type: ignore[misc]
            found += [span] * (number >= 0)
    walls = [[span.wall_ms for span in found] for found in spans]
    row: Row = {"kind": "cores", "system": "Sottovoce", "source": OURS, "network": network}
    for threads, found, wall in zip(THREADS, spans, walls, strict=True):
        row |= measure.Summary.of(wall).as_row(f"wall_ms_{threads}")
        row[f"cpu_ms_{threads}"] = measure.Summary.of(span.cpu_ms for span in found).median
    return row | measure.ratio(*walls).as_row("speed_up")
