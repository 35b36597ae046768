"""What was attacked and what came out: for machines as a dictionary, for people as one page.

The page is one file without scripts and without anything from elsewhere. No figure on it is called
safe: what an attack does not find, another may.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from private_models.audit.attributes import AttributeInference
from private_models.audit.canaries import CanaryAudit
from private_models.audit.findings import NO_REASSURANCE, Bound, Curve
from private_models.audit.inversion import Inversion
from private_models.audit.mechanism import MechanismAudit
from private_models.audit.pictures import histograms, roc
from private_models.audit.stealing import Stolen

REFUTED, NOT_REFUTED = "claim refuted", "not refuted"
MEASURED = "measured"


@dataclass(frozen=True)
class Section:
    """One attack.

    Attributes:
        name: for machines. title: a question, for people.
        verdict: REFUTED, NOT_REFUTED or MEASURED.
        figures: what is told in words, with values. reading: how to read them.
        picture: SVG or images, as HTML. values: for machines.
    """

    name: str
    title: str
    verdict: str
    figures: Sequence[tuple[str, str]]
    reading: str
    values: Mapping[str, Any]
    picture: str = ""


@dataclass(frozen=True)
class Report:
    """All attacks on one estimator; `claim` says what it promises."""

    estimator: str
    epsilon: float
    delta: float
    sections: list[Section] = field(default_factory=list)

    @property
    def is_refuted(self) -> bool:
        """Whether an attack proved the claim wrong."""
        return any(section.verdict == REFUTED for section in self.sections)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "estimator": self.estimator, "claimed": self.epsilon, "delta": self.delta,
            "refuted": self.is_refuted, "note": NO_REASSURANCE,
            **{section.name: dict(section.values) for section in self.sections},
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.estimator}: claimed epsilon {self.epsilon:g} at delta {self.delta:g}"]
        for section in self.sections:
            figures = "; ".join(f"{name} {value}" for name, value in section.figures)
            lines.append(f"{section.name.replace('_', ' ')}: {section.verdict}; {figures}")
        lines.append(f"({NO_REASSURANCE})")
        return "\n".join(lines)

    def to_html(self) -> str:
        """The page."""
        template = files("private_models.audit").joinpath("page.html").read_text("utf-8")
        verdict = REFUTED if self.is_refuted else NOT_REFUTED
        summary = (
            "At least one attack proved that the promise does not hold. Do not publish this head."
            if self.is_refuted
            else "These attacks did not disprove the promise. That is not evidence that it holds: "
            "it rests on the proof and on the code, and attacks can only find faults."
        )
        slots = {
            "ESTIMATOR": html.escape(self.estimator),
            "CLAIM": f"({self.epsilon:g}, {self.delta:g})",
            "VERDICT": verdict,
            "KIND": _kind(verdict),
            "SUMMARY": summary,
            "SECTIONS": "\n".join(_card(section) for section in self.sections),
        }
        for name, value in slots.items():
            template = template.replace(f"<!--{name}-->", value)
        return template


def _kind(verdict: str) -> str:
    return "bad" if verdict == REFUTED else "open"


def _card(section: Section) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in section.figures
    )
    picture = f"<figure>{section.picture}</figure>" if section.picture else ""
    return (
        f"<section id='{section.name}'><h2>{html.escape(section.title)}</h2>"
        f"<p class='tag {_kind(section.verdict)}'>{section.verdict}</p>{picture}"
        f"<table>{rows}</table><p>{html.escape(section.reading)}</p></section>"
    )


def _bound(bound: Bound) -> tuple[str, dict[str, Any]]:
    values = {
        "claimed": bound.claimed, "found_at_least": bound.found, "runs": bound.runs,
        "confidence": bound.confidence, "refuted": bound.is_broken, "method": bound.method,
    }  # fmt: skip
    return REFUTED if bound.is_broken else NOT_REFUTED, values


def mechanism_section(found: MechanismAudit) -> Section:
    bound = found.bound
    verdict, values = _bound(bound)
    figures = [
        ("claimed epsilon", f"{bound.claimed:g}"),
        ("epsilon is at least", f"{bound.found:.3f}"),
        ("fits", f"{2 * bound.runs:,}"),
        ("confidence", f"{bound.confidence:.1%}"),
    ]
    return Section(
        "mechanism", "Does the noise hide one row?", verdict, figures,
        "A tiny problem was fitted with one marked row and without it, many times. The further "
        "apart the two heaps lie, the larger epsilon must be. It finds faults of noise and "
        "clipping; the number is what these fits prove, and the true epsilon lies between it and "
        "the claim only if the claim is right.",
        values, histograms(found.there, found.absent),
    )  # fmt: skip


def canary_section(found: CanaryAudit) -> Section:
    verdict, values = _bound(found.bound)
    figures = [
        ("claimed epsilon", f"{found.bound.claimed:g}"),
        ("epsilon is at least", f"{found.bound.found:.3f}"),
        ("canaries", f"{found.bound.runs}"),
        ("guessed rightly", f"{found.right} of {found.guessed}"),
        ("confidence", f"{found.bound.confidence:.1%}"),
    ]
    return Section(
        "canaries", "Are planted rows found in one head?", verdict, figures,
        "Marked rows were put in or left out by coins, and guessed from a single head after what "
        "the known rows do to it was subtracted. Half are guessed rightly by chance. One fit says"
        " little: expect a bound far below the claim, or zero.",
        values | {"guessed": found.guessed, "right": found.right},
    )  # fmt: skip


def membership_section(curve: Curve, epsilon: float, delta: float) -> Section:
    low, high = curve.true_positive_at(0.001), curve.true_positive_at(0.01)
    figures = [
        ("members found at 0.1 % false alarms", f"{low:.2%}"),
        ("members found at 1 % false alarms", f"{high:.2%}"),
        ("area under the curve (chance: 0.5)", f"{curve.area:.3f}"),
        ("members and others judged", f"{curve.members:,} and {curve.others:,}"),
    ]
    values = {"tpr_at_0.1%": low, "tpr_at_1%": high, "area": curve.area,
              "members": curve.members, "others": curve.others}  # fmt: skip
    coarse = (
        f" Among {curve.others:,} others, 0.1 % is no false alarm at all: a coarse figure."
        if curve.others < 1000
        else ""
    )
    return Section(
        "membership", "Can members be told from others?", MEASURED, figures,
        "Likelihood ratios (LiRA) from shadow heads. Solid: found; dotted: chance; dashed: the "
        "most that the claim allows any attack. A curve at chance means that this attack failed."
        f"{coarse}",
        values, roc(curve, epsilon, delta),
    )  # fmt: skip


def attribute_section(found: AttributeInference) -> Section:
    figures = [
        ("column", str(found.column)),
        ("found for members", f"{found.members:.2%}"),
        ("found for others", f"{found.others:.2%}"),
        ("always guessing the commonest", f"{found.baseline:.2%}"),
        ("more for members, at least", f"{found.advantage_at_least:.2%}"),
    ]
    values = {"column": found.column, "members": found.members, "others": found.others,
              "baseline": found.baseline,
              "advantage_at_least": found.advantage_at_least}  # fmt: skip
    return Section(
        "attributes", "Does the head give away a column?", MEASURED, figures,
        "The attacker knows the rest of a row and its label. What is found for people who were "
        "not in the data is what the head knows of everybody; only the difference is memory.",
        values,
    )  # fmt: skip


def inversion_section(found: Sequence[Inversion], pictures: str = "") -> Section:
    figures = [
        (f"class {one.label}", f"confidence {one.confidence:.3f}{_likeness(one)}") for one in found
    ]
    values = {
        "classes": [
            {"label": one.label, "confidence": one.confidence,
             "like_members": one.like_members, "like_others": one.like_others}
            for one in found
        ]
    }  # fmt: skip
    return Section(
        "inversion", "What does a class look like to the model?", MEASURED, figures,
        "Inputs that the model is surest of (MI-FACE), and how they correlate with the mean of "
        "the class among members and among others. Likeness to both is what the class is; only "
        "more likeness to members is memory.",
        values, pictures,
    )  # fmt: skip


def _likeness(one: Inversion) -> str:
    if one.like_members is None or one.like_others is None:
        return ""
    return f", like members {one.like_members:.2f}, like others {one.like_others:.2f}"


def stealing_section(found: Stolen, target: str) -> Section:
    figures = [
        ("model", target),
        ("queries", f"{found.queries:,}"),
        ("same label as the model", f"{found.agreement:.2%}"),
        ("largest error of a score", f"{found.error:.2e} of the largest"),
    ]
    values = {"target": target, "queries": found.queries, "agreement": found.agreement,
              "error": found.error}  # fmt: skip
    return Section(
        "stealing", "Can the served model be copied?", MEASURED, figures,
        "A linear head is copied by one query more than it has features, whatever its privacy and"
        " whether or not queries are encrypted: scores are enough. Limit queries if the head "
        "itself is to be kept.",
        values,
    )  # fmt: skip
