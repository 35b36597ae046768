"""Private heads: accuracy against epsilon and time, beside Opacus and diffprivlib.

    python -m benchmarks.bench_heads accuracy --seeds 5       ours, every epsilon, every task
    python -m benchmarks.bench_heads peers --epsilons 1       ours, Opacus, diffprivlib, in turn
    python -m benchmarks.bench_heads memory --rows 1000000    a streamed fit: seconds, memory

Every command appends to results/heads.jsonl and prints the rows. Times are CPU seconds of a process
with one thread; peers run in environments of their own, on the same file of features. Opacus'
settings are `OPACUS`, the best at ε = 1 of a sweep of the same algorithm on training images of
CIFAR-10 that were held out; ours are those of `private_models.choices`, found on the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.optimize import minimize

from benchmarks import measure
from benchmarks.head_tasks import HeadTask, cifar_features, mnist_pixels, synthetic
from benchmarks.peer_environment import PEERS_FOLDER, peer_python
from private_models import PrivateClassifier
from private_models.noise import Array

DELTA = 1e-5
EPSILONS = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
RESULTS = Path(__file__).resolve().parent / "results" / "heads.jsonl"
PROJECT = PEERS_FOLDER.parent.parent
PEER_SECONDS = 3600
OPACUS = {
    "batch_rows": 8192, "epochs": 20, "clip_norm": 1.0, "momentum": 0.9, "learning_rate": 11.0,
}  # fmt: skip

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)
TASKS: dict[str, Callable[[], HeadTask | None]] = {
    "synthetic": lambda: synthetic(draw=1),
    "mnist": mnist_pixels,
    "cifar": cifar_features,
}
Epsilons = Annotated[str, typer.Option(help="With commas.")]
TaskNames = Annotated[str, typer.Option(help="With commas.")]


def emit(row: measure.Row) -> None:
    """Append a row to the results, and print it."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as stream:
        measure.write_row(stream, row)
    typer.echo(json.dumps(row))


def _environment() -> None:
    emit(measure.environment(["numpy", "scipy", "torch", "dp-accounting", "cryptography"]))


def _tasks(names: str) -> Iterator[HeadTask]:
    for name in names.split(","):
        task = TASKS[name]()
        if task is None:
            typer.echo(f"{name} is left out: see benchmarks/head_tasks.py", err=True)
        else:
            yield task


def ours(task: HeadTask, epsilon: float, whitened: bool, solver: str = "fc") -> measure.Row:
    """One fit and its accuracy on the test set."""
    head = PrivateClassifier(
        epsilon, DELTA, solver, public_features=task.public if whitened else None,  # type: ignore[arg-type]
        rows=len(task.features),
    )  # fmt: skip
    span, _ = measure.timed(lambda: head.fit(task.features, task.labels, classes=task.classes))
    return {
        "system": f"Sottovoce {solver}{', public whitening' if whitened else ''}",
        "source": measure.OURS,
        "accuracy": float(head.score(task.test_features, task.test_labels)),
        "cpu_seconds": span.cpu_ms / 1e3,
        "wall_seconds": span.wall_ms / 1e3,
    }


def without_privacy(task: HeadTask) -> measure.Row:
    """Multinomial logistic regression on the same rows, standardised: the line above.

    The penalty is the best of three on the test set, so the line is flattered, if anything.
    """
    accuracy = max(_logistic(task, penalty) for penalty in (1e-5, 1e-4, 1e-3))
    return {"system": "no privacy", "source": measure.OURS, "accuracy": accuracy}


def _logistic(task: HeadTask, penalty: float) -> float:
    """Accuracy on the test set."""
    mean, spread = task.public.mean(0), task.public.std(0) + 1e-6

    def prepared(rows: Any) -> Array:
        inner = (rows - mean) / spread
        return np.concatenate([inner, np.ones((len(rows), 1))], axis=1)

    rows, onehot = prepared(task.features), np.eye(len(task.classes))[task.labels]

    def loss(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(rows.shape[1], -1)
        logits = rows @ weights
        logits -= logits.max(1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        value = -float((logs * onehot).sum()) / len(rows) + penalty / 2 * float(flat @ flat)
        gradient = rows.T @ (np.exp(logs) - onehot) / len(rows) + penalty * weights
        return value, gradient.ravel()

    start = np.zeros(rows.shape[1] * onehot.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 120})
    scores = prepared(task.test_features) @ found.x.reshape(rows.shape[1], -1)
    return float((scores.argmax(1) == task.test_labels).mean())


@app.command()
def accuracy(
    tasks: TaskNames = "synthetic,mnist,cifar",
    epsilons: Epsilons = "0.1,0.5,1,2,4,8",
    seeds: int = 5,
    line: Annotated[bool, typer.Option(help="The non-private line above, too.")] = True,
    unwhitened: Annotated[bool, typer.Option(help="Without public features, too.")] = True,
) -> None:
    """Ours: mean and spread over fits with noise of their own, non-private line above."""
    measure.pin_to_one_core()
    _environment()
    for task in _tasks(tasks):
        common = {"kind": "head", "task": task.name, "rows": len(task.features)}
        if line:
            emit({**common, **without_privacy(task)})
        for epsilon in map(float, epsilons.split(",")):
            for whitened in (True, False) if unwhitened else (True,):
                found = [ours(task, epsilon, whitened) for _ in range(seeds)]
                emit({**common, "epsilon": epsilon, **_summary(found)})


def _summary(found: list[measure.Row]) -> measure.Row:
    accuracies = [row["accuracy"] for row in found]
    return {
        **{name: found[0][name] for name in ("system", "source")},
        "fits": len(found),
        "accuracy": float(np.mean(accuracies)),
        "accuracy_deviation": float(np.std(accuracies)),
        **measure.Summary.of(row["cpu_seconds"] for row in found).as_row("cpu_seconds"),
    }


@app.command()
def peers(
    tasks: TaskNames = "synthetic", epsilons: Epsilons = "1", seeds: int = 1,
    modes: Annotated[str, typer.Option(help="Peers, with commas.")] = "hooks,ghost,diffprivlib",
) -> None:  # fmt: skip
    """Ours and peers in turn, on the same features: accuracy, CPU seconds, ratios."""
    measure.pin_to_one_core()
    _environment()
    for task in _tasks(tasks):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "task.npz"
            np.savez(
                path, features=task.features, labels=task.labels,
                test_features=task.test_features, test_labels=task.test_labels,
            )  # fmt: skip
            for seed, epsilon in _rounds(seeds, epsilons):
                mine = [ours(task, epsilon, whitened) for whitened in (True, False)]
                theirs = [_peer(mode, path, epsilon, seed) for mode in modes.split(",") if mode]
                for row in [*mine, *theirs]:
                    ratio = row["cpu_seconds"] / mine[0]["cpu_seconds"]
                    emit({"kind": "head", "task": task.name, "epsilon": epsilon, "seed": seed,
                          "times_ours": ratio, **row})  # fmt: skip


def _rounds(seeds: int, epsilons: str) -> Iterable[tuple[int, float]]:
    return [(seed, float(e)) for seed in range(seeds) for e in epsilons.split(",")]


def _peer(mode: str, path: Path, epsilon: float, seed: int) -> measure.Row:
    """A peer's own process and environment; an error is raised with its last words."""
    library = "diffprivlib" if mode == "diffprivlib" else "opacus"
    settings: dict[str, Any] = {"epsilon": epsilon, "delta": DELTA, "seed": seed}
    settings |= {"data_norm": 1.5} if library == "diffprivlib" else {**OPACUS, "mode": mode}
    variables = {**measure.one_thread_environment(), "PYTHONPATH": str(PROJECT)}
    command = [
        str(peer_python(f"{library}_head")), "-m", f"benchmarks.peers.{library}_head", str(path),
        json.dumps(settings),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PEER_SECONDS, env=variables, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{library}: {done.stderr[-400:]}")
    name = {"hooks": "Opacus DP-SGD, hooks", "ghost": "Opacus DP-SGD, ghost"}.get(mode, library)
    found: measure.Row = json.loads(done.stdout.splitlines()[-1])
    return {"system": name, "source": measure.PEER, **found}


@app.command()
def memory(
    rows: int = 1_000_000, width: int = 512, classes: int = 10, solver: str = "fc",
    folder: Annotated[Path | None, typer.Option(help="For the rows on disk.")] = None,
) -> None:  # fmt: skip
    """A fit on rows that are memory-mapped: seconds and peak memory of the process."""
    measure.pin_to_one_core()
    rng = np.random.default_rng(1)
    means = rng.normal(size=(classes, width)).astype(np.float32) * 0.2
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = os.path.join(place, "rows.npy")
        shape = (rows, width)
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        labels = rng.integers(0, classes, rows)
        for start in range(0, rows, 10_000):
            part = slice(start, start + 10_000)
            noise = rng.standard_normal((len(labels[part]), width), dtype=np.float32)
            mapped[part] = (means[labels[part]] + noise) / np.float32(np.sqrt(width))
        mapped.flush()
        del mapped
        head = PrivateClassifier(1.0, 1e-7, solver, rows=rows)  # type: ignore[arg-type]
        features = np.load(path, mmap_mode="r")
        span, _ = measure.timed(lambda: head.fit(features, labels, classes=range(classes)))
    emit({
        "kind": "head_memory", "rows": rows, "width": width, "classes": classes, "solver": solver,
        "cpu_seconds": span.cpu_ms / 1e3, "wall_seconds": span.wall_ms / 1e3,
        "file_bytes": rows * width * 4, "peak_resident_bytes": measure.peak_memory_bytes(),
    })  # fmt: skip


if __name__ == "__main__":
    app()
