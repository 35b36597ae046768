"""The cheapest integers, ring and primes for the batched layout that hold a precision.

Bits are taken away one by one, from the input's scale and from every stage's weights, wherever
most bits of the modulus are saved for the error that is added, until nothing can be spared. Then
the modulus is cut into primes: few wide ones mean fewer residues, but shorter exact sums.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, inf, log2

import numpy as np

from he_inference.affine import AffineStage, affine_stages
from he_inference.errors import CompileError, ParameterError
from he_inference.layouts.batched import (
    MAX_PRIME_BITS,
    BatchedPlan,
    IntegerStage,
    forward,
    noise_deviation,
    quantise,
    weight_sum_limit,
)
from he_inference.network import Network, check_batch
from he_inference.nodes import Array
from he_inference.parameters import MAX_LOG_MODULUS, Parameters, ParametersLiteral

RING_DEGREES = (4096, 8192, 16384)
MAX_SQUARES = 3
"""One after the other; ciphertexts then have 2^3 + 1 components."""
HEADROOM_BITS = 3
"""Answers up to 2^3 times larger than those of the examples do not overflow."""
MAX_WEIGHT_BITS = 22
MAX_INPUT_BITS = 40
MIN_PRIME_BITS = 20
STEPS = (4, 1)
"""Bits taken away at a time, first and last."""
EXAMPLES = 256
REDUCTION_COST = 11.0
"""One reduction of a row of residues, in products of a row by a weight, as measured."""


def batched_plan(network: Network, examples: Array, *, precision: float = 8.0) -> BatchedPlan:
    """Choose ring, primes, scales and weights for the batched layout, at 128-bit security.

    examples: typical queries (batch, *input_shape), by which magnitudes and precision are judged.
    precision: bits; the root mean square error of answers is at most 2^-precision times the
        largest answer on the examples. Nor does the rounding of weights change the label (the
        largest answer's index) of any example.

    Raises `CompileError` where it does not fit, naming the smallest change that would.
    """
    batch = check_batch(examples, network.input_shape)[:EXAMPLES]
    magnitudes = [float(np.abs(value).max()) for value in network.trace(batch)]
    stages = affine_stages(network, magnitudes)
    _check_form(stages)
    shortfalls = []
    for ring_degree in RING_DEGREES:
        found = _Search(network, stages, batch, ring_degree, precision).run()
        if isinstance(found, BatchedPlan):
            return found
        shortfalls.append(f"  N = {ring_degree}: {found}")
    listing = "\n".join(shortfalls)
    raise CompileError(
        f"the network does not fit the batched layout at {precision:g} bits:\n{listing}"
    )


def _check_form(stages: Sequence[AffineStage]) -> None:
    """Refuse what has no batched form at any precision."""
    squares = [0]
    for number, stage in enumerate(stages, 1):
        if not any(matrix.nnz for matrix in stage.terms.values()):
            raise CompileError(f"layer {number} does not depend on the query")
        highest = max(power for _, power in stage.terms)
        if highest > 2:
            raise CompileError(
                f"layer {number} follows an activation of degree {highest}: the batched layout "
                "has squares and quadratics only; use degree 2, or the packed layout"
            )
        squares.append(max(squares[source] + power - 1 for source, power in stage.terms))
    if squares[-1] > MAX_SQUARES:
        raise CompileError(
            f"{squares[-1]} squares one after the other: the batched layout takes {MAX_SQUARES}; "
            f"leave out {squares[-1] - MAX_SQUARES}, or use the packed layout"
        )


@dataclass(frozen=True)
class _Choice:
    """log2 of the input's scale, and the bits of every stage's weights."""

    input_bits: int
    weight_bits: tuple[int, ...]

    def shorter(self, step: int) -> "Iterator[_Choice]":
        """Every choice with so many bits less in one place."""
        if self.input_bits > step:
            yield replace(self, input_bits=self.input_bits - step)
        for index, bits in enumerate(self.weight_bits):
            if bits > step + 1:
                before, after = self.weight_bits[:index], self.weight_bits[index + 1 :]
                yield replace(self, weight_bits=(*before, bits - step, *after))


@dataclass(frozen=True)
class _Judgement:
    """error: root mean square, relative to the largest answer; infinite where a label changes."""

    error: float
    modulus_bits: float


class _Search:
    """The smallest modulus that holds the precision."""

    def __init__(
        self,
        network: Network,
        stages: Sequence[AffineStage],
        batch: Array,
        ring_degree: int,
        precision: float,
    ) -> None:
        self._network, self._stages = network, stages
        self._ring_degree, self._limit = ring_degree, 2.0**-precision
        self._x = batch.reshape(len(batch), -1)
        self._answers = network.evaluate(batch)
        self._largest = float(np.abs(self._answers).max()) or 1.0
        noise = np.random.default_rng(0).standard_normal(self._x.shape)
        self._noise = noise * noise_deviation(ring_degree)

    def run(self) -> BatchedPlan | str:
        """A plan, or why there is none."""
        generous = _Choice(MAX_INPUT_BITS, (MAX_WEIGHT_BITS,) * len(self._stages))
        judgement = self._judge(generous)
        if judgement.error > self._limit:
            return f"the best precision is {-log2(judgement.error):.1f} bits: ask for at most that"
        choice = generous
        for step in STEPS:
            choice, judgement = self._shortened(choice, judgement, step)
        return self._realise(choice, judgement)

    def _shortened(
        self, choice: _Choice, judgement: _Judgement, step: int
    ) -> tuple[_Choice, _Judgement]:
        """Take bits away, `step` at a time, until every way to do so costs the precision."""
        while True:
            judged = [(other, self._judge(other)) for other in choice.shorter(step)]
            fitting = [(other, found) for other, found in judged if found.error <= self._limit]
            if not fitting:
                return choice, judgement
            gains = [_gain(judgement, found) for _, found in fitting]
            choice, judgement = fitting[int(np.argmax(gains))]

    def _judge(self, choice: _Choice) -> _Judgement:
        stages = self._quantised(choice)
        scale = 2.0**choice.input_bits
        noisy = forward(scale, stages, self._x + self._noise / scale)
        error = float(np.sqrt(np.mean((noisy - self._answers) ** 2))) / self._largest
        if error <= self._limit and not self._same_labels(forward(scale, stages, self._x)):
            error = inf
        bits = log2(stages[-1].scale * self._largest) + HEADROOM_BITS + 1
        return _Judgement(max(error, 2.0**-60), bits)

    def _same_labels(self, answers: Array) -> bool:
        """Whether the largest answer is the largest still; equal ones may change places."""
        chosen = np.take_along_axis(self._answers, answers.argmax(1)[:, None], 1)[:, 0]
        return bool((chosen >= self._answers.max(1) - 1e-9 * self._largest).all())

    def _quantised(self, choice: _Choice) -> tuple[IntegerStage, ...]:
        scales, degrees, result = [2.0**choice.input_bits], [1], []
        for stage, bits in zip(self._stages, choice.weight_bits, strict=True):
            result.append(quantise(stage, scales, degrees, bits))
            scales.append(result[-1].scale)
            degrees.append(result[-1].secret_degree)
        return tuple(result)

    def _realise(self, choice: _Choice, judgement: _Judgement) -> BatchedPlan | str:
        stages = self._quantised(choice)
        options = list(_prime_options(self._ring_degree, judgement.modulus_bits))
        if not options:
            needed = f"answers need {ceil(judgement.modulus_bits)} bits"
            found = f"{needed}, over the {_room(self._ring_degree)} that there are"
            if self._ring_degree != RING_DEGREES[-1]:
                return found
            return f"{found}: {self._remedy(choice, judgement)}"
        best = min(options, key=lambda parameters: work(parameters, stages))
        if work(best, stages) == inf:
            return f"weights of {max(choice.weight_bits)} bits cannot be added exactly"
        return BatchedPlan(
            best,
            self._network.input_shape,
            self._network.input_range,
            2.0**choice.input_bits,
            stages,
            choice.weight_bits,
            self._largest,
            -log2(judgement.error),
        )

    def _remedy(self, choice: _Choice, judgement: _Judgement) -> str:
        """The highest precision that fits, found by going on from a choice that does not."""
        while self._limit < 0.5:
            self._limit *= 2
            choice, judgement = self._shortened(choice, judgement, 1)
            if any(_prime_options(self._ring_degree, judgement.modulus_bits)):
                return f"precision={-log2(self._limit):g} would fit"
        return "leave out an activation"


def _gain(before: _Judgement, after: _Judgement) -> float:
    """Modulus bits saved for the squared error that is added."""
    added = max(after.error**2 - before.error**2, 2.0**-120)
    return (before.modulus_bits - after.modulus_bits) / added


def _prime_options(ring_degree: int, modulus_bits: float) -> Iterator[Parameters]:
    """Every way to cut a modulus into primes of nearly equal size."""
    wanted = ceil(modulus_bits)
    fewest, most = ceil(wanted / MAX_PRIME_BITS), max(1, wanted // MIN_PRIME_BITS)
    for count in range(fewest, most + 1):
        for spare in range(count + 1):
            parameters = _resolved(ring_degree, wanted + spare, count)
            if parameters and parameters.log_modulus(count) >= modulus_bits:
                yield parameters
                break


def _resolved(ring_degree: int, bits: int, count: int) -> Parameters | None:
    """`count` primes of `bits` bits together, and a special one, if that is secure.

    SEAL wants one prime that no ciphertext uses: the smallest there is.
    """
    each, larger = divmod(bits, count)
    data_bits = (each + 1,) * larger + (each,) * (count - larger)
    if bits > _room(ring_degree) or max(data_bits) > MAX_PRIME_BITS:
        return None
    try:
        return ParametersLiteral(ring_degree, data_bits, _special_bits(ring_degree)).resolve()
    except ParameterError:
        return None


@cache
def _special_bits(ring_degree: int) -> int:
    """Size of the smallest prime that the ring has."""
    for bits in range(ring_degree.bit_length() + 1, MAX_PRIME_BITS):
        try:
            ParametersLiteral(ring_degree, (MAX_PRIME_BITS,), bits).resolve()
            return bits
        except ParameterError:
            continue
    raise CompileError(f"no prime fits N = {ring_degree}")


def _room(ring_degree: int) -> int:
    """Bits that the data primes may have together."""
    return MAX_LOG_MODULUS[ring_degree] - _special_bits(ring_degree)


def work(parameters: Parameters, stages: Sequence[IntegerStage]) -> float:
    """Products of a row of residues by a weight, for all primes; infinite where none is exact."""
    limit = weight_sum_limit(max(parameters.data_primes))
    degrees, total = [1], 0.0
    for stage in stages:
        for (source, power), term in stage.terms.items():
            parts = term.parts(limit)
            if parts is None:
                return inf
            components = power * degrees[source] + 1
            total += components * sum(p.products + REDUCTION_COST * p.rows.size for p in parts)
        degrees.append(stage.secret_degree)
    return total * len(parameters.data_primes)
