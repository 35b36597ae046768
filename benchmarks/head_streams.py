"""Heads on rows that do not fit in memory: time against their number, memory, a thousand classes.

    python -m benchmarks.head_streams 1000000 512 10 fc     one fit in a process of its own

Rows are made anew on every pass from one block of random numbers, so that no file and no more than
a block is held. Each fit has a process of its own, whose peak of resident memory is reported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from benchmarks import measure
from benchmarks.measure import Row
from private_models import PrivateClassifier

EPSILON, DELTA = 1.0, 1e-7
BLOCK = 8000
IMAGENET = (1_280_000, 1280, 1000)
"""Rows, features and classes of ImageNet-1k, from a backbone such as EfficientNet's."""


def streams(rows: int, emit: Callable[[Row], None], progress: Callable[..., None]) -> None:
    """Four sizes up to `rows` of 512 features, the line through them, then ImageNet's shape."""
    sizes = [rows // 8, rows // 4, rows // 2, rows]
    seconds = []
    for done, size in enumerate(sizes):
        progress("streams of rows", done, len(sizes) + 1)
        row = _apart(size, 512, 10, "fc")
        seconds.append(row["cpu_seconds"])
        emit(row)
    slope, fixed = np.polyfit(sizes, seconds, 1)
    residual = np.array(seconds) - (slope * np.array(sizes) + fixed)
    emit({
        "kind": "head_growth", "what": "rows of 512 features, streamed", "sizes": sizes,
        "seconds": seconds, "seconds_a_million": float(slope) * 1e6, "fixed_seconds": float(fixed),
        "explained": 1 - float(residual.var() / np.var(seconds)),
    })  # fmt: skip
    progress("streams of rows", len(sizes), len(sizes) + 1)
    share = min(1.0, rows / 1_000_000)
    emit(_apart(int(IMAGENET[0] * share), IMAGENET[1], IMAGENET[2], "least_squares"))


def _apart(rows: int, width: int, classes: int, solver: str) -> Row:
    """`fit` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.head_streams", str(rows), str(width),
               str(classes), solver]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=measure.one_thread_environment()
    )
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def source(
    rows: int, width: int, classes: int
) -> Callable[[], Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]]:
    """Gaussian classes, norms about 1, the same on every call."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((BLOCK + 97, width), dtype=np.float32) / np.float32(width**0.5)
    means = rng.standard_normal((classes, width), dtype=np.float32) * np.float32(0.2 / width**0.5)

    def chunks() -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        labels_rng = np.random.default_rng(2)
        for start in range(0, rows, BLOCK):
            labels = labels_rng.integers(0, classes, min(BLOCK, rows - start))
            first = start // BLOCK % 97
            yield noise[first : first + len(labels)] + means[labels], labels

    return chunks


def fit(rows: int, width: int, classes: int, solver: str) -> Row:
    """Seconds and peak memory of a streamed fit without public features."""
    head = PrivateClassifier(EPSILON, DELTA, solver, rows=rows)  # type: ignore[arg-type]
    given = source(rows, width, classes)
    span, _ = measure.timed(lambda: head.fit_stream(given, width, classes=range(classes)))
    return {
        "kind": "head_stream", "system": f"Sottovoce {solver}", "source": measure.OURS,
        "rows": rows, "width": width, "classes": classes,
        "releases": sum(release.count for release in head.statement_.releases),
        "cpu_seconds": span.cpu_ms / 1e3, "wall_seconds": span.wall_ms / 1e3,
        "peak_resident_bytes": measure.peak_memory_bytes(),
    }  # fmt: skip


if __name__ == "__main__":
    measure.pin_to_one_core()
    count, columns, labels = map(int, sys.argv[1:4])
    print(json.dumps(fit(count, columns, labels, sys.argv[4])))
