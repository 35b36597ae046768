"""Many queries at once: slot = query, one ciphertext per input feature, weights as integers.

After CryptoNets (Gilad-Bachrach et al. 2016), without its plaintext modulus. A query's value v is
carried as the integer S·v for a scale S that only ever grows: nothing is rescaled, so nothing is
rounded after the weights have been. Stage n of `affine_stages` becomes

    V_n = Σ_(m, k) F_{n,m,k} · W_{n,m,k} · V_m^k + B_n,      S_n = F_{n,m,k} · σ_{n,m,k} · S_m^k

with W = round(σ·M) a matrix of small integers and F one integer that brings arms of different
scales to the same S_n: the arms of a residual addition, or x² and x of a quadratic. A square
multiplies the degree of the ciphertext as a polynomial in the secret key by two; the components
are one more than the degree.

The weights' bits and the input's scale are the smallest that hold the precision: the modulus
grows with each of them, the work with the modulus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor, log2

import numpy as np
import scipy.sparse as sp

from he_inference.affine import AffineStage, Matrix, Source
from he_inference.flooding import slot_deviation
from he_inference.layouts.blocks import Block, blocks
from he_inference.network import check_batch
from he_inference.nodes import Array, Shape
from he_inference.noise import ERROR_VARIANCE
from he_inference.parameters import Parameters

EXACT = 1 << 53
"""Every integer up to this is a float64."""
MAX_PRIME_BITS = 42
"""The error bound of `half_width` is worked out for primes of up to so many bits."""


@dataclass(frozen=True, eq=False)
class Term:
    """F · W · V_m^k: multiplier F ≥ 1, weights W of shape (size, size of the source), int64."""

    multiplier: int
    weights: sp.csr_array

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return blocks(self.weights)

    def parts(self, limit: int) -> tuple[Block, ...] | None:
        """Blocks cut so that Σ |w| is at most `limit` in every row, if they can be."""
        cut = [block.within(limit) for block in self.blocks]
        if any(parts is None for parts in cut):
            return None
        return tuple(part for parts in cut if parts for part in parts)


@dataclass(frozen=True, eq=False)
class IntegerStage:
    """One V_n of the module's formula.

    offset: B_n, a Python integer per element. scale: S_n. secret_degree: of its ciphertexts.
    """

    terms: Mapping[Source, Term]
    offset: tuple[int, ...]
    scale: float
    secret_degree: int

    @property
    def size(self) -> int:
        return len(self.offset)

    @property
    def components(self) -> int:
        return self.secret_degree + 1


@dataclass(frozen=True, eq=False)
class BatchedPlan:
    """What the server of the batched layout computes.

    stages: the last one is the answer. input_scale: S_0, which queries are multiplied by.
    weight_bits: of every stage. largest_answer: on the examples; answers up to 2^3 times larger
    are safe. precision_bits: expected −log2 of (root mean square error / largest answer).
    flooding_bits: noise of 2^flooding_bits integers is added to answers; 0 where they are plain.
    """

    parameters: Parameters
    input_shape: Shape
    input_range: tuple[float, float]
    input_scale: float
    stages: tuple[IntegerStage, ...]
    weight_bits: tuple[int, ...]
    largest_answer: float
    precision_bits: float
    flooding_bits: int = 0

    @property
    def features(self) -> int:
        return int(np.prod(self.input_shape))

    @property
    def outputs(self) -> int:
        return self.stages[-1].size

    @property
    def components(self) -> int:
        """Polynomials of an answer's ciphertext."""
        return self.stages[-1].components

    @property
    def output_scale(self) -> float:
        return self.stages[-1].scale

    @property
    def queries(self) -> int:
        """How many queries one evaluation answers."""
        return self.parameters.slots

    def simulate(self, x: Array, *, seed: int = 0) -> Array:
        """What encrypted queries would answer: (batch, *input_shape) → (batch, outputs).

        Noise comes from encryption and from flooding: between them everything is exact.
        """
        rng, degree = np.random.default_rng(seed), self.parameters.ring_degree
        flat = check_batch(x, self.input_shape).reshape(len(x), -1)
        deviation = noise_deviation(degree) / self.input_scale
        queries = flat + deviation * rng.standard_normal(flat.shape)
        answers = forward(self.input_scale, self.stages, queries)
        if self.flooding_bits:
            deviation = slot_deviation(degree, self.flooding_bits) / self.output_scale
            answers += deviation * rng.standard_normal(answers.shape)
        return answers


def half_width(prime: int) -> int:
    """A bound on the size of a reduced residue.

    x − ⌊x/p⌉·p is computed with a quotient that is off by at most 3·2⁻⁵³·|x/p| before it is
    rounded; the largest x is a product of residues with its rounding error apart, below p²/2. So
    the result stays below p/2 + 3·2⁻⁵⁴·p² + 2⁻⁵⁴·p², less than (1/2 + 2⁻⁸)·p for p < 2⁴².
    """
    return prime // 2 + prime // 256 + 1


def weight_sum_limit(prime: int) -> int:
    """Largest Σ |w| whose products with reduced residues add up below 2⁵³ − 2p.

    Every partial sum is then an exact float64 in any order, and so is ⌊x/p⌉·p, also with an
    offset added.
    """
    return (EXACT - 2 * prime) // half_width(prime)


def noise_deviation(ring_degree: int) -> float:
    """Standard deviation, in a slot, of a fresh symmetric encryption: error and encoding.

    Half of the error's variance is in the real part; see `he_inference.noise`.
    """
    return float(np.sqrt(ring_degree * (ERROR_VARIANCE / 2 + 1 / 12)))


def quantise(
    stage: AffineStage,
    scales: Sequence[float],
    degrees: Sequence[int],
    bits: int,
    lift: int = 0,
) -> IntegerStage:
    """Round a stage's weights to signed integers of so many bits, and find its scale.

    scales, degrees: S_m and the degree in the secret of the query and of all earlier stages.
    lift: bits that the scale is larger for, and all multipliers with it.

    Weights are multiplied by powers of two, so that scales, which are public, say no more of them
    than exponents.
    """
    matrices = {source: matrix for source, matrix in stage.terms.items() if matrix.nnz}
    top = float((1 << (bits - 1)) - 1)
    reach = {
        (m, k): 2.0 ** floor(log2(top / float(np.abs(matrix.data).max()))) * scales[m] ** k
        for (m, k), matrix in matrices.items()
    }
    scale = 2.0**lift * max(reach.values())
    terms = {}
    for (m, k), matrix in matrices.items():
        multiplier = max(1, round(scale / reach[m, k]))
        unit = scale / (multiplier * scales[m] ** k)
        terms[m, k] = Term(multiplier, _rounded(matrix, unit))
    offset = tuple(round(value) for value in (stage.offset * scale).tolist())
    return IntegerStage(terms, offset, scale, max(k * degrees[m] for m, k in terms))


def _rounded(matrix: Matrix, unit: float) -> sp.csr_array:
    """⌊unit · M⌉ as int64; entries that become zero are kept, so that the structure is."""
    data = np.rint(matrix.data * unit).astype(np.int64)
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def forward(input_scale: float, stages: Sequence[IntegerStage], x: Array) -> Array:
    """Integer stages on real queries (batch, features), scales divided out: (batch, outputs)."""
    values, scales = [x], [input_scale]
    for stage in stages:
        total = np.zeros((len(x), stage.size))
        total += np.array([float(b) for b in stage.offset]) / stage.scale
        for (m, k), term in stage.terms.items():
            unit = term.multiplier * scales[m] ** k / stage.scale
            total += (term.weights.astype(np.float64) @ (values[m] ** k).T).T * unit
        values.append(total)
        scales.append(stage.scale)
    return values[-1]
