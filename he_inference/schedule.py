"""Scales and levels for a plan, once it is decided where to rescale; then its instructions.

A product multiplies scales; rescaling divides by a prime again. SEAL's time grows with the
*number* of primes and hardly with their size, so the cheapest program is often one that rescales
seldom, with few large primes. `Scales` follows a choice through the stages without writing
anything, fast enough to try thousands; `emit` writes the instructions of the one that is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2

import numpy as np

from he_inference.affine import Source
from he_inference.layouts.packed import PackedPlan, PackedStage
from he_inference.nodes import Array
from he_inference.parameters import EXACT_PRIME_BITS, MAX_LOG_MODULUS, ParametersLiteral
from he_inference.program import Instruction, Operation

HEADROOM_BITS = 3
"""Answers may be so many times two larger than on the examples before they overflow."""
MIN_PRIME_BITS = 22
MAX_SCALE = 2.0**900
"""Beyond every modulus, and safely within a double."""


def powers_needed(plan: PackedPlan) -> list[list[int]]:
    """For every stage (0 is the query) the powers above 1 that must be computed, ascending."""
    needed: list[set[int]] = [set() for _ in range(len(plan.stages) + 1)]
    for stage in plan.stages:
        for source, power in stage.products:
            needed[source] |= _with_factors(power)
    return [sorted(powers - {1}) for powers in needed]


def _with_factors(power: int) -> set[int]:
    """A power and those it is made of: x^k = x^⌈k/2⌉ · x^⌊k/2⌋."""
    if power == 1:
        return {1}
    return {power} | _with_factors(power - power // 2) | _with_factors(power // 2)


@dataclass(frozen=True)
class Magnitude:
    """Typical and largest absolute value of a stage, or of a power of it."""

    typical: float
    largest: float

    @classmethod
    def of(cls, values: Array) -> "Magnitude":
        typical = float(np.sqrt(np.mean(np.square(values))))
        return cls(max(typical, 1e-30), max(float(np.abs(values).max()), 1e-30))


@dataclass(frozen=True)
class Choice:
    """Where to rescale, and how many bits scaled values and encoded weights get.

    rescale: for every stage and every power, in the order of computation.
    waist: log2 of scale times typical value that a rescaling aims at.
    weight: log2 of scale times largest weight.
    last: bits more for the weights of the last stage. Nothing multiplies its scale again, so they
        are cheap, and rounding there goes straight into the answer.
    """

    rescale: tuple[bool, ...]
    waist: int
    weight: int
    last: int = 0


class MisfitError(Exception):
    """A choice cannot be realised; the message says why."""


class SmallPrimeError(MisfitError):
    """A rescaling would divide by too small a prime: larger scales may fit."""


@dataclass(frozen=True)
class Step:
    """One stage or one power: its operands' depth, the scale of the product, what comes after.

    Depth counts rescalings from the top: it is the number of primes gone.
    """

    depth: int
    product_scale: float
    rescale: bool
    scale: float

    @property
    def depth_after(self) -> int:
        return self.depth + self.rescale


class Scales:
    """Depths and scales of every step for one choice.

    Without `primes` the size of each prime is chosen at the first rescaling that drops it, and
    found in `bits` by depth. With them, and the `draft` that they were found for, scales are exact;
    those of stages keep to the draft's, so that the little by which primes differ from powers of
    two is not squared again and again.
    """

    def __init__(
        self,
        plan: PackedPlan,
        magnitudes: Mapping[Source, Magnitude],
        choice: Choice,
        primes: Sequence[int] | None = None,
        draft: "Scales | None" = None,
    ) -> None:
        self.plan, self.choice = plan, choice
        self._magnitudes, self._primes, self._draft = magnitudes, primes, draft
        self._rescales = iter(choice.rescale)
        self.bits: dict[int, int] = {}
        self._peaks: dict[int, float] = {}
        self.input_scale = 2.0**choice.waist / magnitudes[0, 1].typical
        self.steps: dict[Source, Step] = {(0, 1): Step(0, 0.0, False, self.input_scale)}
        for number, powers in enumerate(powers_needed(plan)):
            if number:
                self._stage(number)
            for power in powers:
                self._power(number, power)

    @property
    def answer(self) -> Step:
        return self.steps[len(self.plan.stages), 1]

    @property
    def deepest(self) -> int:
        return max(step.depth_after for step in self.steps.values())

    def _stage(self, number: int) -> None:
        largest = self.plan.stages[number - 1].largest_weights
        depth = max(self.steps[source].depth_after for source in largest)
        bits = self.choice.weight + (self.choice.last if number == len(self.plan.stages) else 0)
        scale = max(
            self.steps[source].scale * 2.0**bits / weight for source, weight in largest.items()
        )
        if self._draft is not None:
            kept = self._draft.steps[number, 1]
            scale = kept.scale * (self._prime(depth) if kept.rescale else 1.0)
        self._step((number, 1), depth, scale)

    def _power(self, number: int, power: int) -> None:
        left = self.steps[number, power - power // 2]
        right = self.steps[number, power // 2]
        depth = max(left.depth_after, right.depth_after)
        self._step((number, power), depth, left.scale * right.scale)

    def _step(self, result: Source, depth: int, product: float) -> None:
        magnitude, rescale = self._magnitudes[result], next(self._rescales)
        if product > MAX_SCALE:
            raise MisfitError("scales would grow beyond every modulus")
        peak = log2(product * max(magnitude.largest, 1.0))  # the scale itself must fit, too
        self._peaks[depth] = max(self._peaks.get(depth, peak), peak)
        if rescale and self._primes is None and depth not in self.bits:
            wanted = round(log2(product * magnitude.typical) - self.choice.waist)
            self.bits[depth] = min(wanted, EXACT_PRIME_BITS)
        scale = product / self._prime(depth) if rescale else product
        self.steps[result] = Step(depth, product, rescale, scale)

    def _prime(self, depth: int) -> float:
        if self._primes is None:
            return 2.0 ** self.bits[depth]
        return float(self._primes[len(self._primes) - 1 - depth])

    def literal(self, degree: int) -> ParametersLiteral:
        """The primes that this choice needs, or `MisfitError`."""
        margin = 1 + HEADROOM_BITS
        largest = max(self._magnitudes[len(self.plan.stages), 1].largest, 1.0)
        last = ceil(log2(self.answer.scale * largest)) + margin
        if last > EXACT_PRIME_BITS:
            raise MisfitError(f"the answer would need a last prime of {last} bits")
        data = [self.bits.get(depth, 0) for depth in reversed(range(self.deepest))]
        data.insert(0, max(last, MIN_PRIME_BITS))
        if min(data) < MIN_PRIME_BITS:
            raise SmallPrimeError("rescaling there would divide by too small a prime")
        bound = MAX_LOG_MODULUS[degree]
        special = min(EXACT_PRIME_BITS, bound - sum(data))
        if special < max(data):
            needed = sum(data) + max(data)
            raise MisfitError(f"the modulus needs {needed} bits and {bound} are secure")
        self._check_peaks(data)
        return ParametersLiteral(degree, tuple(data), special)

    def _check_peaks(self, data_bits: Sequence[float]) -> None:
        for depth, peak in self._peaks.items():
            if peak + 1 + HEADROOM_BITS > sum(data_bits[: len(data_bits) - depth]):
                raise MisfitError("an intermediate value would overflow")

    def exact(self, primes: Sequence[int]) -> "Scales":
        """The same choice with the primes that were found for it; raises `MisfitError`."""
        scales = Scales(self.plan, self._magnitudes, self.choice, primes, self)
        scales._check_peaks([ceil(log2(prime)) for prime in primes])
        return scales


@dataclass(frozen=True)
class _Value:
    register: int
    depth: int
    scale: float


def emit(scales: Scales) -> tuple[tuple[Instruction, ...], Array]:
    """The instructions of a choice, and the vectors they use."""
    emission = _Emission(scales)
    top = scales.deepest + 1
    instructions = tuple(replace(i, level=top + i.level) for i in emission.made)
    return instructions, np.array(emission.vectors)


class _Emission:
    """Walks the stages once; levels are written as negative depths until the deepest is known."""

    def __init__(self, scales: Scales) -> None:
        self._scales, plan = scales, scales.plan
        self._slots = plan.slots
        self.made: list[Instruction] = []
        self.vectors: list[Array] = []
        values = {(0, 1): self._emit("input", (), 0, scales.input_scale)}
        for number, powers in enumerate(powers_needed(plan)):
            if number:
                step = scales.steps[number, 1]
                values[number, 1] = self._stage(plan.stages[number - 1], step, values)
            for power in powers:
                halves = values[number, power - power // 2], values[number, power // 2]
                values[number, power] = self._product(*halves, scales.steps[number, power])
        self._drop_to(values[len(plan.stages), 1], scales.deepest)

    def _stage(self, stage: PackedStage, step: Step, values: dict[Source, _Value]) -> _Value:
        """Σ over sources of rotations and products, folds, offset."""
        sources = {s: self._drop_to(values[s], step.depth) for s in stage.products}
        parts = [
            self._rotate(self._rescale(inner, step), giant)
            for inner, giant in self._inner_sums(stage, sources, step.product_scale)
        ]
        total = self._sum(parts)
        for fold in stage.folds:
            total = self._sum([total, self._rotate(total, fold)])
        if stage.offset.any():
            total = self._with_vector("add_plain", total, stage.offset, total.scale)
        return total

    def _inner_sums(
        self, stage: PackedStage, sources: Mapping[Source, _Value], scale: float
    ) -> Iterator[tuple[_Value, int]]:
        """For every giant step, the sum of products that is to be rotated by it."""
        babies: dict[tuple[Source, int], _Value] = {}
        products = [(source, p) for source, ps in stage.products.items() for p in ps]
        for source, p in products:
            if (source, p.baby) not in babies:
                babies[source, p.baby] = self._rotate(sources[source], p.baby)
        for giant in sorted({p.giant for _, p in products}):
            terms = [
                self._with_vector("multiply_plain", babies[source, p.baby], p.vector, scale)
                for source, p in products
                if p.giant == giant
            ]
            yield self._sum(terms), giant

    def _product(self, left: _Value, right: _Value, step: Step) -> _Value:
        left, right = self._drop_to(left, step.depth), self._drop_to(right, step.depth)
        value = self._emit("multiply", (left, right), step.depth, step.product_scale, size=3)
        # Relinearised before it is rescaled: rounding the third polynomial would be multiplied by
        # the square of the secret, some 2^6 times the noise of rounding the second.
        value = self._emit("relinearise", (value,), step.depth, value.scale)
        return self._rescale(value, step)

    def _rescale(self, value: _Value, step: Step) -> _Value:
        if not step.rescale:
            return value
        return self._emit("rescale", (value,), value.depth + 1, step.scale)

    def _drop_to(self, value: _Value, depth: int) -> _Value:
        while value.depth < depth:
            value = self._emit("drop", (value,), value.depth + 1, value.scale)
        return value

    def _rotate(self, value: _Value, step: int) -> _Value:
        step %= self._slots
        if step == 0:
            return value
        return self._emit("rotate", (value,), value.depth, value.scale, step=step)

    def _sum(self, terms: Sequence[_Value]) -> _Value:
        total = terms[0]
        for term in terms[1:]:
            total = self._emit("add", (total, term), total.depth, total.scale)
        return total

    def _with_vector(
        self, operation: Operation, value: _Value, vector: Array, scale: float
    ) -> _Value:
        self.vectors.append(vector)
        number = len(self.vectors) - 1
        return self._emit(operation, (value,), value.depth, scale, vector=number)

    def _emit(
        self,
        operation: Operation,
        sources: tuple[_Value, ...],
        depth: int,
        scale: float,
        *,
        size: int = 2,
        step: int = 0,
        vector: int = -1,
    ) -> _Value:
        registers = tuple(source.register for source in sources)
        self.made.append(Instruction(operation, registers, -depth, scale, size, step, vector))
        return _Value(len(self.made) - 1, depth, scale)
