"""`he_inference.backend.seeds` against SEAL, which expands a seed when it loads a ciphertext."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count

import numpy as np
import pytest
import tenseal.sealapi as seal

from he_inference.backend import seal as backend
from he_inference.backend import seal_format, seeds
from he_inference.cost import SEED_BYTES
from he_inference.parameters import Parameters, ParametersLiteral, is_prime
from he_inference.wire import Residues

RNG = np.random.default_rng(0)
DTYPES = pytest.mark.parametrize("dtype", [np.uint32, np.uint64])


def expanded(seed: bytes, parameters: Parameters, dtype: type = np.uint64) -> Residues:
    residues = np.empty((len(parameters.data_primes), parameters.ring_degree), dtype)
    seeds.expand(seed, parameters.data_primes, residues)
    return residues


def in_seal(seed: bytes, parameters: Parameters) -> Residues:
    level = len(parameters.data_primes)
    zero = np.zeros((1, level, parameters.ring_degree), dtype=np.uint64)
    name = backend._parms_ids(parameters)[-1]
    data = seal_format.ciphertext(name, zero, 2.0**15, ntt=True, seed=seed)
    loaded = backend._loaded(seal.Ciphertext(), backend._context(parameters, level), data)
    return seal_format.read_ciphertext(backend._saved(loaded))[1]


@cache
def prime_below(bound: int, degree: int) -> int:
    """The largest prime below a bound that parameters may hold."""
    start = (bound - 2) // (2 * degree) * 2 * degree + 1
    return next(p for p in count(start, -2 * degree) if is_prime(p))


def refusals(seed: bytes, parameters: Parameters) -> int:
    """How many residues are not those of the word that was drawn first."""
    first = np.empty((len(parameters.data_primes), parameters.ring_degree), np.uint64)
    primes = np.array(parameters.data_primes, np.uint64)
    usable = seeds._draw(np.frombuffer(seed, "<u8"), primes, first)
    differ = int(np.count_nonzero(first != expanded(seed, parameters)))
    assert usable is (differ == 0)
    return differ


# ---------------------------------------------------------------------------- as in SEAL


@DTYPES
@pytest.mark.parametrize(
    "parameters",
    [
        ParametersLiteral(4096, (28, 26, 20), 17).resolve(),
        ParametersLiteral(8192, (27,) * 7, 18).resolve(),
        ParametersLiteral(16384, (31, 32), 20).resolve(),
    ],
    ids=["4096", "8192", "16384"],
)
def test_as_in_seal(parameters: Parameters, dtype: type) -> None:
    for seed in (bytes(SEED_BYTES), b"\xff" * SEED_BYTES, RNG.bytes(SEED_BYTES)):
        assert np.array_equal(expanded(seed, parameters, dtype), in_seal(seed, parameters))


def test_the_other_half_of_a_ciphertext_of_seal() -> None:
    """c0 + c1·s of a zero, with c1 drawn here, is the small error that SEAL added."""
    parameters = ParametersLiteral(4096, (30, 28), 20).resolve()
    holder = backend.KeyHolder(parameters)
    zero = holder.encrypt(np.zeros(parameters.slots), 2.0**20)
    c1 = expanded(zero.seed, parameters)
    both = np.stack([zero.residues, c1])
    name, context = backend._parms_ids(parameters)[-1], backend._context(parameters, 2)
    data = seal_format.ciphertext(name, both, 2.0**20, ntt=True)
    plain = seal.Plaintext()
    holder._decryptor.decrypt(backend._loaded(seal.Ciphertext(), context, data), plain)
    slots = np.array(holder._encoder.decode_double(plain))
    assert np.abs(slots).max() * 2.0**20 < 21 * parameters.ring_degree  # |error| ≤ 21 each


def test_the_root_is_what_hashlib_knows() -> None:
    """Python refuses the parameters of the leaves, but not those of the root."""
    seed = RNG.bytes(SEED_BYTES)
    digests = np.empty(8 * seeds._ROOTS, np.uint64)
    keyed = np.array(seeds._key_block(np.frombuffer(seed, "<u8")), np.uint64)
    seeds._roots(keyed, np.uint64(5), digests)
    for lane in range(seeds._ROOTS):
        known = hashlib.blake2b(
            (5 + lane).to_bytes(8, "little"), key=seed, digest_size=64, node_offset=4096 << 32
        )
        ours = np.ascontiguousarray(digests.reshape(8, -1)[:, lane])
        assert ours.tobytes() == known.digest()


# ---------------------------------------------------------------------------- words refused


def test_many_redraws() -> None:
    """2^64 mod p is nearly p: one word in eighteen is refused, replacements among them."""
    first = prime_below(int(2**64 / 16.97), 8192)
    second = prime_below(first - 1, 8192)
    special = ParametersLiteral(8192, (18,), 20).resolve().data_primes[0]
    parameters = Parameters(8192, (first, second, prime_below(second - 1, 8192)), special)
    seed = RNG.bytes(SEED_BYTES)
    assert np.array_equal(expanded(seed, parameters), in_seal(seed, parameters))
    assert refusals(seed, parameters) > 2 * seeds.WORDS  # so replacements take several outputs


def test_a_single_redraw() -> None:
    """About one word in 2^18 is refused: most seeds need no replacement, a few need one."""
    prime = prime_below(int(2**46 * 0.9999), 4096)
    special = ParametersLiteral(4096, (20,), 21).resolve().data_primes[0]
    parameters = Parameters(4096, (prime,), special)
    drawn = np.random.default_rng(3)
    seed = next(s for s in iter(lambda: drawn.bytes(64), b"") if refusals(s, parameters) == 1)
    assert np.array_equal(expanded(seed, parameters), in_seal(seed, parameters))


def test_redrawing_changes_nothing_where_nothing_is_refused() -> None:
    parameters = ParametersLiteral(4096, (28, 26), 17).resolve()
    seed = RNG.bytes(SEED_BYTES)
    assert refusals(seed, parameters) == 0
    again = np.empty((2, 4096), np.uint64)
    primes = np.array(parameters.data_primes, np.uint64)
    seeds._redraw(np.frombuffer(seed, "<u8"), primes, again)
    assert np.array_equal(again, expanded(seed, parameters))


@pytest.mark.parametrize("prime", [8193, 40961, 2**26 - 5, 2**32 - 5, 2**46 + 15, 2**60 - 93])
def test_words_at_the_edges(prime: int) -> None:
    """The limit is SEAL's `max_multiple`; reduction is exact around every multiple of the prime."""
    limit = 2**64 - 1 - (2**64 - 1) % prime - 1
    multiples = [k * prime for k in (0, 1, 2, 2**64 // prime // 2, 2**64 // prime)]
    edges = {m + d for m in multiples for d in (-2, -1, 0, 1, 2)} | {limit - 1, 2**63, 2**64 - 1}
    words = [w for w in sorted(edges) if 0 <= w < 2**64]
    words += [int(w) for w in RNG.integers(0, 2**64, seeds.WORDS - len(words), dtype=np.uint64)]
    reduced = np.array(words, np.uint64)
    target = np.empty(seeds.WORDS, np.uint64)
    assert not seeds._reduce_chunk(reduced, np.uint64(prime), target)
    assert reduced.tolist() == [word % prime for word in words]
    for word, usable in ((limit - 1, True), (limit, False)):
        chunk = np.full(seeds.WORDS, word, np.uint64)
        assert bool(seeds._reduce_chunk(chunk, np.uint64(prime), target)) is usable


# ---------------------------------------------------------------------------- side by side


def test_threads_do_not_meet() -> None:
    parameters = ParametersLiteral(4096, (28, 26), 17).resolve()
    many = [RNG.bytes(SEED_BYTES) for _ in range(32)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: expanded(seed, parameters), many))
    assert all(
        np.array_equal(ours, expanded(seed, parameters))
        for seed, ours in zip(many, found, strict=True)
    )
