"""How far two cores are apart: the time that a cache line takes from one to the other.

Cores of different caches, as on another chiplet or socket, take several times as long as those of
one. A virtual machine's cores may move between the two while it runs.
"""

import threading
import time

import numpy as np

from he_inference.backend.residues.atomics import fetch_and_add, look
from he_inference.machine_code import njit

TURNS = 10_000


@njit(nogil=True)
def _take_turns(address, mine, turns):  # type: ignore[no-untyped-def]
    """Add to a counter whenever it is this thread's turn."""
    for turn in range(turns):
        while look(address) != 2 * turn + mine:
            pass
        fetch_and_add(address)


def nanoseconds(turns: int = TURNS) -> float:
    """From one thread to another, the mean of some thousands of turns: a millisecond or three."""
    counter = np.zeros(16, np.int64)  # a cache line, whose first number is used
    threads = [
        threading.Thread(target=_take_turns, args=(counter.ctypes.data, mine, turns))
        for mine in range(2)
    ]
    started = time.perf_counter_ns()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter_ns() - started) / (2 * turns)
