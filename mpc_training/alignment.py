"""Which records several parties have in common, by keyed hashes of their ids.

Each party sends HMAC-SHA256(key, id), cut to 128 bits, of all its ids, sorted, to every other one;
the key is the one that all parties agreed on. All then take the records whose hash everyone sent,
in the order of the hashes, which says nothing about anyone's own order.

**What leaks**: how many records each party has, and which of *its own* records every single other
party has too. A party also knows the key, so it can test ids that it guesses: with ids that can be
enumerated (social security numbers) it learns the others' lists. This is not a private set
intersection by Diffie-Hellman, which would make guessing no easier than the ids' owner allows.
Nobody outside the parties learns anything: the hashes travel inside TLS.
"""

import hmac
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mpc_training.errors import DataError
from mpc_training.randomness import derive
from mpc_training.transport import Transport

HASH_BYTES = 16
Hashes = npt.NDArray[np.uint8]


def align(
    transport: Transport, common: bytes, ids: Sequence[str], counts: Mapping[int, int]
) -> npt.NDArray[np.int64]:
    """This party's rows of the records that all have, in an order that is the same everywhere.

    counts: how many records each other party said it has. Raises `DataError` if none are common.
    """
    key = derive(common, "record ids")
    ours = [hmac.digest(key, name.encode(), "sha256")[:HASH_BYTES] for name in ids]
    table: Hashes = np.frombuffer(b"".join(sorted(ours)), np.uint8).copy()
    theirs: dict[int, Hashes] = {
        peer: np.empty(count * HASH_BYTES, np.uint8) for peer, count in counts.items()
    }
    transport.exchange(
        {peer: [table] for peer in counts}, {peer: [received] for peer, received in theirs.items()}
    )
    shared = set(ours)
    for received in theirs.values():
        content = received.tobytes()
        shared &= {content[k : k + HASH_BYTES] for k in range(0, len(content), HASH_BYTES)}
    if not shared:
        raise DataError(
            "no record id is common to all parties: compare how ids are written (case, spaces, "
            "leading zeros)"
        )
    place = {digest: row for row, digest in enumerate(ours)}
    return np.array([place[digest] for digest in sorted(shared)], np.int64)
