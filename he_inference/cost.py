"""What a program costs: bytes exactly, milliseconds as an estimate.

The estimate prices each instruction by SEAL 4.3's arithmetic at N = 8192 on one 2.6 GHz core
without vector instructions, as fitted to measured medians; it serves to choose between programs
and to tell people what to expect, not to compare machines.
"""

from dataclasses import dataclass
from math import log2

from he_inference.parameters import Parameters
from he_inference.program import Instruction, Program
from he_inference.signature import Signature

SEED_BYTES = 64


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


def cost(program: Program) -> Cost:
    """Estimate one query."""
    parameters = program.parameters
    degree, top = parameters.ring_degree, len(parameters.data_primes)
    return Cost(
        server_ms=sum(instruction_ms(i, degree) for i in program.instructions),
        client_ms=_relative(degree) * (3.0 + 0.9 * top),
        upload_bytes=upload_bytes(parameters),
        download_bytes=download_bytes(program.signature),
        key_bytes=key_bytes(program.signature),
    )


def instruction_ms(i: Instruction, degree: int) -> float:
    """Milliseconds of one instruction; `i.level` is that of its result."""
    level = i.level
    match i.operation:
        case "rotate" | "relinearise":
            price = 0.10 * level * level + 0.30 * level + 0.18
        case "rescale":
            price = 0.085 * i.size * (level + 1) + 0.05
        case "multiply":
            price = 0.065 * level + 0.05
        case "multiply_plain":
            price = 0.022 * i.size * level + 0.01
        case "add":
            price = 0.008 * i.size * level
        case "input":
            price = 0.5 + 0.3 * level
        case _:
            price = 0.005 * level
    return price * _relative(degree)


def _relative(degree: int) -> float:
    """Work of a transform relative to N = 8192."""
    return degree * log2(degree) / (8192 * 13)
