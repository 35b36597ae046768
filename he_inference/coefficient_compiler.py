"""`compile(layout="coefficients")`: a network with one layer of products, for single queries.

The scales Δ of features and S of weights, the prime q and the noise that hides the weights follow
from the precision. Errors of an answer, in units of z, are independent and share its variance:

    encryption       σ ‖W_d‖ / Δ             σ² = 21/2 + 1/12, of SEAL's errors and of rounding
    rounded weights  ‖f‖ / (√12 S)
    cut answers      2^k √(N/18) / (Δ S)     k bits of c1 are left off
    flooding         F / (√12 Q ΔS)          private answers: F integers, divided by the primes Q

where W_d are the rows of all outputs that share o's ciphertext: an error on a coefficient that
holds no feature for o is multiplied by the weight of another. So the modulus needs about the bits
of the precision twice over, and a few: some 30 for 10 bits. Nothing but the flooding asks for more
than one prime, and queries are encrypted modulo q alone: a ciphertext modulo q times Q is one
modulo qQ, with which an encryption of zero modulo qQ is added before the sum is divided by Q again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, floor, log2, prod, sqrt
from secrets import token_bytes
from typing import Any

import numpy as np
import numpy.typing as npt

from he_inference.affine import affine_stages
from he_inference.batch_signature import Response
from he_inference.coefficient_program import COMPONENTS, SHOWN, CoefficientProgram, check
from he_inference.coefficient_signature import CoefficientSignature
from he_inference.cost import SEED_BYTES, Cost, packed_bytes
from he_inference.errors import CompileError, ParameterError
from he_inference.expansion import Expansion, expand, features
from he_inference.flooding import STATISTICAL_BITS, coefficients_hidden, statistical_bits
from he_inference.layouts.batched import MAX_PRIME_BITS
from he_inference.layouts.coefficients import CoefficientLayout, layouts
from he_inference.network import Network, check_batch
from he_inference.nodes import Array
from he_inference.noise import ERROR_VARIANCE
from he_inference.parameters import MAX_LOG_MODULUS, Parameters, ParametersLiteral
from he_inference.prices import USUAL, CoefficientPrices
from he_inference.schedule import HEADROOM_BITS

RING_DEGREES = (4096, 8192)
EXAMPLES = 32
SPECIAL_BITS = 17
"""SEAL reserves a prime for key switching, even where nothing is switched: the smallest."""
MIN_PRIME_BITS = 20
HIDING_PRIMES = (1, 2)
"""Numbers of primes tried for the noise of private answers: one is faster, two need a smaller q."""
STEPS = 4
"""Between a scale and its double there are so many."""
_MARGINS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Bits of precision aimed at beyond those wanted, until the measured ones are."""
_SHARES = {"encryption": 0.32, "weights": 0.32, "cut": 0.18, "flooding": 0.18}
_ANSWER_WORD = 8


class _MisfitError(Exception):
    """A choice cannot be realised; the message says why."""


@dataclass(frozen=True, eq=False)
class CompiledCoefficients:
    """A program, and what people want to know of it before any key is made."""

    network: Network
    program: CoefficientProgram
    prices: CoefficientPrices = USUAL

    @property
    def cost(self) -> Cost:
        """Of one query, and of a client's keys."""
        s = self.signature
        return Cost(
            server_ms=self.prices.server_ms(s),
            client_ms=self.prices.client_ms(s),
            upload_bytes=self.upload_bytes,
            download_bytes=self.download_bytes,
            key_bytes=self.key_bytes,
        )

    @property
    def parameters(self) -> Parameters:
        return self.program.parameters

    @property
    def signature(self) -> CoefficientSignature:
        return self.program.signature

    def simulate(self, x: npt.ArrayLike, *, seed: int = 0) -> Array:
        """What encrypted queries would answer, noise included, without encrypting.

        x: (batch, *input_shape); returns (batch, outputs).
        """
        batch = check_batch(x, self.network.input_shape)
        flat = batch.reshape(len(batch), -1)
        return simulated(self.program, features(self.signature.monomials, flat), seed)

    @property
    def upload_bytes(self) -> int:
        """Ciphertexts of one query."""
        return self.signature.layout.queries * _seeded_bytes(self.parameters, 1)

    @property
    def download_bytes(self) -> int:
        """Ciphertexts of one answer."""
        s = self.signature
        each = s.answer_bits * self.parameters.ring_degree // 8
        return s.layout.answers * each + _ANSWER_WORD * s.outputs

    @property
    def key_bytes(self) -> int:
        """What goes to the server once: an encryption of zero, where answers are private."""
        if not self.signature.needs_keys:
            return 0
        return _seeded_bytes(self.parameters, len(self.parameters.data_primes))

    def facts(self) -> dict[str, Any]:
        """The summary's figures, for machines."""
        s = self.signature
        return {
            "layout": "coefficients",
            "response": s.response,
            "statistical_bits": s.statistical_bits,
            "ring_degree": self.parameters.ring_degree,
            "modulus_bits": self.parameters.total_bits,
            "security_bits": s.security_bits,
            "features": len(s.monomials),
            "rotations": 0,
            "precision_bits": s.precision_bits,
            "upload_bytes": self.upload_bytes,
            "download_bytes": self.download_bytes,
            "key_bytes": self.key_bytes,
            "client_ms": self.cost.client_ms,
            "server_ms": self.cost.server_ms,
        }

    def summary(self) -> str:
        """A few lines for people: ring, modulus, features, ciphertexts, bytes, precision."""
        s, p, layout = self.signature, self.parameters, self.signature.layout
        bits = " + ".join(str(prime.bit_length()) for prime in p.data_primes)
        low, high = s.input_range
        lines = [
            f"ring          N = {p.ring_degree}, {p.ring_degree} coefficients",
            f"modulus       log2 q = {p.total_bits} of {MAX_LOG_MODULUS[p.ring_degree]} bits "
            f"({bits} | {p.special_prime.bit_length()}), {s.security_bits}-bit security",
            f"features      {len(s.monomials)} of a query, in {layout.queries} ciphertexts; "
            f"{s.outputs} outputs in {layout.answers}",
            f"keys          {self._keys()}",
            f"a query       {self.upload_bytes / 1e3:.1f} kB up, "
            f"{self.download_bytes / 1e3:.1f} kB down",
            f"takes         {s.input_shape}, values from {low:g} to {high:g}",
            f"precision     {s.precision_bits:.1f} bits of the largest answer",
            f"answers       {self._answers()}",
            f"time          about {self.cost.client_ms:.0f} ms client, "
            f"{self.cost.server_ms:.0f} ms server",
        ]
        return "\n".join(lines)

    def _keys(self) -> str:
        if not self.signature.needs_keys:
            return "none go to the server"
        return f"{self.key_bytes / 1e3:.1f} kB once, no rotations"

    def _answers(self) -> str:
        if not self.signature.private:
            return "plain: a client that looks at them closely learns the weights"
        return (
            f"private: flooded with {self.program.flooding_bits} bits, statistical distance "
            f"2^-{self.signature.statistical_bits:.0f} a query (at most 2^-40)"
        )


def _seeded_bytes(parameters: Parameters, primes: int) -> int:
    return SEED_BYTES + packed_bytes(parameters.data_primes[:primes], parameters.ring_degree)


def compile_coefficients(
    network: Network,
    examples: Array,
    *,
    precision: float,
    response: Response,
    prices: CoefficientPrices = USUAL,
) -> Iterator[CompiledCoefficients]:
    """Every program worth considering: rings, primes, and how outputs share ciphertexts.

    Raises `CompileError` where there is none.
    """
    magnitudes = [float(np.abs(value).max()) for value in network.trace(examples)]
    expansion = expand(affine_stages(network, magnitudes))
    judged = examples[:EXAMPLES]
    found = features(expansion.monomials, judged.reshape(len(judged), -1))
    choice = _Choosing(network, expansion, found, precision, response)
    reasons = []
    for degree in RING_DEGREES:
        any_found = False
        for layout in layouts(degree, len(expansion.monomials), len(expansion.weights)):
            for primes in HIDING_PRIMES if response == "private" else (0,):
                try:
                    program = choice.program(layout, primes)
                except (_MisfitError, ParameterError) as misfit:
                    reasons.append(f"  N = {degree}, {layout.group} outputs together: {misfit}")
                    continue
                check(program)
                any_found = True
                yield CompiledCoefficients(network, program, prices)
        if any_found:
            return  # a larger ring has larger answers, and queries that are no smaller
    listing = "\n".join(reasons)
    raise CompileError(
        f"the network does not fit the coefficient layout at {precision:g} bits:\n{listing}"
    )


@dataclass(frozen=True, eq=False)
class _Choosing:
    """What all choices have in common. features: of the examples, (batch, M)."""

    network: Network
    expansion: Expansion
    features: Array
    precision: float
    response: Response

    def program(self, layout: CoefficientLayout, primes: int) -> CoefficientProgram:
        """The smallest modulus that holds the precision; raises `_MisfitError`.

        primes: for the noise of private answers.
        """
        expected = self.features @ self.expansion.weights.T + self.expansion.offset
        largest = max(float(np.abs(expected).max()), 1e-300)
        reached = -1.0
        for margin in _MARGINS:
            wanted = largest * 2.0 ** -(self.precision + margin)
            program = self._realised(layout, primes, wanted, largest)
            error = simulated(program, self.features, 0) - expected
            deviation = max(float(np.sqrt(np.mean(np.square(error)))), 1e-300)
            reached = log2(largest / deviation)
            if reached >= self.precision:
                signature = replace(
                    program.signature,
                    precision_bits=max(self.precision, floor(10 * reached) / 10),
                    resolution=2.0 ** ceil(log2(deviation)),
                )
                return replace(program, signature=signature)
        raise _MisfitError(f"the best precision is {reached:.1f} bits")

    def _realised(
        self, layout: CoefficientLayout, primes: int, wanted: float, largest: float
    ) -> CoefficientProgram:
        weights, offset, degree = self.expansion.weights, self.expansion.offset, layout.degree
        feature_scale, weight_scale = self._scales(layout, wanted)
        hidden = coefficients_hidden(degree, (), COMPONENTS, len(weights), SHOWN)
        flooding_bits = STATISTICAL_BITS + ceil(log2(hidden)) if primes else 0
        noise = _allowed("flooding", wanted)
        hiding = log2(2.0**flooding_bits / sqrt(12) / noise / (feature_scale * weight_scale))
        most = primes * MAX_PRIME_BITS
        if primes and hiding > most:  # the noise that is left must be small beside the answers
            weight_scale = _stepped(weight_scale * 2.0 ** (hiding - most))
            hiding = float(most)
        scale = feature_scale * weight_scale
        room = max(largest * 2.0**HEADROOM_BITS, 2 * float(np.abs(offset).max()))
        typical = float(np.abs(self.features).max()) * 2.0**HEADROOM_BITS
        q_bits = max(ceil(log2(scale * room)) + 1, ceil(log2(feature_scale * typical)) + 2)
        if q_bits > MAX_PRIME_BITS:
            raise _MisfitError(f"answers would need a prime of {q_bits} bits, at most "
                               f"{MAX_PRIME_BITS} are exact")  # fmt: skip
        bits = (max(q_bits, MIN_PRIME_BITS), *_split(ceil(hiding), primes))
        parameters = ParametersLiteral(degree, bits, SPECIAL_BITS).resolve()
        cut = floor(log2(_allowed("cut", wanted) * scale / sqrt(degree / 18)))
        signature = CoefficientSignature(
            identity=token_bytes(16),
            parameters=parameters,
            input_shape=self.network.input_shape,
            input_range=self.network.input_range,
            monomials=self.expansion.monomials,
            outputs=len(weights),
            group=layout.group,
            input_scale=feature_scale,
            output_scale=scale,
            response=self.response,
            answer_bits=parameters.data_primes[0].bit_length() - cut,
            statistical_bits=(
                statistical_bits(parameters, COMPONENTS, len(weights), flooding_bits, SHOWN)
                if primes
                else 0.0
            ),
            precision_bits=0.0,
            resolution=1.0,
        )
        integers = np.rint(weights * weight_scale).astype(np.int64)
        constants = np.rint(offset * scale).astype(np.int64)
        return CoefficientProgram(signature, integers, constants, flooding_bits)

    def _scales(self, layout: CoefficientLayout, wanted: float) -> tuple[float, float]:
        """Δ and S, at least as large as lets the rounding of c1 stay below its share."""
        squares = np.square(self.expansion.weights).sum(axis=1)
        norm = sqrt(float(layout.together(squares).max()))
        typical = sqrt(float(np.square(self.features).sum(axis=1).mean()))
        feature_scale = sqrt(ERROR_VARIANCE + 1 / 12) * norm / _allowed("encryption", wanted)
        weight_scale = typical / sqrt(12) / _allowed("weights", wanted)
        feature_scale, weight_scale = max(feature_scale, 1.0), max(weight_scale, 1.0)
        rounding = 2 * sqrt(layout.degree / 18) / _allowed("cut", wanted)
        feature_scale = _stepped(feature_scale)
        return feature_scale, _stepped(max(weight_scale, rounding / feature_scale))


def _stepped(scale: float) -> float:
    """Up to the next step: signatures show scales, which depend on weights and examples."""
    return float(2.0 ** (ceil(STEPS * log2(scale)) / STEPS))


def _allowed(share: str, wanted: float) -> float:
    """The deviation that one source of error may have."""
    return sqrt(_SHARES[share]) * wanted


def _split(bits: int, primes: int) -> tuple[int, ...]:
    """Sizes of the primes that together have so many bits."""
    if not primes:
        return ()
    each = max(-(-bits // primes), MIN_PRIME_BITS)
    return (each,) * primes


def simulated(program: CoefficientProgram, found: Array, seed: int) -> Array:
    """Features (batch, M) → answers with the noise of encryption, flooding and cutting."""
    signature, rng = program.signature, np.random.default_rng(seed)
    degree, primes = signature.parameters.ring_degree, signature.parameters.data_primes
    weights = program.weights.astype(np.float64)
    exact = np.rint(found * signature.input_scale) @ weights.T + program.offset
    variance = ERROR_VARIANCE * signature.layout.together(np.square(weights).sum(axis=1))
    variance += (4.0**signature.cut_bits - 1) * degree / 18
    if signature.private:
        variance += (2.0**program.flooding_bits / prod(primes[1:])) ** 2 / 12
        variance += (1 + 2 * degree / 3) / 12
    noisy = exact + np.sqrt(variance) * rng.standard_normal(exact.shape)
    return np.asarray(noisy / signature.output_scale)
