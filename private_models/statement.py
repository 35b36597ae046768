"""What a fit promises, in a form that can be printed, saved and checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from private_models.errors import HeadFileError
from private_models.releases import ROUNDING_MARGIN, Release

ADVERSARY = (
    "whoever sees the head and all that is listed as released, knows every row but one, and is "
    "computationally bounded (the noise is keyed by AES-256)"
)
NOT_PROTECTED = (
    "what the public features, the backbone and the options reveal",
    "groups: k rows of one person have k times the epsilon and more of delta",
    "running time, memory, error messages and the fact that a fit was made",
    "several fits of the same rows: their budgets add up, and nothing here adds them",
    "what is true of the population and so can be learnt about anybody, in the data or not",
)


@dataclass(frozen=True)
class Statement:
    """The promise and what it rests on.

    Attributes:
        epsilon, delta, relation: the promise. With the head and every listed release in hand, the
            log-likelihood ratio between neighbours is within epsilon but for probability delta, in
            the sense of (epsilon, delta)-differential privacy.
        epsilon_spent: what the releases cost at this delta, by the exact closed form or by PLD;
            never more than epsilon.
        releases: what was published, with sensitivity and noise.
        public: everything that was used as public knowledge.
        tuning: what the choice of settings cost.
        is_private: False when noise came from a seed that the caller chose.
        epsilon_here: what was spent at these very rows, where that was published (PATE with data-
            dependent accounting), at the same delta: how their outcome may differ from that of any
            one neighbour, not the reverse, and no promise for other rows.
    """

    epsilon: float
    delta: float
    relation: str
    epsilon_spent: float
    accounting: str
    releases: tuple[Release, ...]
    public: Mapping[str, str]
    tuning: str
    is_private: bool = True
    epsilon_here: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self)
        values["releases"] = [
            {**asdict(release), "standard_deviation": release.standard_deviation}
            for release in self.releases
        ]
        values["public"] = dict(self.public)
        return {**values, "adversary": ADVERSARY, "not_protected": list(NOT_PROTECTED)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        head = (
            f"({self.epsilon:g}, {self.delta:g})-differential privacy, {self.relation} neighbours"
        )
        if not self.is_private:
            head = "NO PRIVACY: noise was drawn from a seed that the caller chose"
        lines = [head, f"spent        epsilon {self.epsilon_spent:.6g}, by {self.accounting}"]
        if self.epsilon_here is not None:
            lines.append(f"at this data epsilon {self.epsilon_here:.6g}, from votes' agreement")
        lines += [f"released     {_line(release)}" for release in self.releases]
        lines += [f"public       {name}: {value}" for name, value in self.public.items()]
        lines.append(f"tuning       {self.tuning}")
        lines.append(f"against      {ADVERSARY}")
        lines += [f"not covered  {item}" for item in NOT_PROTECTED]
        return "\n".join(lines)


def _line(release: Release) -> str:
    times = f"{release.count} x " if release.count > 1 else ""
    batch = "" if release.sampled is None else f", Poisson batches of q = {release.sampled:.4g}"
    return (
        f"{times}{release.what}: {release.coordinates} numbers, sensitivity "
        f"{release.sensitivity:.4g} (+ {ROUNDING_MARGIN:.2%} for rounding), noise "
        f"{release.standard_deviation:.4g}{batch}"
    )


def read_statement(text: str) -> Statement:
    """What `to_json` wrote. Raises `HeadFileError` for anything else."""
    try:
        values = json.loads(text)
        releases = tuple(_read_release(entry) for entry in values["releases"])
        public = {str(name): str(value) for name, value in values["public"].items()}
        numbers = [float(values[name]) for name in ("epsilon", "delta", "epsilon_spent")]
        if not all(math.isfinite(number) for number in numbers):
            raise HeadFileError("a statement of privacy holds numbers that are not finite")
        return Statement(
            numbers[0], numbers[1], str(values["relation"]), numbers[2],
            str(values["accounting"]), releases, public, str(values["tuning"]),
            values["is_private"] is True, _optional(values.get("epsilon_here")),
        )  # fmt: skip
    except HeadFileError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise HeadFileError(f"a statement of privacy is malformed: {error!r:.100}") from None


def _read_release(entry: Mapping[str, Any]) -> Release:
    sampled = entry["sampled"]
    return Release(
        str(entry["what"]),
        float(entry["sensitivity"]),
        float(entry["noise_multiplier"]),
        int(entry["coordinates"]),
        int(entry["count"]),
        _optional(sampled),
    )


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
