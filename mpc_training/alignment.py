"""Which records several parties have in common: a private set intersection of their ids.

Each party has a secret key k, fresh for each run, and blinds points: kP by X25519 (RFC 7748), which
nobody without k can tell from a random point. With H(id) a point that everyone can compute:

    each party sends kᵢH(id) for all its ids, in random order; every other one blinds them once
    more, and all get all ids blinded with all keys, k₀k₁k₂H(id), equal exactly where ids are

(Meadows 1986; Huberman, Franklin and Hogg 1999.) All then take the records that everyone has, in
the order of the blinded ids, which says nothing about anyone's own order. The curve is that of
`cryptography`; ours is only the choice of a point on it, by SHA-256 and trial: hashes that are no
coordinate of the curve are drawn again, so that a blinded id does not show even that bit.

**What leaks**: how many records each party has, which of *its own records* every single other party
has too, and how many records two others share that it has not.
Guessing does not help: an id that a party does not have cannot be tested, as the
others' keys are needed for it. Guarantee: semi-honest parties, as far as decisional Diffie-Hellman
is hard on Curve25519 and SHA-256 behaves as a random function. A party that lies about its ids can
test as many as it says it has. Nobody outside the parties learns anything: all of it travels inside
TLS.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from mpc_training.errors import DataError, FrameError
from mpc_training.randomness import derive
from mpc_training.transport import Transport

POINT_BYTES = 32
_PRIME = 2**255 - 19
_A = 486662
_BLOCK = 2048
"""Points between two messages, so that nobody is silent for long."""
Points = npt.NDArray[np.uint8]


def align(
    transport: Transport, ids: Sequence[str], counts: Mapping[int, int], secret: bytes
) -> npt.NDArray[np.int64]:
    """This party's rows of the records that all have, in an order that is the same everywhere.

    counts: how many records each other party said it has. secret: 32 bytes, of this party alone;
    a run that is resumed gives the same again, and gets the same order: pads belong to records.
    Raises `DataError` if none are common.
    """
    key = X25519PrivateKey.from_private_bytes(derive(secret, "alignment"))
    members = sorted({transport.party, *counts})
    sizes = {**counts, transport.party: len(ids)}
    own = _own(transport, ids, key, sizes)
    order = np.lexsort(own.T[::-1])  # by value: random, as the key is
    complete = _all_blinded(transport, key, own[order], members, sizes)
    shared = set.intersection(*({bytes(row) for row in complete[owner]} for owner in members))
    if not shared:
        raise DataError(
            "no record id is common to all parties: compare how ids are written (case, spaces, "
            "leading zeros)"
        )
    place = {bytes(row): int(at) for row, at in zip(complete[transport.party], order, strict=True)}
    return np.array([place[name] for name in sorted(shared)], np.int64)


def _own(
    transport: Transport, ids: Sequence[str], key: X25519PrivateKey, sizes: Mapping[int, int]
) -> Points:
    """This party's blinded ids; after each block an empty message tells that it is at work."""
    others: dict[int, list[Points]] = {peer: [] for peer in sizes if peer != transport.party}
    blocks = []
    for start in range(0, max(sizes.values()), _BLOCK):
        blocks.append(_blinded(key, _points(ids[start : start + _BLOCK])))
        transport.exchange(others, others)
    return np.concatenate(blocks)


def _all_blinded(
    transport: Transport,
    key: X25519PrivateKey,
    own: Points,
    members: Sequence[int],
    sizes: Mapping[int, int],
) -> dict[int, Points]:
    """Everyone's points under all keys: round the circle, then to all."""
    here, count = members.index(transport.party), len(members)
    after, before = members[(here + 1) % count], members[here - 1]
    table = own
    for hop in range(1, count):
        owner = members[(here - hop) % count]
        (came,) = _exchanged(transport, {after: table}, {before: sizes[owner]}, key).values()
        table = came
    last = members[(here + 1) % count]
    others = [peer for peer in members if peer != transport.party]
    owners = {peer: members[(members.index(peer) + 1) % count] for peer in others}
    found = _exchanged(
        transport,
        dict.fromkeys(others, table),
        {peer: sizes[owner] for peer, owner in owners.items()},
        None,
    )
    return {last: table} | {owners[peer]: points for peer, points in found.items()}


def _exchanged(
    transport: Transport,
    send: Mapping[int, Points],
    receive: Mapping[int, int],
    key: X25519PrivateKey | None,
) -> dict[int, Points]:
    """Tables sent and received block by block; what comes is blinded with `key`, if given."""
    found: dict[int, Points] = {
        peer: np.empty((count, POINT_BYTES), np.uint8) for peer, count in receive.items()
    }
    longest = max([len(points) for points in send.values()] + list(receive.values()))
    for start in range(0, longest, _BLOCK):
        part = slice(start, start + _BLOCK)
        ours = {peer: points[part] for peer, points in send.items() if start < len(points)}
        theirs = {peer: points[part] for peer, points in found.items() if start < len(points)}
        transport.exchange(
            {peer: [points] for peer, points in ours.items()},
            {peer: [points] for peer, points in theirs.items()},
        )
        for peer, points in theirs.items():
            if key is not None:
                found[peer][part] = _blinded(key, points)
    return found


def _blinded(key: X25519PrivateKey, points: Points) -> Points:
    try:
        content = b"".join(
            key.exchange(X25519PublicKey.from_public_bytes(bytes(point))) for point in points
        )
    except ValueError:
        raise FrameError(
            "a party sends a blinded record id that is no point of the curve's large group: not a "
            "party of this release"
        ) from None
    return np.frombuffer(content, np.uint8).reshape(-1, POINT_BYTES)


def _points(ids: Sequence[str]) -> Points:
    """H(id) for each: coordinates on Curve25519."""
    content = b"".join(_point(name.encode()) for name in ids)
    return np.frombuffer(content, np.uint8).reshape(-1, POINT_BYTES)


def _point(name: bytes) -> bytes:
    """The first of SHA-256(counter, name) that is the u of a point: for which the right side of
    v² = u³ + Au² + u is a square (RFC 7748, section 4.1)."""
    counter = 0
    while True:
        digest = sha256(counter.to_bytes(4, "little") + name).digest()
        u = int.from_bytes(digest, "little") % 2**255
        square = u * (u * (u + _A) + 1) % _PRIME
        if pow(square, (_PRIME - 1) // 2, _PRIME) == 1:
            return u.to_bytes(POINT_BYTES, "little")
        counter += 1
