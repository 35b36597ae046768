"""The cheapest choice of places to rescale, and of primes, that holds the precision asked for."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from math import ceil, inf, log2
from secrets import token_bytes

import numpy as np
import numpy.typing as npt

from he_inference.backend import clear
from he_inference.checker import check
from he_inference.cost import DEFAULT_PRICES, Prices, server_ms
from he_inference.errors import ModelFileError, ParameterError
from he_inference.layouts.packed import PackedPlan
from he_inference.network import Network
from he_inference.nodes import Array
from he_inference.noise import NoiseModel
from he_inference.parameters import Parameters
from he_inference.program import Instruction, Program
from he_inference.schedule import (
    Choice,
    Magnitude,
    MisfitError,
    Scales,
    SmallPrimeError,
    emit,
    powers_needed,
)
from he_inference.signature import KeyPlan, Signature

MAX_CHOICES = 10
"""Up to so many products every subset of places to rescale is tried."""
EXAMPLES = 16
MEASURED = 3
"""So many choices of bits are measured by simulation for each place to rescale."""
WAIST_BITS = (range(17, 29), range(29, 37), range(37, 45))
"""Sizes tried for scaled values after a rescaling; wider ones, which cost bytes, only if needed."""
WEIGHT_BITS = (24, 22, 20, 18, 17, 16, 15, 14, 13, 12)
"""Sizes tried for encoded weights."""
LAST_BITS = (0, 2, 4)
"""Bits more for those of the last stage."""


class Search:
    """Pass 3: the cheapest choice that holds the precision."""

    def __init__(
        self,
        network: Network,
        plan: PackedPlan,
        degree: int,
        values: Sequence[Array],
        batch: Array,
        precision: float,
        prices: Prices = DEFAULT_PRICES,
    ) -> None:
        self._prices = prices
        self._network, self._plan, self._degree = network, plan, degree
        self._batch, self._precision = batch[-EXAMPLES:], precision
        powers = powers_needed(plan)
        self._magnitudes = {
            (stage, power): Magnitude.of(values[stage] ** power)
            for stage, wanted in enumerate(powers)
            for power in (1, *wanted)
        }
        self._products = sum(map(len, powers)) + len(plan.stages)

    def run(self, below_ms: float = inf) -> Program | str:
        """The cheapest program that is estimated to take less than `below_ms` on the server.

        Else why there is none.
        """
        best, reason = -1.0, "no choice of primes fits"
        for price, pattern in sorted((self._price(p), p) for p in self._patterns()):
            if price >= below_ms:
                return f"{reason}: all that is left takes longer than {below_ms:.0f} ms"
            for waists in WAIST_BITS:
                try:
                    choices = self._fitting(pattern, waists)
                except MisfitError as misfit:
                    reason = str(misfit)
                    break
                best_first = sorted(choices, key=_expected_error)[:MEASURED]
                programs = filter(None, map(self._realise, best_first))
                program = max(programs, key=lambda p: p.signature.precision_bits, default=None)
                if program and program.signature.precision_bits >= self._precision:
                    return program
                best = max(best, program.signature.precision_bits if program else -1.0)
                if max(choice.waist for choice in choices) < waists[-1]:
                    break  # the modulus is full: wider waists would be the same ones
        if best >= 0:
            return (
                f"the best precision is {best:.1f} bits: ask for at most that (precision=…), or "
                "standardise what the network sees, if its features differ much in size"
            )
        return (
            f"{reason}: use fewer activations, a lower precision, or inputs and activations of "
            "about unit size (standardise the inputs, BatchNorm before each activation)"
        )

    def _patterns(self) -> Iterator[tuple[bool, ...]]:
        if self._products <= MAX_CHOICES:
            yield from product((True, False), repeat=self._products)
            return
        yield (True,) * self._products
        powers = powers_needed(self._plan)
        yield tuple(
            power > 1
            for number, higher in enumerate(powers)
            for power in (1, *higher)
            if number or power > 1
        )

    def _scales(self, choice: Choice) -> Scales:
        return Scales(self._plan, self._magnitudes, choice)

    def _price(self, pattern: tuple[bool, ...]) -> float:
        """Estimated milliseconds, which depend on where one rescales and hardly on the bits."""
        try:
            scales = self._scales(Choice(pattern, WAIST_BITS[0][0], WEIGHT_BITS[-1]))
        except MisfitError:
            return inf
        instructions, _ = emit(scales)
        return server_ms(instructions, self._degree, self._prices)

    def _fitting(self, pattern: tuple[bool, ...], waists: range) -> list[Choice]:
        """For each size of weights the largest waist that fits; raises the last `MisfitError`."""
        with suppress(SmallPrimeError):  # where the smallest is too large, all are
            least = Choice(pattern, WAIST_BITS[0][0], WEIGHT_BITS[-1])
            self._scales(least).literal(self._degree)
        fitting: list[Choice] = []
        misfit = MisfitError("no choice of primes fits")
        for weight, last in product(WEIGHT_BITS, LAST_BITS):
            for waist in reversed(waists):
                choice = Choice(pattern, waist, weight, last)
                try:
                    self._scales(choice).literal(self._degree)
                except MisfitError as error:
                    misfit = error
                    continue
                fitting.append(choice)
                break
        if not fitting:
            raise misfit
        return fitting

    def _realise(self, choice: Choice) -> Program | None:
        """Find the primes, emit with exact scales, measure the precision by simulation."""
        draft = self._scales(choice)
        try:
            parameters = draft.literal(self._degree).resolve()
            instructions, vectors = emit(draft.exact(parameters.data_primes))
        except (ParameterError, MisfitError):
            return None
        noise = NoiseModel(parameters)
        whole = parameters.data_primes[0].bit_length()
        signature = Signature(
            identity=token_bytes(16),
            parameters=parameters,
            input_shape=self._network.input_shape,
            input_range=self._network.input_range,
            input_scale=instructions[0].scale,
            gather=self._plan.input.gather,
            output_slots=_quietest(self._plan, parameters),
            output_scale=instructions[-1].scale,
            keys=_key_plan(instructions),
            response_bits=(whole, whole),
            precision_bits=0.0,
            resolution=1.0,
        )
        program = Program(signature, instructions, vectors)
        try:
            check(program)
        except ModelFileError:  # a scale beyond its modulus, where values are enormous or tiny
            return None
        error, largest = self._measure(program)
        signature = replace(
            signature,
            response_bits=_response_bits(parameters, noise, error * signature.output_scale),
            precision_bits=round(log2(largest / error), 2),
            resolution=2.0 ** ceil(log2(error)),
        )
        return replace(program, signature=signature)

    def _measure(self, program: Program) -> tuple[float, float]:
        """Root mean square error of simulated answers, and the largest answer."""
        expected = self._network.evaluate(self._batch)
        error = clear.simulate(program, self._batch, 0) - expected
        deviation = float(np.sqrt(np.mean(np.square(error))))
        largest = float(np.abs(expected).max())
        return max(deviation, 1e-300), max(largest, deviation, 1e-300)


def _expected_error(choice: Choice) -> float:
    """Roughly the relative error of a slot: of rounded weights, and of one rescaling.

    Rounding a weight costs √(N/12) units of its scale, and most weights are several times smaller
    than the largest; rescaling costs N/10 units. It ranks choices; `_measure` decides.
    """
    rounding = 2.0 ** (6 - choice.weight) + 2.0 ** (7 - choice.weight - choice.last)
    return float(rounding + 2.0 ** (10 - choice.waist))


def _response_bits(parameters: Parameters, noise: NoiseModel, error: float) -> tuple[int, int]:
    """Bits of c0 and c1 to keep: cutting the rest adds at most 1/16 to the error's variance.

    error: root mean square error of answers, in units of the encoded value.
    """
    whole = parameters.data_primes[0].bit_length()
    cuts = [
        max((k for k in range(whole) if noise.cut((k, 0) if first else (0, k)) <= error**2 / 32),
            default=0)
        for first in (True, False)
    ]  # fmt: skip
    return whole - cuts[0], whole - cuts[1]


def _quietest(plan: PackedPlan, parameters: Parameters) -> npt.NDArray[np.int64]:
    """Among the copies of each answer, the slot where SEAL, too, has little noise."""
    noise = NoiseModel(parameters, of_seal=True)
    layout = plan.stages[-1].layout
    copies = layout.positions[:, None] + np.arange(0, plan.slots, layout.period)[None, :]
    best = noise.key_switch(1)[copies].argmin(axis=1)
    return np.asarray(copies[np.arange(len(copies)), best], dtype=np.int64)


def _key_plan(instructions: Sequence[Instruction]) -> KeyPlan:
    """Every key at the highest level at which it is used."""
    rotations: dict[int, int] = {}
    relinearisation = 0
    for i in instructions:
        if i.operation == "rotate":
            rotations[i.step] = max(rotations.get(i.step, 0), i.level)
        if i.operation == "relinearise":
            relinearisation = max(relinearisation, i.level)
    return KeyPlan(relinearisation, tuple(sorted(rotations.items())))
