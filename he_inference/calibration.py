"""Prices measured on this machine, in some ten seconds, and kept on disk.

The steps of a query are timed where they really happen, in clients and servers of small random
programs; the prices that explain the times best, none of them negative, are the machine's. A file
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
from statistics import quantiles
from typing import Any

import numpy as np
import platformdirs
from scipy.optimize import nnls

from he_inference.client import Client
from he_inference.coefficient_compiler import compile_coefficients
from he_inference.coefficient_program import CoefficientProgram
from he_inference.cost import DEFAULT_PRICES, Prices
from he_inference.network import Network
from he_inference.nodes import Activation, Array, Conv2d, Flatten, Input, Linear
from he_inference.packed_compiler import compile_packed
from he_inference.prices import CoefficientPrices, MachinePrices, scaled
from he_inference.processors import processors
from he_inference.program import Program
from he_inference.server import Server
from he_inference.tensor_file import MALFORMED

MAX_AGE_DAYS = 30
SHAPES = ((500, 12), (40_000, 1), (20_000, 12), (60_000, 40))
"""Features and outputs of the programs that are timed."""
REPEATS = 9
_LEAST_MS = 1e-3
"""Where clocks are coarse, a time of zero would weigh without bounds."""
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


def calibrated(path: Path | None = None, *, now: float | None = None) -> MachinePrices:
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


def _read(path: Path, machine: Machine, now: float) -> MachinePrices | None:
    """The prices in a file; None where it is not this machine's, not recent, or not sound."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        same = content["machine"] == json.loads(json.dumps(asdict(machine)))
        recent = 0 <= now - float(content["time"]) <= MAX_AGE_DAYS * _DAY
        return MachinePrices.from_json(content["prices"]) if same and recent else None
    except (OSError, *MALFORMED):
        return None


def measured() -> MachinePrices:
    """Time both layouts for single queries, on one thread."""
    return MachinePrices(_coefficient_prices(), _packed_prices())


def _packed_prices() -> Prices:
    """The usual ones, by how much longer a small program takes here than they say."""
    examples = np.random.default_rng(0).random((4, 1, 12, 12))
    compiled = compile_packed(_small_network(), examples, precision=8)
    timing = _timed(compiled.program)
    return scaled(
        DEFAULT_PRICES,
        (timing.encrypt + timing.decrypt) / compiled.cost.client_ms,
        timing.evaluate / compiled.cost.server_ms,
    )


def _coefficient_prices() -> CoefficientPrices:
    """From the layout's own steps in small random programs."""
    programs = list(_programs())
    timings = [_timed(program) for program in programs]
    layouts = [(program.signature.layout, program.signature) for program in programs]
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
    times = np.maximum(milliseconds, _LEAST_MS)
    found: Array = nnls(np.array(rows, float) / times[:, None], np.ones(len(times)))[0]
    return found


@dataclass(frozen=True)
class _Timing:
    """Milliseconds of CPU."""

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


def _small_network() -> Network:
    """A convolution, a square, a dense layer."""
    rng = np.random.default_rng(0)
    square = np.tile([0.0, 0.0, 1.0], (4, 1))
    nodes = (
        Input(()),
        Conv2d((0,), rng.standard_normal((4, 1, 5, 5)) / 5, np.zeros(4), (2, 2), (0, 0)),
        Activation((1,), square),
        Flatten((2,)),
        Linear((3,), rng.standard_normal((10, 64)) / 8, np.zeros(10)),
    )
    return Network(nodes, (1, 12, 12), (0.0, 1.0))


def _timed(program: CoefficientProgram | Program) -> _Timing:
    """The first round of each is left out."""
    client, server = Client(program.signature), Server(program, threads=1)
    server.register(client.evaluation_keys())
    query = np.zeros((1, *program.signature.input_shape))
    message = client.encrypt(query)
    answer = server.evaluate(message)
    client.decrypt(answer)
    return _Timing(
        _quick_ms(lambda: client.encrypt(query)),
        _quick_ms(lambda: server.evaluate(message)),
        _quick_ms(lambda: client.decrypt(answer)),
    )


def _quick_ms(work: Callable[[], Any]) -> float:
    """The lower quartile: what else the machine does makes some rounds longer, and none shorter."""
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - started))
    return quantiles(times, n=4)[0]
