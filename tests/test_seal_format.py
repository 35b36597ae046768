"""`he_inference.backend.seal_format` against SEAL's own reader and writer, bit for bit."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal

from he_inference.backend import seal as backend
from he_inference.backend import seal_format
from he_inference.backend.seal import KeyHolder, galois_element
from he_inference.parameters import Parameters, ParametersLiteral
from he_inference.wire import Residues

PARAMETERS = ParametersLiteral(4096, (31, 28), 30).resolve()
SCALE = 2.0**25
RNG = np.random.default_rng(0)


def context(level: int = 2) -> Any:
    return backend._context(PARAMETERS, level)


def name(level: int) -> tuple[int, ...]:
    return backend._parms_ids(PARAMETERS)[level - 1]


def uniform(primes: tuple[int, ...], polynomials: int) -> Residues:
    rows = [RNG.integers(0, p, (polynomials, 4096), dtype=np.uint64) for p in primes]
    return np.stack(rows, axis=1)


def loaded_ciphertext(data: bytes) -> Any:
    return backend._loaded(seal.Ciphertext(), context(), data)


@pytest.fixture(scope="module")
def holder() -> KeyHolder:
    return KeyHolder(PARAMETERS)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("polynomials", [2, 3])
@pytest.mark.parametrize("ntt", [True, False])
def test_ciphertexts_written_here(level: int, polynomials: int, ntt: bool) -> None:
    residues = uniform(PARAMETERS.data_primes[:level], polynomials)
    cipher = loaded_ciphertext(seal_format.ciphertext(name(level), residues, SCALE, ntt=ntt))
    assert (cipher.size(), cipher.coeff_modulus_size()) == (polynomials, level)
    assert cipher.poly_modulus_degree() == 4096
    assert (cipher.scale, cipher.is_ntt_form()) == (SCALE, ntt)
    assert tuple(cipher.parms_id()) == name(level)
    assert np.array_equal(seal_format.read_ciphertext(backend._saved(cipher)), residues)


def test_a_seed_expands_as_in_seal(holder: KeyHolder) -> None:
    """Loading SEAL's own seeded file, and ours made of its parts, give the same ciphertext."""
    plain = seal.Plaintext()
    holder._encoder.encode(RNG.normal(size=2048).tolist(), SCALE, plain)
    saved = backend._saved(holder._encryptor.encrypt_symmetric(plain))
    whole = seal_format.read_ciphertext(backend._saved(loaded_ciphertext(saved)))
    part = seal_format.read_seeded(saved)
    assert len(part.seed) == 64 and part.residues.shape == (2, 4096)
    assert np.array_equal(part.residues, whole[0])
    ours = seal_format.ciphertext(name(2), part.residues[None], SCALE, ntt=True, seed=part.seed)
    again = loaded_ciphertext(ours)
    assert again.scale == SCALE and again.size() == 2
    assert np.array_equal(seal_format.read_ciphertext(backend._saved(again)), whole)


def test_another_seed_gives_another_polynomial(holder: KeyHolder) -> None:
    part = holder.encrypt(np.zeros(2048), SCALE)
    expanded = []
    for seed in (part.seed, bytes(64), bytes([1, *bytes(63)])):
        data = seal_format.ciphertext(name(2), part.residues[None], SCALE, ntt=True, seed=seed)
        expanded.append(seal_format.read_ciphertext(backend._saved(loaded_ciphertext(data))))
    for primes in range(2):
        rows = [c[1, primes] for c in expanded]
        assert all((row < PARAMETERS.data_primes[primes]).all() for row in rows)
        # Uniform rows agree in N/p places on average: none, but for one chance in 10⁵.
        assert (rows[0] == rows[1]).sum() + (rows[1] == rows[2]).sum() <= 2


@pytest.mark.parametrize("level", [1, 2])
def test_rotation_keys(holder: KeyHolder, level: int) -> None:
    """SEAL's own file of a key, ours made of its parts: saved again, the same residues."""
    element = galois_element(3, 4096)
    index = seal.GaloisKeys.get_index(element)
    saved = backend._saved(holder._generator(level).create_galois_keys([element]))
    digits = seal_format.read_switching_key(saved, index)
    assert len(digits) == level
    assert all(digit.residues.shape == (level + 1, 4096) for digit in digits)
    parms = context(level).key_parms_id()
    ours = seal_format.switching_keys(parms, {index: digits}, 4096)
    key = backend._loaded(seal.GaloisKeys(), context(level), ours)
    assert key.has_key(element) and not key.has_key(galois_element(5, 4096))
    theirs = backend._loaded(seal.GaloisKeys(), context(level), saved)
    assert expanded_digits(key, index) == expanded_digits(theirs, index)


def test_relinearisation_keys(holder: KeyHolder) -> None:
    saved = backend._saved(holder._generator(2).create_relin_keys())
    digits = seal_format.read_switching_key(saved, 0)
    ours = seal_format.switching_keys(context(2).key_parms_id(), {0: digits}, 1)
    key = backend._loaded(seal.RelinKeys(), context(2), ours)
    theirs = backend._loaded(seal.RelinKeys(), context(2), saved)
    assert expanded_digits(key, 0) == expanded_digits(theirs, 0)


def expanded_digits(key: Any, index: int) -> list[bytes]:
    """Both polynomials of every digit of one key, as SEAL saves them once they are expanded."""
    members = seal_format._members(backend._saved(key))
    at = struct.calcsize("<4QQ") + 8 * index
    (count,) = struct.unpack_from("<Q", members, at)
    digits, at = [], at + 8
    for _ in range(count):
        (size,) = struct.unpack_from("<Q", members, at + 8)
        digits.append(seal_format.read_ciphertext(members[at : at + size]).tobytes())
        at += size
    assert digits
    return digits


def test_the_secret_key_on_a_prefix_of_the_primes(holder: KeyHolder) -> None:
    """The same ternary polynomial, transformed modulo fewer primes."""
    rows = holder.secret
    assert rows.shape == (3, 4096)
    prefix = seal_format.plaintext(context(1).key_parms_id(), rows[[0, 2]])
    key = backend._loaded(seal.SecretKey(), context(1), prefix)
    assert np.array_equal(seal_format.read_plaintext(backend._saved(key), 2), rows[[0, 2]])
    cipher = loaded_ciphertext(
        seal_format.ciphertext(
            name(2), (part := holder.encrypt(np.full(2048, 0.5), SCALE)).residues[None],
            SCALE, ntt=True, seed=part.seed,
        )
    )  # fmt: skip
    seal.Evaluator(context(2)).mod_switch_to_next_inplace(cipher)
    plain = seal.Plaintext()
    seal.Decryptor(context(1), key).decrypt(cipher, plain)
    found = np.array(seal.CKKSEncoder(context(1)).decode_double(plain))
    # Fresh noise has a deviation of √(N·21/4), about 150, in a slot; 8 of them for 2048 slots.
    assert np.abs(found - 0.5).max() < 8 * np.sqrt(4096 * 21 / 4) / SCALE


def test_levels_of_prefix_contexts_have_the_same_names() -> None:
    parameters: Parameters = ParametersLiteral(8192, (40, 35, 30, 30), 45).resolve()
    names = backend._parms_ids(parameters)
    assert len(set(names)) == 4
    for level in range(1, 5):
        first = backend._context(parameters, level).first_context_data()
        assert tuple(first.parms_id()) == names[level - 1]
