"""One query in the coefficients of a few polynomials: a matrix-vector product without rotations.

With blocks of n features, g outputs to an answer and g·n ≤ N,

    x_u = Σ_j f_{un+j} X^j,      w_du = Σ_{r<g} Σ_{j<n} W_{dg+r, un+j} X^{rn − j},

coefficient rn of Σ_u w_du · x_u modulo X^N + 1 is Σ_m W_{dg+r, m} f_m: what belongs to other
outputs lies less than n away from *their* coefficients (Huang et al. 2022, "Cheetah", section 3.1).
More outputs to an answer take more ciphertexts of the query and fewer of the answer: that is the
choice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from he_inference.nodes import Array

Integers = npt.NDArray[np.int64]

MAX_CIPHERTEXTS = 1 << 10
"""Of a query. Sums of as many remainders modulo a prime of 42 bits are exact in float64."""

MAX_GROUP = 1 << 10
"""Outputs to an answer: they are read by a matrix of so many rows of N/2."""


@dataclass(frozen=True)
class CoefficientLayout:
    """degree: N. features, outputs: of the matrix. group: g, outputs to an answer."""

    degree: int
    features: int
    outputs: int
    group: int

    @property
    def block(self) -> int:
        """n: features to a ciphertext of the query."""
        return self.degree // self.group

    @property
    def queries(self) -> int:
        """Ciphertexts of a query."""
        return -(-self.features // self.block)

    @property
    def answers(self) -> int:
        """Ciphertexts of an answer."""
        return -(-self.outputs // self.group)

    def positions(self, answer: int) -> Integers:
        """The coefficients that hold the outputs of an answer's ciphertext, in order."""
        count = min(self.group, self.outputs - answer * self.group)
        return np.arange(count) * self.block

    def together(self, values: Array) -> Array:
        """For every output the sum over those that share its ciphertext: (outputs,) → the same."""
        padded = np.zeros(self.answers * self.group)
        padded[: self.outputs] = values
        sums = padded.reshape(self.answers, self.group).sum(axis=1)
        return np.repeat(sums, self.group)[: self.outputs]

    def query(self, features: Array) -> Array:
        """(features,) → (queries, N): the polynomials that are encrypted."""
        padded = np.zeros(self.queries * self.block)
        padded[: self.features] = features
        polynomials = np.zeros((self.queries, self.degree))
        polynomials[:, : self.block] = padded.reshape(self.queries, self.block)
        return polynomials

    def weights(self, matrix: Integers) -> Integers:
        """(outputs, features) → (answers, queries, N): the polynomials w_du."""
        n, padded = self.block, np.zeros((self.answers * self.group, self.queries * self.block),
                                         np.int64)  # fmt: skip
        padded[: self.outputs, : self.features] = matrix
        blocks = padded.reshape(self.answers, self.group, self.queries, n).swapaxes(1, 2)
        polynomials = np.zeros((self.answers, self.queries, self.degree), np.int64)
        exponents = np.subtract.outer(np.arange(self.group) * n, np.arange(n))
        wrapped = exponents < 0  # X^−k = −X^(N − k)
        polynomials[..., exponents % self.degree] = np.where(wrapped, -blocks, blocks)
        return polynomials


def layouts(degree: int, features: int, outputs: int) -> Iterator[CoefficientLayout]:
    """Those that trade ciphertexts of a query against those of an answer, fewest answers first.

    Of those with as many answers the one with fewest queries, and only some of many that hardly
    differ: from one to the next answers grow by a third at least. None of more ciphertexts than a
    query may have, or of more outputs to an answer.
    """
    fewest = 1
    while True:
        group = -(-outputs // fewest)
        layout = CoefficientLayout(degree, features, outputs, group)
        if group <= MAX_GROUP and layout.queries <= MAX_CIPHERTEXTS:
            yield layout
        if group == 1:
            return
        following = min(max(fewest + 1, fewest * 4 // 3), outputs)
        while -(-outputs // following) == group:
            following += 1  # as many outputs together: the same layout
        fewest = following
