"""The attack that reads a CrypTen party's data, and the same attack on ours."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpc_training.fixed_point import ACTIVATION_BITS
from mpc_training.party import Party
from mpc_training.replicated import Replicated
from mpc_training.sharing import Entry, share
from mpc_training.tensor import Tensor
from tests.insecure_parties import InsecureQueues, component_keys, together
from tests.mersenne_twister import predicted
from tests.test_mpc_replicated import uniformity

ROOT = Path(__file__).parents[1]
WORDS = 312
CRYPTEN_ULP = 2.0**-16
TOP = np.uint64(2**63)


def secret() -> np.ndarray[Any, Any]:
    """As in `tests.insecure_crypten_as_shipped`, which imports CrypTen and so is not imported."""
    return np.random.default_rng(99).uniform(-5, 5, WORDS).round(3)


def test_the_predictor_predicts() -> None:
    """Against torch itself, from an offset that is no multiple of the state."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(5)
    low, high = -(2**63), 2**63 - 1
    words = torch.randint(low, high, (1000,), generator=generator).numpy().view(np.uint64) + TOP
    assert np.array_equal(
        predicted(words[17 : 17 + WORDS], 600), words[17 + WORDS : 17 + WORDS + 600]
    )


def test_crypten_as_shipped_gives_party_0_s_data_to_party_1(tmp_path: Path) -> None:
    """So that the test below can fail: one product's mask, and all later inputs are read."""
    if find_spec("crypten") is None:
        pytest.skip("CrypTen is not installed: make setup")
    subprocess.run(
        [sys.executable, "-m", "tests.insecure_crypten_as_shipped", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True, timeout=200,
    )  # fmt: skip
    with np.load(tmp_path / "seen.npz") as seen:
        mask, epsilon = seen["mask"].view(np.uint64), seen["epsilon"].view(np.uint64)
    # After party 1's share of the mask comes party 2's, then the next triple: a is in the second.
    a = predicted(mask + TOP, 2 * WORDS)[WORDS:] - TOP
    recovered = (epsilon + a).view(np.int64) * CRYPTEN_ULP
    assert np.abs(recovered - secret()).max() <= CRYPTEN_ULP


def received(party: Party, owner: int = 0, sign: int = 1) -> list[np.ndarray[Any, Any]]:
    """What a party sees while a party's secret is shared and multiplied by itself twice and
    compared."""
    a = Replicated(party)
    mine = sign * secret() if party.index == owner else None
    (x,) = share(party, [Entry(owner, (WORDS,), ACTIVATION_BITS, 64.0, mine)])
    for _ in range(2):
        a.multiply(x, Tensor(x.parts, x.bits), ACTIVATION_BITS)
    a.relu(x, ACTIVATION_BITS)
    transport = party.transport
    assert isinstance(transport, InsecureQueues)
    return [array for _, array in transport.seen] + list(x.parts)


def test_the_same_attack_recovers_nothing_from_ours() -> None:
    """Every array of 312 words that a party sees or holds is taken for a generator's output; what
    it predicts is taken for any other array's mask. No value comes out closer than chance allows:
    one of a million guesses on the ring of 2^64 is within 2^20 ulp with probability below 1e-7."""
    for party in (1, 2):
        seen = [array for array in together(received)[party] if array.dtype == np.uint64]
        seen = [array for array in seen if array.shape == (WORDS,) and array.any()]
        assert len(seen) >= (2 if party == 1 else 1)  # the helper holds its pads alone
        for source in seen:
            for words in (source, source + TOP):
                stream = predicted(words, 4 * WORDS).reshape(4, WORDS)
                for target in seen:
                    for mask in (*stream, *(stream - TOP)):
                        for guess in (target + mask, target - mask):
                            error = np.abs(guess.view(np.int64) - secret() * 2**ACTIVATION_BITS)
                            assert error.min() > 2**20


@pytest.mark.parametrize("party", [0, 1])
def test_what_a_party_receives_does_not_depend_on_the_secret(party: int) -> None:
    """Under the keys that it holds, and one that it lacks, what it gets is as far from what it gets
    for another secret as two random arrays; under equal keys a share shows x − x′, as one-time pads
    do that are used twice."""
    lacking = (party + 2) % 3
    first = together(partial(received, owner=1 - party), keys=component_keys)[party]
    fresh = partial(component_keys, changed=lacking)
    other = together(partial(received, owner=1 - party, sign=-1), keys=fresh)[party]
    again = together(partial(received, owner=1 - party, sign=-1), keys=component_keys)[party]
    difference = 2 * np.rint(secret() * 2**ACTIVATION_BITS).astype(np.int64)
    compared = 0
    for a, b in zip(first, other, strict=True):
        if a.dtype == np.uint64 and a.shape == (WORDS,) and a.any():
            compared += 1
            assert uniformity(a - b) > 1e-6
            error = np.abs((a - b).view(np.int64) - difference)
            assert error.min() > 2**20
    assert compared >= 2
    assert np.array_equal((first[0] - again[0]).view(np.int64), difference)
