"""FHE-Benchmarking.org's MNIST workload: its stages as processes, its sizes, its reference's time.

Elapsed time of a stage is that of its whole process, interpreter and files included, which is how
that site's harness takes it; CPU time is that of the process too. The published reference ran on
other hardware.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import measure
from benchmarks.bench_query import OUR_NAME, PACKAGES
from benchmarks.measure import OURS, Row
from benchmarks.site_stages import STAGES, Files, build
from benchmarks.steps import Asked, Benchmark, Emit, Progress, Step
from benchmarks.system_process import PROJECT
from workloads.datasets import mnist, mnist_sample

COUNTS = (1, 100, 1000, 10_000)
"""Images by size. The site's own small size has been 15 and 100 at different times."""


def steps(asked: Asked) -> Iterable[Step]:
    """A step a size."""
    for size, count in enumerate(COUNTS[:2] if asked.quick else COUNTS):
        yield Step(f"{count} images", partial(measure_size, size, count))


def measure_size(size: int, count: int, emit: Emit, progress: Progress) -> None:
    """One row: the time of every stage, the bytes of every folder, labels that are right."""
    data = mnist_sample() if count <= len(mnist_sample()) else mnist().test
    with tempfile.TemporaryDirectory() as root:
        files = Files(Path(root), size)
        building, _ = measure.timed(partial(build, files.root))
        files.pixels.parent.mkdir(parents=True)
        pixels = data.images[:count].reshape(count, -1)
        np.savetxt(files.pixels, pixels, fmt="%.6f")
        row: Row = {"kind": "site", "system": OUR_NAME, "source": OURS, "images": count,
                    "build_seconds": building.wall_ms / 1e3}  # fmt: skip
        for place, stage in enumerate(STAGES):
            progress(f"{count} images: {stage}", place, len(STAGES))
            row |= _stage(stage, files)
        told = np.array(files.predictions.read_text(encoding="utf-8").split(), dtype=np.int64)
        for name in ("public_keys", "ciphertexts_upload", "ciphertexts_download"):
            row[f"{name}_bytes"] = sum(path.stat().st_size for path in (files.io / name).iterdir())
    online = [row[f"{stage}_seconds"] for stage in STAGES if stage != "client_key_generation"]
    right = int((told == data.labels[:count]).sum())
    emit(row | {"right": right, "seconds": sum(online), "seconds_each": sum(online) / count})


def _stage(stage: str, files: Files) -> Row:
    """Run it as a process; elapsed and CPU seconds."""
    command = [sys.executable, "-m", "benchmarks.site_stages", stage, str(files.size)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    span, _ = measure.timed(
        lambda: subprocess.run(
            [*command, "--root", str(files.root)], check=True, env=environment, cwd=PROJECT
        )
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {f"{stage}_seconds": span.wall_ms / 1e3, f"{stage}_cpu_seconds": used}


BENCHMARK = Benchmark(
    "site",
    "FHE-Benchmarking.org's MNIST workload: 1 to 10,000 images, stages as processes.",
    PACKAGES,
    steps,
)
