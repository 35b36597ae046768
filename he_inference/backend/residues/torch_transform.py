"""Weights to the NTT domain with torch, on a GPU: bit for bit what `transforms` does.

A stage is one tensor operation on all polynomials. Products of residues are taken in int64, where
a·w − q·p is exact modulo 2^64 and so exact; q, from float64, is within one of the quotient for
primes of up to 48 bits: its error is below 2^48 · 3 · 2^-53 and one rounding.
"""

import numpy as np
import numpy.typing as npt
import torch

from he_inference.backend.residues.torch_evaluator import torch_device
from he_inference.backend.residues.transforms import Floats, forward_roots

_AT_ONCE = 1 << 24
"""Coefficients on the device at a time: some 128 MB each of a few tensors."""


def torch_transformed(weights: npt.NDArray[np.int64], prime: int, device: str) -> Floats:
    """Coefficients (..., N) → float64 in the NTT domain, within prime / 2 of zero.

    Raises `ServiceError` for a device that torch does not have.
    """
    place, degree = torch_device(device), weights.shape[-1]
    roots = torch.from_numpy(forward_roots(degree, prime)).to(place)
    flat = weights.reshape(-1, degree)
    found = np.empty(flat.shape)
    for start in range(0, len(flat), max(1, _AT_ONCE // degree)):
        rows = slice(start, start + max(1, _AT_ONCE // degree))
        part = torch.from_numpy(np.ascontiguousarray(flat[rows])).to(place)
        values = _forward(part.remainder(prime), roots, prime)
        centred = torch.where(values > prime // 2, values - prime, values)
        found[rows] = centred.to(torch.float64).cpu().numpy()
    return found.reshape(weights.shape)


def _forward(rows: torch.Tensor, roots: torch.Tensor, prime: int) -> torch.Tensor:
    """int64 (rows, N) in [0, prime) → the same. Stage m has m groups, group i the root m + i."""
    count, degree = rows.shape
    groups = 1
    while groups < degree:
        halves = rows.reshape(count, groups, 2, degree // (2 * groups))
        factors = roots[groups : 2 * groups, None]
        left, right = halves[:, :, 0], _product(halves[:, :, 1], factors, prime)
        both = torch.stack([left + right, left - right], dim=2)
        rows = both.remainder(prime).reshape(count, degree)
        groups *= 2
    return rows


def _product(a: torch.Tensor, w: torch.Tensor, prime: int) -> torch.Tensor:
    """a·w modulo the prime, within 3/2 of it of zero."""
    quotient = torch.round(a.double() * w.double() / prime).to(torch.int64)
    return a * w - quotient * prime
