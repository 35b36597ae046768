"""The sums of `arithmetic` by torch, on an accelerator."""

from collections.abc import Iterable

import numpy as np
import torch

from private_models.arithmetic import ScaledChunk
from private_models.features import Chunk
from private_models.noise import Array


class TorchArithmetic:
    """torch in float64 on a device; the same sums."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def _load(self, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        rows, labels = chunk
        return torch.from_numpy(rows).to(self._device), torch.from_numpy(labels).to(self._device)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self._device)

    def gradient(self, chunks: Iterable[Chunk], weights: Array, clip_norm: float) -> Array:
        head, total = torch.from_numpy(weights).to(self._device), self._zeros(*weights.shape)
        for chunk in chunks:
            rows, labels = self._load(chunk)
            residual = torch.softmax(rows @ head, 1)
            residual[torch.arange(len(labels), device=self._device), labels] -= 1
            lengths = rows.norm(dim=1) * residual.norm(dim=1)
            total += rows.T @ (residual * (clip_norm / lengths).clamp(max=1)[:, None])
        return _array(total)

    def scaled_gradient(
        self, chunks: Iterable[ScaledChunk], bias: float, weights: Array, clip_norm: float
    ) -> Array:
        head = torch.from_numpy(weights[:-1] if bias else weights).to(self._device)
        constant = torch.from_numpy(bias * weights[-1]).to(self._device)
        by_rows, by_constant = self._zeros(*head.shape), self._zeros(weights.shape[1])
        for chunk in chunks:
            rows, labels = self._load((chunk.rows, chunk.labels))
            scale = torch.from_numpy(chunk.scale).to(self._device)
            logits = (rows @ head) * scale[:, None]
            residual = torch.softmax(logits + constant if bias else logits, 1)
            residual[torch.arange(len(labels), device=self._device), labels] -= 1
            lengths = ((rows.norm(dim=1) * scale) ** 2 + bias**2).sqrt() * residual.norm(dim=1)
            residual *= (clip_norm / lengths).clamp(max=1)[:, None]
            by_rows += rows.T @ (residual * scale[:, None])
            by_constant += residual.sum(0)
        total = _array(by_rows)
        return np.vstack([total, bias * _array(by_constant)]) if bias else total

    def gram(self, chunks: Iterable[Chunk], width: int) -> Array:
        total = self._zeros(width, width)
        for chunk in chunks:
            rows, _ = self._load(chunk)
            total += rows.T @ rows
        return _array(total)

    def class_sums(self, chunks: Iterable[Chunk], width: int, classes: int) -> Array:
        total = self._zeros(width, classes)
        for chunk in chunks:
            rows, labels = self._load(chunk)
            total += rows.T @ torch.nn.functional.one_hot(labels, classes).double()
        return _array(total)

    def logistic(self, chunks: Iterable[Chunk], weights: Array) -> tuple[Array, Array]:
        head = torch.from_numpy(weights).to(self._device)
        width, classes = weights.shape
        gradient, hessian = self._zeros(width, classes), self._zeros(classes, width, width)
        for chunk in chunks:
            rows, labels = self._load(chunk)
            probability = torch.sigmoid(rows @ head)
            curvature = probability * (1 - probability)
            for k in range(classes):
                hessian[k] += rows.T @ (rows * curvature[:, k : k + 1])
            probability[torch.arange(len(labels), device=self._device), labels] -= 1
            gradient += rows.T @ probability
        return _array(gradient), _array(hessian)


def _array(tensor: torch.Tensor) -> Array:
    return tensor.cpu().numpy()
