"""Activations that survive encryption, as torch modules: what a network is trained with.

CKKS evaluates polynomials only. A network to be served under encryption is therefore trained with
these in place of ReLU; they multiply ciphertexts once for each doubling of the degree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy.typing as npt


class Square(nn.Module):
    """x², element by element: any shape in, the same shape out.

    The cheapest activation there is, and the one of CryptoNets (Gilad-Bachrach et al. 2016).
    It has no linear term, so it trains worse than `Polynomial.quadratic`.
    """

    def forward(self, values: Tensor) -> Tensor:
        """The squares of `values`."""
        return values * values


class Polynomial(nn.Module):
    """p(x) = Σ coefficients[k]·x^k, learnable, one polynomial for all channels or one for each.

    Shapes: values (batch, channels) or (batch, channels, height, width), the polynomial of channel
    c applied to values[:, c]; with shared coefficients, any shape. The output has the same shape.

    Attributes:
        coefficients: parameter of shape (degree + 1,) or (channels, degree + 1), float32 (float64
            where it was given as a float64 tensor or array), lowest degree first.
    """

    def __init__(self, coefficients: Tensor | npt.ArrayLike) -> None:
        """Start at the given coefficients, lowest degree first.

        Raises:
            ValueError: the shape is neither (degree + 1,) nor (channels, degree + 1), the degree is
                below one, or a coefficient is not finite.
        """
        super().__init__()
        start = torch.as_tensor(coefficients).detach().clone()
        if start.dtype != torch.float64 or isinstance(coefficients, Sequence):
            start = start.to(torch.float32)
        if start.ndim not in (1, 2) or start.shape[0] == 0 or start.shape[-1] < 2:
            raise ValueError(
                "Expected coefficients of shape (degree + 1,) or (channels, degree + 1) with a "
                f"degree of at least 1, lowest degree first; found shape {tuple(start.shape)}"
            )
        if not torch.isfinite(start).all():
            raise ValueError("Expected finite coefficients; found infinities or NaN")
        self.coefficients = nn.Parameter(start)

    @classmethod
    def quadratic(cls, channels: int) -> Self:
        """One quadratic for each channel, starting nearest to ReLU: x/2 + (x² + 1)/√(8π).

        Nearest in mean square for x ~ N(0, 1), which a BatchNorm before it provides: the first
        three terms of ReLU's Hermite series. Its vertex lies at -√(π/2), about -1.25.

        Raises:
            ValueError: channels < 1.
        """
        if channels < 1:
            raise ValueError(f"Expected channels={channels} >= 1")
        even = 1 / math.sqrt(8 * math.pi)
        return cls(torch.tensor([even, 0.5, even]).repeat(channels, 1))

    @property
    def degree(self) -> int:
        """The highest power."""
        return self.coefficients.shape[-1] - 1

    @property
    def channels(self) -> int | None:
        """How many channels have a polynomial of their own; None where all share one."""
        return self.coefficients.shape[0] if self.coefficients.ndim == 2 else None

    def forward(self, values: Tensor) -> Tensor:
        """p(values), by Horner's rule.

        Raises:
            ValueError: the polynomials are per channel and values.shape[1] is not their number.
        """
        terms = self._terms_along_channels(values)
        result = terms[-1]
        for term in reversed(terms[:-1]):
            result = result * values + term
        return result

    def extra_repr(self) -> str:
        """Degree and channels, for print(module)."""
        return f"degree={self.degree}, channels={self.channels}"

    def _terms_along_channels(self, values: Tensor) -> tuple[Tensor, ...]:
        """Each power's coefficients, lowest first, shaped to broadcast along dimension 1."""
        if self.channels is None:
            return self.coefficients.unbind()
        if values.ndim < 2 or values.shape[1] != self.channels:
            raise ValueError(
                f"Expected values of shape (batch, {self.channels}, ...), one channel for each "
                f"polynomial; found shape {tuple(values.shape)}"
            )
        return self.coefficients.view(-1, self.degree + 1, *[1] * (values.ndim - 2)).unbind(1)
