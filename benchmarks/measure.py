"""The only clock: process CPU and wall time, their medians, ratios and spread, and on what machine.

Imports the standard library alone, so that a peer's own virtual environment can load it too.

    span, answer = timed(lambda: server.evaluate(request))      # span.cpu_ms, span.wall_ms
    cpu = Summary.of(span.cpu_ms for span in spans)             # cpu.median, cpu.spread
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

Result = TypeVar("Result")
Row = dict[str, Any]

OURS = "ours measured"
PEER = "peer measured here"
PUBLISHED = "published"
SOURCES = (OURS, PEER, PUBLISHED)
"""What a row's `source` may be: where its figure comes from."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "GOMAXPROCS",
)
"""Environment variables that set a runtime's number of threads, read when the runtime starts."""

_SIMD_FLAGS = ("sse4_2", "aes", "avx", "fma", "bmi2", "asimd", "sve", "vaes", "gfni")
_SIMD_PREFIXES = ("avx2", "avx512", "avx_", "amx_")


@dataclass(frozen=True)
class Span:
    """How long one call took.

    Attributes:
        cpu_ms: CPU time of the whole process, all its threads, user and system, in milliseconds.
        wall_ms: elapsed time in milliseconds; on a shared machine it includes waiting.
    """

    cpu_ms: float
    wall_ms: float

    def __add__(self, other: Span) -> Span:
        """The two calls, one after the other."""
        return Span(self.cpu_ms + other.cpu_ms, self.wall_ms + other.wall_ms)


def timed(call: Callable[[], Result]) -> tuple[Span, Result]:
    """Call once; return how long it took and what it returned."""
    wall = time.perf_counter_ns()
    cpu = time.process_time_ns()
    result = call()
    cpu = time.process_time_ns() - cpu
    wall = time.perf_counter_ns() - wall
    return Span(cpu / 1e6, wall / 1e6), result


@dataclass(frozen=True)
class Summary:
    """A sample in the unit of its values.

    Attributes:
        median, low, high: the median and the lower and upper quartile.
        minimum, maximum: the extremes.
        count: how many values there are.
    """

    median: float
    low: float
    high: float
    minimum: float
    maximum: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Summarise at least one value.

        Raises:
            ValueError: there is none.
        """
        ordered = sorted(values)
        if not ordered:
            raise ValueError("Expected at least one value to summarise, found none")
        low, median, high = ordered[0], ordered[0], ordered[0]
        if len(ordered) > 1:
            low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median, low, high, ordered[0], ordered[-1], len(ordered))

    @property
    def spread(self) -> float:
        """Interquartile range over median: a share, 0 where all values are equal."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def as_row(self, prefix: str) -> Row:
        """`{prefix}`, `{prefix}_low`, `{prefix}_high`: the median between its quartiles."""
        return {
            prefix: self.median,
            f"{prefix}_low": self.low,
            f"{prefix}_high": self.high,
        }


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Summary:
    """The ratios of values measured in the same round, so that a slow moment slows both.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    pairs = zip(numerators, denominators, strict=True)
    return Summary.of(above / below for above, below in pairs)


def one_thread_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment variables, `base` or this process's own, that start a runtime with one thread."""
    variables = dict(os.environ if base is None else base)
    variables.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    return variables


def pin_to_one_core() -> int | None:
    """Keep this process, and what it starts, on one core.

    Call it before a library starts threads. Returns the core's number; None where the operating
    system cannot pin, and then only the environment variables hold the threads down.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def peak_memory_bytes() -> int:
    """The most memory this process has had resident so far, in bytes."""
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment(packages: Sequence[str] = ()) -> Row:
    """On what a run was measured: the row that stands first in a file of results.

    Args:
        packages: distributions whose installed versions are recorded; absent ones are left out.
    """
    return {
        "kind": "environment",
        "processor": _processor(),
        "simd": _simd(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions(packages),
        "commit": _commit(),
        "edits": _edits(),
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each distribution that is installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_row(stream: TextIO, row: Mapping[str, Any]) -> None:
    """Append one row as a line of JSON, at once, so that an interrupted run keeps what it has."""
    stream.write(json.dumps(row, sort_keys=False, allow_nan=False) + "\n")
    stream.flush()


def read_rows(path: Path, torn: bool = False) -> Iterator[Row]:
    """The rows of a JSON lines file, in order.

    Args:
        path: the file.
        torn: leave out a last line that was cut off while it was written.

    Raises:
        ValueError: a line is no JSON object; the message names the line.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()[: -1 if torn and not text.endswith("\n") else None]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number}: expected JSON; {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}, line {number}: expected a JSON object")
        yield row


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


@functools.cache
def _cpuinfo(*names: str) -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def _processor() -> str:
    model = _cpuinfo("model name") or platform.processor() or "unknown"
    numbers = [_cpuinfo("cpu family"), _cpuinfo("model"), _cpuinfo("stepping")]
    return f"{model} (family {'/'.join(numbers)})" if all(numbers) else model


def _simd() -> list[str]:
    flags = _cpuinfo("flags", "Features").split()
    return sorted(flag for flag in flags if flag in _SIMD_FLAGS or flag.startswith(_SIMD_PREFIXES))


def _commit() -> str | None:
    """The git commit of this checkout, with "+" where files differ from it; None outside git."""
    folder = Path(__file__).resolve().parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _edits() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _edits() -> str | None:
    """A digest of how the code of this checkout differs from its commit; None where it does not.

    Results and pages, which runs write, are no code.
    """
    folder = Path(__file__).resolve().parent.parent
    try:
        state = [_git(folder, "diff", "HEAD", "--", "*.py", "*.txt", "*.toml")]
        state += [_git(folder, "ls-files", "--others", "--exclude-standard", "--", "*.py")]
    except (OSError, subprocess.CalledProcessError):
        return None
    text = "\n".join(state).strip()
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
