"""`he_inference.coefficient_cipher` and what it rests on: SEAL encrypts integers modulo one prime.

Encoding at scale 1 is exact; an encryption at the lowest level is modulo the first prime alone,
with errors and a seed of its own; one secret serves both moduli.
"""

from __future__ import annotations

from math import isqrt, log2, prod, sqrt

import numpy as np
import pytest
import tenseal.sealapi as seal
from scipy.stats import chi2

from he_inference.backend import seal as backend
from he_inference.backend import seal_format
from he_inference.backend.residues.transforms import Transform
from he_inference.backend.seal import KeyHolder
from he_inference.coefficient_cipher import CoefficientCipher
from he_inference.coefficient_compiler import RING_DEGREES, SPECIAL_BITS, compile_coefficients
from he_inference.embedding import slots_of
from he_inference.layouts.batched import MAX_PRIME_BITS
from he_inference.nodes import Array
from he_inference.parameters import MAX_LOG_MODULUS, Parameters, ParametersLiteral
from he_inference.tickets import Tickets
from he_inference.wire import Residues, Seeded
from tests.test_coefficient_flow import linear, phase
from tests.test_sanitiser import DEVIATIONS, Objects, Owner, centred

P_VALUE = 1e-9
PARAMETERS = ParametersLiteral(4096, (30, 42), 17).resolve()


def coefficients(degree: int, top: int) -> dict[str, Array]:
    rng, alternating = np.random.default_rng(degree), 1.0 - 2.0 * (np.arange(degree) % 2)
    return {
        "random": rng.integers(-top, top + 1, degree).astype(float),
        "all": np.full(degree, float(top)),
        "alternating": top * alternating,
        "signs": top * rng.choice([-1.0, 1.0], degree),
        "one": np.where(np.arange(degree) == degree - 1, float(top), 0.0),
    }


def encoded(parameters: Parameters, wanted: Array) -> Objects:
    """The coefficients of SEAL's plaintext modulo all data primes, centred."""
    context = backend._context(parameters, len(parameters.data_primes))
    plain, name = seal.Plaintext(), list(backend._parms_ids(parameters)[-1])
    seal.CKKSEncoder(context).encode(slots_of(wanted).tolist(), name, 1.0, plain)
    rows = seal_format.read_plaintext(backend._saved(plain), len(parameters.data_primes)).copy()
    transform = Transform(parameters.ring_degree, parameters.data_primes)
    total, modulus = 0, prod(parameters.data_primes)
    for number, (row, p) in enumerate(zip(rows, parameters.data_primes, strict=True)):
        transform.inverse(row, number)
        rest = modulus // p
        total = total + row.astype(object) * (rest * pow(rest, -1, p))
    return np.asarray(centred(total, modulus))


@pytest.mark.parametrize("degree", RING_DEGREES)
@pytest.mark.parametrize("kind", coefficients(8, 1))
@pytest.mark.parametrize("bits", [1, 20, MAX_PRIME_BITS - 2, 45])
def test_integers_are_encoded_exactly(degree: int, kind: str, bits: int) -> None:
    """By way of slots and back in float64, up to 2^45; a query's are below 2^40."""
    wide = ParametersLiteral(degree, (42, 41), 17).resolve()
    wanted = coefficients(degree, 1 << bits)[kind]
    assert np.array_equal(encoded(wide, wanted), wanted.astype(np.int64).astype(object))


def test_larger_ones_are_not_exact() -> None:
    """So there is a limit, and the tests above would see it."""
    wide = ParametersLiteral(4096, (42, 41), 17).resolve()
    wanted = coefficients(4096, (1 << 51) - 1)["random"]
    assert not np.array_equal(encoded(wide, wanted), wanted.astype(np.int64).astype(object))


# ---------------------------------------------------------------------------- encryption


def encrypted(holder: KeyHolder, wanted: Array) -> list[Seeded]:
    return list(holder.encrypt_coefficients(slots_of(wanted)))


def test_queries_are_modulo_the_first_prime_alone() -> None:
    """Errors at most 21 with the variance 21/2, whatever is encrypted; half and twice rejected."""
    owner = Owner(PARAMETERS)
    q = PARAMETERS.data_primes[0]
    wanted = np.stack(list(coefficients(4096, (1 << 28) - 1).values()))
    errors = []
    for ciphertext, row in zip(encrypted(owner.holder, wanted), wanted, strict=True):
        assert ciphertext.residues.shape == (1, 4096) and ciphertext.residues.max() < q
        found = centred(phase(owner, ciphertext) - row.astype(np.int64).astype(object), q)
        assert np.abs(found).max() <= 21
        errors.append(found.astype(float))
    squares = float(np.square(errors).sum()) / 10.5
    count = wanted.size
    low, high = chi2.ppf(P_VALUE, count), chi2.isf(P_VALUE, count)
    assert low < squares < high
    assert not low < 4 * squares < high and not low < squares / 4 < high
    # Independent from one ciphertext to the next, and from what is encrypted.
    correlations = np.corrcoef(np.concatenate([errors, wanted[[0, 3]]]))
    assert np.abs(correlations[~np.eye(7, dtype=bool)]).max() < DEVIATIONS / sqrt(4096)


def test_every_ciphertext_has_a_fresh_seed() -> None:
    holder = KeyHolder(PARAMETERS)
    found = encrypted(holder, np.zeros((64, 4096))) + [holder.zero() for _ in range(8)]
    assert len({ciphertext.seed for ciphertext in found}) == len(found)
    again = KeyHolder(PARAMETERS, holder.secret)
    assert again.zero().seed not in {ciphertext.seed for ciphertext in found}
    residues = {ciphertext.residues[0].tobytes() for ciphertext in found}
    assert len(residues) == len(found)


def test_one_secret_serves_both_moduli() -> None:
    """Modulo q, and modulo q·Q in the encryption of zero: the same ternary s.

    A sample of ring LWE modulo q·Q, reduced modulo q, is one modulo q with the same error. So
    queries give nothing beside more samples of the larger modulus, which is what is bounded.
    """
    owner = Owner(PARAMETERS)
    assert set(owner.short_secret) == {-1, 0, 1}
    zero = owner.phase(owner.expanded(owner.holder.zero()))
    assert np.abs(zero).max() <= 21
    reduced = owner.holder.zero()
    alone = Seeded(reduced.residues[:1], reduced.seed)
    assert np.abs(phase(owner, alone)).max() <= 21


@pytest.mark.parametrize("response", ["private", "plain"])
@pytest.mark.parametrize("precision", [2, 10, 14])
def test_every_prime_counts_towards_security(response: str, precision: float) -> None:
    """The special prime too, though no key is switched: SEAL's secret is made modulo all."""
    network, x = linear(300, 3)
    for compiled in compile_coefficients(network, x, precision=precision, response=response):  # type: ignore[arg-type]
        parameters = compiled.parameters
        bound = MAX_LOG_MODULUS[parameters.ring_degree]
        assert parameters.total_bits == prod(parameters.primes).bit_length() <= bound
        assert parameters.special_prime.bit_length() == SPECIAL_BITS
        assert max(parameters.data_primes).bit_length() <= MAX_PRIME_BITS
        assert len(parameters.data_primes) == (1 if response == "plain" else
                                               len(parameters.data_primes))  # fmt: skip
        assert compiled.facts()["security_bits"] == 128


# ---------------------------------------------------------------------------- decryption


@pytest.mark.parametrize("group", [1, 2, 5])
def test_outputs_are_read_from_their_coefficients(group: int) -> None:
    """Exactly but for float64, whatever the other coefficients are."""
    network, x = linear(40, 5)
    found = compile_coefficients(network, x, precision=12, response="plain")
    compiled = next(c for c in found if c.signature.group == group)
    s, holder = compiled.signature, KeyHolder(compiled.parameters)
    cipher = CoefficientCipher(s, holder, Tickets(holder.secret))
    owner, q = Owner(s.parameters, holder), s.parameters.data_primes[0]
    rng = np.random.default_rng(group)
    wanted = rng.integers(-(q // 4), q // 4, 5)
    polynomials: Residues = rng.integers(0, q, (s.layout.answers, 4096), dtype=np.uint64)
    outputs = np.empty(5, np.uint64)
    for number, polynomial in enumerate(polynomials):
        words = polynomial.copy()
        owner.transform.forward(words, 0)
        words = (words.astype(object) * owner.secret[0] % q).astype(np.uint64)
        owner.transform.inverse(words, 0)
        places = s.layout.positions(number)
        start = number * group
        rest = (wanted[start : start + group] - words[places].astype(np.int64)) % q
        outputs[start : start + group] = rest
    scores = cipher._scores(outputs, polynomials) * s.output_scale
    # Transforms of 4096: some 12 levels of rounding of coefficients as large as half the prime.
    tolerance = 2.0**-53 * 8 * log2(4096) * isqrt(4096) * q / 2
    assert tolerance < 0.1
    assert np.abs(scores - wanted).max() < tolerance
