"""Runs a schedule with torch, on a GPU: the same steps as `kernels`, one tensor operation each.

Products of matrices are float64 products of exact integers below 2^53, so neither the order of a
sum nor fused arithmetic changes them; libraries that emulate float64 with narrower types must be
told not to (they do so only where asked). Products of two residues are taken in int64, where
a·b − q·p is exact modulo 2^64 and so exact, given q within one of the quotient.
"""

from collections.abc import Iterator

import numpy as np
import torch

from he_inference.backend.residues.schedule import (
    Clear,
    Finish,
    Load,
    Multiply,
    Register,
    Scale,
    Square,
    Store,
    check_queries,
    schedule,
)
from he_inference.errors import ServiceError
from he_inference.layouts.batched import BatchedPlan
from he_inference.wire import Residues

COEFFICIENTS_AT_ONCE = 512


class TorchResidueEvaluator:
    """As `ResidueEvaluator`, on a device of torch.

    coefficients: how many coefficients of one prime are held at a time; memory grows with it.
    """

    def __init__(
        self, plan: BatchedPlan, device: str = "cuda", *, coefficients: int = COEFFICIENTS_AT_ONCE
    ) -> None:
        self._schedule = schedule(plan)
        self._device = torch_device(device)
        self._coefficients = coefficients
        self._blocks = {
            number: self._on_device(step)
            for number, step in enumerate(self._schedule.steps)
            if isinstance(step, Multiply)
        }

    def evaluate(self, queries: Residues) -> Residues:
        """uint64 (features, 2, primes, N) → uint64 (outputs, components, primes, N).

        Raises `InputError` for another shape or type.
        """
        s = self._schedule
        check_queries(s, queries)
        answers = np.empty((s.outputs, s.components, len(s.primes), s.degree), dtype=np.uint64)
        for prime, chunk in self._chunks():
            part = np.array(queries[:, :, prime, chunk].view(np.int64))
            on_device = torch.from_numpy(part).to(self._device)
            result = _Chunk(self, prime).run(on_device.permute(1, 0, 2))
            words = result.permute(1, 0, 2).cpu().numpy()
            answers[:, :, prime, chunk] = words.view(np.uint64)
        return answers

    def _chunks(self) -> Iterator[tuple[int, slice]]:
        for prime in range(len(self._schedule.primes)):
            for start in range(0, self._schedule.degree, self._coefficients):
                yield prime, slice(start, min(start + self._coefficients, self._schedule.degree))

    def _on_device(self, step: Multiply) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        weights = torch.from_numpy(step.block.weights.astype(np.float64))
        gather, rows = (torch.from_numpy(i.ravel()) for i in (step.block.gather, step.block.rows))
        return weights.to(self._device), gather.to(self._device), rows.to(self._device)


def torch_device(name: str) -> torch.device:
    """Raises `ServiceError` for one that torch does not have."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        line = str(error).strip().splitlines()[0]
        raise ServiceError(f"device {name!r} cannot be used: {line:.200}") from None
    return device


class _Chunk:
    """Some coefficients of one prime; registers are (components, elements, coefficients)."""

    def __init__(self, evaluator: TorchResidueEvaluator, prime: int) -> None:
        self._schedule, self._blocks = evaluator._schedule, evaluator._blocks
        self._prime = self._schedule.primes[prime]
        constants = torch.from_numpy(self._schedule.constants[prime])
        self._constants = constants.to(evaluator._device)
        self._registers: dict[int, torch.Tensor] = {}

    def run(self, queries: torch.Tensor) -> torch.Tensor:
        """int64 (2, features, coefficients) → int64 (components, outputs, coefficients)."""
        for number, step in enumerate(self._schedule.steps):
            match step:
                case Load(target=target):
                    self._set(target, self._reduced(queries.to(torch.float64)))
                case Clear(target=target):
                    self._set(target, self._zeros(target, queries))
                case Multiply():
                    self._multiply(number, step, queries)
                case Finish(target=target, offset=start):
                    self._finish(target, start)
                case Square(source=source, target=target):
                    self._set(target, self._square(self._get(source)))
                case Scale(source=source, target=target, multiplier=index):
                    factor = self._constants[index]
                    self._set(target, self._product(self._get(source), factor))
                case Store(source=source):
                    result = self._get(source)
        return torch.where(result < 0, result + self._prime, result).to(torch.int64)

    def _get(self, register: Register) -> torch.Tensor:
        return self._registers[register.index]

    def _set(self, register: Register, value: torch.Tensor) -> None:
        self._registers[register.index] = value

    def _zeros(self, register: Register, like: torch.Tensor) -> torch.Tensor:
        shape = (register.components, register.elements, like.shape[-1])
        return torch.zeros(shape, dtype=torch.float64, device=like.device)

    def _multiply(self, number: int, step: Multiply, like: torch.Tensor) -> None:
        weights, gather, rows = self._blocks[number]
        source = self._get(step.source)
        components, coefficients = source.shape[0], source.shape[2]
        patches = source[:, gather].reshape(components, -1, weights.shape[1], coefficients)
        result = torch.matmul(weights, patches).reshape(components, -1, coefficients)
        if step.target.index not in self._registers:
            self._set(step.target, self._zeros(step.target, like))
        target = self._get(step.target)
        if step.add:
            target[:components, rows] += self._reduced(result)
        else:
            target[:, rows] = result

    def _finish(self, register: Register, start: int) -> None:
        value = self._get(register)
        value[0] += self._constants[start : start + register.elements, None]
        self._set(register, self._reduced(value))

    def _square(self, value: torch.Tensor) -> torch.Tensor:
        """Component k: Σ_(i + j = k) a_i a_j, the two orders of a pair at once."""
        top = len(value) - 1
        result = []
        for k in range(2 * top + 1):
            pairs = [(i, k - i) for i in range(max(0, k - top), k // 2 + 1)]
            total = torch.zeros_like(value[0])
            for i, j in pairs:
                total += self._product(value[i] * (1 if i == j else 2), value[j])
            result.append(self._reduced(total))
        return torch.stack(result)

    def _reduced(self, x: torch.Tensor) -> torch.Tensor:
        return x - torch.round(x * (1.0 / self._prime)) * self._prime

    def _product(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        quotient = torch.round(a * b * (1.0 / self._prime)).to(torch.int64)
        exact = a.to(torch.int64) * b.to(torch.int64) - quotient * self._prime
        return exact.to(torch.float64)
