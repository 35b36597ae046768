"""What a program costs: bytes exactly, milliseconds as an estimate.

Time is priced by what is done: transforms, products, rows that pass through memory, residues that
are read. `Prices` has what each takes on one core; its defaults are medians on a 2.6 GHz core with
AVX-512. A calibrated instance makes the same estimate for another machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2

from he_inference.fusion import Fusion, Sum
from he_inference.parameters import Parameters
from he_inference.program import Instruction, Program
from he_inference.signature import Signature

SEED_BYTES = 64


@dataclass(frozen=True)
class Prices:
    """Nanoseconds of one core."""

    butterfly: float = 0.29
    """Two coefficients of a transform, either way: N/2 · log2 N of them for a row."""
    key_product: float = 0.5
    """A coefficient of a digit times both rows of a key, added up."""
    weight_product: float = 0.75
    """A coefficient of both components times a weight, added up."""
    row: float = 0.3
    """A coefficient of a row that is read, moved, added or written once more."""
    square: float = 0.75
    """A coefficient of a product of two ciphertexts."""
    residue: float = 22.0
    """A residue of a query: read, checked, its partner drawn from the seed."""
    encrypted: float = 125.0
    """A residue of a query: encrypted, saved and packed by the client."""
    slot: float = 450.0
    """A slot that the client encodes and later decodes."""


DEFAULT_PRICES = Prices()


@dataclass(frozen=True)
class Cost:
    """Estimates and sizes of one query, and of a client's keys."""

    server_ms: float
    client_ms: float
    upload_bytes: int
    download_bytes: int
    key_bytes: int


def packed_bytes(primes: tuple[int, ...], degree: int) -> int:
    """Bytes of one polynomial with each residue in as many bits as its prime has."""
    return sum(prime.bit_length() for prime in primes) * degree // 8


def upload_bytes(parameters: Parameters) -> int:
    """One seeded ciphertext: a polynomial, and the seed of the other."""
    return packed_bytes(parameters.data_primes, parameters.ring_degree) + SEED_BYTES


def download_bytes(signature: Signature) -> int:
    """Two polynomials modulo the first prime, without the low bits that hold only noise."""
    return sum(signature.response_bits) * signature.parameters.ring_degree // 8


def key_bytes(signature: Signature) -> int:
    """All evaluation keys, seeded: for level l, l digits of one polynomial modulo l + 1 primes."""
    parameters = signature.parameters
    return sum(
        level * (packed_bytes(key_primes(parameters, level), parameters.ring_degree) + SEED_BYTES)
        for level in signature.keys.levels
    )


def key_primes(parameters: Parameters, level: int) -> tuple[int, ...]:
    """The primes of a key for a level: the first data primes, then the special one."""
    return (*parameters.data_primes[:level], parameters.special_prime)


def cost(program: Program, prices: Prices = DEFAULT_PRICES) -> Cost:
    """Estimate one query."""
    parameters = program.parameters
    return Cost(
        server_ms=server_ms(program.instructions, parameters.ring_degree, prices),
        client_ms=client_ms(parameters, prices),
        upload_bytes=upload_bytes(parameters),
        download_bytes=download_bytes(program.signature),
        key_bytes=key_bytes(program.signature),
    )


def client_ms(parameters: Parameters, prices: Prices = DEFAULT_PRICES) -> float:
    """Encrypting one query and decrypting its answer."""
    degree, top = parameters.ring_degree, len(parameters.data_primes)
    return (prices.encrypted * top * degree + prices.slot * degree / 2) / 1e6


def server_ms(
    instructions: Sequence[Instruction], degree: int, prices: Prices = DEFAULT_PRICES
) -> float:
    """Evaluating one query, as `backend.residues` does it; a level counts primes that are left."""
    return sum(_nanoseconds(instructions, _Work(degree, prices))) / 1e6


class _Work:
    """What steps take at one ring degree, in nanoseconds."""

    def __init__(self, degree: int, prices: Prices) -> None:
        self.transform = prices.butterfly * degree / 2 * log2(degree)
        self.row, self.weight = prices.row * degree, prices.weight_product * degree
        self.square, self.key = prices.square * degree, prices.key_product * degree
        self.residue = prices.residue * degree

    def digits(self, level: int) -> float:
        return level * self.transform

    def spread(self, level: int) -> float:
        """Digits modulo the other primes and the special one."""
        return level * level * self.transform

    def switch(self, level: int, moved: bool) -> float:
        """Products with a key; moved: where every sum is permuted and added to others."""
        return (level + 1) * (level * self.key + (4 * self.row if moved else 0.0))

    def divide(self, level: int, size: int) -> float:
        """By one prime: `level` others are left."""
        return size * (self.transform + level * (self.transform + 2 * self.row))

    def sum(
        self, found: Sum, level: int, fusion: Fusion, spread: set[int], deferred: bool
    ) -> float:
        """spread: registers whose digits are there already; more are added."""
        total = 2 * level * self.row * len(found.others) + level * self.weight * len(found.products)
        for register, _ in found.rotations:
            if register not in spread:
                total += self.digits(level) + self.spread(level)
            if fusion.shared(register):
                spread.add(register)
            total += self.switch(level, len(found.rotations) > 1) + 2 * level * self.row
        if found.rotations:
            total += self.divide(level, 1 if deferred else 2)
        return total


def _nanoseconds(instructions: Sequence[Instruction], work: _Work) -> Iterator[float]:
    fusion, spread = Fusion(instructions), set[int]()
    for index, i in enumerate(instructions):
        level = i.level
        if index in fusion.absorbed:
            continue
        match i.operation:
            case "rotate" | "add" | "multiply_plain":
                deferred = index in fusion.deferred
                yield work.sum(fusion.sum(index), level, fusion, spread, deferred)
            case "relinearise":
                yield work.digits(level) + work.spread(level) + work.switch(level, moved=False)
                yield work.divide(level, 2)
            case "rescale":
                yield work.divide(level, i.size)
            case "multiply":
                yield level * work.square
            case "add_plain":
                yield level * work.row
            case "input":
                yield level * work.residue
