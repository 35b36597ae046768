"""What the steps of a single query take on one core of a machine: the numbers that plans add up.

Defaults are medians of one 2.6 GHz core with AVX-512; `calibration` measures another machine.
"""

from dataclasses import dataclass, fields
from math import isfinite, log2
from typing import Any

from he_inference.coefficient_signature import CoefficientSignature

REFERENCE_DEGREE = 4096


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

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "CoefficientPrices":
        """Raises `ValueError` or `KeyError` for anything but positive numbers."""
        prices = cls(**{field.name: float(value[field.name]) for field in fields(cls)})
        if not all(isfinite(v) and v >= 0 for v in vars(prices).values()):
            raise ValueError("prices that are not numbers of at least 0")
        return prices


USUAL = CoefficientPrices()


def relative(degree: int) -> float:
    """Work of a transform relative to N = 4096."""
    return degree * log2(degree) / (REFERENCE_DEGREE * log2(REFERENCE_DEGREE))
