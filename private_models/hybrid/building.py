"""From a private head to a bundle: a network, programs for it, weights transformed ahead."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

import he_inference
from private_models.backbones.extraction import Backbone
from private_models.classifier import NotFitted, PrivateClassifier
from private_models.devices import device_name
from private_models.errors import InputError, OptionError
from private_models.features import check_classes, check_matrix, check_values
from private_models.head import PrivateHead
from private_models.hybrid.bundle import Bundle
from private_models.hybrid.feature_map import FeatureMap, Projection
from private_models.hybrid.public_part import PublicPart
from private_models.quadratic import QuadraticLayer
from private_models.statement import Statement

Layout = Literal["auto", "coefficients"]
LAYOUTS: tuple[Layout, ...] = ("auto", "coefficients")
_ROOM = 1.25
"""Features may be so much larger than the largest of the examples, and are clipped beyond."""
_WORST_CASE_BITS = 3.0
"""Answers of typical queries are some 2^3 times smaller than the largest possible ones."""


def build(
    head: PrivateClassifier | PrivateHead | torch.nn.Module,
    backbone: Backbone,
    *,
    examples: npt.ArrayLike | None = None,
    feature_norm: float | None = None,
    layout: Layout = "auto",
    device: str = "auto",
    precision: float = 10.0,
    response: Literal["private", "plain"] = "private",
    projection: Projection | None = None,
    statement: Statement | None = None,
    classes: Sequence[Any] | npt.ArrayLike | None = None,
    no_privacy: bool = False,
) -> Bundle:
    """Compile a head for encrypted queries.

    head: a fitted classifier or head; or a module of linear layers with one
        `he_inference.nn.Square` or quadratic `Polynomial` at most, with its statement and classes.
        A head's own hidden layer is public, and clients get it.
    backbone: what the head's features come from; clients will have to have the same.
    examples: (rows, d) *public* features by that backbone, such as those a head was whitened by;
        magnitudes are judged by them, and clients clip features to 1.25 times the largest value.
        Never private rows: what is chosen by them is published.
    feature_norm: instead of examples, the norm that rows were clipped to. Precision is then held
        for the largest answers that a row of that norm can have, and clients clip features to it.
    layout: "auto", programs for single queries and for batches; "coefficients", single ones only.
    device: where weights are transformed: "auto" is a GPU if there is one.
    precision, response: as those of `he_inference.compile`.
    projection: of features, public, that clients apply; examples are then projected as well.
    no_privacy: take a head without a statement of privacy.

    Raises `OptionError` and `InputError` for arguments, and what `he_inference.compile` raises.
    """
    if layout not in LAYOUTS:
        raise OptionError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    module, promised, labels, hidden = _taken_apart(head, statement, classes)
    if not no_privacy and (promised is None or not promised.is_private):
        raise OptionError(
            "the head has no statement of differential privacy: answers would tell of its training "
            "data; train it with PrivateClassifier, or say no_privacy=True (--no-privacy)"
        )
    if hidden is not None and (projection is not None or examples is None):
        raise OptionError(
            "a head with a hidden layer takes examples (public features, --public), and no "
            "projection or feature_norm"
        )
    feature_map = hidden or projection
    rows, bits = _examples(head, examples, feature_norm, feature_map)
    _check_width(backbone, rows.shape[1] if feature_map is None else feature_map.width_in)
    # Rows of that norm are made of the weights, and the range is published.
    low, high = _range(rows) if feature_norm is None else (-feature_norm, feature_norm)
    network = he_inference.from_torch(module, rows, input_range=(low, high))
    wishes = {"precision": precision + bits, "examples": rows, "response": response}
    single, batch = _programs(network, layout, wishes)
    if single.signature.outputs != len(labels):
        raise InputError(f"{single.signature.outputs} scores for {len(labels)} classes")
    public = PublicPart(
        single.signature, None if batch is None else batch.signature,
        backbone.name, backbone.identity(), labels, promised, feature_map,
    )  # fmt: skip
    return Bundle(public, single, batch, he_inference.precompute(single, device_name(device)))


def _programs(
    network: he_inference.Network, layout: Layout, wishes: dict[str, Any]
) -> tuple[he_inference.CoefficientProgram, he_inference.BatchProgram | None]:
    """For one query, and for batches where the layout is "auto"."""
    single = he_inference.compile(network, layout="coefficients", optimise="latency", **wishes)
    if layout != "auto":
        return single.program, None
    return single.program, he_inference.compile(network, layout="batched", **wishes).program


def _taken_apart(
    head: PrivateClassifier | PrivateHead | torch.nn.Module,
    statement: Statement | None,
    classes: Sequence[Any] | npt.ArrayLike | None,
) -> tuple[torch.nn.Module, Statement | None, npt.NDArray[Any], QuadraticLayer | None]:
    """What is compiled, its statement, its labels, and the layer before it, where it has one."""
    if isinstance(head, PrivateClassifier):
        if not hasattr(head, "head_"):
            raise NotFitted("this PrivateClassifier is not fitted yet: call fit first")
        head = head.head_
    if isinstance(head, PrivateHead):
        if statement is not None or classes is not None:
            raise OptionError("statement and classes are the head's own: leave them out")
        return head.output_layer(), head.statement, np.asarray(head.classes), head.hidden
    if not isinstance(head, torch.nn.Module):
        raise InputError(f"expected a head or an nn.Module, found {type(head).__name__}")
    if classes is None:
        raise OptionError("classes: name the labels of a module's scores, in their order")
    return head, statement, _in_order(classes), None


def _in_order(classes: Sequence[Any] | npt.ArrayLike) -> npt.NDArray[Any]:
    """Scores have an order, so one that is not kept must not be put right silently."""
    given, checked = np.asarray(classes), check_classes(classes)
    if given.tolist() != checked.tolist():
        raise OptionError(
            "classes: expected ascending labels without repetition, and scores in that order: "
            "permute the module's last layer"
        )
    return checked


def _examples(
    head: PrivateClassifier | PrivateHead | torch.nn.Module,
    examples: npt.ArrayLike | None,
    feature_norm: float | None,
    feature_map: FeatureMap | None,
) -> tuple[npt.NDArray[np.float32], float]:
    """Rows by which magnitudes are judged, and bits of precision to add for what they are."""
    if (examples is None) == (feature_norm is None):
        raise OptionError("give either examples (public features) or feature_norm")
    if examples is not None:
        rows = feature_map(examples) if feature_map else check_values(check_matrix(examples))
        return rows.astype(np.float32), 0.0
    if isinstance(head, torch.nn.Module):
        raise OptionError("a module needs examples: public features")
    if not (feature_norm is not None and 0 < feature_norm < float("inf")):
        raise OptionError(f"feature_norm {feature_norm}: expected a number over 0")
    inner = head.head_ if isinstance(head, PrivateClassifier) else head
    lengths = np.linalg.norm(inner.weights, axis=1, keepdims=True)
    largest = inner.weights / np.maximum(lengths, 1e-150) * feature_norm
    return np.concatenate([largest, -largest]).astype(np.float32), _WORST_CASE_BITS


def _check_width(backbone: Backbone, expected: int) -> None:
    """Raises `InputError` for a backbone that gives another number of features than wanted."""
    if len(backbone.probe):
        found = backbone.features(backbone.probe).shape[1]
        if found != expected:
            raise InputError(
                f"backbone {backbone.name!r} gives {found} features, the head takes {expected}: "
                "name the backbone that it was trained on"
            )


def _range(rows: npt.NDArray[np.float32]) -> tuple[float, float]:
    """(0, 1) for pixels and the like; else on both sides alike: numbers that float32 has."""
    low, high = float(rows.min()), float(rows.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    most = float(np.float32(_ROOM * max(-low, high)))
    return -most, most
