"""Three parties in three threads of one process, over queues and with known keys.

Insecure on purpose, and therefore only here: everything that crosses is recorded.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from mpc_training.agreement import Keys
from mpc_training.link import Traffic
from mpc_training.party import PARTIES, Party
from mpc_training.transport import Incoming, Outgoing

Result = TypeVar("Result")
SECONDS = 60


@dataclass
class InsecureQueues:
    """A `Transport` without protection. seen: each array that this party received, in order."""

    party: int
    queues: dict[tuple[int, int], queue.Queue[bytes]]
    traffic: Traffic = field(default_factory=Traffic)
    seen: list[tuple[int, np.ndarray[Any, Any]]] = field(default_factory=list)

    def exchange(self, send: Outgoing, receive: Incoming) -> None:
        self.traffic.rounds += bool(receive)
        for peer, arrays in send.items():
            for array in arrays:
                assert array.flags.c_contiguous
                self.queues[self.party, peer].put(array.tobytes())
                self.traffic.bytes_sent += array.nbytes
        for peer, arrays in receive.items():
            for array in arrays:
                content = self.queues[peer, self.party].get(timeout=SECONDS)
                assert len(content) == array.nbytes
                array.reshape(-1)[:] = np.frombuffer(content, array.dtype)
                self.seen.append((peer, array.copy()))


def insecure_keys(party: int, seed: int = 0, parties: int = PARTIES) -> Keys:
    """Keys that anyone can compute."""

    def key(*indices: int) -> bytes:
        return bytes([seed % 256, seed // 256 % 256, *sorted(indices)]).ljust(32, b"k")

    others = [peer for peer in range(parties) if peer != party]
    return Keys({peer: key(party, peer) for peer in others}, key(9, 9, 9))


def component_keys(party: int, changed: int | None = None) -> Keys:
    """Keys that anyone can compute; of k₀, k₁ and k₂ only `changed` is another than without it."""
    held = {(party - 1) % PARTIES: party, (party + 1) % PARTIES: (party + 1) % PARTIES}
    return Keys(
        {peer: bytes([k, k == changed]).ljust(32, b"k") for peer, k in held.items()}, bytes(32)
    )


def in_threads(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run all at once; the first error of any is raised."""
    results: list[Any] = [None] * len(tasks)
    errors: list[BaseException] = []

    def run(place: int, task: Callable[[], Result]) -> None:
        try:
            results[place] = task()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(k, task), daemon=True) for k, task in enumerate(tasks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS * 2)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)
    return results


def together(
    task: Callable[[Party], Result],
    seed: int = 0,
    keys: Callable[[int], Keys] | None = None,
) -> list[Result]:
    """What each of three parties gets from `task`, with `insecure_keys` or others."""
    chosen = keys or partial(insecure_keys, seed=seed)
    queues: dict[tuple[int, int], queue.Queue[bytes]] = {
        (i, j): queue.Queue() for i in range(PARTIES) for j in range(PARTIES) if i != j
    }
    parties = [Party(i, InsecureQueues(i, queues), chosen(i)) for i in range(PARTIES)]
    return in_threads([partial(task, party) for party in parties])
