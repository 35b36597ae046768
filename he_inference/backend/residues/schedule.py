"""A batched plan as a list of steps on registers of residues.

A register holds a ciphertext's components for many elements: (components, elements, coefficients),
reduced residues modulo one prime as float64 integers. Steps are the same for every coefficient and
every prime; what differs between primes (offsets, multipliers) is in `Schedule.constants`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from he_inference.affine import Source
from he_inference.errors import CompileError, InputError
from he_inference.layouts.batched import (
    MAX_PRIME_BITS,
    BatchedPlan,
    IntegerStage,
    Term,
    weight_sum_limit,
)
from he_inference.layouts.blocks import Block
from he_inference.nodes import Array
from he_inference.wire import Residues


@dataclass(frozen=True)
class Register:
    """Where a value is, and its shape (components, elements)."""

    index: int
    components: int
    elements: int

    @property
    def size(self) -> int:
        return self.components * self.elements


@dataclass(frozen=True)
class Load:
    """Queries into a register, centred."""

    target: Register


@dataclass(frozen=True)
class Clear:
    """Zeros."""

    target: Register


@dataclass(frozen=True, eq=False)
class Multiply:
    """target[rows] ← block · source, not reduced; or += its reduction, where `add` is set."""

    source: Register
    target: Register
    block: Block
    add: bool


@dataclass(frozen=True)
class Finish:
    """Add the constants from `offset` on to component 0, and reduce everything."""

    target: Register
    offset: int


@dataclass(frozen=True)
class Square:
    """target ← source² as polynomials in the secret, reduced."""

    source: Register
    target: Register


@dataclass(frozen=True)
class Scale:
    """target ← constants[multiplier] · source, reduced."""

    source: Register
    target: Register
    multiplier: int


@dataclass(frozen=True)
class Store:
    """A register out, as residues in [0, p)."""

    source: Register


Step = Load | Clear | Multiply | Finish | Square | Scale | Store


@dataclass(frozen=True, eq=False)
class Schedule:
    """steps: in order. primes: (count,). constants: (primes, count) float64, centred residues."""

    primes: tuple[int, ...]
    steps: tuple[Step, ...]
    constants: Array
    features: int
    outputs: int
    components: int
    degree: int


def schedule(plan: BatchedPlan) -> Schedule:
    """List the steps of a plan.

    Everything that exactness and addresses in memory rest on is checked here. Raises
    `CompileError` where a sum would not be exact or stages do not fit together.
    """
    largest = max(plan.parameters.data_primes)
    if largest.bit_length() > MAX_PRIME_BITS:
        raise CompileError(
            f"prime {largest} has {largest.bit_length()} bits: products of residues are exact up "
            f"to {MAX_PRIME_BITS}"
        )
    return _Scheduler(plan).run()


class _Scheduler:
    def __init__(self, plan: BatchedPlan) -> None:
        self._plan = plan
        self._limit = weight_sum_limit(max(plan.parameters.data_primes))
        self._steps: list[Step] = []
        self._constants: list[int] = []
        self._registers = 0
        self._values: dict[Source, Register] = {}

    def run(self) -> Schedule:
        plan, primes = self._plan, self._plan.parameters.data_primes
        self._values[0, 1] = self._register(2, plan.features)
        self._steps.append(Load(self._values[0, 1]))
        for number, stage in enumerate(plan.stages, 1):
            self._values[number, 1] = self._stage(number, stage)
        self._steps.append(Store(self._values[len(plan.stages), 1]))
        return Schedule(
            primes,
            tuple(self._steps),
            centred(self._constants, primes),
            plan.features,
            plan.outputs,
            plan.components,
            plan.parameters.ring_degree,
        )

    def _stage(self, number: int, stage: IntegerStage) -> Register:
        for source, term in stage.terms.items():
            self._check(number, stage, source, term)
        sources = [self._scaled(source, term) for source, term in stage.terms.items()]
        parts = [self._parts(number, term) for term in stage.terms.values()]
        target = self._register(stage.components, stage.size)
        products = [(s, block) for s, cut in zip(sources, parts, strict=True) for block in cut]
        single = _each_row_once(products, target)
        if not single:
            self._steps.append(Clear(target))
        self._steps.extend(Multiply(s, target, block, not single) for s, block in products)
        self._steps.append(Finish(target, self._constant(stage.offset)))
        return target

    def _check(self, number: int, stage: IntegerStage, source: Source, term: Term) -> None:
        """Sources come earlier, shapes and degrees match: nothing is read or written elsewhere."""
        base, power = self._values.get((source[0], 1)), source[1]
        if base is None or power not in (1, 2):
            raise CompileError(f"layer {number} reads power {power} of layer {source[0]}")
        expected = (stage.size, base.elements)
        if term.weights.shape != expected:
            raise CompileError(f"layer {number}: weights {term.weights.shape}, not {expected}")
        if power * (base.components - 1) > stage.secret_degree:
            raise CompileError(f"layer {number}: a secret degree of {stage.secret_degree}")

    def _parts(self, number: int, term: Term) -> tuple[Block, ...]:
        parts = term.parts(self._limit)
        if parts is None:
            raise CompileError(
                f"a weight of layer {number} exceeds {self._limit}, the most that is exact with "
                f"primes of {max(self._plan.parameters.data_primes).bit_length()} bits"
            )
        return parts

    def _scaled(self, source: Source, term: Term) -> Register:
        """The power of a stage, squared once, times its multiplier."""
        if source not in self._values:
            base = self._values[source[0], 1]
            self._values[source] = self._register(2 * base.components - 1, base.elements)
            self._steps.append(Square(base, self._values[source]))
        value = self._values[source]
        if term.multiplier == 1:
            return value
        target = self._register(value.components, value.elements)
        self._steps.append(Scale(value, target, self._constant((term.multiplier,))))
        return target

    def _register(self, components: int, elements: int) -> Register:
        self._registers += 1
        return Register(self._registers - 1, components, elements)

    def _constant(self, values: Sequence[int]) -> int:
        self._constants.extend(values)
        return len(self._constants) - len(values)


def _each_row_once(products: Sequence[tuple[Register, Block]], target: Register) -> bool:
    """Whether one product alone makes every row, in all components."""
    counts = np.zeros(target.elements, dtype=np.int64)
    for source, block in products:
        np.add.at(counts, block.rows.ravel(), 1)
        if source.components != target.components:
            return False
    return bool((counts == 1).all())


def centred(values: Sequence[int], primes: Sequence[int]) -> npt.NDArray[np.float64]:
    """Python integers modulo every prime, in (−p/2, p/2): shape (primes, values)."""
    rows = [[(v + p // 2) % p - p // 2 for v in values] for p in primes]
    return np.array(rows, dtype=np.float64).reshape(len(primes), len(values))


def check_queries(schedule: Schedule, queries: Residues) -> None:
    """Raises `InputError` for anything but uint64 (features, 2, primes, N)."""
    expected = (schedule.features, 2, len(schedule.primes), schedule.degree)
    if queries.dtype != np.uint64 or queries.shape != expected:
        raise InputError(
            f"expected residues uint64 {expected}, found {queries.dtype} {queries.shape}"
        )
