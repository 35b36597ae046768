"""The canonical embedding: coefficients of a polynomial ↔ its values at the roots of X^N + 1.

SEAL's encoder takes slot values, which are the values at half of the roots; those at the others are
their conjugates. So a polynomial with wanted real coefficients is encoded by way of its slots.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from he_inference.nodes import Array
from he_inference.noise import slot_exponents

Complex = npt.NDArray[np.complex128]


def slots_of(coefficients: Array) -> Complex:
    """(…, N) → (…, N/2): value j is that at exp(iπ e_j / N), e_j = `slot_exponents`[j].

    By one transform of length N of a_k exp(iπk/N), whose value m is that at exponent 2m + 1.
    """
    degree = coefficients.shape[-1]
    values = np.fft.ifft(coefficients * _twist(degree)) * degree
    return np.ascontiguousarray(values[..., slot_exponents(degree) // 2])


@cache
def _twist(degree: int) -> Complex:
    return np.asarray(np.exp(1j * np.pi * np.arange(degree) / degree))


def constant_of(real: Array) -> float:
    """a_0 of a polynomial, from the real parts of its slots (N/2,): it is their mean."""
    return float(real.mean())


class CoefficientReader:
    """Reads a few coefficients of polynomials of which the slots are known.

    a_k = 2/N · Re Σ_j z_j exp(−iπ e_j k / N), a row for each k that is wanted.
    """

    def __init__(self, degree: int, positions: npt.NDArray[np.int64]) -> None:
        angles = np.outer(positions, slot_exponents(degree)) % (2 * degree)
        rows = np.exp(-1j * np.pi / degree * angles) * 2 / degree
        self._real, self._imaginary = rows.real.copy(), -rows.imag

    def read(self, slots: Complex) -> Array:
        """(N/2,) → (positions,)."""
        found: Array = self._real @ slots.real + self._imaginary @ slots.imag
        return found
