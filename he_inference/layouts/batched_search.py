"""The cheapest integers, ring and primes for the batched layout that hold a precision.

Bits are taken away one by one, from the input's scale and from every stage's weights, wherever
most bits of the modulus are saved for the error that is added, until nothing can be spared. Then
the modulus is cut into primes: few wide ones mean fewer residues, but shorter exact sums.

Private answers are flooded with noise half as large as the error that is allowed, and quantisation
and encryption may use the rest. The flooding must be 2^40 times what it hides (`flooding`), which
puts a bound under the scale of the answers, and so under the modulus: where weights and inputs do
not reach it, the last layer's multipliers lift the scale, which is exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, floor, inf, log2, sqrt

import numpy as np

from he_inference.affine import AffineStage, affine_stages
from he_inference.errors import CompileError, ParameterError
from he_inference.flooding import (
    STATISTICAL_BITS,
    coefficients_hidden,
    flooding_bits,
    rounding_deviation,
    slot_deviation,
    statistical_bits,
)
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
FLOODED_SHARE = 0.5
"""Of the error that is allowed, what flooding has (as a deviation)."""
RESPONSE_SHARE = 0.125
"""Likewise, what dividing answers down to one prime, and cutting their low bits, may each add."""


def batched_plan(
    network: Network,
    examples: Array,
    *,
    precision: float = 8.0,
    private: bool = False,
    keep_labels: bool = True,
) -> BatchedPlan:
    """Choose ring, primes, scales and weights for the batched layout, at 128-bit security.

    examples: typical queries (batch, *input_shape), by which magnitudes and precision are judged.
    precision: bits; the root mean square error of answers is at most 2^-precision times the
        largest answer on the examples.
    private: leave room for flooding the answers.
    keep_labels: nor does the rounding of weights change the label (the largest answer's index) of
        any example.

    Raises `CompileError` where it does not fit, naming the smallest change that would.
    """
    batch = check_batch(examples, network.input_shape)[:EXAMPLES]
    magnitudes = [float(np.abs(value).max()) for value in network.trace(batch)]
    stages = affine_stages(network, magnitudes)
    _check_form(stages)
    shortfalls = []
    for ring_degree in RING_DEGREES:
        wishes = _Wishes(2.0**-precision, private, keep_labels)
        found = _Search(network, stages, batch, ring_degree, wishes).run()
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


@dataclass(frozen=True)
class _Wishes:
    """error: allowed, root mean square, relative to the largest answer."""

    error: float
    private: bool
    keep_labels: bool

    @property
    def computed(self) -> float:
        """The error allowed to quantisation and encryption."""
        shares = FLOODED_SHARE**2 + 2 * RESPONSE_SHARE**2
        return self.error * sqrt(1 - shares) if self.private else self.error


class _Search:
    """The smallest modulus that holds the precision."""

    def __init__(
        self,
        network: Network,
        stages: Sequence[AffineStage],
        batch: Array,
        ring_degree: int,
        wishes: _Wishes,
    ) -> None:
        self._network, self._stages = network, stages
        self._ring_degree, self._wishes = ring_degree, wishes
        self._x = batch.reshape(len(batch), -1)
        self._answers = network.evaluate(batch)
        self._largest = float(np.abs(self._answers).max()) or 1.0
        noise = np.random.default_rng(0).standard_normal(self._x.shape)
        self._noise = noise * noise_deviation(ring_degree)

    def run(self) -> BatchedPlan | str:
        """A plan, or why there is none."""
        generous = _Choice(MAX_INPUT_BITS, (MAX_WEIGHT_BITS,) * len(self._stages))
        judgement = self._judge(generous)
        if judgement.error > self._wishes.computed:
            whole = judgement.error * self._wishes.error / self._wishes.computed
            reason = f"the best precision is {floor(-10 * log2(whole)) / 10:.1f} bits"
            return self._refusal(reason, generous, judgement)
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
            fitting = [
                (other, found) for other, found in judged if found.error <= self._wishes.computed
            ]
            if not fitting:
                return choice, judgement
            gains = [_gain(judgement, found) for _, found in fitting]
            choice, judgement = fitting[int(np.argmax(gains))]

    def _judge(self, choice: _Choice) -> _Judgement:
        stages = self._quantised(choice)
        scale = 2.0**choice.input_bits
        noisy = forward(scale, stages, self._x + self._noise / scale)
        error = float(np.sqrt(np.mean((noisy - self._answers) ** 2))) / self._largest
        if (
            self._wishes.keep_labels
            and error <= self._wishes.computed
            and not self._same_labels(forward(scale, stages, self._x))
        ):
            error = inf
        bits = log2(stages[-1].scale * self._largest) + HEADROOM_BITS + 1
        return _Judgement(max(error, 2.0**-60), bits)

    def _lift(self, last: IntegerStage) -> int:
        """Bits that the answers' scale lacks for flooding, with primes of the largest size."""
        if not self._wishes.private:
            return 0
        degree, bits = self._ring_degree, MAX_PRIME_BITS
        for _ in range(3):  # a larger modulus has more primes, and hides less
            primes = (1 << MAX_PRIME_BITS,) * ceil(bits / MAX_PRIME_BITS)
            hidden = coefficients_hidden(degree, primes, last.components, last.size)
            flooded = STATISTICAL_BITS + log2(hidden) + log2(slot_deviation(degree, 1))
            needed = flooded - log2(FLOODED_SHARE * self._wishes.error * self._largest)
            bits = ceil(needed + log2(self._largest)) + HEADROOM_BITS + 1
        return max(0, ceil(needed - log2(last.scale)))

    def _flooding(self, parameters: Parameters, stages: Sequence[IntegerStage]) -> int:
        """Bits of flooding within its share of the error; 0 where they hide too little.

        Nor may the first prime be so small that dividing by the others costs too much.
        """
        last, degree = stages[-1], self._ring_degree
        allowed = self._wishes.error * self._largest * last.scale
        bits = flooding_bits(degree, FLOODED_SHARE * allowed)
        hidden = statistical_bits(parameters, last.components, last.size, bits)
        rest = len(parameters.data_primes)
        divided = 2.0 ** (parameters.log_modulus(rest) - parameters.log_modulus(1))
        rounded = rounding_deviation(degree) * divided
        if hidden < STATISTICAL_BITS or rounded > RESPONSE_SHARE * allowed:
            return 0
        return bits

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
        lift = self._lift(result[-1])
        if lift:
            last, bits = self._stages[-1], choice.weight_bits[-1]
            result[-1] = quantise(last, scales[:-1], degrees[:-1], bits, lift)
        return tuple(result)

    def _realise(self, choice: _Choice, judgement: _Judgement) -> BatchedPlan | str:
        stages = self._quantised(choice)
        best = self._parameters(choice, judgement)
        if isinstance(best, str):
            return self._refusal(best, choice, judgement)
        bits = self._flooding(best, stages) if self._wishes.private else 0
        return BatchedPlan(
            best,
            self._network.input_shape,
            self._network.input_range,
            2.0**choice.input_bits,
            stages,
            choice.weight_bits,
            self._largest,
            -log2(self._whole_error(judgement.error, stages[-1].scale, bits)),
            bits,
        )

    def _parameters(self, choice: _Choice, judgement: _Judgement) -> Parameters | str:
        """The primes that are the least work, or why there are none."""
        stages = self._quantised(choice)
        options = list(_prime_options(self._ring_degree, judgement.modulus_bits))
        if not options:
            needed = f"answers need {ceil(judgement.modulus_bits)} bits"
            return f"{needed}, over the {_room(self._ring_degree)} that there are"
        if self._wishes.private:
            options = [found for found in options if self._flooding(found, stages)]
            if not options:
                return f"no primes leave {STATISTICAL_BITS} bits for flooding"
        best = min(options, key=lambda parameters: work(parameters, stages))
        if work(best, stages) == inf:
            return f"weights of {max(choice.weight_bits)} bits cannot be added exactly"
        return best

    def _whole_error(self, computed: float, scale: float, flooding: int) -> float:
        """With what answers lose on their way, relative to the largest of them."""
        if not flooding:
            return computed
        flooded = slot_deviation(self._ring_degree, flooding) / (scale * self._largest)
        responded = RESPONSE_SHARE * self._wishes.error
        return sqrt(computed**2 + flooded**2 + 2 * responded**2)

    def _refusal(self, reason: str, choice: _Choice, judgement: _Judgement) -> str:
        """A reason, and for the last ring what would help."""
        if self._ring_degree != RING_DEGREES[-1]:
            return reason
        return f"{reason}: {self._remedy(choice, judgement)}"

    def _remedy(self, choice: _Choice, judgement: _Judgement) -> str:
        """The highest precision that fits, found by going on from a choice that does not."""
        while self._wishes.error < 0.5:
            self._wishes = replace(self._wishes, error=2 * self._wishes.error)
            for step in STEPS:
                choice, judgement = self._shortened(choice, judgement, step)
            # What flooding needs depends on the precision, and with it the scale.
            judgement = self._judge(choice)
            if not isinstance(self._parameters(choice, judgement), str):
                return f"precision={-log2(self._wishes.error):g} would fit"
        return "leave out an activation"


def _gain(before: _Judgement, after: _Judgement) -> float:
    """Modulus bits saved for the squared error that is added.

    Where none are, as flooding needs them, smaller weights are worth a little all the same.
    """
    added = max(after.error**2 - before.error**2, 2.0**-120)
    return (before.modulus_bits - after.modulus_bits + 0.01) / added


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
