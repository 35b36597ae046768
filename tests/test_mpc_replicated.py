"""The three-party protocol: right to the ulp, never wrapping, and blind to the secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mpc_training import replicated
from mpc_training.arithmetic import Bits, Choice
from mpc_training.fixed_point import decode
from mpc_training.party import HELPER, PARTIES, Party
from mpc_training.replicated import Replicated
from mpc_training.ring import Ring
from mpc_training.sharing import Entry, reveal, share
from mpc_training.tensor import Product, Tensor
from tests.insecure_parties import InsecureQueues, together

EVERYONE = range(PARTIES)


def split(values: Ring, index: int, seed: int) -> tuple[Ring, Ring]:
    """A random replicated sharing of these elements: what party `index` holds."""
    rng = np.random.default_rng(seed)
    s0, s1 = (rng.integers(0, 2**64, values.shape, np.uint64) for _ in range(2))
    components = (s0, s1, values - s0 - s1)
    return components[index], components[(index + 1) % PARTIES]


def opened(party: Party, x: Tensor) -> Ring:
    """The ring elements that x holds."""
    lacking = np.empty(x.shape, np.uint64)
    after, before = (party.index + 1) % PARTIES, (party.index - 1) % PARTIES
    party.transport.exchange({after: [x.parts[0]]}, {before: [lacking]})
    return np.asarray(x.parts[0] + x.parts[1] + lacking)


def evaluate(
    task: Callable[[Replicated, Tensor], Tensor], values: Ring, bits: int = 0, seed: int = 0
) -> Ring:
    """What `task` makes of shared ring elements; equal on all parties."""

    def part(party: Party) -> Ring:
        x = Tensor(split(values, party.index, seed), bits)
        return opened(party, task(Replicated(party), x))

    results = together(part, seed)
    assert all(np.array_equal(result, results[0]) for result in results)
    return results[0]


def ring(values: list[int]) -> Ring:
    return np.array([value % 2**64 for value in values], np.uint64)


def integers(values: Ring) -> list[int]:
    return [int(value) for value in values.view(np.int64)]


# ---------------------------------------------------------------------------- truncation

LIMIT = 2**62 - 1
EDGES = [0, 1, -1, LIMIT, -LIMIT, 2**61, -(2**61), 2**16, -(2**16), 2**16 - 1]
whole = st.one_of(st.sampled_from(EDGES), st.integers(-LIMIT, LIMIT))


@settings(max_examples=40)
@given(st.lists(whole, min_size=1, max_size=40), st.integers(1, 40), st.integers(0, 2**16 - 1))
def test_truncation_is_off_by_less_than_an_ulp_up_to_the_limit(
    values: list[int], m: int, seed: int
) -> None:
    """⌊v / 2^m⌋ or one more, for every |v| < 2^62: nothing wraps, whatever the randomness."""
    result = evaluate(
        lambda a, x: a.settle(a.as_product(x), 64 - m), ring(values), bits=64, seed=seed
    )
    for value, found in zip(values, integers(result), strict=True):
        assert found - (value >> m) in (0, 1)


def test_truncation_never_wraps_where_the_local_one_does() -> None:
    """A million values of 2^60 or so: ABY3's local truncation of two shares, 5.1, is the
    alternative that this must tell from ours; it wraps for one in eight of them or so."""
    rng = np.random.default_rng(5)
    values = rng.integers(-(2**60), 2**60, 10**6)
    result = evaluate(
        lambda a, x: a.settle(a.as_product(x), 16), values.view(np.uint64), bits=32
    ).view(np.int64)
    assert set(np.unique(result - (values >> 16))) <= {0, 1}

    share = rng.integers(0, 2**64, len(values), np.uint64)
    other = values.view(np.uint64) - share
    local = (share.view(np.int64) >> 16) + (other.view(np.int64) >> 16)
    wrapped = np.abs(local - (values >> 16)) > 1
    assert 0.02 < wrapped.mean() < 0.3


def test_truncation_rounds_without_bias() -> None:
    """The mean over the randomness is v/2^m: a binomial test on v = 1/4 ulp accepts 1/4 and rejects
    rounding down, up, and to nearest."""
    count = 40_000
    result = evaluate(
        lambda a, x: a.settle(a.as_product(x), 0), np.full(count, 2**14, np.uint64), bits=16
    )
    ups = int(result.sum())
    assert stats.binomtest(ups, count, 0.25).pvalue > 1e-4
    for wrong in (0.001, 0.5, 0.999):
        assert stats.binomtest(ups, count, wrong).pvalue < 1e-12


# ---------------------------------------------------------------------------- products


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 50), st.integers(1, 6), st.integers(0, 2**16 - 1))
def test_products_are_exact_in_the_ring(m: int, k: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 2**64, (m, k), np.uint64)
    b = rng.integers(0, 2**64, (k, n), np.uint64)

    def part(party: Party) -> tuple[Ring, Ring]:
        arithmetic = Replicated(party)
        x = Tensor(split(a, party.index, seed), 0)
        y = Tensor(split(b, party.index, seed + 1), 0)
        matrix = arithmetic.settle(arithmetic.matmul(x, y), 0)
        square = arithmetic.settle(arithmetic.product(x, x), 0)
        return opened(party, matrix), opened(party, square)

    for matrix, square in together(part, seed):
        assert np.array_equal(matrix, a @ b)
        assert np.array_equal(square, a * a)


# ---------------------------------------------------------------------------- comparisons and bits

compared = st.one_of(
    st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 15, 16, -16, 2**28, -(2**28)]),
    st.integers(-(2**31), 2**31 - 1),
)


@settings(max_examples=60)
@given(st.lists(compared, min_size=1, max_size=50), st.integers(0, 2**16 - 1))
def test_signs_are_right_for_all_of_32_bits(values: list[int], seed: int) -> None:
    result = evaluate(lambda a, x: a.number(a.choice(a.negative(x))), ring(values), seed=seed)
    assert integers(result.reshape(-1)) == [int(value < 0) for value in values]


def test_signs_at_random() -> None:
    values = np.random.default_rng(3).integers(-(2**31), 2**31, 100_003)
    result = evaluate(lambda a, x: a.number(a.choice(a.negative(x))), values.view(np.uint64))
    assert np.array_equal(result.reshape(-1), values < 0)


@settings(max_examples=25)
@given(st.lists(compared, min_size=1, max_size=30), st.integers(0, 2**16 - 1))
def test_relu_is_exact(values: list[int], seed: int) -> None:
    result = evaluate(lambda a, x: a.relu(x, x.bits)[0], ring(values), bits=16, seed=seed)
    assert integers(result) == [max(value, 0) for value in values]


@settings(max_examples=25)
@given(st.lists(compared, min_size=1, max_size=30), st.integers(1, 32), st.integers(0, 2**16 - 1))
def test_signs_beside_the_settling_are_those_of_what_is_settled(
    values: list[int], m: int, seed: int
) -> None:
    """Read from shares that lack their correction."""

    def part(party: Party) -> tuple[Ring, Ring]:
        wide = ring([value << min(m, 28) for value in values])
        a, x = Replicated(party), Tensor(split(wide, party.index, seed), 64)
        settled, signs = a.settle_and_compare(
            a.as_product(x), 64 - min(m, 28), lambda y: y + y[::-1]
        )
        return opened(party, settled), opened(party, a.number(a.choice(signs)))

    for settled, signs in together(part, seed):
        twice = settled + settled[::-1]
        low = (twice << np.uint64(32)).view(np.int64)
        assert integers(signs.reshape(-1)) == (low < 0).astype(int).tolist()
        assert set(settled.view(np.int64) - np.array(values)) <= {0, 1}


@settings(max_examples=20)
@given(st.lists(st.floats(-0.99, 0.99), min_size=1, max_size=20), st.integers(0, 2**16 - 1))
def test_a_product_of_what_is_settled_low_is_right(values: list[float], seed: int) -> None:
    """x² low, lifted, squared: x⁴ to within 2x² ulp of the first and one of the last."""
    x = np.round(np.ldexp(values, 20)).astype(np.int64)

    def fourth(a: Replicated, y: Tensor) -> Tensor:
        once = a.settle_low(a.product(y, y), 20)
        return a.settle(a.lift(a.product(once, once), 60), 20)

    found = evaluate(fourth, x.view(np.uint64), bits=20, seed=seed).view(np.int64)
    exact = np.ldexp(x.astype(float), -20) ** 4
    assert np.abs(np.ldexp(found.astype(float), -20) - exact).max() <= 4 * 2.0**-20


@settings(max_examples=25)
@given(st.lists(st.lists(st.booleans(), min_size=16, max_size=16), min_size=1, max_size=9))
def test_conjunctions_and_negations(rows: list[list[bool]]) -> None:
    """Signs of ±1 as truth values, 16 to a row."""
    table = np.array(rows)
    values = ring([-1 if bit else 1 for bit in table.reshape(-1).tolist()])

    def task(a: Replicated, x: Tensor) -> Tensor:
        bits = a.rows(a.negative(x), 16)
        return a.number(a.choice(a.every(a.invert(a.invert(bits)))))

    result = evaluate(task, values)
    assert np.array_equal(result[0], table.all(0))


# ---------------------------------------------------------------------------- sharing and opening


@settings(max_examples=25)
@given(st.integers(0, 2), st.lists(st.floats(-60, 60), min_size=1, max_size=20))
def test_what_enters_comes_out_and_only_where_it_should(owner: int, values: list[float]) -> None:
    shape = (len(values),)

    def part(party: Party) -> list[Any]:
        mine = np.array(values) if party.index == owner else None
        (x,) = share(party, [Entry(owner, shape, 16, 64.0, mine)])
        return [reveal(party, x, to) for to in ((0, 1, 2), (2,), ())]

    for index, (everyone, last, nobody) in enumerate(together(part)):
        assert np.abs(everyone - values).max() <= 2.0**-17
        assert nobody is None
        assert (last is None) == (index != 2)


# ---------------------------------------------------------------------------- what a party sees

SECRETS = {"zero": 0, "minus one": 2**64 - 1, "large": 2**45 + 12345}
COUNT = 20_000


def views(
    task: Callable[[Replicated, Tensor], Any], value: int, seed: int
) -> list[list[np.ndarray[Any, Any]]]:
    """For each party the arrays that it receives while `task` works on COUNT equal secrets."""

    def part(party: Party) -> list[np.ndarray[Any, Any]]:
        x = Tensor(split(np.full(COUNT, value, np.uint64), party.index, seed), 32)
        task(Replicated(party), x)
        transport = party.transport
        assert isinstance(transport, InsecureQueues)
        return [array for _, array in transport.seen]

    return together(part, seed)


def uniformity(array: np.ndarray[Any, Any]) -> float:
    """The smallest chi-square p-value over the byte places of an array's words."""
    bytes_ = np.ascontiguousarray(array.reshape(-1)).view(np.uint8)
    places = bytes_.reshape(-1, array.dtype.itemsize).T
    values = [stats.chisquare(np.bincount(place, minlength=256)).pvalue for place in places]
    return float(min(values)) * len(values)


OPERATIONS: dict[str, Callable[[Replicated, Tensor], Any]] = {
    "truncation by 16": lambda a, x: a.settle(a.as_product(x), 16),
    "truncation by 32": lambda a, x: a.settle(a.as_product(x), 0),
    "truncation, low": lambda a, x: a.settle_low(a.product(x, x), 48),
    "settled beside its sign": lambda a, x: a.settle_and_compare(a.as_product(x), 8, lambda y: y),
    "conjunction": lambda a, x: a.every(a.rows(a.negative(x), COUNT // 10)),
    "product": lambda a, x: a.settle(a.product(x, x), 64),
    "sign": lambda a, x: a.negative(x),
    "bit to number": lambda a, x: a.number(a.choice(a.negative(x))),
    "relu": lambda a, x: a.relu(a.product(x, x), 48),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("secret", SECRETS)
def test_all_that_a_party_receives_is_uniform(name: str, secret: str) -> None:
    """Chi-square of every received array. The shares that go in are random in each element, so the
    alternatives below are what shows that this test can fail."""
    p = [
        uniformity(array)
        for seen in views(OPERATIONS[name], SECRETS[secret], seed=11)
        for array in seen
        if array.nbytes >= 2000
    ]
    assert p and min(p) > 1e-4 / len(p)


def test_without_re_randomisation_products_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rejected alternative, CrypTen's replicated product: zᵢ of equal shares repeats."""

    def fixed(party: Party) -> list[np.ndarray[Any, Any]]:
        """Many products of *one* sharing of one secret: what is sent must still be fresh."""
        x0, x1 = split(np.array([5], np.uint64), party.index, 1)
        x = Tensor((np.repeat(x0, COUNT), np.repeat(x1, COUNT)), 32)
        Replicated(party).settle(Product((x.parts[0] * x.parts[1],), 64), 64)
        transport = party.transport
        assert isinstance(transport, InsecureQueues)
        return [array for _, array in transport.seen]

    assert min(uniformity(array) for seen in together(fixed) for array in seen) > 1e-5
    monkeypatch.setattr(
        replicated.Replicated, "_re_randomised", lambda self, product: product.parts[0]
    )
    assert min(uniformity(array) for seen in together(fixed) for array in seen) < 1e-12


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_helper_receives_nothing(name: str) -> None:
    """Which is what lets it be a dealer; the others do receive something, so this can fail."""
    seen = views(OPERATIONS[name], SECRETS["large"], seed=3)
    assert seen[HELPER] == [] and seen[0] and seen[1]


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_two_secrets_look_like_is_the_same(name: str) -> None:
    """What a party receives *and holds*: every pair of arrays together, so that a pad used twice,
    or a message that can be unmasked with what the party has, shows. Differences and ⊕ of all pairs
    of equal type must be uniform; a repeated pad would make one of them the same everywhere."""
    for index, seen in enumerate(views(OPERATIONS[name], SECRETS["large"], seed=23)):
        held = list(split(np.full(COUNT, SECRETS["large"], np.uint64), index, 23))
        arrays = [array.reshape(-1) for array in seen if array.size >= 2000] + held
        for i, a in enumerate(arrays):
            for b in arrays[:i]:
                if a.dtype == b.dtype and a.shape == b.shape:
                    assert uniformity(a - b) > 1e-6 and uniformity(a ^ b) > 1e-6
                    assert uniformity(a + b) > 1e-6


def test_rounds_and_bytes_are_those_of_the_docstring() -> None:
    """Bytes an element over all parties, and rounds, of each operation."""

    def cost(task: Callable[[Replicated, Tensor], Any]) -> tuple[int, float]:
        def part(party: Party) -> tuple[int, int]:
            x = Tensor(split(np.zeros(8000, np.uint64), party.index, 0), 32)
            task(Replicated(party), x)
            return party.transport.traffic.rounds, party.transport.traffic.bytes_sent

        spent = together(part)
        return spent[0][0], sum(sent for _, sent in spent) / 8000

    assert cost(OPERATIONS["truncation by 16"]) == (2, 30)
    assert cost(OPERATIONS["truncation by 32"]) == (2, 36)
    assert cost(lambda a, x: a.settle_low(a.as_product(x), 0)) == (1, 24)
    assert cost(OPERATIONS["product"]) == (1, 24)
    bits = Bits((np.zeros(1000, np.uint8),) * 2, 8000)
    choice = Choice(bits, np.zeros(8000, np.uint64))
    assert cost(lambda a, x: a.choice(bits)) == (0, 8)
    assert cost(lambda a, x: a.choose(choice, x)) == (1, 24)
    assert cost(lambda a, x: a.number(choice)) == (1, 16)
    assert cost(lambda a, x: a.every(Bits((np.zeros((16, 1000), np.uint8),) * 2, 8000)))[0] == 2
    rounds, bytes_ = cost(OPERATIONS["sign"])
    # Thermometers and a sign; 16 rows picked; 34 bits of products (see `booleans`).
    assert rounds == 3 and bytes_ == pytest.approx(16 + 1 / 8 + 4 + 34 / 8)
    # A settled product with its sign: the correction takes no round of its own.
    both = cost(lambda a, x: a.settle_and_compare(a.as_product(x), 16, lambda y: y))
    assert both == (4, pytest.approx(30 + bytes_))


def test_public_values_cost_nothing_and_are_right() -> None:
    def part(party: Party) -> tuple[int, Any]:
        a = Replicated(party)
        x = a.times(a.lift(a.public([1.5, -2.25], 16), 24), [2.0, 0.5], 8)
        rounds = party.transport.traffic.rounds
        return rounds, decode(opened(party, x), 32)

    for rounds, values in together(part):
        assert rounds == 0 and values.tolist() == [3.0, -1.125]
