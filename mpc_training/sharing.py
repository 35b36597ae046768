"""Where values enter shares, and the only place where shares are opened.

A value x of party o becomes sₒ random from the key it has with the party before, sₒ₊₁ = x − sₒ,
which it sends to the party after, and sₒ₊₂ = 0. The party after sees x less a pad that it does not
know; the party before sees the pad alone.

Opening sends a party the one component that it lacks. Whoever calls `reveal` gives the value away
to those named: the training loop opens nothing but what `Disclosure` lists and all parties agreed
to.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mpc_training.fixed_point import Array, decode, encode
from mpc_training.party import Party
from mpc_training.ring import Ring
from mpc_training.tensor import Tensor


@dataclass(frozen=True)
class Disclosure:
    """What all parties agreed to open.

    model_to: indices of the parties that get the trained weights; nobody else does.
    loss: whether all get the mean loss of a batch now and then.
    """

    model_to: tuple[int, ...] = (0, 1, 2)
    loss: bool = False


@dataclass(frozen=True, eq=False)
class Entry:
    """An array that enters: whose it is, its shape, and on that party its values."""

    owner: int
    shape: tuple[int, ...]
    bits: int
    bound: float
    values: Array | None = None


def share(party: Party, entries: Sequence[Entry]) -> list[Tensor]:
    """All entries, in one round; every party calls it with the same owners, shapes and bits.

    8 bytes an element. Raises `RangeError` on the owner's side for values that do not fit `bound`.
    """
    number = party.begin()
    mine = [k for k, entry in enumerate(entries) if entry.owner == party.index]
    theirs = [k for k, entry in enumerate(entries) if entry.owner == party.previous]
    pads = {k: party.first.words(number, k, entries[k].shape) for k in mine}
    masked = {k: _encoded(entries[k]) - pads[k] for k in mine}
    received: dict[int, Ring] = {k: np.empty(entries[k].shape, np.uint64) for k in theirs}
    party.transport.exchange(
        {party.next: [masked[k] for k in mine]} if mine else {},
        {party.previous: [received[k] for k in theirs]} if theirs else {},
    )
    shared = []
    for k, entry in enumerate(entries):
        zero = np.zeros(entry.shape, np.uint64)
        if k in masked:
            parts = (pads[k], masked[k])
        elif k in received:
            parts = (received[k], zero)
        else:
            parts = (zero, party.second.words(number, k, entry.shape))
        shared.append(Tensor(parts, entry.bits))
    return shared


def _encoded(entry: Entry) -> Ring:
    values = np.zeros(entry.shape) if entry.values is None else entry.values
    return encode(values, entry.bits, entry.bound).reshape(entry.shape)


def reveal(party: Party, x: Tensor, to: Collection[int]) -> Array | None:
    """Open x to the parties named, in one round: its value there, None elsewhere.

    Guarantee: the others receive nothing. A receiver learns exactly the value, as the component
    that comes is determined by it and by the two that it has.
    """
    lacking: Ring = np.empty(x.shape, np.uint64)
    party.transport.exchange(
        {party.next: [np.ascontiguousarray(x.parts[0])]} if party.next in to else {},
        {party.previous: [lacking]} if party.index in to else {},
    )
    if party.index not in to:
        return None
    return decode(x.parts[0] + x.parts[1] + lacking, x.bits)
