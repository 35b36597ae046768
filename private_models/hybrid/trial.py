"""The whole way once: fit with privacy, audit in brief, build, serve, query a test set encrypted.

Everything but the head is measured and not published: accuracies tell of the rows they are of.
"""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from private_models.accounting import Budget
from private_models.audit.mechanism import audit_mechanism
from private_models.audit.subjects import subject
from private_models.backbones.extraction import Backbone
from private_models.classifier import PrivateClassifier
from private_models.errors import OptionError
from private_models.hybrid.building import build
from private_models.hybrid.client import STAGES, Client
from private_models.hybrid.server import running
from private_models.quadratic import QuadraticLayer
from private_models.solvers.task import Progress, silent

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[Any]
_AUDIT_RUNS = 4000
"""Some ten seconds. A quarter of them proves nothing at ε = 1, of right noise or wrong."""
_PLAIN_STEPS = 300


@dataclass(frozen=True)
class Rows:
    """What a trial is made of.

    Attributes:
        name: of the data. features (n, d), labels (n,): private. classes: every label.
        test_features, test_labels: never trained on. test_inputs: of the first test rows, as the
            backbone takes them, for single queries.
        public: (m, d) features that are public, or None. feature_norm: that rows are clipped to
            where there are none.
        count: the number of private rows, where that is public.
    """

    name: str
    features: Features
    labels: Labels
    classes: Sequence[Any]
    test_features: Features
    test_labels: Labels
    test_inputs: Sequence[object]
    public: Features | None
    feature_norm: float
    count: int | None = None


@dataclass(frozen=True)
class Wishes:
    """epsilon, delta: the budget. singles: queries that are asked one by one. output: folder for
    the bundle, or None. response, device: as those of `build`. hidden_directions: as that of
    `PrivateClassifier`."""

    epsilon: float = 1.0
    delta: float = 1e-5
    singles: int = 200
    output: Path | None = None
    response: Literal["private", "plain"] = "private"
    device: str = "auto"
    hidden_directions: int | None = None


@dataclass(frozen=True)
class Trial:
    """Figures; accuracies are shares, times are milliseconds, sizes are bytes."""

    figures: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.figures

    def __str__(self) -> str:
        f, ms, many = self.figures, self.figures["single_ms"], self.figures["batch_ms"]
        lines = [
            ("data", f"{f['data']}: {f['rows']} private rows, {f['public_rows']} public, "
                     f"{f['features']} features by {f['backbone']}"),
            ("without privacy", f"{f['plain_accuracy']:.2%} of {f['test_rows']} test rows"),
            ("private head", f"{f['private_accuracy']:.2%}, epsilon {f['epsilon']:g}, delta "
                             f"{f['delta']:g}"),
            ("asked encrypted", f"{f['encrypted_accuracy']:.2%}, {f['agreement']:.2%} of labels as "
                                "in the clear"),
            ("one by one", f"{f['singles']} queries, {f['single_agreement']:.2%} of labels as in "
                           "the clear"),
            ("one query", ", ".join(f"{stage} {ms[stage]:.1f} ms" for stage in STAGES)),
            ("bytes", f"{f['single_up'] / 1e3:.1f} kB up, {f['single_down'] / 1e3:.1f} kB down, "
                      f"{f['single_keys'] / 1e3:.1f} kB of keys once"),
            ("batches", f"{f['test_rows'] / many['server'] * 1e3:,.0f} queries/s at the server, "
                        f"{f['test_rows'] / many['encrypt'] * 1e3:,.0f} encrypted, "
                        f"{f['batch_up'] / f['test_rows'] / 1e3:.1f} kB up and "
                        f"{f['batch_down'] / f['test_rows'] / 1e3:.2f} kB down a query, "
                        f"{f['batch_keys'] / 1e3:.0f} kB of keys"),
            ("prepared", f"head {f['fit_s']:.1f} s, programs {f['build_s']:.1f} s, weights "
                         f"{f['precompute_ms']:.1f} ms on {f['precompute_device']}"),
            ("audit", self._audit()),
            ("training rows", "against whoever sees head or answers: " + f["promise"]),
            ("queries", "against the server: encrypted, 128 bits; nothing decrypted may go back"),
            ("the head", "against clients: " + (
                "private answers show scores only" if f["response"] == "private"
                else "NOT protected, answers are plain")),
        ]  # fmt: skip
        return "\n".join(f"{name:<16} {text}" for name, text in lines)

    def _audit(self) -> str:
        f = self.figures
        verdict = "REFUTED" if f["audit_epsilon"] > f["epsilon"] else "not refuted"
        return (
            f"{verdict}: {f['audit_runs']} pairs of fits of a tiny problem show at least epsilon "
            f"{f['audit_epsilon']:.2f}; a low figure is no reassurance"
        )


def trial(rows: Rows, backbone: Backbone, wishes: Wishes, progress: Progress = silent) -> Trial:
    """Raises what fitting, building, serving and asking raise."""
    if not 1 <= wishes.singles <= len(rows.test_inputs):
        raise OptionError(f"{wishes.singles} single queries: expected 1 to {len(rows.test_inputs)}")
    begun = perf_counter()
    head = PrivateClassifier(
        wishes.epsilon, wishes.delta, public_features=rows.public, classes=list(rows.classes),
        feature_norm=1.0 if rows.public is not None else rows.feature_norm, rows=rows.count,
        hidden_directions=wishes.hidden_directions,
    ).fit(rows.features, rows.labels, progress=progress)  # fmt: skip
    fitted = perf_counter()
    norm = rows.feature_norm if rows.public is None else None
    bundle = build(
        head, backbone, examples=rows.public, feature_norm=norm,
        response=wishes.response, device=wishes.device,
    )  # fmt: skip
    built = perf_counter()
    figures: dict[str, Any] = {
        "data": rows.name, "backbone": backbone.name, "features": rows.features.shape[1],
        "rows": len(rows.labels), "public_rows": 0 if rows.public is None else len(rows.public),
        "test_rows": len(rows.test_labels), "epsilon": wishes.epsilon, "delta": wishes.delta,
        "promise": bundle.public.promise(), "response": wishes.response,
        "fit_s": fitted - begun, "build_s": built - fitted,
        "precompute_ms": bundle.precomputed.milliseconds,
        "precompute_device": bundle.precomputed.device,
        "plain_accuracy": _without_privacy(rows, head.head_.hidden, progress),
        "private_accuracy": head.score(rows.test_features, rows.test_labels),
    }  # fmt: skip
    figures |= _audited(head, progress)
    with tempfile.TemporaryDirectory(prefix="private-models-hybrid-") as folder:
        place = wishes.output or Path(folder) / "bundle"
        bundle.save(place)
        with (
            running(place) as url, running(place, batches=True) as batch_url,
            Client(place / "public", url, backbone=backbone, batch_server=batch_url) as client,
        ):  # fmt: skip
            figures |= _one_by_one(client, head, rows, wishes.singles, progress)
            figures |= _together(client, head, rows, progress)
    return Trial(figures)


def _without_privacy(rows: Rows, hidden: QuadraticLayer | None, progress: Progress) -> float:
    """Accuracy of logistic regression on standardised features, for the line above; on what the
    hidden layer makes of them, where the head has one."""
    progress("a head without privacy", 0, 1)
    features, test = rows.features, rows.test_features
    if hidden is not None:
        features, test = (hidden(part).astype(np.float32) for part in (features, test))
    mean, deviation = features.mean(0), features.std(0) + np.float32(1e-6)
    head = LogisticRegression(C=0.1, max_iter=_PLAIN_STEPS, tol=1e-3)
    head.fit((features - mean) / deviation, rows.labels)
    progress("a head without privacy", 1, 1)
    return float(head.score((test - mean) / deviation, rows.test_labels))


def _audited(head: PrivateClassifier, progress: Progress) -> dict[str, Any]:
    """The mechanism test, in brief, at the same budget and solver."""
    budget = Budget(head.epsilon, head.delta, head.relation)
    chosen = subject(head.solver, budget)
    found = audit_mechanism(
        chosen.fit, chosen.problem, _AUDIT_RUNS,
        progress=lambda done: progress("audit", done, _AUDIT_RUNS),
    )  # fmt: skip
    return {"audit_epsilon": found.bound.found, "audit_runs": _AUDIT_RUNS}


def _one_by_one(
    client: Client, head: PrivateClassifier, rows: Rows, count: int, progress: Progress
) -> dict[str, Any]:
    answers = []
    for place in range(count):
        answers.append(client.ask(rows.test_inputs[place]))
        progress("single queries", place + 1, count)
    clear = head.predict(client.features(rows.test_inputs[:count]))
    return {
        "singles": count,
        "single_agreement": float(np.mean([a.label for a in answers] == clear)),
        "single_ms": {s: statistics.median(a.milliseconds[s] for a in answers) for s in STAGES},
        "single_up": len(answers[0].query),
        "single_down": len(answers[0].answer),
        "single_keys": client.key_bytes,
    }


def _together(
    client: Client, head: PrivateClassifier, rows: Rows, progress: Progress
) -> dict[str, Any]:
    answers = client.ask_many_features(rows.test_features, progress)
    return {
        "encrypted_accuracy": float((answers.labels == rows.test_labels).mean()),
        "agreement": float((answers.labels == head.predict(rows.test_features)).mean()),
        "batch_ms": answers.milliseconds,
        "batch_up": answers.bytes_up,
        "batch_down": answers.bytes_down,
        "batch_keys": client.batch_key_bytes,
    }
