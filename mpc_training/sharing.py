"""Where values enter shares, and the only place where shares are opened.

A value x of a party is split into x = pad + rest, the pad from the key of a component that the
party shares with one of the others, the rest sent to another party:

    owner   pad        rest
    0       s₀ from k₀ s₁, to 1
    1       s₂ from k₂ s₁, to 0
    2       s₂ from k₂ s₀, to 0

and the third component is 0. Who gets the rest does not know the pad; who knows the pad gets
nothing. The helper, party 2, receives nothing of others' values.

Opening sends a party the one component that it lacks. Whoever calls `reveal` gives the value away
to those named: the training loop opens nothing but what `Disclosure` lists and all parties agreed
to.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mpc_training.fixed_point import Array, decode, encode
from mpc_training.party import PARTIES, Party
from mpc_training.ring import Ring
from mpc_training.tensor import Tensor

_WAYS = {0: (0, 1, 1), 1: (2, 1, 0), 2: (2, 0, 0)}
"""By owner: the component that is a pad, the one that is the rest, and who gets that."""
_SENDERS = {0: 1, 1: 0, 2: 0}
"""By receiver: who sends it the component that it lacks."""


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
    send: dict[int, list[Ring]] = {}
    receive: dict[int, list[Ring]] = {}
    shared = []
    for lane, entry in enumerate(entries):
        pad_at, rest_at, to = _WAYS[entry.owner]
        components = {i: np.zeros(entry.shape, np.uint64) for i in _held(party)}
        if pad_at in components:
            components[pad_at] = party.words(pad_at, number, lane, entry.shape)
        if entry.owner == party.index:
            components[rest_at] = _encoded(entry) - components[pad_at]
            send.setdefault(to, []).append(components[rest_at])
        elif to == party.index:
            components[rest_at] = np.empty(entry.shape, np.uint64)
            receive.setdefault(entry.owner, []).append(components[rest_at])
        first, second = _held(party)
        shared.append(Tensor((components[first], components[second]), entry.bits))
    party.transport.exchange(send, receive)
    return shared


def _held(party: Party) -> tuple[int, int]:
    """The components of a party."""
    return party.index, (party.index + 1) % PARTIES


def _encoded(entry: Entry) -> Ring:
    values = np.zeros(entry.shape) if entry.values is None else entry.values
    return encode(values, entry.bits, entry.bound).reshape(entry.shape)


def reveal(party: Party, x: Tensor, to: Collection[int]) -> Array | None:
    """Open x to the parties named, in one round: its value there, None elsewhere.

    Guarantee: the others receive nothing. A receiver learns exactly the value, as the component
    that comes is determined by it and by the two that it has.
    """
    first, second = x.parts
    component = {
        index: np.ascontiguousarray(part) for index, part in zip(_held(party), x.parts, strict=True)
    }
    lacking: Ring = np.empty(x.shape, np.uint64)
    party.transport.exchange(
        {
            receiver: [component[(receiver + 2) % PARTIES]]
            for receiver, sender in _SENDERS.items()
            if receiver in to and sender == party.index
        },
        {_SENDERS[party.index]: [lacking]} if party.index in to else {},
    )
    if party.index not in to:
        return None
    return decode(first + second + lacking, x.bits)
