"""Prices measured on this machine, in a second or two, and kept on disk.

The steps of a query are timed where they really happen, in clients and servers of small random
programs; the prices that explain the medians best, none of them negative, are the machine's. A file
of prices names the processor, the cores and the versions it was measured with: one of another
machine or release, or an old one, is measured again and never trusted.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import platformdirs
from scipy.optimize import nnls

from he_inference.client import Client
from he_inference.coefficient_compiler import compile_coefficients
from he_inference.coefficient_program import CoefficientProgram
from he_inference.coefficient_signature import CoefficientSignature
from he_inference.network import Network
from he_inference.nodes import Array, Input, Linear
from he_inference.prices import CoefficientPrices
from he_inference.processors import processors
from he_inference.server import Server

MAX_AGE_DAYS = 30
SHAPES = ((500, 12), (30_000, 1), (8_000, 12))
"""Features and outputs of the programs that are timed."""
REPEATS = 5
_DAY = 86_400
_VERSIONS = ("sottovoce", "tenseal", "numpy", "numba")


@dataclass(frozen=True)
class Machine:
    """What prices depend on."""

    processor: str
    cores: int
    python: str
    versions: tuple[str, ...]

    @classmethod
    def this(cls) -> "Machine":
        return cls(
            _processor(), processors(), platform.python_version(), tuple(map(_version, _VERSIONS))
        )


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "flags")):
                return f"{platform.machine()} {line.partition(':')[2].strip()}"
    return f"{platform.machine()} {platform.processor()}"


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} none"


def calibration_file() -> Path:
    """Where prices are kept."""
    return Path(platformdirs.user_cache_dir("sottovoce")) / "prices.json"


def calibrated(path: Path | None = None, *, now: float | None = None) -> CoefficientPrices:
    """This machine's prices: from the file, or measured now and written there.

    now: seconds since 1970, today unless given. A file that cannot be written is done without.
    """
    path, now = path or calibration_file(), time.time() if now is None else now
    kept = _read(path, Machine.this(), now)
    if kept is not None:
        return kept
    prices = measured()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": asdict(Machine.this()), "time": now, "prices": asdict(prices)}
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
        unfinished.replace(path)
    return prices


def _read(path: Path, machine: Machine, now: float) -> CoefficientPrices | None:
    """The prices in a file; None where it is not this machine's, not recent, or not sound."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        same = content["machine"] == json.loads(json.dumps(asdict(machine)))
        recent = 0 <= now - float(content["time"]) <= MAX_AGE_DAYS * _DAY
        return CoefficientPrices.from_json(content["prices"]) if same and recent else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def measured() -> CoefficientPrices:
    """Time the layout's own steps on small random programs, one thread."""
    timings = [_timed(program) for program in _programs()]
    layouts = [(t.signature.layout, t.signature) for t in timings]
    single = [float(layout.group == 1) for layout, _ in layouts]
    ask, encrypt = _fit(
        [(1.0, layout.queries) for layout, _ in layouts], [t.encrypt for t in timings]
    )
    opened, decrypt, decrypt_group = _fit(
        [(1.0, layout.answers * one, layout.answers * (1 - one))
         for (layout, _), one in zip(layouts, single, strict=True)],
        [t.decrypt for t in timings],
    )  # fmt: skip
    serve, read, product, answer, hide = _fit(
        [(1.0, layout.queries, layout.queries * layout.answers, layout.answers,
          layout.answers * len(s.parameters.data_primes) * s.private) for layout, s in layouts],
        [t.evaluate for t in timings],
    )  # fmt: skip
    fitted = (ask + opened, encrypt, decrypt, decrypt_group, serve, read, product, answer, hide)
    return CoefficientPrices(*map(float, fitted))


def _fit(rows: Sequence[tuple[float, ...]], milliseconds: Sequence[float]) -> Array:
    """Non-negative prices; each measurement counts relative to its size."""
    times = np.array(milliseconds)
    found: Array = nnls(np.array(rows, float) / times[:, None], np.ones(len(times)))[0]
    return found


@dataclass(frozen=True)
class _Timing:
    signature: CoefficientSignature
    encrypt: float
    evaluate: float
    decrypt: float


def _programs() -> Iterator[CoefficientProgram]:
    rng = np.random.default_rng(0)
    for features, outputs in SHAPES:
        layer = Linear((0,), rng.standard_normal((outputs, features)), np.zeros(outputs))
        network = Network([Input(()), layer], (features,), (-1.0, 1.0))
        examples = rng.uniform(-1, 1, (4, features))
        for response in ("private", "plain"):
            found = list(compile_coefficients(network, examples, precision=8, response=response))
            yield from (each.program for each in (found[0], found[-1]))


def _timed(program: CoefficientProgram) -> _Timing:
    """Medians of CPU time, the first round of each left out."""
    client, server = Client(program.signature), Server(program, threads=1)
    server.register(client.evaluation_keys())
    query = np.zeros((1, *program.signature.input_shape))
    message = client.encrypt(query)
    answer = server.evaluate(message)
    client.decrypt(answer)
    return _Timing(
        program.signature,
        _median_ms(lambda: client.encrypt(query)),
        _median_ms(lambda: server.evaluate(message)),
        _median_ms(lambda: client.decrypt(answer)),
    )


def _median_ms(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - started))
    return median(times)
