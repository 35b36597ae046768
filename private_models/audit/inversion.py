"""What does a member of this class look like? MI-FACE (Fredrikson, Jha & Ristenpart 2015, CCS).

Gradient descent on an input, from a neutral one, until the model is sure of the class (algorithm 1
there: cost 1 − p(class | x), values kept in their range, stop when the cost no longer falls). What
comes out is what the model finds typical. Whether that is anybody's is measured: it is compared
with the mean of the members of the class and with that of others who were not in the data; only
what it has more of the members is memory.
"""

from dataclasses import dataclass

import numpy as np
import torch

from private_models.audit.findings import NO_REASSURANCE
from private_models.errors import InputError, OptionError
from private_models.noise import Array

_PATIENCE = 20
"""Steps without a lower cost after which descent ends."""


@dataclass(frozen=True)
class Inversion:
    """One input that a class was inverted to.

    Attributes:
        found: the input, as shaped as the start. confidence: p(class | found).
        like_members, like_others: Pearson correlation with the mean of the class among members, and
        among rows that were not in the data; None without any.
    """

    label: int
    found: Array
    confidence: float
    like_members: float | None
    like_others: float | None
    note: str = NO_REASSURANCE


def invert(
    module: torch.nn.Module,
    label: int,
    start: Array,
    limits: tuple[float, float],
    members: Array | None = None,
    others: Array | None = None,
    steps: int = 300,
    rate: float = 0.02,
) -> Inversion:
    """Descend from `start` (one input) to one that `module` gives to class `label`.

    module: from a batch of inputs to scores (batch, K), differentiable. limits: of every value.
    members, others: rows of this class, each as shaped as `start`. rate: of the limits' width, for
    a step along the normalised gradient. Raises `InputError` and `OptionError`.
    """
    low, high = limits
    if not (low < high and np.isfinite([low, high]).all() and np.isfinite(start).all()):
        raise InputError(f"limits {limits} and a start within them: expected finite numbers")
    if steps < 1 or not rate > 0:
        raise OptionError(f"{steps} steps of rate {rate}: expected numbers over 0")
    module = module.eval()
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    x = torch.from_numpy(np.clip(start, low, high)).to(dtype)[None]
    best, least, waited = x, float("inf"), 0
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        cost = _cost(module, x, label)
        value = float(cost.detach())
        if value < least:
            best, least, waited = x.detach(), value, 0
        else:
            waited += 1
            if waited == _PATIENCE:
                break
        (slope,) = torch.autograd.grad(cost, x)
        largest = float(slope.abs().max())
        if largest == 0:
            break
        x = (x - rate * (high - low) * slope / largest).clamp(low, high)
    found = best[0].double().numpy()
    return Inversion(
        label, found, 1 - least, _likeness(found, members, start), _likeness(found, others, start)
    )


def _cost(module: torch.nn.Module, x: torch.Tensor, label: int) -> torch.Tensor:
    scores = module(x)
    if scores.ndim != 2 or not 0 <= label < scores.shape[1]:
        raise InputError(f"class {label}: the model gives scores of shape {tuple(scores.shape)}")
    return 1 - torch.softmax(scores, 1)[0, label]


def _likeness(found: Array, rows: Array | None, start: Array) -> float | None:
    """Of what changed from the start, with how the rows' mean differs from it."""
    if rows is None or not len(rows):
        return None
    changed, mean = (found - start).ravel(), (rows.mean(axis=0) - start).ravel()
    length = float(np.linalg.norm(changed) * np.linalg.norm(mean))
    return float(changed @ mean) / length if length else 0.0
