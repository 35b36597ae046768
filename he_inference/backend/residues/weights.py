"""Vectors of slots as rows of residues in the NTT domain, encoded as SEAL's CKKS encoder does.

Slot j is the value at ζ^(3^j), so that coefficients are a discrete Fourier transform of length 2N
over odd exponents (see `noise`). They are rounded to integers, which may exceed 2⁵³: as float64
their remainders are exact all the same. SEAL's transform adds up in another order: where a
coefficient is so large that float64 does not hold halves, it may differ by units of the last place.
"""

import numpy as np

from he_inference.backend.residues.memory import aligned
from he_inference.backend.residues.transforms import Floats, Residues, Transform
from he_inference.nodes import Array
from he_inference.noise import slot_exponents


def coefficients(vector: Array, scale: float, degree: int) -> Floats:
    """(slots,) → (N,) integers.

    Where all would be zero the first is 1: SEAL refuses to multiply by zero, and programs mean the
    same with either evaluator.
    """
    exponents = slot_exponents(degree)
    spectrum = np.zeros(2 * degree, dtype=np.complex128)
    spectrum[exponents] = vector
    spectrum[2 * degree - exponents] = vector
    found = np.rint(np.fft.fft(spectrum)[:degree].real * (scale / degree))
    if not found.any():
        found[0] = 1.0
    return np.asarray(found)


def encode(vector: Array, scale: float, level: int, transform: Transform) -> Floats:
    """(slots,) → (level, N), in the NTT domain, centred."""
    whole = coefficients(vector, scale, transform.degree)
    rows = aligned(level, transform.degree)
    for m, prime in enumerate(transform.primes[:level]):
        words = np.fmod(whole, prime).astype(np.int64) % prime
        residues = words.astype(np.uint64)
        transform.forward(residues, m)
        rows[m] = centred(residues, prime)
    return rows


def centred(residues: Residues, prime: int) -> Floats:
    """uint64 in [0, p) → float64 within p/2 of zero."""
    signed = residues.astype(np.int64)
    return np.asarray(np.where(signed > prime // 2, signed - prime, signed), dtype=np.float64)
