"""All attacks on an estimator and on rows, one after the other, as sections of a report."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from private_models.audit.attributes import attribute_inference
from private_models.audit.canaries import audit_canaries
from private_models.audit.findings import Fit
from private_models.audit.inversion import Inversion, invert
from private_models.audit.membership import membership
from private_models.audit.pictures import image
from private_models.audit.report import (
    Section,
    attribute_section,
    canary_section,
    inversion_section,
    membership_section,
    stealing_section,
)
from private_models.audit.stealing import Scores, steal
from private_models.errors import InputError
from private_models.head import PrivateHead
from private_models.noise import Array, RandomBits, bernoulli_rows
from private_models.solvers.task import Progress, silent

KNOWN_FITS = 8
_CLASSES_SHOWN = 10
_TEST_ROWS = 64


@dataclass(frozen=True)
class Target:
    """Rows, and how a head is fitted to them.

    Attributes:
        fit: with noise of its own each time. features: (rows, d). labels: (rows,) class indices.
        classes: K. norm_bound: that the fit clips rows to. epsilon, delta: as claimed.
        shape: of one row where it is a picture, (height, width) or (height, width, 3).
    """

    fit: Fit
    features: Array
    labels: npt.NDArray[np.int64]
    classes: int
    norm_bound: float
    epsilon: float
    delta: float
    shape: tuple[int, ...] | None = None


def attack_rows(
    target: Target, shadows: int = 64, column: int | None = None, progress: Progress = silent
) -> list[Section]:
    """Membership, canaries, the attribute in `column`, inversion of up to ten classes, stealing.

    The last three attack one head that is fitted to a random half of the rows; the other half are
    the people who were not in the data. Raises `InputError` and `OptionError`.
    """
    curve = membership(
        target.fit, target.features, target.labels, shadows,
        lambda done: progress("shadow heads", done, shadows + 1),
    )  # fmt: skip
    sections = [membership_section(curve, target.epsilon, target.delta)]
    if target.features.shape[1] >= 8:  # fewer canaries than four prove nothing
        found = audit_canaries(
            target.fit, target.features, target.labels, target.classes, target.norm_bound,
            known_fits=KNOWN_FITS,
            progress=lambda done: progress("canaries", done, KNOWN_FITS + 1),
        )  # fmt: skip
        sections.append(canary_section(found))
    inside = bernoulli_rows(RandomBits(), 0.5, len(target.labels))
    members = target.features[inside], target.labels[inside]
    others = target.features[~inside], target.labels[~inside]
    if not (len(members[0]) and len(others[0])):
        raise InputError(f"{len(target.labels)} rows: too few to leave some out")
    head = target.fit(*members)
    if column is not None:
        sections.append(attribute_section(attribute_inference(head, members, others, column)))
    sections.append(_inversions(target, head, members, others, progress))
    limits = _limits(target.features)
    width = target.features.shape[1]
    stolen = steal(_probabilities(head), width, limits, others[0])
    sections.append(stealing_section(stolen, "a head of these rows, asked for probabilities"))
    return sections


def attack_service(
    ask: Scores,
    width: int,
    limits: tuple[float, float],
    rows: Array | None = None,
    progress: Progress = silent,
) -> Section:
    """Copy a served model; compare on the first of `rows`, or on random corners of its range."""
    if rows is None or rows.shape[1] != width:
        heads = bernoulli_rows(RandomBits(), 0.5, _TEST_ROWS * width)
        rows = np.where(heads.reshape(_TEST_ROWS, width), limits[1], limits[0])
    total, done = width + 1 + min(len(rows), _TEST_ROWS), 0

    def show(more: int) -> None:
        nonlocal done
        done += more
        progress("queries", done, total)

    test = rows[:_TEST_ROWS].clip(*limits)
    return stealing_section(steal(ask, width, limits, test, show), "the service")


def _probabilities(head: PrivateHead) -> Scores:
    return lambda rows: np.asarray(softmax(head.scores(rows), axis=1))


def _limits(features: Array) -> tuple[float, float]:
    return float(features.min()), float(features.max())


Labelled = tuple[Array, npt.NDArray[np.int64]]


def _inversions(
    target: Target, head: PrivateHead, members: Labelled, others: Labelled, progress: Progress
) -> Section:
    limits, start = _limits(target.features), others[0].mean(axis=0)
    shown = min(target.classes, _CLASSES_SHOWN)
    found: list[Inversion] = []
    for label in range(shown):
        rows, strangers = (side[0][side[1] == label] for side in (members, others))
        found.append(invert(head.to_torch(), label, start, limits, rows, strangers))
        progress("classes inverted", label + 1, shown)
    if target.shape is None:
        return inversion_section(found)
    pictures = [
        image(one.found.reshape(target.shape), limits, f"class {one.label}") for one in found
    ]
    return inversion_section(found, "".join(pictures))
