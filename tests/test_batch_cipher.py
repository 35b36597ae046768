"""`he_inference.batch_cipher`: what it encrypts, computed on as residues, decrypts to integers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from he_inference import Client, batch_wire
from he_inference.backend.seal import KeyHolder
from he_inference.batch_cipher import BatchCipher
from he_inference.batch_format import BatchFormat
from he_inference.batch_signature import BatchSignature
from he_inference.batch_wire import Batch
from he_inference.encryption_worker import EncryptionFailed, EncryptionWorker
from he_inference.errors import AnswerOverflow, InputError, MessageError
from he_inference.nodes import Array
from he_inference.parameters import ParametersLiteral
from he_inference.wire import Residues

PARAMETERS = ParametersLiteral(8192, (26,) * 7, 21).resolve()
SCALE = 2.0**38
FEATURES = 6
RNG = np.random.default_rng(0)
WEIGHTS = RNG.integers(-9, 10, (2, FEATURES))
QUERIES = RNG.integers(-3, 4, (40, 2, 3))
PRIMES = np.array(PARAMETERS.data_primes, np.uint64)[:, None]


def signature(squares: int) -> BatchSignature:
    """Of `answer`: a product with WEIGHTS, then so many squares."""
    degree = 2**squares
    return BatchSignature(
        identity=bytes(16),
        parameters=PARAMETERS,
        input_shape=(2, 3),
        input_range=(-3.0, 3.0),
        input_scale=SCALE,
        outputs=len(WEIGHTS),
        output_scale=SCALE**degree,
        components=degree + 1,
        response="plain",
        response_bits=(0, 0),
        statistical_bits=0.0,
        precision_bits=8.0,
        resolution=1.0,
    )


def form_of(client: Client) -> BatchFormat:
    assert isinstance(client.signature, BatchSignature)
    return BatchFormat.of(client.signature)


def workers(client: Client) -> list[EncryptionWorker]:
    assert isinstance(client._cipher, BatchCipher)
    return client._cipher._workers


def query(client: Client) -> Batch:
    """What a server reads of QUERIES."""
    return batch_wire.read_query(form_of(client), io.BytesIO(client.encrypt(QUERIES)))


def written(client: Client, batch: Batch) -> bytes:
    return b"".join(batch_wire.write_answer(form_of(client), batch))


def squared(x: Residues) -> Residues:
    """(outputs, components, primes, N): component k is Σ_(i + j = k) x_i x_j."""
    parts = x.shape[1]
    result = np.zeros((len(x), 2 * parts - 1, *x.shape[2:]), np.uint64)
    for i in range(parts):
        for j in range(parts):
            result[:, i + j] = (result[:, i + j] + x[:, i] * x[:, j] % PRIMES) % PRIMES
    return result


def answer(query: Batch, squares: int) -> Batch:
    """What a server would do, in plain numpy: residues below 2^26, so nothing overflows."""
    weights = (WEIGHTS[:, :, None] % PRIMES[:, 0].astype(np.int64)).astype(np.uint64)
    products = weights[:, :, None, :, None] * query.residues[None] % PRIMES
    result: Residues = products.sum(axis=1) % PRIMES
    for _ in range(squares):
        result = squared(result)
    return Batch(query.ticket, query.queries, result)


def served(client: Client, message: bytes, squares: int) -> bytes:
    batch = batch_wire.read_query(form_of(client), io.BytesIO(message))
    return written(client, answer(batch, squares))


def integers(x: Array, squares: int) -> Array:
    products: Array = x.reshape(len(x), -1) @ WEIGHTS.T
    return products ** (2**squares)


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(signature(0), processes=0)


@pytest.mark.parametrize("squares", [0, 1, 2])
def test_answers_are_the_right_integers(squares: int) -> None:
    client = Client(signature(squares), processes=0)
    message = client.encrypt(QUERIES)
    scores = client.decrypt(served(client, message, squares))
    assert scores.shape == (40, 2)
    assert np.array_equal(scores, integers(QUERIES, squares))


def test_a_full_batch_and_a_single_query(client: Client) -> None:
    for count in (1, PARAMETERS.slots):
        x = RNG.integers(-3, 4, (count, 2, 3))
        scores = client.decrypt(served(client, client.encrypt(x), 0))
        assert np.array_equal(scores, integers(x, 0))


def test_by_processes() -> None:
    """As without, in the right order; progress is told; the processes end with the client."""
    told: list[tuple[int, int]] = []
    with Client(signature(1), processes=2) as client:
        message = client.encrypt(QUERIES, lambda done, of: told.append((done, of)))
        scores = client.decrypt(served(client, message, 1))
        processes = [worker._process for worker in workers(client)]
        again = client.encrypt(QUERIES)
        assert [worker._process for worker in workers(client)] == processes
    assert np.array_equal(scores, integers(QUERIES, 1))
    assert told == [(done, FEATURES) for done in range(1, FEATURES + 1)]
    assert len(again) == form_of(client).query_bytes and again != message
    assert len(processes) == 2 and all(p.returncode == 0 for p in processes)


def test_a_process_that_dies_costs_the_batch_and_no_more() -> None:
    with Client(signature(0), processes=1) as client:
        parts = client.encrypt_parts(QUERIES)
        next(parts), next(parts)
        workers(client)[0]._process.kill()
        with pytest.raises(EncryptionFailed, match="encrypt the batch again"):
            list(parts)
        message = client.encrypt(QUERIES)
        assert np.array_equal(client.decrypt(served(client, message, 0)), integers(QUERIES, 0))


def test_a_batch_may_be_abandoned() -> None:
    with Client(signature(0), processes=1) as client:
        parts: Iterator[bytes] = client.encrypt_parts(QUERIES)
        next(parts), next(parts)
        del parts
        message = client.encrypt(QUERIES)
        assert np.array_equal(client.decrypt(served(client, message, 0)), integers(QUERIES, 0))


def test_another_client_with_the_same_secret(client: Client) -> None:
    message = client.encrypt(QUERIES)
    heir = Client(client.signature, secret=client._keys.secret, processes=0)
    assert np.array_equal(heir.decrypt(served(client, message, 0)), integers(QUERIES, 0))


def test_noise_stays_below_its_bound(client: Client) -> None:
    """An error of at most 21 and a rounding of 1/2 in a coefficient, N of them in a slot."""
    scores = client.decrypt_with_noise(served(client, client.encrypt(QUERIES), 0))
    worst = 21.5 * PARAMETERS.ring_degree * np.abs(WEIGHTS).sum(axis=1).max() / SCALE
    assert 0 < np.abs(scores - integers(QUERIES, 0)).max() < worst


# ---------------------------------------------------------------------------- refusals


def test_queries_that_are_refused_at_once(client: Client) -> None:
    for x, because in (
        (np.zeros((4, 3, 2)), "expected an array of shape"),
        (np.zeros((PARAMETERS.slots + 1, 2, 3)), "4097 queries: at most 4096"),
        (np.full((1, 2, 3), np.nan), "NaN"),
        (np.full((1, 2, 3), 3.01), "compiled for -3 to 3"),
        (np.full((1, 2, 3), -4), "compiled for -3 to 3"),
    ):
        with pytest.raises(InputError, match=because):
            client.encrypt(x)
        with pytest.raises(InputError, match=because):
            client.encrypt_parts(x)


def test_an_answer_to_someone_else(client: Client) -> None:
    other = Client(client.signature, processes=0)
    back = served(client, client.encrypt(QUERIES), 0)
    with pytest.raises(MessageError, match="does not answer a query of this key"):
        other.decrypt(back)


def test_an_answer_with_more_queries_than_were_asked(client: Client) -> None:
    more = replace(answer(query(client), 0), queries=41)
    with pytest.raises(MessageError, match="or not as many"):
        client.decrypt(written(client, more))


def test_an_answer_that_wrapped_around(client: Client) -> None:
    noise = answer(query(client), 0)
    noise.residues[0, 1, 2, 100] ^= np.uint64(1)
    with pytest.raises(AnswerOverflow, match="larger than the modulus has room for"):
        client.decrypt(written(client, noise))


def test_an_answer_of_nothing(client: Client) -> None:
    """All zeros decrypt to zeros, under every key: a ticket does not say that anyone computed."""
    nothing = replace(query(client), residues=np.zeros((2, 2, 7, 8192), np.uint64))
    assert not client.decrypt(written(client, nothing)).any()


def test_decryption_of_what_is_no_ciphertext() -> None:
    with pytest.raises(MessageError, match="the answer is not a ciphertext"):
        KeyHolder(PARAMETERS).decrypt_product(np.zeros((40, 7, 8192), np.uint64), SCALE)
