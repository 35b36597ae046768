"""`benchmarks.bench_training`: it runs, and its slow network is slow."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import bench_training, measure
from benchmarks.report.markdown import markdown
from benchmarks.slow_wire import slow_wire
from benchmarks.steps import Asked


def test_the_wire_delays_and_limits() -> None:
    """A question and its answer take two delays; a megabyte at 10 MB/s a tenth of a second."""
    with socket.create_server(("127.0.0.1", 0)) as server, slow_wire(0.05, 10e6) as wire:
        port = server.getsockname()[1]

        def echo() -> None:
            near, _ = server.accept()
            with closing(near):
                while content := near.recv(2**16):
                    near.sendall(content)

        threading.Thread(target=echo, daemon=True).start()
        (first, own, _) = wire.routes(1, [port, 1, 2])
        assert own == 1 and first != port
        with socket.create_connection(("127.0.0.1", first)) as stream:
            for size, least in ((1, 0.1), (10**6, 0.1 + 0.1)):
                begun = time.monotonic()
                stream.sendall(bytes(size))
                left = size
                while left:
                    left -= len(stream.recv(2**16))
                assert time.monotonic() - begun >= least


def test_a_small_run(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    with (
        patch.dict(bench_training.STEPS, {"mlp": 1}),
        patch.object(bench_training, "QUERIES", {2: 1}),
        patch.object(bench_training, "DELAYED", (2,)),
        patch.object(bench_training, "SERVED", (3,)),
        path.open("w") as stream,
    ):
        emit: Any = lambda row: measure.write_row(stream, row)  # noqa: E731
        for step in bench_training.steps(Asked(quick=True)):
            step.measure(emit, lambda *_: None)
    rows = list(measure.read_rows(path))
    assert [row["kind"] for row in rows] == [
        "slow network", "shared inference", "training", "training",
    ]  # fmt: skip
    slow, query, three, two = rows
    assert three["rounds_per_step"] == two["rounds_per_step"] == slow["rounds_per_step"] == 44
    # Each round waits for a message that left a delay ago.
    assert slow["seconds_per_step"] > 44 * bench_training.DELAYS[0]
    assert three["bytes_per_step"] < 13e6
    assert query["rounds"] == 12 and query["client_bytes"] < query["bytes"] < 300e3
    assert markdown(rows).count("##") == 4  # one of them beside what was published
