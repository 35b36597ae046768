"""Messages of the coefficient layout, in the envelope of `wire`; queries are those of `wire`.

    keys   = a seeded encryption of zero modulo all data primes; nothing where answers are plain
    answer = ticket · count u32 · for each query: outputs u64 · polynomials

An output is one coefficient of c0, modulo the first prime; of the other coefficients nothing is
sent, so nothing that they hold can be read. A polynomial is c1, every coefficient without the low
bits that only noise reaches, packed to the bit.
"""

from dataclasses import dataclass

import numpy as np

from he_inference import wire
from he_inference.coefficient_signature import CoefficientSignature
from he_inference.errors import MessageError
from he_inference.wire import COUNT, TICKET_BYTES, Kind, Reader, Residues, Seeded


@dataclass(frozen=True, eq=False)
class CoefficientAnswer:
    """Answers to a message's queries.

    outputs: uint64 (queries, outputs). polynomials: uint64 (queries, answers, N), the c1 of every
    ciphertext of an answer. Both modulo the first prime.
    """

    ticket: bytes
    outputs: Residues
    polynomials: Residues


def key_bytes(signature: CoefficientSignature) -> int:
    """Of the body of a message of keys."""
    parameters = signature.parameters
    if not signature.needs_keys:
        return 0
    return wire.seeded_bytes(parameters.data_primes, parameters.ring_degree)


def answer_bytes(signature: CoefficientSignature) -> int:
    """Of the answer to one query."""
    layout = signature.layout
    return 8 * layout.outputs + layout.answers * signature.answer_bits * layout.degree // 8


def write_keys(signature: CoefficientSignature, zero: Seeded | None) -> bytes:
    parts = [] if zero is None else [wire.write_seeded([zero], signature.parameters.data_primes)]
    return wire.sealed(Kind.EVALUATION_KEYS, signature.digest, parts)


def read_keys(signature: CoefficientSignature, message: bytes) -> Seeded | None:
    """The reverse of `write_keys`; raises `MessageError`."""
    body = wire.opened(Kind.EVALUATION_KEYS, signature.digest, message, key_bytes(signature))
    if not signature.needs_keys:
        return None
    parameters = signature.parameters
    return Reader(body, parameters.ring_degree).seeded(1, parameters.data_primes)[0]


def write_answer(signature: CoefficientSignature, answer: CoefficientAnswer) -> bytes:
    """The polynomials' low bits are still on; they are cut here."""
    parts = [answer.ticket, COUNT.pack(len(answer.outputs))]
    cut, bits = signature.cut_bits, signature.answer_bits
    for outputs, polynomials in zip(answer.outputs, answer.polynomials, strict=True):
        parts.append(outputs.astype("<u8").tobytes())
        parts.append(wire.pack(wire.shift_down(polynomials.reshape(-1), cut, bits), bits))
    return wire.sealed(Kind.ANSWER, signature.digest, parts)


def read_answer(signature: CoefficientSignature, message: bytes) -> CoefficientAnswer:
    """The reverse of `write_answer`, up to the bits cut; raises `MessageError`."""
    layout, prime = signature.layout, signature.parameters.data_primes[0]
    count = wire.counted(message, Kind.ANSWER, signature.digest, TICKET_BYTES)
    fixed = TICKET_BYTES + COUNT.size
    length = fixed + count * answer_bytes(signature)
    body = wire.opened(Kind.ANSWER, signature.digest, message, length)
    reader = Reader(body[fixed:], layout.answers * layout.degree)
    outputs, polynomials = [], []
    for _ in range(count):
        outputs.append(np.frombuffer(reader.take(8 * layout.outputs), "<u8"))
        cut = reader.packed(signature.answer_bits) << np.uint64(signature.cut_bits)
        polynomials.append((cut % np.uint64(prime)).reshape(layout.answers, layout.degree))
    found = np.stack(outputs)
    if found.max() >= prime:
        raise MessageError(f"an output of {found.max()} is not below its prime {prime}")
    return CoefficientAnswer(bytes(body[:TICKET_BYTES]), found, np.stack(polynomials))
