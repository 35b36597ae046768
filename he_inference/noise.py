"""How much noise each CKKS operation adds, slot by slot.

Everything is a variance of the error in one slot, in units of the encoded value (before dividing
by the scale). Let N be the ring degree, ζ_j the root of X^N + 1 that slot j evaluates at, σ² = 21/2
the variance of SEAL's centred binomial errors, and h = 2N/3 the expected squared norm of a
ternary secret. A polynomial with independent coefficients of variance v has complex slot values of
variance N·v, half of it in the real part that is decoded; so

- encoding rounds coefficients: N/12, all of it real, because the coefficients of a real vector are
  antisymmetric (m_k = −m_{N−k}) and so are their roundings;
- a fresh symmetric encryption adds one error polynomial: Nσ²/2;
- dividing by a prime rounds c0 and c1: N/24 · (1 + h);
- key switching adds Σ_i d_i e_i / P and the same rounding. Our digits d_i are residues nearest to
  zero. SEAL's are in [0, q_i), so their *mean* q_i/2 is a polynomial with equal coefficients, whose
  value at ζ_j is q_i / (1 − ζ_j): tiny in most slots and enormous near ζ = 1. This is why with SEAL
  a few slots (0, 1, 2 and some others) are hundreds of times noisier than the rest.

Sources: Cheon et al. 2017 (CKKS), Kim, Papadimitriou and Polyakov 2022 for the averages; the
slot-dependent term is worked out here and tested against measured noise.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from he_inference.nodes import Array
from he_inference.parameters import Parameters

ERROR_VARIANCE = 21 / 2
GENERATOR = 3
"""SEAL's slot j evaluates at the 3^j-th power of the root."""


@dataclass(frozen=True)
class NoiseModel:
    """Variances for one set of parameters; all have shape (slots,) or are scalars.

    of_seal: whether digits are SEAL's.
    """

    parameters: Parameters
    of_seal: bool = False

    @property
    def encoding(self) -> float:
        return self.parameters.ring_degree / 12

    @property
    def fresh(self) -> float:
        """A fresh symmetric encryption, encoding included."""
        return self.parameters.ring_degree * ERROR_VARIANCE / 2 + self.encoding

    @property
    def rounding(self) -> float:
        """A division by a prime, of a ciphertext of size 2."""
        degree = self.parameters.ring_degree
        return degree / 24 * (1 + 2 * degree / 3)

    def key_switch(self, level: int) -> Array:
        """A rotation or relinearisation at a level, shape (slots,)."""
        degree, special = self.parameters.ring_degree, self.parameters.special_prime
        digits = sum((q / special) ** 2 for q in self.parameters.data_primes[:level])
        spread = degree / 12 + (self._mean_gain / 4 if self.of_seal else np.zeros(degree // 2))
        return degree * ERROR_VARIANCE * digits * spread / 2 + self.rounding

    def cut(self, bits: tuple[int, int]) -> float:
        """Dropping so many low bits of every coefficient of c0 and c1."""
        degree = self.parameters.ring_degree
        return degree / 24 * (4.0 ** bits[0] - 1 + 2 * degree / 3 * (4.0 ** bits[1] - 1))

    @cached_property
    def _mean_gain(self) -> Array:
        """|Σ_k ζ_j^k|² = 4 / |1 − ζ_j|² of every slot."""
        roots = np.exp(1j * np.pi * slot_exponents(self.parameters.ring_degree)
                       / self.parameters.ring_degree)  # fmt: skip
        return np.asarray(4 / np.abs(1 - roots) ** 2)


@cache
def slot_exponents(degree: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """e_j with ζ_j = exp(iπ e_j / N), for every slot."""
    exponents = np.empty(degree // 2, dtype=np.int64)
    power = 1
    for slot in range(degree // 2):
        exponents[slot] = power
        power = power * GENERATOR % (2 * degree)
    return exponents


_ROWS = 64
"""Vectors transformed at a time: the spectrum of one takes 32 N bytes."""


def rounded(vectors: Array, scales: Array, degree: int) -> Array:
    """What slots hold once vectors (count, slots) are encoded at scales (count,) and rounded.

    Encoding divides by the embedding, multiplies by the scale and rounds each coefficient; this
    does the same with a discrete Fourier transform of length 2N over the odd exponents.
    """
    parts = [
        _rounded(vectors[start : start + _ROWS], scales[start : start + _ROWS], degree)
        for start in range(0, len(vectors), _ROWS)
    ]
    return np.concatenate(parts) if parts else np.array(vectors)


def _rounded(vectors: Array, scales: Array, degree: int) -> Array:
    exponents = slot_exponents(degree)
    spectrum = np.zeros((len(vectors), 2 * degree), dtype=np.complex128)
    spectrum[:, exponents] = vectors
    spectrum[:, 2 * degree - exponents] = vectors
    coefficients = np.fft.fft(spectrum)[:, :degree].real / degree
    whole = np.zeros((len(vectors), 2 * degree))
    whole[:, :degree] = np.rint(coefficients * scales[:, None]) / scales[:, None]
    return np.asarray(np.fft.ifft(whole)[:, exponents].real * 2 * degree)
