"""What the steps of a single query take on one core of a machine: the numbers that plans add up.

Defaults are medians of one 2.6 GHz core with AVX-512; `calibration` measures another machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite, log2
from typing import Any, TypeVar

from he_inference.coefficient_signature import CoefficientSignature
from he_inference.cost import DEFAULT_PRICES, Prices

REFERENCE_DEGREE = 4096
_CLIENTS = ("encrypted", "slot")
"""Of `Prices`: what the client's work takes."""


@dataclass(frozen=True)
class CoefficientPrices:
    """Milliseconds of CPU for the coefficient layout, at N = 4096.

    ask, encrypt: at the client for a query, and for each of its ciphertexts. decrypt,
    decrypt_group: for an answer's ciphertext that holds one output, or several. serve, read,
    product, answer: at the server for a query, each of its ciphertexts, each product of one with
    weights, each of the answer's ciphertexts. hide: more for each of these, and each prime of the
    modulus, where answers are private.
    """

    ask: float = 0.35
    encrypt: float = 0.75
    decrypt: float = 0.36
    decrypt_group: float = 0.55
    serve: float = 0.40
    read: float = 0.06
    product: float = 0.011
    answer: float = 0.06
    hide: float = 0.09

    def client_ms(self, signature: CoefficientSignature) -> float:
        layout = signature.layout
        opening = self.decrypt if layout.group == 1 else self.decrypt_group
        work = self.encrypt * layout.queries + opening * layout.answers
        return self.ask + relative(layout.degree) * work

    def server_ms(self, signature: CoefficientSignature) -> float:
        layout = signature.layout
        hide = self.hide * len(signature.parameters.data_primes) if signature.private else 0.0
        work = self.read * layout.queries + (self.answer + hide) * layout.answers
        work += self.product * layout.queries * layout.answers
        return self.serve + relative(layout.degree) * work


USUAL = CoefficientPrices()


_Kind = TypeVar("_Kind", CoefficientPrices, Prices)


@dataclass(frozen=True)
class MachinePrices:
    """Those of both layouts for single queries, on one machine."""

    coefficients: CoefficientPrices = USUAL
    packed: Prices = DEFAULT_PRICES

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "MachinePrices":
        """Raises `ValueError` or `KeyError` for anything but numbers of at least 0."""
        return cls(_read(CoefficientPrices, value["coefficients"]), _read(Prices, value["packed"]))


def _read(kind: type[_Kind], value: Mapping[str, Any]) -> _Kind:
    numbers = {field.name: float(value[field.name]) for field in fields(kind)}
    if not all(isfinite(number) and number >= 0 for number in numbers.values()):
        raise ValueError("prices that are not numbers of at least 0")
    return kind(**numbers)


def scaled(prices: Prices, client: float, server: float) -> Prices:
    """Prices of a machine on which either side takes so many times as long."""
    factors = {field.name: server for field in fields(prices)} | dict.fromkeys(_CLIENTS, client)
    return Prices(**{name: factor * getattr(prices, name) for name, factor in factors.items()})


def relative(degree: int) -> float:
    """Work of a transform relative to N = 4096."""
    return degree * log2(degree) / (REFERENCE_DEGREE * log2(REFERENCE_DEGREE))
