"""What a vote costs these teachers: Rényi divergence that is small where they agree.

A Gaussian mechanism of total μ has Rényi divergence ρ·λ at every order λ, ρ = μ²/2, whatever the
data. Where one outcome is likely, the divergence at these data is far smaller:

*Theorem 6 of Papernot et al. 2018 (arXiv 1802.08908).* Let M have divergence at most ε₁ at order
μ₁ and ε₂ at order μ₂, and let Pr[M(D) ≠ i*] ≤ q for some outcome i*. For 1 < λ ≤ μ₁, μ₂

    D_λ(M(D) ‖ M(D′)) ≤ log((1 − q)·A^(λ−1) + q·B^(λ−1)) / (λ − 1)
    A = (1 − q) / (1 − (q·e^ε₂)^((μ₂−1)/μ₂)),   B = e^ε₁ / q^(1/(μ₁−1))

and the bound increases with q while q ≤ e^((μ₂−1)ε₂) / (μ₁/(μ₁−1)·μ₂/(μ₂−1))^μ₂. The orders are
free: here the best of a fixed list is taken, μ₁ = μ₂ + 1, each only where it increases; so the
result increases with q everywhere, on which `sensitivity` rests.
"""

import math

import numpy as np

from private_models.accounting import check_delta
from private_models.errors import OptionError
from private_models.noise import Array

_RATIOS = np.geomspace(1, 1000, 64)
"""Orders μ₂ over λ that are tried; the best is √(ln(1/q)/ρ)."""


def check_order(order: float) -> None:
    """Raise `OptionError` for what is no Rényi order."""
    if not (math.isfinite(order) and order > 1):
        raise OptionError(f"Rényi order {order}: expected more than 1")


def likely_outcome_divergence(log_q: Array, rho: float, order: float) -> Array:
    """D_λ at data whose likely outcome fails with probability at most q, same shape as `log_q`.

    log_q: natural logarithms, at most 0. rho: of the mechanism whatever the data, over 0.
    Never more than rho·order, and increasing in q. Raises `OptionError`.
    """
    check_order(order)
    if not (math.isfinite(rho) and rho > 0):
        raise OptionError(f"rho {rho}: expected a number over 0")
    logs = np.minimum(np.asarray(log_q, np.float64), 0.0)
    best = np.full(logs.shape, rho * order)
    for second in order * _RATIOS:
        first = second + 1
        increases = (second - 1) * rho * second - second * (
            math.log1p(1 / (first - 1)) + math.log1p(1 / (second - 1))
        )
        fine = (logs <= increases) & (logs + rho * second < 0)
        found = _theorem_six(logs[fine], rho, order, first, second)
        best[fine] = np.minimum(best[fine], found)
    return best


def _theorem_six(log_q: Array, rho: float, order: float, first: float, second: float) -> Array:
    stays = np.log1p(-np.exp(log_q))
    with np.errstate(under="ignore"):
        leaves = np.log1p(-np.exp((log_q + rho * second) * (1 - 1 / second)))
    likely = stays + (order - 1) * (stays - leaves)
    rest = log_q + (order - 1) * (rho * first - log_q / (first - 1))
    return np.maximum(np.logaddexp(likely, rest) / (order - 1), 0.0)


def epsilon_of_divergence(divergence: float, order: float, delta: float) -> float:
    """ε at δ of a mechanism with this Rényi divergence at this order, at least 0.

    (Canonne, Kamath & Steinke 2020, arXiv 2004.00010, proposition 12.)
    """
    check_order(order)
    check_delta(delta)
    gained = math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
    return max(0.0, divergence + gained)
