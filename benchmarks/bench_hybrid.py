"""The hybrid: a private head behind encrypted queries, on features of a public backbone.

    python -m benchmarks run hybrid

Accuracy without privacy, with it, and asked under encryption, over whole test sets; what a query
after the features costs; what is gained by transforming weights ahead, on a GPU where there is one;
and published figures of networks that run under encryption as a whole, which is another scenario.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

import he_inference
from benchmarks import head_features, measure
from benchmarks.bench_heads import (
    DELTA,
    DIRECTIONS,
    Emit,
    Progress,
    with_products,
    without_privacy,
)
from benchmarks.head_tasks import PUBLIC_ROWS, TEXT_PUBLIC_ROWS, HeadTask, set_aside
from benchmarks.measure import OURS, Row, Summary
from benchmarks.steps import Asked, Benchmark, Step
from he_inference.processors import processors
from private_models import PrivateClassifier, hybrid
from private_models.backbones import catalogue
from private_models.backbones.extraction import Backbone
from private_models.backbones.modules import module_backbone
from private_models.backbones.orientations import orientations
from private_models.backbones.pixels import pixels
from private_models.errors import BackboneError
from private_models.hybrid.trial import Rows, Wishes, trial
from workloads.cifar import cifar10
from workloads.datasets import DatasetError, mnist

NAME = "Sottovoce hybrid"
PACKAGES = ("numpy", "torch", "numba", "tenseal", "dp-accounting", "transformers")
EPSILONS = (1.0, 8.0)
FEATURES = 1280
Response = Literal["private", "plain"]


def steps(asked: Asked) -> Iterator[Step]:
    """Whole test sets; single queries; batches and weights, on a GPU too where there is one."""
    singles = asked.queries or (20 if asked.quick else 200)
    for source in (digits,) if asked.quick else (cifar, text, digits):
        yield Step(source.__name__, partial(_whole_sets, source, None, singles, asked))
    yield Step("quadratic", partial(_whole_sets, pixels_of_digits, DIRECTIONS, singles, asked))
    for classes in (10, 1000):
        for response in ("plain", "private"):
            kind: Response = "plain" if response == "plain" else "private"
            yield Step(f"{classes} classes, {kind}", partial(_one, _query, classes, kind, singles))
    for classes in (10,) if asked.quick else (10, 1000):
        for place in _places(asked.device):
            rounds = 1 if asked.quick else 3
            name = f"batch, {classes} classes, {place}"
            yield Step(name, partial(_one, _batch, classes, rounds, place))
    for classes in (10, 1000):
        yield Step(f"weights, {classes} classes", partial(_weights, classes, asked.device))


def _one(measured: Callable[..., Row], *arguments: Any) -> None:
    *given, emit, _ = arguments
    emit(measured(*given))


def _whole_sets(
    source: Callable[[], tuple[HeadTask, Rows, Backbone]], hidden: int | None, singles: int,
    asked: Asked, emit: Emit, progress: Progress,
) -> None:  # fmt: skip
    """A row at each epsilon, or the reason why the data cannot be had here.

    hidden: directions of the heads' hidden layer, if they have one.
    """
    try:
        task, rows, backbone = source()
    except (DatasetError, ImportError, BackboneError) as error:
        emit({"kind": "failure", "benchmark": "hybrid", "system": source.__name__,
              "source": OURS, "reason": str(error)})  # fmt: skip
        return
    plain = without_privacy(task if hidden is None else with_products(task))["accuracy"]
    for epsilon in EPSILONS[:1] if asked.quick else EPSILONS:
        wishes = Wishes(epsilon, DELTA, singles, device=asked.device, hidden_directions=hidden)
        emit(_whole(rows, backbone, wishes, plain, 1 if asked.quick else 5, progress))


def _weights(classes: int, device: str, emit: Emit, progress: Progress) -> None:
    progress(f"weights, {classes} classes", 0, 1)
    for row in _precomputed(classes, device):
        emit(row)


# ---------------------------------------------------------------------------- whole test sets


def cifar() -> tuple[HeadTask, Rows, Backbone]:
    """CIFAR-10 (JPEG) through EfficientNet-Lite0 at 128 pixels. Raises as the loaders do."""
    (train, labels), (test, test_labels) = head_features.cifar_features()
    inputs = [Image.fromarray(pixels) for pixels in cifar10().test.pixels[:1000]]
    name = "CIFAR-10 (JPEG), EfficientNet-Lite0 128 px"
    return _task(name, train, labels, test, test_labels, inputs, PUBLIC_ROWS,
                 catalogue.efficientnet(head_features.PIXELS))  # fmt: skip


def text() -> tuple[HeadTask, Rows, Backbone]:
    """Food reviews through MiniLM. Raises ImportError."""
    (train, labels), (test, test_labels) = head_features.text_features()
    return _task("food reviews, all-MiniLM-L6-v2", train, labels, test, test_labels,
                 head_features.test_reviews(), TEXT_PUBLIC_ROWS, catalogue.minilm())  # fmt: skip


def digits() -> tuple[HeadTask, Rows, Backbone]:
    """MNIST through histograms of orientations."""
    splits, backbone = mnist(), orientations()
    train, test = (
        backbone.features(list(part.images[:, 0])) for part in (splits.train, splits.test)
    )
    return _task("MNIST, orientations", train, splits.train.labels, test, splits.test.labels,
                 list(splits.test.images[:1000, 0]), PUBLIC_ROWS, backbone)  # fmt: skip


def pixels_of_digits() -> tuple[HeadTask, Rows, Backbone]:
    """MNIST's pixels, for a quadratic head."""
    splits = mnist()
    train, test = (part.images.reshape(len(part), -1) for part in (splits.train, splits.test))
    return _task("MNIST pixels, quadratic layer", train, splits.train.labels, test,
                 splits.test.labels, list(splits.test.images[:1000, 0]), PUBLIC_ROWS,
                 pixels(28, 28))  # fmt: skip


def _task(
    name: str, train: Any, labels: Any, test: Any, test_labels: Any, inputs: list[Any],
    public: int, backbone: Backbone,
) -> tuple[HeadTask, Rows, Backbone]:  # fmt: skip
    """The task as in the benchmark of heads, and the same rows as the backbone gives them."""
    task = set_aside(name, train, labels, test, test_labels, public)
    unit = np.float32(task.unit)
    rows = Rows(
        name, task.features * unit, task.labels, task.classes, task.test_features * unit,
        task.test_labels, inputs, task.public * unit, 1.0, len(task.labels),
    )  # fmt: skip
    return task, rows, backbone


def _whole(
    rows: Rows, backbone: Backbone, wishes: Wishes, plain: float, seeds: int, progress: Progress
) -> Row:
    """A trial, and the accuracy of more fits like it."""
    found = trial(rows, backbone, wishes, progress).to_dict()
    accuracies = [found["private_accuracy"]]
    for seed in range(1, seeds):
        progress(f"{rows.name}, fits", seed, seeds)
        head = PrivateClassifier(
            wishes.epsilon, wishes.delta, public_features=rows.public, rows=rows.count,
            classes=list(rows.classes), hidden_directions=wishes.hidden_directions,
        )  # fmt: skip
        head.fit(rows.features, rows.labels)
        accuracies.append(float(head.score(rows.test_features, rows.test_labels)))
    return {
        "kind": "hybrid", "system": NAME, "source": OURS, "cores": processors(), **found,
        "plain_accuracy": plain, "fits": len(accuracies),
        "mean_accuracy": float(np.mean(accuracies)),
        "accuracy_deviation": float(np.std(accuracies)),
    }  # fmt: skip


# ---------------------------------------------------------------------------- one query


def _linear(
    classes: int, response: Response, layout: hybrid.Layout = "coefficients"
) -> tuple[hybrid.Bundle, Any]:
    """A head of random weights on features like a backbone's, and such features."""
    rng = np.random.default_rng(classes)
    torch.manual_seed(classes)
    features = rng.gamma(1.0, 0.8, (300, FEATURES)).clip(0, 6).astype(np.float32)
    module = torch.nn.Linear(FEATURES, classes)
    bundle = hybrid.build(
        module, module_backbone(torch.nn.Identity(), "random features"), examples=features,
        classes=range(classes), no_privacy=True, response=response, layout=layout,
    )  # fmt: skip
    return bundle, features


def _query(classes: int, response: Response, count: int) -> Row:
    """CPU time of one query after its features, client and server in this process, one thread."""
    bundle, features = _linear(classes, response)
    server = he_inference.Server(bundle.single, precomputed=bundle.precomputed)
    client = he_inference.Client(bundle.single.signature)
    server.register(client.evaluation_keys())
    spans: dict[str, list[float]] = {"encrypt": [], "server": [], "decrypt": []}
    for number in range(-3, count):  # the first warm up
        row = features[number % len(features)][None]
        encrypt, query = measure.timed(lambda row=row: client.encrypt(row))  # type: ignore[misc]
        evaluate, answer = measure.timed(lambda query=query: server.evaluate(query))  # type: ignore[misc]
        decrypt, _ = measure.timed(lambda answer=answer: client.decrypt(answer))  # type: ignore[misc]
        if number >= 0:
            for name, span in zip(spans, (encrypt, evaluate, decrypt), strict=True):
                spans[name].append(span.cpu_ms)
    totals = [sum(parts) for parts in zip(*spans.values(), strict=True)]
    return {
        "kind": "hybrid_query", "system": NAME, "source": OURS, "features": FEATURES,
        "classes": classes, "response": response, "queries": count,
        **Summary.of(totals).as_row("cpu_ms"),
        **{f"{name}_cpu_ms": Summary.of(found).median for name, found in spans.items()},
        "request_bytes": len(query), "response_bytes": len(answer),
        "evaluation_key_bytes": len(client.evaluation_keys()),
    }  # fmt: skip


def _batch(classes: int, rounds: int, place: str = "cpu") -> Row:
    """As many queries at once as a message holds: elapsed time of client and server, all cores, or
    with layers evaluated on a GPU."""
    bundle, features = _linear(classes, "private", "auto")
    if bundle.batch is None:
        raise RuntimeError("a bundle of layout auto answers batches")
    server = he_inference.Server(bundle.batch, device=place)
    walls: dict[str, list[float]] = {"encrypt": [], "server": [], "decrypt": []}
    with he_inference.Client(bundle.batch.signature) as client:
        server.register(client.evaluation_keys())
        rows = np.resize(features, (client.max_queries, FEATURES))
        for number in range(-1, rounds):
            encrypt, query = measure.timed(lambda: client.encrypt(rows))
            evaluate, answer = measure.timed(lambda query=query: server.evaluate(query))  # type: ignore[misc]
            decrypt, _ = measure.timed(lambda answer=answer: client.decrypt(answer))  # type: ignore[misc]
            if number >= 0:
                for name, span in zip(walls, (encrypt, evaluate, decrypt), strict=True):
                    walls[name].append(span.wall_ms)
        keys = len(client.evaluation_keys())
    seconds = {name: Summary.of(found).median / 1e3 for name, found in walls.items()}
    return {
        "kind": "hybrid_batch", "system": NAME, "source": OURS, "features": FEATURES,
        "classes": classes, "batch": len(rows), "cores": processors(), "response": "private",
        "server_queries_per_second": len(rows) / seconds["server"],
        "client_queries_per_second": len(rows) / (seconds["encrypt"] + seconds["decrypt"]),
        "upload_bytes_per_query": len(query) / len(rows),
        "download_bytes_per_query": len(answer) / len(rows), "evaluation_key_bytes": keys,
        "device": place if place == "cpu" else _gpu(place),
    }  # fmt: skip


# ---------------------------------------------------------------------------- ahead of time


def _precomputed(classes: int, device: str) -> Iterator[Row]:
    """Weights to the NTT domain by numba, by torch, on a GPU: what it costs, and what it saves."""
    bundle, _ = _linear(classes, "private")
    program = bundle.single
    with tempfile.TemporaryDirectory() as folder:
        he_inference.precompute(program).save(Path(folder) / "weights")
        mapped = _median(lambda: he_inference.load_precomputed(Path(folder) / "weights", program))
        size = (Path(folder) / "weights").stat().st_size
    places = ["cpu", "torch on the CPU", *_places(device)[1:]]
    for place in places:
        yield {
            "kind": "hybrid_precompute", "system": NAME, "source": OURS, "features": FEATURES,
            "classes": classes, "device": _gpu(device) if place == "cuda" else place,
            "transform_ms": _median(_transform(program, place)), "map_ms": mapped,
            "file_bytes": size,
        }  # fmt: skip


def _transform(program: he_inference.CoefficientProgram, place: str) -> Callable[[], Any]:
    if place != "torch on the CPU":
        return lambda: he_inference.precompute(program, place)
    from he_inference.backend.residues.torch_transform import torch_transformed

    signature = program.signature
    prime = signature.parameters.data_primes[0]
    return lambda: torch_transformed(signature.layout.weights(program.weights), prime, "cpu")


def _median(call: Callable[[], Any]) -> float:
    """Elapsed milliseconds, of five calls after one to warm up."""
    return Summary.of([measure.timed(call)[0].wall_ms for _ in range(6)][1:]).median


def _places(device: str) -> list[str]:
    """Of torch's: the CPU, and a GPU where there is one and it is wanted."""
    return ["cpu", "cuda"] if _gpu(device) else ["cpu"]


def _gpu(device: str) -> str | None:
    """The name of the GPU that is used, if one is."""
    if device == "cpu" or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())


BENCHMARK = Benchmark(
    "hybrid",
    "Private heads asked under encryption: accuracy over whole test sets, time, bytes.",
    PACKAGES,
    steps,
)
