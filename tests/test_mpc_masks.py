"""Every message is masked with the one key that its receiver lacks.

Uniform messages are not enough: a mask that the receiver can compute makes them, too. So everything
is done twice, and only the key that the receiver lacks is another: if all that it receives is
masked with that, and nothing with the same words, the differences are uniform.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mpc_training.party import PARTIES, Party
from mpc_training.randomness import Generator, derive
from mpc_training.replicated import Replicated
from mpc_training.sharing import Entry, share
from mpc_training.tensor import Tensor
from tests.insecure_parties import InsecureQueues, component_keys, together
from tests.test_mpc_replicated import COUNT, OPERATIONS, split, uniformity

Seen = list[np.ndarray[Any, Any]]
JUDGED = 2000
"""Bytes of an array that a chi-square test of 256 values can judge."""


def shared(party: Party) -> None:
    """Something of everyone enters."""
    entries = [
        Entry(owner, (COUNT,), 16, 64.0, np.full(COUNT, 3.0) if party.index == owner else None)
        for owner in range(PARTIES)
    ]
    share(party, entries)


def operated(name: str, party: Party) -> None:
    """An operation on equal shares of one secret."""
    x = Tensor(split(np.full(COUNT, 2**45 + 12345, np.uint64), party.index, 7), 32)
    OPERATIONS[name](Replicated(party), x)


TASKS: dict[str, Callable[[Party], None]] = {
    **{name: partial(operated, name) for name in OPERATIONS},
    "sharing": shared,
}


def received(task: Callable[[Party], None], receiver: int, changed: int | None) -> Seen:
    """What one party receives while k_changed is another than usual."""

    def part(party: Party) -> Seen:
        task(party)
        assert isinstance(party.transport, InsecureQueues)
        return [array for _, array in party.transport.seen if array.nbytes >= JUDGED]

    return together(part, keys=partial(component_keys, changed=changed))[receiver]


def least_uniform(task: Callable[[Party], None], receiver: int) -> float:
    """The smallest p-value over the differences that the key which the receiver lacks makes."""
    usual = received(task, receiver, None)
    other = received(task, receiver, (receiver + 2) % PARTIES)
    pairs = list(zip(usual, other, strict=True))
    assert pairs
    return min(min(uniformity(a - b), uniformity(a ^ b)) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("receiver", [0, 1])
@pytest.mark.parametrize("name", TASKS)
def test_the_masks_of_what_a_party_receives_are_of_the_key_that_it_lacks(
    name: str, receiver: int
) -> None:
    assert least_uniform(TASKS[name], receiver) > 1e-6


@pytest.mark.parametrize("receiver", [0, 1])
@pytest.mark.parametrize("name", TASKS)
def test_masks_that_all_can_compute_are_found(
    name: str, receiver: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All words from the key of all parties: messages are as uniform as before."""
    real = Party.__post_init__

    def careless(party: Party) -> None:
        real(party)
        party._keys = {key: Generator(party.keys.common) for key in party._keys}

    monkeypatch.setattr(Party, "__post_init__", careless)
    assert least_uniform(TASKS[name], receiver) < 1e-12


@pytest.mark.parametrize("receiver", [0, 1])
def test_one_mask_too_few_is_found(receiver: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that is re-randomised with words that its receiver holds too."""

    def careless(self: Replicated, product: Any) -> Any:
        party, number = self.party, self.party.begin()
        z = product.parts[0].copy()
        if party.index == 0:
            z += party.words(1, number, 0, product.shape)
        if party.index == 1:
            z -= party.words(1, number, 0, product.shape)
        return z

    monkeypatch.setattr(Replicated, "_re_randomised", careless)
    assert least_uniform(TASKS["product"], receiver) < 1e-12


@pytest.mark.parametrize("index", range(PARTIES))
def test_a_party_s_words_are_aes_s_under_its_pairs_keys(index: int) -> None:
    """Not those of another generator, which could be predicted; `derive` and NIST's counter mode
    are all there is between a key and its words."""
    keys = component_keys(index)
    party = Party(index, InsecureQueues(index, {}), keys, attempt=3)
    before, after = (index - 1) % PARTIES, (index + 1) % PARTIES
    for key, peer in ((index, before), (after, after)):
        cipher = algorithms.AES256(derive(keys.pairs[peer], "shares 3"))
        counter = (77).to_bytes(8, "big") + (5).to_bytes(2, "big") + bytes(6)
        stream = Cipher(cipher, modes.CTR(counter)).encryptor().update(bytes(800))
        assert party.words(key, 77, 5, (100,)).tobytes() == stream
    with pytest.raises(KeyError):
        party.words((index + 2) % PARTIES, 77, 5, (100,))
