"""`he_inference.client`: what it refuses, what it gives out, what it keeps to itself."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from he_inference import Client, Network, Server, compile, wire
from he_inference.cost import key_primes
from he_inference.errors import AnswerOverflow, InputError, KeyFileError, MessageError, WrongProgram
from he_inference.nodes import Input, Linear
from tests.conftest import Party

ENVELOPE = 40 + wire.CHECKSUM_BYTES


# ---------------------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(4), r"expected an array of shape \(batch, 4\), found \(4,\)"),
        (np.zeros((1, 5)), r"found \(1, 5\)"),
        (np.zeros((0, 4)), r"found \(0, 4\)"),
        (np.zeros((1, 4), complex), "expected real numbers, found dtype complex128"),
        (np.zeros((1, 4), object), "found dtype object"),
        ([["a"] * 4], "found dtype <U1"),
        ([[1, 2, 3, 4], [1]], "(?s)."),
        ([[0, 0, np.nan, 0]], "item 0 of the batch holds NaN"),
        ([[0] * 4, [0, 0, 0, np.inf]], "item 1 of the batch"),
        ([[0, 0, 0, 1.25]], "values from 0 to 1.25: this program was compiled for 0 to 1"),
        ([[0, 0, 0, -1e-9]], "compiled for 0 to 1"),
        (np.zeros((wire.MAX_QUERIES + 1, 4)), "1025 queries: at most 1024"),
    ],
)
def test_inputs_that_are_refused(shallow: Party, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shallow.client.encrypt(value)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, bool, list])
def test_numbers_of_any_kind_are_taken(shallow: Party, dtype: Any) -> None:
    ones = [[1, 1, 1, 1]]
    shallow.client.encrypt(ones if dtype is list else np.array(ones, dtype))


def test_the_ends_of_the_range_are_in_it(shallow: Party) -> None:
    shallow.client.encrypt([[0.0, 1.0, 0.0, 1.0]])


# ---------------------------------------------------------------------------- what it gives out


def test_message_sizes_are_those_of_the_cost(deep: Party) -> None:
    cost = deep.compiled.cost
    assert len(deep.client.evaluation_keys()) == ENVELOPE + cost.key_bytes
    for count in (1, 3):
        query = deep.client.encrypt(deep.x[:count])
        assert len(query) == ENVELOPE + 16 + 32 + 4 + count * cost.upload_bytes
        assert len(deep.server.evaluate(query)) == ENVELOPE + 32 + 4 + count * cost.download_bytes


def test_two_encryptions_of_one_input_differ(shallow: Party) -> None:
    """In every residue and every seed, not only somewhere."""
    signature = shallow.compiled.signature
    one, two = (
        wire.read_query(signature, shallow.client.encrypt(np.repeat(shallow.x[:1], 2, axis=0)))
        for _ in range(2)
    )
    ciphertexts = [*one.ciphertexts, *two.ciphertexts]
    assert len({c.seed for c in ciphertexts}) == 4
    for i, a in enumerate(ciphertexts):
        for b in ciphertexts[:i]:
            # Uniform 60-bit residues: of 2·8192, two agree once in 10¹⁴ comparisons.
            assert not (a.residues == b.residues).any()


def test_ciphertexts_look_uniform(shallow: Party) -> None:
    """The top four bits of residues are spread evenly: chi-squared with 15 degrees of freedom."""
    signature = shallow.compiled.signature
    zero = wire.read_query(signature, shallow.client.encrypt(np.zeros((4, 4))))
    for index, prime in enumerate(signature.parameters.data_primes):
        rows = np.concatenate([c.residues[index] for c in zero.ciphertexts]).astype(object)
        counts = np.bincount([int(r) * 16 // prime for r in rows], minlength=16)
        expected = len(rows) / 16
        assert ((counts - expected) ** 2 / expected).sum() < 75  # P < 10⁻⁹


def secret_rows(party: Party) -> np.ndarray:
    """The secret polynomial, transformed, modulo every prime."""
    return party.client._keys.secret


def given_out(party: Party) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Every polynomial that leaves the client, with its primes."""
    signature = party.compiled.signature
    keys = wire.read_keys(signature, party.client.evaluation_keys())
    for level, digits in zip(signature.keys.levels, keys, strict=True):
        for digit in digits:
            yield digit.residues, key_primes(signature.parameters, level)
    query = wire.read_query(signature, party.client.encrypt(party.x))
    for ciphertext in query.ciphertexts:
        yield ciphertext.residues, signature.parameters.data_primes


def test_nothing_given_out_holds_the_secret(deep: Party) -> None:
    """Neither its residues, nor their negatives, nor the bytes of its file."""
    secret = dict(zip(deep.compiled.parameters.primes, secret_rows(deep), strict=True))
    for rows, primes in given_out(deep):
        for row, prime in zip(rows, primes, strict=True):
            for image in (secret[prime], np.uint64(prime) - secret[prime]):
                # Uniform residues meet a given one with probability 2⁻²² at most: N of them
                # agree in ten places less than once in 10⁹ times.
                assert (row == image).sum() < 10
    messages = deep.client.evaluation_keys() + deep.client.encrypt(deep.x)
    saved = deep.client._keys.secret.tobytes()
    assert all(saved[at : at + 16] not in messages for at in range(256, len(saved) - 16, 4096))


def test_the_secret_is_ternary(deep: Party) -> None:
    """A check of the reading itself: back from the transform, every coefficient is −1, 0 or 1."""
    parameters = deep.compiled.parameters
    prime, degree = parameters.data_primes[0], parameters.ring_degree
    row = [int(r) for r in secret_rows(deep)[0]]
    # m_0 = N⁻¹·Σ_k m̂_k; so a ternary secret has such a sum in every rotation of the roots.
    constant = sum(row) * pow(degree, -1, prime) % prime
    assert constant in (0, 1, prime - 1)


def test_keys_and_queries_of_two_clients_differ(shallow: Party) -> None:
    other = Client(shallow.compiled.signature)
    assert other.evaluation_keys() != shallow.client.evaluation_keys()
    assert other.key_id != shallow.client.key_id


def test_evaluation_keys_are_made_once(shallow: Party) -> None:
    first = shallow.client.evaluation_keys()
    assert shallow.client.evaluation_keys() is first
    assert shallow.client.key_id == wire.key_id(first).hex()


def test_scores_are_rounded_and_raw_ones_are_asked_for_by_name(shallow: Party) -> None:
    answer = shallow.server.evaluate(shallow.client.encrypt(shallow.x))
    resolution = shallow.compiled.signature.resolution
    scores, raw = shallow.client.decrypt(answer), shallow.client.decrypt_with_noise(answer)
    assert (scores / resolution % 1 == 0).all()
    assert (np.abs(scores - raw) <= resolution / 2).all() and (scores != raw).any()


def test_answers_are_checked(shallow: Party, deep: Party) -> None:
    answer = shallow.server.evaluate(shallow.client.encrypt(shallow.x))
    for hostile in (b"", answer[:-1], answer + b"\0", answer[:99] + b"?" + answer[100:]):
        with pytest.raises(MessageError):
            shallow.client.decrypt(hostile)
    with pytest.raises(WrongProgram):
        deep.client.decrypt(answer)


def test_answers_belong_to_queries(shallow: Party) -> None:
    """An answer to another client's query, or with one query's answer left out or repeated."""
    signature = shallow.compiled.signature
    message = shallow.server.evaluate(shallow.client.encrypt(shallow.x))
    stranger = Client(signature)
    with pytest.raises(MessageError, match="does not answer a query of this key"):
        stranger.decrypt(message)
    answer = wire.read_answer(signature, message)
    for polynomials in (answer.polynomials[:-1], (*answer.polynomials, answer.polynomials[0])):
        forged = wire.write_answer(signature, replace(answer, polynomials=polynomials))
        with pytest.raises(MessageError, match="not as many"):
            shallow.client.decrypt(forged)
    for at in (0, wire.TICKET_BYTES - 1):
        ticket = bytearray(answer.ticket)
        ticket[at] ^= 1
        forged = wire.write_answer(signature, replace(answer, ticket=bytes(ticket)))
        with pytest.raises(MessageError, match="does not answer"):
            shallow.client.decrypt(forged)


def test_tickets_are_never_the_same(shallow: Party) -> None:
    signature = shallow.compiled.signature
    queries = [wire.read_query(signature, shallow.client.encrypt(shallow.x[:1])) for _ in range(8)]
    assert len({query.ticket for query in queries}) == 8


def test_answers_that_overflow_are_noticed() -> None:
    """Compiled for answers of 1/8, so for 1 at most; asked for 40: it would wrap around."""
    network = Network([Input(()), Linear((0,), np.eye(3), np.zeros(3))], (3,), (-64.0, 64.0))
    compiled = compile(
        network, layout="packed", response="plain", precision=6, examples=np.full((1, 3), 1 / 8)
    )
    client, server = Client(compiled.signature), Server(compiled.program)
    server.register(client.evaluation_keys())
    modulus = compiled.parameters.data_primes[0] / compiled.signature.output_scale
    assert modulus / 2 < 40
    with pytest.raises(AnswerOverflow, match="larger than the modulus has room for"):
        client.decrypt(server.evaluate(client.encrypt([[40.0, -40.0, 40.0]])))
    assert client.decrypt(server.evaluate(client.encrypt([[0.5, 0, 0]]))).shape == (1, 3)


def test_checking_without_encrypting(shallow: Party) -> None:
    found = shallow.client.check([[0, 1, 0, 1]])
    assert found.dtype == np.float64 and found.shape == (1, 4)
    with pytest.raises(InputError, match="compiled for 0 to 1"):
        shallow.client.check([[0, 0, 0, 2]])


# ---------------------------------------------------------------------------- secret-key files


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_files_that_others_may_use_are_refused(shallow: Party, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    shallow.client.save(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        Client.load(path, shallow.compiled.signature)


def test_a_saved_client_goes_on(shallow: Party, tmp_path: Path) -> None:
    shallow.client.save(tmp_path / "key")
    loaded = Client.load(tmp_path / "key", shallow.compiled.signature)
    assert loaded.key_id == shallow.client.key_id  # keys on the server stay of use
    answer = shallow.server.evaluate(loaded.encrypt(shallow.x))
    assert np.array_equal(shallow.client.decrypt(answer), loaded.decrypt(answer))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_it(shallow: Party, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        shallow.client.save(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_files_are_never_overwritten(shallow: Party, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"precious")
    with pytest.raises(KeyFileError, match="never overwritten"):
        shallow.client.save(path)
    assert path.read_bytes() == b"precious"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError):
        shallow.client.save(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_places_that_cannot_be_written_or_read(shallow: Party, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be written"):
        shallow.client.save(tmp_path / "none" / "key")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(KeyFileError, match="cannot be read"):
            Client.load(path, shallow.compiled.signature)


def test_a_key_for_another_program(shallow: Party, deep: Party, tmp_path: Path) -> None:
    shallow.client.save(tmp_path / "key")
    again = compile(shallow.compiled.network, layout="packed", response="plain").signature
    for other in (deep.compiled.signature, again):
        with pytest.raises(KeyFileError, match="make new keys for this program"):
            Client.load(tmp_path / "key", other)


@pytest.fixture(scope="module")
def key_file(shallow: Party, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("keys") / "key"
    shallow.client.save(path)
    return path.read_bytes()


def private(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_damaged_key_files(
    shallow: Party, key_file: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    """A flipped bit would decrypt to noise for ever after: it must be found when it is read."""
    damaged = bytearray(key_file)
    match data.draw(st.sampled_from(["flip", "cut", "grow", "noise"])):
        case "flip":
            at = data.draw(st.one_of(st.integers(0, 100), st.integers(0, len(damaged) - 1)))
            damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
        case "grow":
            damaged += data.draw(st.binary(min_size=1, max_size=10))
        case "noise":
            damaged = bytearray(data.draw(st.binary(max_size=100)))
    path = private(tmp_path / "key", bytes(damaged))
    with pytest.raises(KeyFileError):
        Client.load(path, shallow.compiled.signature)


def _ending(key_file: bytes, end: bytes) -> bytes:
    """The key file with other residues at its end, and the digest that goes with them."""
    content = key_file[: -16 - len(end)] + end
    return content + hashlib.blake2b(content, digest_size=16).digest()


@pytest.mark.parametrize("word", [b"\xff" * 8, bytes(8)], ids=["not below", "zero"])
def test_files_that_hold_no_secret_key(
    shallow: Party, key_file: bytes, tmp_path: Path, word: bytes
) -> None:
    """Sound in form, digest and all, but a row's residues are zero or not below their prime."""
    end = word * shallow.compiled.parameters.ring_degree
    with pytest.raises(KeyFileError, match="does not hold a secret key"):
        Client.load(private(tmp_path / "key", _ending(key_file, end)), shallow.compiled.signature)


def test_a_residue_of_a_secret_key_may_be_zero(
    shallow: Party, key_file: bytes, tmp_path: Path
) -> None:
    """One in p is by chance: with the smallest special prime, one key in twelve has such."""
    path = private(tmp_path / "key", _ending(key_file, bytes(8)))
    assert Client.load(path, shallow.compiled.signature)


def test_vast_key_files_are_not_read(shallow: Party, key_file: bytes, tmp_path: Path) -> None:
    path = private(tmp_path / "key", key_file)
    os.truncate(path, 1 << 40)
    with pytest.raises(KeyFileError, match=r"damaged|other parameters"):
        Client.load(path, shallow.compiled.signature)


def test_saving_makes_sure_that_the_key_id_is_known(shallow: Party, tmp_path: Path) -> None:
    fresh = Client(shallow.compiled.signature)
    fresh.save(tmp_path / "key")
    loaded = Client.load(tmp_path / "key", shallow.compiled.signature)
    assert loaded.key_id == wire.key_id(fresh.evaluation_keys()).hex()
