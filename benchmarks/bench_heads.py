"""Private heads: accuracy against epsilon, time and memory, beside Opacus and diffprivlib.

    python -m benchmarks run heads --peers                    all of it; hours of one core
    python -m benchmarks.bench_heads accuracy cifar --peers   one task; appends to the results
    python -m benchmarks.bench_heads streams                  rows that do not fit in memory

Times are CPU seconds of a process with one thread, noise finding included; peers run in
environments of their own, on the same file of features. No setting was chosen on a task that is
measured: `benchmarks.tune_heads` finds them on Fashion-MNIST for every method alike.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from benchmarks import measure
from benchmarks.head_streams import streams
from benchmarks.head_tasks import TASKS, HeadTask
from benchmarks.measure import Row
from benchmarks.peer_environment import PEERS_FOLDER, InstallError, peer_python
from benchmarks.steps import Asked, Benchmark, Step
from private_models import PrivateClassifier
from private_models.accounting import gaussian_mu
from private_models.choices import descent, signal, whitening_directions, whitening_ridge
from private_models.noise import Array
from private_models.preparation import public_moments, whitening
from private_models.quadratic import products, quadratic_layer

DELTA = 1e-5
RESULTS = Path(__file__).resolve().parent / "results" / "heads.jsonl"
PROJECT = PEERS_FOLDER.parent.parent
PEER_SECONDS = 3600
OPACUS = {"batch_rows": 8192, "epochs": 20, "momentum": 0.9}
"""As its users have it for a head: large batches and momentum; rates by epsilon, below."""
RAW_CLIP, WHITENED_CLIP = 1.0, 0.7
WHITENED, CLIPPED = "Sottovoce fc, public whitening", "Sottovoce fc"
SHORT_STEPS = 5
SHORT = f"{WHITENED}, {SHORT_STEPS} steps"
"""Of 20: for the time that it takes to be as accurate as Opacus is."""
LINE, LINE_QUADRATIC = "no privacy", "no privacy, our public quadratic layer"
HOOKS, GHOST = "Opacus DP-SGD, hooks", "Opacus DP-SGD, ghost"
GHOST_WHITENED = "Opacus DP-SGD, ghost, our public whitening"
DIRECTIONS = 40
"""Of the hidden layer: a query has 860 products, the fewest that are near the best there."""
QUADRATIC = "Sottovoce fc, public quadratic layer"
SHORT_DIRECTIONS = 20
SHORT_QUADRATIC = f"{QUADRATIC} of {SHORT_DIRECTIONS}, {SHORT_STEPS} steps"
"""230 products, for the time to be as accurate as Opacus is on the features themselves."""
GHOST_QUADRATIC = "Opacus DP-SGD, ghost, our public quadratic layer"
DIFFPRIVLIB = "diffprivlib, pure epsilon"
PACKAGES = ["numpy", "scipy", "torch", "dp-accounting", "cryptography"]


def raw_rate(epsilon: float) -> float:
    """Opacus' learning rate on rows as they are: the best on Fashion-MNIST grows with epsilon."""
    return 11.0 * math.sqrt(2 * epsilon)


def whitened_path(epsilon: float) -> float:
    """The rate on whitened rows, times the largest eigenvalue of their covariance."""
    return 0.2 * min(1.0, 2 * epsilon)


Emit = Callable[[Row], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        tasks: names in `TASKS`. epsilons: at delta 1e-5. seeds: fits of ours at each.
        peer_seeds: fits of each peer, 0 for none. hooks_at: the epsilon at which Opacus runs with
        hooks too, which change its time and nothing else; 0 for never. some_at: those at which
        Opacus has our whitened rows and our products, ours has raw ones, and diffprivlib runs.
        short_at: those at which ours makes few steps too. peers_to: the largest epsilon at which
        peers run. streamed: the largest stream of rows.
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    epsilons: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
    seeds: int = 5
    peer_seeds: int = 5
    hooks_at: float = 1.0
    some_at: tuple[float, ...] = (0.5, 1.0, 8.0)
    short_at: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    peers_to: float = math.inf
    streamed: int = 1_000_000

    @classmethod
    def quick(cls) -> Plan:
        """Minutes; not to quote."""
        return cls(("synthetic",), (1.0,), 1, 1, streamed=16_000)


def run(plan: Plan, emit: Emit, progress: Progress) -> None:
    """All tasks of a plan, then the streams; one row at a time."""
    one_thread()
    emit({**measure.environment(PACKAGES), "benchmark": "heads"})
    for name in plan.tasks:
        run_task(name, plan, emit, progress)
    streams(plan.streamed, emit, progress)


def run_task(name: str, plan: Plan, emit: Emit, progress: Progress) -> None:
    """The rows of a task, or the one that says why there are none."""
    task = TASKS[name]()
    if isinstance(task, str):
        emit({"kind": "failure", "benchmark": "heads", "system": name,
              "source": measure.OURS, "reason": task})  # fmt: skip
    else:
        accuracies(task, plan, emit, progress)


def one_thread() -> None:
    """Pin this process, and hold down the threads that numpy's BLAS has started by now."""
    measure.pin_to_one_core()
    threadpool_limits(1)


def accuracies(task: HeadTask, plan: Plan, emit: Emit, progress: Progress) -> None:
    """Rows of one task: the line above, then every system at every epsilon, in turn."""
    common = {"kind": "head", "task": task.name, "rows": len(task.features),
              "features": task.features.shape[1], "delta": DELTA}  # fmt: skip
    emit({**common, **without_privacy(task)})
    emit({**common, **without_privacy(with_products(task)), "system": LINE_QUADRATIC})
    with tempfile.TemporaryDirectory() as folder:
        for done, epsilon in enumerate(plan.epsilons):
            progress(f"{task.name}, epsilon {epsilon:g}", done, len(plan.epsilons))
            systems = dict(_systems(task, epsilon, plan, Path(folder)))
            found: dict[str, list[Row]] = {name: [] for name in systems}
            failed: dict[str, str] = {}
            for seed in range(max(plan.seeds, plan.peer_seeds)):
                for name, (fit, fits) in systems.items():
                    if seed < fits and name not in failed:
                        try:
                            found[name].append(fit(seed))
                        except (InstallError, PeerError) as error:
                            failed[name] = str(error)
            for name, reason in failed.items():
                emit({"kind": "failure", "system": f"{name}, {task.name}, ε = {epsilon:g}",
                      "source": measure.PEER, "reason": reason})  # fmt: skip
            for name, rows in found.items():
                if rows:
                    emit({**common, "epsilon": epsilon, "system": name, **_summary(rows, found)})


Fit = Callable[[int], Row]


def _systems(
    task: HeadTask, epsilon: float, plan: Plan, folder: Path
) -> Iterator[tuple[str, tuple[Fit, int]]]:
    """What runs at an epsilon: name, one fit for a seed, how many."""
    yield WHITENED, (lambda _: ours(task, epsilon, True), plan.seeds)
    yield QUADRATIC, (lambda _: ours(task, epsilon, True, hidden=DIRECTIONS), plan.seeds)
    if epsilon in plan.short_at:
        few = partial(ours, task, epsilon, True, steps=SHORT_STEPS)
        yield SHORT, (lambda _: few(), plan.seeds)
        yield SHORT_QUADRATIC, (lambda _: few(hidden=SHORT_DIRECTIONS), plan.seeds)
    if epsilon in plan.some_at:
        yield CLIPPED, (lambda _: ours(task, epsilon, False), plan.seeds)
    if not plan.peer_seeds or epsilon > plan.peers_to:
        return
    raw = folder / "raw.npz"
    if not raw.is_file():
        _write(task, raw)
    opacus = {"epsilon": epsilon, "delta": DELTA, **OPACUS}
    ghost = {
        **opacus, "clip_norm": RAW_CLIP, "learning_rate": raw_rate(epsilon), "mode": "ghost"
    }  # fmt: skip
    jobs: dict[str, tuple[str, Path, dict[str, Any], int]] = {
        GHOST: ("opacus", raw, ghost, plan.peer_seeds),
    }
    if epsilon in plan.some_at:
        for name, features in ((GHOST_WHITENED, task), (GHOST_QUADRATIC, with_products(task))):
            ready, curvature = _whitened(features, epsilon)
            there = {**opacus, "clip_norm": WHITENED_CLIP, "mode": "ghost",
                     "learning_rate": whitened_path(epsilon) / curvature}  # fmt: skip
            path = folder / f"ready-{len(jobs)}.npz"
            _write(ready, path)
            jobs[name] = ("opacus", path, there, plan.peer_seeds)
        jobs[DIFFPRIVLIB] = ("diffprivlib", raw, {"epsilon": epsilon, "data_norm": 1.5}, 1)
    if epsilon == plan.hooks_at:
        jobs[HOOKS] = ("opacus", raw, {**ghost, "mode": "hooks"}, 1)
    for name, (library, path, settings, fits) in jobs.items():

        def fit(
            seed: int, library: str = library, path: Path = path,
            settings: dict[str, Any] = settings,
        ) -> Row:  # fmt: skip
            return _peer(library, path, {**settings, "seed": seed})

        yield name, (fit, fits)


def _summary(rows: list[Row], found: dict[str, list[Row]]) -> Row:
    """Mean and spread of accuracies, medians of the rest, and the time over that of ours."""
    accuracies = [row["accuracy"] for row in rows]
    seconds = measure.Summary.of(row["cpu_seconds"] for row in rows)
    mine = measure.Summary.of(row["cpu_seconds"] for row in found[WHITENED])
    return {
        "source": rows[0]["source"],
        "fits": len(rows),
        "accuracy": float(np.mean(accuracies)),
        "accuracy_deviation": float(np.std(accuracies)),
        **seconds.as_row("cpu_seconds"),
        "times_ours": seconds.median / mine.median,
        "memory_bytes": max(row["memory_bytes"] for row in rows),
        "versions": rows[0].get("versions", {}),
    }


def ours(
    task: HeadTask, epsilon: float, whitened: bool, solver: str = "fc", steps: int | None = None,
    hidden: int | None = None,
) -> Row:  # fmt: skip
    """One fit and its accuracy on the test set; memory is this process's, data and all.

    steps: of descent on whitened rows, where other than are chosen. hidden: directions of the
    hidden layer, if there is one.
    """
    settings = None
    if steps is not None:
        rows, width = task.features.shape
        width = width if hidden is None else products(hidden)
        strength = signal(gaussian_mu(epsilon, DELTA), rows, width)
        settings = replace(descent(strength, width, whitened, 1.0), steps=steps)
    head = PrivateClassifier(
        epsilon, DELTA, solver, public_features=task.public if whitened else None,  # type: ignore[arg-type]
        rows=len(task.features), settings=settings, hidden_directions=hidden,
    )  # fmt: skip
    span, _ = measure.timed(lambda: head.fit(task.features, task.labels, classes=task.classes))
    return {
        "source": measure.OURS,
        "accuracy": float(head.score(task.test_features, task.test_labels)),
        "cpu_seconds": span.cpu_ms / 1e3,
        "memory_bytes": measure.peak_memory_bytes(),
    }


def without_privacy(task: HeadTask) -> Row:
    """Multinomial logistic regression on the same rows, standardised: the line above.

    The penalty is the best of five on the test set, so the line is flattered, if anything.
    """
    accuracy = max(_logistic(task, penalty) for penalty in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1))
    return {"system": LINE, "source": measure.OURS, "accuracy": accuracy}


def _logistic(task: HeadTask, penalty: float) -> float:
    """Accuracy on the test set."""
    mean, spread = task.public.mean(0), task.public.std(0) + np.float32(1e-3)

    def prepared(rows: Any) -> Array:
        inner = (rows - mean) / spread
        return np.concatenate([inner, np.ones((len(rows), 1))], axis=1).astype(np.float32)

    rows, onehot = prepared(task.features), np.eye(len(task.classes))[task.labels]

    def loss(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(rows.shape[1], -1)
        logits = (rows @ weights.astype(np.float32)).astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        value = -float((logs * onehot).sum()) / len(rows) + penalty / 2 * float(flat @ flat)
        residual = ((np.exp(logs) - onehot) / len(rows)).astype(np.float32)
        return value, (rows.T @ residual + penalty * weights).ravel().astype(np.float64)

    start = np.zeros(rows.shape[1] * onehot.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100})
    scores = prepared(task.test_features) @ found.x.reshape(rows.shape[1], -1)
    return float((scores.argmax(1) == task.test_labels).mean())


# ---------------------------------------------------------------------------- peers


def _write(task: HeadTask, path: Path) -> None:
    np.savez(
        path, features=task.features, labels=task.labels,
        test_features=task.test_features, test_labels=task.test_labels,
    )  # fmt: skip


def with_products(task: HeadTask) -> HeadTask:
    """The rows as the hidden layer gives them, by the same public features."""
    layer = quadratic_layer(task.public, DIRECTIONS)

    def through(features: Any) -> Any:
        parts = np.array_split(features, max(1, len(features) // 4096))
        return np.concatenate([layer(part).astype(np.float32) for part in parts])

    return replace(
        task, features=through(task.features), test_features=through(task.test_features),
        public=through(task.public),
    )  # fmt: skip


def _whitened(task: HeadTask, epsilon: float) -> tuple[HeadTask, float]:
    """The rows as ours are prepared for this epsilon, by the same public features."""
    mu, rows = gaussian_mu(epsilon, DELTA), len(task.features)
    ridge = whitening_ridge(signal(mu, rows, task.features.shape[1]))
    transform = whitening(public_moments(task.public), 1.0, whitening_directions(mu, rows), ridge)

    def prepared(features: Any) -> Any:
        parts = np.array_split(features, max(1, len(features) // 4096))
        return np.concatenate([transform(p.astype(np.float64)).astype(np.float32) for p in parts])

    features, test = prepared(task.features), prepared(task.test_features)
    return replace(task, features=features, test_features=test), transform.curvature


class PeerError(Exception):
    """A peer's process that fails or takes too long; the message ends in its last words."""


def _peer(library: str, path: Path, settings: dict[str, Any]) -> Row:
    """A peer's own process and environment. Raises `InstallError` and `PeerError`."""
    variables = {**measure.one_thread_environment(), "PYTHONPATH": str(PROJECT)}
    command = [
        str(_python(library)), "-m", f"benchmarks.peers.{library}_head", str(path),
        json.dumps(settings),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PEER_SECONDS, env=variables, check=True
        )
    except subprocess.CalledProcessError as error:
        raise PeerError(f"{library}: {' '.join(error.stderr.split())[-400:]}") from None
    except subprocess.TimeoutExpired:
        raise PeerError(f"{library} took more than {PEER_SECONDS} seconds") from None
    try:
        found: Row = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise PeerError(f"{library} ended without an answer") from None
    return {"source": measure.PEER, **found}


def _python(library: str) -> Path:
    """As `peer_python`, which is not asked again for one that does not install."""
    if library not in _ABSENT:
        try:
            return peer_python(f"{library}_head")
        except InstallError as error:
            _ABSENT[library] = str(error)
    raise InstallError(_ABSENT[library])


_ABSENT: dict[str, str] = {}


def steps(asked: Asked) -> Iterator[Step]:
    """A step for every task, then the streams."""
    plan = Plan.quick() if asked.quick else Plan()
    plan = plan if asked.peers else replace(plan, peer_seeds=0)
    one_thread()
    for name in plan.tasks:
        yield Step(name, partial(run_task, name, plan))
    yield Step("streams", partial(streams, plan.streamed))


BENCHMARK = Benchmark(
    "heads",
    "Private heads: accuracy at six epsilons, time, memory; Opacus and diffprivlib with peers.",
    PACKAGES,
    steps,
)


# ---------------------------------------------------------------------------- a part of it

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)
Output = Annotated[Path, typer.Option(help="JSON lines, appended to.")]


@app.command()
def accuracy(
    tasks: Annotated[list[str], typer.Argument(help=", ".join(TASKS))],
    peers: bool = False, seeds: Annotated[int, typer.Option(min=1)] = 5, peer_seeds: int = 5,
    output: Output = RESULTS,
    epsilons: Annotated[str, typer.Option(help="With commas.")] = "0.1,0.5,1,2,4,8",
    hooks_at: float = 1.0, some_at: str = "0.5,1,8", peers_to: float = math.inf,
) -> None:  # fmt: skip
    """Accuracy and time on some tasks."""
    one_thread()
    chosen, some = (tuple(map(float, listed.split(","))) for listed in (epsilons, some_at))
    plan = Plan(tuple(tasks), chosen, seeds, peer_seeds if peers else 0, hooks_at, some,
                peers_to=peers_to)  # fmt: skip
    with output.open("a", encoding="utf-8") as stream:
        if not stream.tell():
            measure.write_row(stream, {**measure.environment(PACKAGES), "benchmark": "heads"})
        for name in tasks:
            task = TASKS[name]()
            if isinstance(task, str):
                raise typer.BadParameter(f"{name}: {task}")
            accuracies(task, plan, lambda row: measure.write_row(stream, row), _say)


@app.command(name="streams")
def streams_alone(rows: int = 1_000_000, output: Output = RESULTS) -> None:
    """Rows that do not fit in memory: seconds against their number, memory, 1,000 classes."""
    one_thread()
    with output.open("a", encoding="utf-8") as stream:
        streams(rows, lambda row: measure.write_row(stream, row), _say)


def _say(what: str, done: int, steps: int) -> None:
    typer.echo(f"{what}: {done} of {steps}", err=True)


if __name__ == "__main__":
    app()
