"""Encryption parameters: a plain literal in, a checked and frozen value out.

The bound on the modulus is the stricter one of two tables, both for ternary secrets and 128 bits
against classical attacks: the Homomorphic Encryption Standard (Albrecht et al. 2018, Table 1; 109,
218, 438, 881 bits, what SEAL enforces) and the newer estimates of Bossuat et al. (ePrint 2024/463;
106, 214, 430, 868 bits). The special prime counts: evaluation keys are made modulo all primes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import log2
from typing import Any

from he_inference.errors import ParameterError

SECURITY_BITS = 128
MAX_LOG_MODULUS = {4096: 106, 8192: 214, 16384: 430, 32768: 868}
MAX_PRIMES = 64
MAX_PRIME_BITS = 60
"""SEAL keeps each residue in a 64-bit word and allows primes of at most 60 bits."""
EXACT_PRIME_BITS = 48
"""Of primes modulo which float64 transforms are exact: what `backend.residues` evaluates."""


@dataclass(frozen=True)
class ParametersLiteral:
    """What one wishes for: a ring degree, and the size in bits of every prime."""

    ring_degree: int
    data_bits: tuple[int, ...]
    special_bits: int

    def resolve(self) -> "Parameters":
        """Find the primes. Raises `ParameterError` where the wish is not secure or not possible."""
        _check_degree(self.ring_degree)
        for bits in (*self.data_bits, self.special_bits):
            if not 2 <= bits <= MAX_PRIME_BITS:
                raise ParameterError(f"a prime of {bits} bits: expected 2 to {MAX_PRIME_BITS}")
        chosen: list[int] = []
        for bits in (*self.data_bits, self.special_bits):
            chosen.append(_largest_prime(self.ring_degree, bits, chosen))
        return Parameters(self.ring_degree, tuple(chosen[:-1]), chosen[-1])


@dataclass(frozen=True)
class Parameters:
    """CKKS parameters that hold 128-bit security.

    ring_degree: N, a power of two; a ciphertext has N/2 slots.
    data_primes: q_0 … q_{L-1}; rescaling drops them from the last one down.
    special_prime: P, used only inside key switching.
    """

    ring_degree: int
    data_primes: tuple[int, ...]
    special_prime: int

    def __post_init__(self) -> None:
        _check_degree(self.ring_degree)
        if not self.data_primes:
            raise ParameterError("no data primes: give at least one")
        if len(self.primes) > MAX_PRIMES:  # before anything that takes time for each of them
            raise ParameterError(f"{len(self.primes)} primes: at most {MAX_PRIMES} are accepted")
        if len(set(self.primes)) != len(self.primes):
            raise ParameterError(f"primes repeat in {self.primes}: all must differ")
        for prime in self.primes:
            self._check_prime(prime)
        bound = MAX_LOG_MODULUS[self.ring_degree]
        if self.total_bits > bound:
            raise ParameterError(
                f"log2 of the whole modulus is {self.total_bits}, over the {bound} bits that "
                f"N = {self.ring_degree} allows at {SECURITY_BITS}-bit security: "
                "use fewer or smaller primes, or a larger ring"
            )

    def _check_prime(self, prime: int) -> None:
        if prime.bit_length() > MAX_PRIME_BITS:
            raise ParameterError(f"prime {prime} has more than {MAX_PRIME_BITS} bits")
        if prime % (2 * self.ring_degree) != 1 or not is_prime(prime):
            raise ParameterError(
                f"{prime} is not a prime congruent to 1 modulo {2 * self.ring_degree}"
            )

    @property
    def primes(self) -> tuple[int, ...]:
        """Data primes, then the special one: SEAL's order."""
        return (*self.data_primes, self.special_prime)

    @property
    def slots(self) -> int:
        return self.ring_degree // 2

    @property
    def total_bits(self) -> int:
        """Bits of the product of all primes."""
        product = 1
        for prime in self.primes:
            product *= prime
        return product.bit_length()

    def log_modulus(self, level: int) -> float:
        """log2 of the modulus of a ciphertext that has `level` primes left."""
        return sum(log2(prime) for prime in self.data_primes[:level])

    @property
    def digest(self) -> bytes:
        """32 bytes that name these parameters."""
        text = f"ckks {self.ring_degree} {self.data_primes} {self.special_prime}"
        return sha256(text.encode()).digest()

    def to_json(self) -> dict[str, Any]:
        return {
            "ring_degree": self.ring_degree,
            "data_primes": list(self.data_primes),
            "special_prime": self.special_prime,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Parameters":
        """Rebuild and check again: parameters that came over a wire are trusted no more."""
        try:
            degree, special = value["ring_degree"], value["special_prime"]
            data = tuple(value["data_primes"])
        except (KeyError, TypeError) as error:
            raise ParameterError(f"not encryption parameters: {error!r:.120}") from None
        if not all(type(n) is int and 0 < n < 1 << 64 for n in (degree, special, *data)):
            raise ParameterError("not encryption parameters: expected positive integers")
        return cls(degree, data, special)


def _check_degree(ring_degree: int) -> None:
    if ring_degree not in MAX_LOG_MODULUS:
        raise ParameterError(
            f"ring degree {ring_degree} is not supported: use one of "
            f"{', '.join(map(str, MAX_LOG_MODULUS))}"
        )


def _largest_prime(ring_degree: int, bits: int, taken: Iterable[int]) -> int:
    """The largest prime of `bits` bits congruent to 1 modulo 2N and not yet taken."""
    for candidate in _candidates(ring_degree, bits):
        if candidate not in taken and is_prime(candidate):
            return candidate
    raise ParameterError(
        f"no unused prime of {bits} bits is congruent to 1 modulo {2 * ring_degree}"
    )


def _candidates(ring_degree: int, bits: int) -> Iterator[int]:
    step = 2 * ring_degree
    top, bottom = 1 << bits, 1 << (bits - 1)
    return iter(range(top - step + 1, bottom, -step))


_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)


def is_prime(n: int) -> bool:
    """Miller–Rabin, deterministic below 3.3e24 (Sorenson and Webster 2015)."""
    if n < 2 or any(n % p == 0 for p in _WITNESSES):
        return n in _WITNESSES
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(_passes(n, witness, odd, twos) for witness in _WITNESSES)


def _passes(n: int, witness: int, odd: int, twos: int) -> bool:
    x = pow(witness, odd, n)
    if x in (1, n - 1):
        return True
    for _ in range(twos - 1):
        x = x * x % n
        if x == n - 1:
            return True
    return False
