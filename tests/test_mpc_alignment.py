"""Ids that several parties have are found, by all in one order; what else is there stays hidden."""

from __future__ import annotations

import queue
import threading
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_training import alignment
from mpc_training.alignment import align
from mpc_training.errors import DataError, FrameError
from mpc_training.randomness import new_key
from tests.insecure_parties import InsecureQueues, in_threads

PRIME = 2**255 - 19
Seen = list[np.ndarray]


def aligned(
    lists: list[list[str]], secrets: list[bytes] | None = None
) -> tuple[list[list[int]], list[Seen]]:
    """Each party's rows, and the arrays that it received."""
    count = len(lists)
    fresh = [new_key() for _ in lists]
    queues: dict[tuple[int, int], queue.Queue[bytes]] = {
        (i, j): queue.Queue() for i in range(count) for j in range(count) if i != j
    }
    transports = [InsecureQueues(i, queues) for i in range(count)]

    def part(index: int) -> list[int]:
        secret = (secrets or fresh)[index]
        counts = {i: len(ids) for i, ids in enumerate(lists) if i != index}
        return list(align(transports[index], lists[index], counts, secret).tolist())

    rows = in_threads([partial(part, index) for index in range(count)])
    return rows, [[array for _, array in transport.seen] for transport in transports]


names = st.lists(st.text(max_size=5), min_size=1, max_size=12, unique=True)


@settings(max_examples=15, deadline=None)
@given(st.lists(names, min_size=2, max_size=3))
def test_common_ids_are_found_in_one_order(lists: list[list[str]]) -> None:
    common = set.intersection(*map(set, lists))
    if not common:
        with pytest.raises(DataError, match="no record id is common"):
            aligned(lists)
        return
    rows, _ = aligned(lists)
    found = [[ids[k] for k in chosen] for ids, chosen in zip(lists, rows, strict=True)]
    assert all(one == found[0] for one in found)
    assert set(found[0]) == common and len(found[0]) == len(common)


def test_the_order_is_that_of_the_secrets() -> None:
    """Equal ones, as in a resumed run, give it again; a single fresh one gives another."""
    lists = [[str(k) for k in range(start, start + 30)] for start in (0, 3, 6)]
    secrets = [bytes([k]) * 32 for k in range(3)]
    first = aligned(lists, secrets)[0]
    assert aligned(lists, secrets)[0] == first
    assert aligned(lists, [*secrets[:2], b"x" * 32])[0] != first


def test_no_party_is_silent_for_more_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own points too are blinded between messages, or a million ids would exceed a time-out."""
    silent, longest = threading.local(), []
    real_blinded, real_exchange = alignment._blinded, InsecureQueues.exchange

    def blinded(key: X25519PrivateKey, points: alignment.Points) -> alignment.Points:
        silent.points = getattr(silent, "points", 0) + len(points)
        longest.append(silent.points)
        return real_blinded(key, points)

    def exchange(transport: InsecureQueues, send: Any, receive: Any) -> None:
        silent.points = 0
        real_exchange(transport, send, receive)

    monkeypatch.setattr(alignment, "_BLOCK", 3)
    monkeypatch.setattr(alignment, "_blinded", blinded)
    monkeypatch.setattr(InsecureQueues, "exchange", exchange)
    aligned([[str(k) for k in range(start, 20)] for start in (0, 5, 9)])
    assert max(longest) == 3


def test_many_blocks_of_different_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "_BLOCK", 3)
    lists = [[str(k) for k in range(start, end)] for start, end in ((0, 20), (5, 11), (9, 40))]
    rows, _ = aligned(lists)
    assert sorted(lists[1][k] for k in rows[1]) == ["10", "9"]


def on_curve(u: int) -> bool:
    return pow(u**3 + 486662 * u**2 + u, (PRIME - 1) // 2, PRIME) == 1


def test_hashes_are_points_and_stay_points() -> None:
    """Of which half of all numbers are none: that bit would pass through blinding and show."""
    plain = [int.from_bytes(sha256(bytes([k])).digest(), "little") % 2**255 for k in range(60)]
    assert 10 < sum(map(on_curve, plain)) < 50
    key = X25519PrivateKey.generate()
    for name in map(str, range(20)):
        point = alignment._point(name.encode())
        assert on_curve(int.from_bytes(point, "little"))
        blinded = key.exchange(X25519PublicKey.from_public_bytes(point))
        assert on_curve(int.from_bytes(blinded, "little"))


def test_blinding_commutes() -> None:
    a, b = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    points = alignment._points(["x", "y"])
    one = alignment._blinded(a, alignment._blinded(b, points))
    assert np.array_equal(one, alignment._blinded(b, alignment._blinded(a, points)))
    assert not np.array_equal(one, points)


def test_what_a_party_sees_does_not_test_a_guess() -> None:
    """Party 1 guesses an id of party 0 that it does not have itself. Nothing that it receives is
    the guess's hash, in the clear or under a key that it could have chosen; keyed hashes, whose key
    all parties know, would be."""
    secret = "a rare disease"
    lists = [[secret, "common"], ["common", "other"], ["common", secret]]
    _, seen = aligned(lists)
    received = {bytes(row) for array in seen[1] for row in array.reshape(-1, 32)}
    guess = alignment._points([secret])
    assert bytes(guess[0]) not in received
    assert bytes(alignment._blinded(X25519PrivateKey.generate(), guess)[0]) not in received
    assert len(received) > 4  # but it did see points, of equal length, that differ in each run
    _, again = aligned(lists)
    assert not received & {bytes(row) for array in again[1] for row in array.reshape(-1, 32)}


def test_points_of_small_order_are_refused() -> None:
    zeros = np.zeros((1, 32), np.uint8)
    with pytest.raises(FrameError, match="no point of the curve's large group"):
        alignment._blinded(X25519PrivateKey.generate(), zeros)
