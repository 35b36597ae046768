"""`he_inference.backend.residues.sanitiser`: attacks on answers, and what is left of them.

The attacker is the owner of the keys: it has the secret, its own queries, and what it was answered.
From a plain answer it computes the whole model; from a sanitised one it cannot tell two models that
answer alike. Every test that sees nothing there sees something once a part of the sanitiser is
left out. All arithmetic here is Python's integers; only the transform is the project's own, which
`test_transforms` compares with SEAL's.

What rests on chance is checked so that right answers fail a whole run with a probability of 1e-9.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from itertools import combinations_with_replacement
from math import log, log2, prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from he_inference import batch_wire, flooding
from he_inference.backend import seeds
from he_inference.backend.residues import sanitiser as module
from he_inference.backend.residues.evaluator import ResidueEvaluator
from he_inference.backend.residues.sampling import NoiseSource
from he_inference.backend.residues.sanitiser import Sanitiser
from he_inference.backend.residues.transforms import Transform
from he_inference.backend.seal import KeyHolder
from he_inference.batch_compiler import CompiledBatch
from he_inference.batch_wire import BatchFormat
from he_inference.client import Client
from he_inference.compiler import compile
from he_inference.errors import InputError
from he_inference.layouts.batched import BatchedPlan
from he_inference.nn import Square
from he_inference.noise import slot_exponents
from he_inference.parameters import Parameters, ParametersLiteral
from he_inference.server import Server
from he_inference.torch_modules import from_torch
from he_inference.wire import Residues, Seeded
from tests.conftest import EPS
from tests.test_residues import make_plan, stage

Objects = npt.NDArray[np.object_]

P_VALUE = 1e-12
"""Of a single check; there are some hundred."""
DEVIATIONS = 7
"""A normal variable exceeds so many with a probability of 3e-12."""
KEY, START = bytes(range(32)), bytes(range(16))


class Owner:
    """The keys of one client, and all that can be computed with them."""

    def __init__(self, parameters: Parameters, holder: KeyHolder | None = None) -> None:
        self.parameters = parameters
        self.holder = holder or KeyHolder(parameters)
        self.primes, self.degree = parameters.data_primes, parameters.ring_degree
        self.modulus = prod(self.primes)
        self.transform = Transform(self.degree, self.primes)
        self.secret = self.holder.secret[:-1].astype(object)
        self.column = np.array(self.primes, object)[:, None]

    def keys(self, components: int) -> Residues:
        made = [self.holder.zero()]
        for power in range(2, components):
            made += self.holder.power_digits(power)
        return np.stack([self.expanded(seeded) for seeded in made])

    def expanded(self, seeded: Seeded) -> Residues:
        """(2, primes, N), as a server reads it."""
        both = np.empty((2, len(self.primes), self.degree), np.uint64)
        both[0] = seeded.residues
        seeds.expand(seeded.seed, self.primes, both[1])
        return both

    def integers(self, rows: Objects) -> Objects:
        """(primes, N) in the NTT domain → coefficients modulo Q, centred."""
        words = np.ascontiguousarray((rows % self.column).astype(np.uint64))
        for prime in range(len(self.primes)):
            self.transform.inverse(words[prime], prime)
        return self.composed(words)

    def composed(self, coefficients: Residues) -> Objects:
        """(primes, N) coefficients → those modulo Q, centred."""
        total = np.zeros(coefficients.shape[1], object)
        for row, p in zip(coefficients.astype(object), self.primes, strict=True):
            rest = self.modulus // p
            total += row * (rest * pow(rest, -1, p))
        return centred(total, self.modulus)

    def transformed(self, coefficients: Objects) -> Objects:
        """Integers (N,) → (primes, N) in the NTT domain."""
        words = np.stack([(coefficients % p).astype(np.uint64) for p in self.primes])
        for prime in range(len(self.primes)):
            self.transform.forward(words[prime], prime)
        return words.astype(object)

    def phase(self, cipher: Residues) -> Objects:
        """(components, primes, N) in the NTT domain → what it decrypts to: integers (N,)."""
        total = np.zeros(cipher.shape[1:], object)
        for component in cipher[::-1].astype(object):
            total = (total * self.secret + component) % self.column
        return self.integers(total)

    def phase_of_two(self, pair: Residues) -> Objects:
        """The same of coefficients (2, primes, N)."""
        c0, c1 = (self.composed(part) for part in pair)
        return centred(c0 + self.integers(self.transformed(c1) * self.secret), self.modulus)

    @cached_property
    def short_secret(self) -> Objects:
        """Its coefficients: −1, 0 and 1."""
        return self.integers(self.secret)

    def key_errors(self, keys: Residues) -> list[Objects]:
        """What every key decrypts to beside what it should: (N,) each."""
        found = [self.phase(keys[0])]
        for number, key in enumerate(keys[1:]):
            power, prime = divmod(number, len(self.primes))
            rows = np.zeros((len(self.primes), self.degree), object)
            rows[prime] = self.secret[prime] ** (power + 2)
            found.append(centred(self.phase(key) - self.integers(rows), self.modulus))
        return found


def centred(values: Any, modulus: int) -> Any:
    return (values + modulus // 2) % modulus - modulus // 2


def uniform(values: Objects, modulus: int, bins: int = 16) -> bool:
    """Integers from −modulus/2 on: all in range, and as many in every part of it."""
    places = (values + modulus // 2) * bins // modulus
    if places.min() < 0 or places.max() >= bins:
        return False
    counts = np.bincount(places.astype(np.int64), minlength=bins)
    expected = len(values) / bins
    statistic = float(np.square(counts - expected).sum() / expected)
    return bool(chi2.ppf(P_VALUE, bins - 1) < statistic < chi2.isf(P_VALUE, bins - 1))


def solved(matrix: Objects, values: Objects, p: int) -> Objects:
    """Gauß–Jordan modulo p."""
    rows = np.concatenate([matrix, values[:, None]], axis=1) % p
    for column in range(len(rows)):
        pivot = column + int(np.argmax(rows[column:, column] != 0))
        rows[[column, pivot]] = rows[[pivot, column]]
        rows[column] = rows[column] * pow(int(rows[column, column]), -1, p) % p
        factors = rows[:, column].copy()
        factors[column] = 0
        rows = (rows - factors[:, None] * rows[column]) % p
    return np.asarray(rows[:, -1])


def attack(columns: Objects, values: Objects, p: int) -> tuple[Objects, float]:
    """values[k] = Σ columns[i, k] · w_i modulo p, from as many points as there are unknowns.

    Returns centred w, and the share of the other points that agree: chance is 1/p.
    """
    count = len(columns)
    found = solved(columns[:, :count].T, values[:count], p)
    others = (found @ columns[:, count:] - values[count:]) % p
    return centred(found, p), float(np.mean(others == 0))


# ------------------------------------------------------------------------------ plain answers


def asked(compiled: CompiledBatch, x: npt.NDArray[np.float64]) -> tuple[Client, Residues, Residues]:
    """A client, its query's residues, and those of the answer, as they stand in messages."""
    client, server = Client(compiled.signature, processes=0), Server(compiled.program)
    server.register(client.evaluation_keys())
    form, query = BatchFormat.of(compiled.signature), client.encrypt(x)
    answer = server.evaluate(query)
    assert np.isfinite(client.decrypt(answer)).all()
    sent = batch_wire.read_query(form, io.BytesIO(query)).residues
    return client, sent, batch_wire.read_answer(form, io.BytesIO(answer)).residues


def compiled(layers: Sequence[nn.Module], features: int, response: str) -> CompiledBatch:
    x = examples(features)
    made = compile(
        from_torch(nn.Sequential(*layers).eval(), x),
        layout="batched",
        precision=8,
        examples=x,
        response=response,
    )
    assert isinstance(made, CompiledBatch)
    return made


def examples(features: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(features).random((50, features))


def test_a_plain_answer_of_a_linear_network_shows_every_weight() -> None:
    """c1 = Σ w_f a_f at thousands of points, and a_f is known: 64 unknowns, and the offset."""
    torch.manual_seed(1)
    made = compiled([nn.Linear(64, 3)], 64, "plain")
    _, sent, answer = asked(made, examples(64))
    plan = made.program.plan
    (this,) = plan.stages
    ((_, term),) = this.terms.items()
    weights = term.multiplier * term.weights.toarray().astype(object)
    p = made.parameters.data_primes[0]
    c0, c1 = sent[:, 0, 0].astype(object), sent[:, 1, 0].astype(object)
    for output in range(3):
        found, agreeing = attack(c1, answer[output, 1, 0].astype(object), p)
        assert agreeing == 1
        assert np.array_equal(found, weights[output])
        assert not uniform(found, p, 4)
        offsets = (answer[output, 0, 0].astype(object) - found @ c0) % p
        assert set(offsets) == {this.offset[output] % p}


def quadratic_form(plan: BatchedPlan, output: int, p: int) -> tuple[Objects, Objects, int]:
    """The network of one square, multiplied out modulo p: of x_f x_g, of x_f, of 1."""
    (inner, outer), count = plan.stages, plan.features
    ((_, first),) = inner.terms.items()
    w = first.multiplier * first.weights.toarray().astype(object)
    b = np.array(inner.offset, object)
    square, linear = np.zeros((count, count), object), np.zeros(count, object)
    constant = int(outer.offset[output])
    for (source, power), term in outer.terms.items():
        assert source == 1
        v = term.multiplier * term.weights.toarray().astype(object)[output]
        if power == 2:
            square += (w.T * v) @ w
            linear += 2 * (w.T * v) @ b
            constant += int((v * b) @ b)
        else:
            linear += w.T @ v
            constant += int(v @ b)
    pairs = combinations_with_replacement(range(count), 2)
    upper = [square[f, g] * (1 if f == g else 2) for f, g in pairs]
    return centred(np.array(upper, object), p), centred(linear, p), constant % p


FEATURES = 8
PAIRS = list(combinations_with_replacement(range(FEATURES), 2))


def one_square() -> list[nn.Module]:
    torch.manual_seed(2)
    return [nn.Linear(FEATURES, 5), Square(), nn.Linear(5, 3)]


def columns_of_c1(c0: Objects, c1: Objects, p: int) -> Objects:
    """What the second component of x_f x_g, and of x_f, is: 36 + 8 columns."""
    crossed = [c0[f] * c1[g] + c0[g] * c1[f] if f != g else 2 * c0[f] * c1[f] for f, g in PAIRS]
    return np.stack([*crossed, *c1]) % p


def test_a_plain_answer_of_one_square_shows_the_whole_network() -> None:
    """The component of s² holds the quadratic form, then that of s the linear one.

    That is the network as a function, exactly. Its weights are not determined further: hidden
    units may be exchanged, or scaled against their outgoing weights.
    """
    made = compiled(one_square(), FEATURES, "plain")
    _, sent, answer = asked(made, examples(FEATURES))
    p = made.parameters.data_primes[0]
    c0, c1 = sent[:, 0, 0].astype(object), sent[:, 1, 0].astype(object)
    for output in range(3):
        square, linear, constant = quadratic_form(made.program.plan, output, p)
        parts = answer[output, :, 0].astype(object)
        of_squares = np.stack([c1[f] * c1[g] % p for f, g in PAIRS])
        found, agreeing = attack(of_squares, parts[2], p)
        assert agreeing == 1 and np.array_equal(found, square)
        crossed = columns_of_c1(c0, c1, p)
        rest = (parts[1] - found @ crossed[: len(PAIRS)]) % p
        found, agreeing = attack(c1, rest, p)
        assert agreeing == 1 and np.array_equal(found, linear)
        products = np.stack([c0[f] * c0[g] % p for f, g in PAIRS])
        assert set((parts[0] - square @ products - linear @ c0) % p) == {constant}
        both, agreeing = attack(crossed, parts[1], p)  # or all of it from one component
        assert agreeing == 1 and np.array_equal(both, [*square, *linear])


def test_the_same_attack_on_private_answers_finds_noise() -> None:
    made = compiled(one_square(), FEATURES, "private")
    _, sent, answer = asked(made, examples(FEATURES))
    p = made.parameters.data_primes[0]
    transform = Transform(made.parameters.ring_degree, made.parameters.data_primes[:1])
    columns = columns_of_c1(sent[:, 0, 0].astype(object), sent[:, 1, 0].astype(object), p)
    found = []
    for output in range(3):
        for part in answer[output].copy():
            transform.forward(part, 0)
            weights, agreeing = attack(columns, part.astype(object), p)
            assert agreeing < 0.01
            found.append(weights)
    assert uniform(np.concatenate(found), p, 8)
    for output in range(3):
        square, linear, _ = quadratic_form(made.program.plan, output, p)
        right = np.array([*square, *linear], object)
        assert sum(np.count_nonzero(weights == right) for weights in found) < 3


# ------------------------------------------------------------------------------ two models alike

PARAMETERS = ParametersLiteral(4096, (42, 42), 16).resolve()
BITS = 82
"""Of flooding, 10 bits over N · B: shifts of κ's size are invisible in the answers of a test."""
ANSWERS = 6


class Alike:
    """Two models that answer alike: their features decrypt to the same, from other ciphertexts.

    Model 0 squares feature 0, model 1 feature 1. answers: (2, 3, primes, N).
    """

    def __init__(self) -> None:
        self.owner = owner = Owner(PARAMETERS)
        slots = np.random.default_rng(0).uniform(-1, 1, PARAMETERS.slots)
        one = owner.expanded(owner.holder.encrypt(slots, 2.0**20)).astype(object)
        other = owner.expanded(owner.holder.zero()).astype(object)
        other[0] = (one[0] + (one[1] - other[1]) * owner.secret) % owner.column
        self.queries = np.stack([one, other]).astype(np.uint64)
        self.keys = owner.keys(3)
        self.answers = np.concatenate([self.answered(weights) for weights in ([7, 0], [0, 7])])
        self.phase = owner.phase(self.answers[0])

    def answered(self, weights: list[int]) -> Residues:
        stages = [
            stage({(0, 1): (1, [weights])}, [123], 1),
            stage({(1, 2): (1, [[5]]), (1, 1): (1000, [[3]])}, [-77], 2),
        ]
        return ResidueEvaluator(make_plan(stages, 2, PARAMETERS)).evaluate(self.queries)


@pytest.fixture(scope="module")
def alike() -> Alike:
    return Alike()


def relinearised(owner: Owner, answer: Residues, keys: Residues, mask: Any) -> Residues:
    """The sanitiser's first two steps, with this mask: coefficients (2, primes, N)."""
    result = np.empty((2, len(owner.primes), owner.degree), np.uint64)
    transform, primes = owner.transform, np.array(owner.primes, np.float64)
    module._relinearise(
        answer, keys, mask, transform.tables, transform.inverse_tables, primes, result
    )
    return result


def before_division(
    owner: Owner,
    answer: Residues,
    keys: Residues,
    source: NoiseSource,
    bits: int,
    *,
    masked: bool = True,
    errors: bool = True,
) -> Residues:
    """The sanitiser up to its last step, and with parts left out: coefficients (2, primes, N)."""
    degree = owner.degree
    mask = source.ternary(degree) * masked
    result = relinearised(owner, answer, keys, mask)
    words = source.words(-(-bits // 64), degree)
    added = np.stack([source.binomial(degree), source.binomial(degree)]) * errors
    module._flood(result, added, words, bits, np.array(owner.primes, np.float64))
    return result


def test_both_models_answer_alike(alike: Alike) -> None:
    """And their plain answers differ in c1, from which anyone tells which one it was."""
    owner = alike.owner
    assert np.array_equal(owner.phase(alike.queries[0]), owner.phase(alike.queries[1]))
    assert np.array_equal(owner.phase(alike.answers[0]), owner.phase(alike.answers[1]))
    for this in range(2):
        a = alike.queries[this, 1].astype(object)
        guessed = 49 * 5 * a * a % owner.column
        assert np.array_equal(guessed, alike.answers[this, 2].astype(object))
        assert np.mean(guessed == alike.answers[1 - this, 2].astype(object)) < 0.01


def unmasked(alike: Alike, model: int) -> Objects:
    """c1 as it is before it is masked, which the owner of the keys can compute for every model."""
    zero = np.zeros(alike.owner.degree, np.int64)
    pair = relinearised(alike.owner, alike.answers[model], alike.keys, zero)
    return alike.owner.composed(pair[1])


def differences(alike: Alike, model: int, suspected: int, **kept: bool) -> Objects:
    """c1 of several answers less what it would be, unmasked, of a suspected model."""
    owner, source = alike.owner, NoiseSource(KEY, START)
    assumed, found = unmasked(alike, suspected), []
    for _ in range(ANSWERS):
        pair = before_division(owner, alike.answers[model], alike.keys, source, BITS, **kept)
        found.append(centred(owner.composed(pair[1]) - assumed, owner.modulus))
    return np.stack(found)


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize("suspected", [0, 1])
def test_c1_shows_nothing(alike: Alike, model: int, suspected: int) -> None:
    """Less what it would be without a mask it is uniform, and so is that divided by the key's a.

    Without the mask, small errors are left where the suspicion is right; without the errors, what
    is left is the mask times a.
    """
    owner = alike.owner
    inverse = np.stack(
        [[pow(int(v), p - 2, p) for v in row]
         for row, p in zip(alike.keys[0, 1], owner.primes, strict=True)]
    ).astype(object)  # fmt: skip

    def divided(rows: Objects) -> Objects:
        return np.stack([owner.integers(owner.transformed(row) * inverse) for row in rows])

    right = model == suspected
    kept = differences(alike, model, suspected)
    assert uniform(kept.ravel(), owner.modulus)
    assert uniform(divided(kept[:1]).ravel(), owner.modulus)
    without_mask = differences(alike, model, suspected, masked=False)
    assert (np.abs(without_mask).max() <= flooding.MAX_ERROR) == right
    without_errors = divided(differences(alike, model, suspected, errors=False)[:1])
    assert (np.abs(without_errors).max() <= 1) == right
    assert uniform(without_errors.ravel(), owner.modulus) != right


def test_messages_show_nothing(alike: Alike) -> None:
    """As they leave, divided, with random numbers of their own."""
    owner, p = alike.owner, PARAMETERS.data_primes[0]
    both = np.repeat(alike.answers, ANSWERS, axis=0)
    sent = Sanitiser(PARAMETERS, 3, BITS, threads=2).sanitise(both, alike.keys).astype(object)
    rest = owner.modulus // p
    suspicions = [(unmasked(alike, suspected) + rest // 2) // rest for suspected in range(2)]
    for number, message in enumerate(sent):
        for assumed in suspicions:
            assert uniform(centred(message[1] - assumed, p), p)
        for other in sent[:number]:
            assert uniform(centred(message[1] - other[1], p), p)


def residuals(alike: Alike, model: int, bits: int) -> Objects:
    """What several answers decrypt to, less what both models answer: κ + E."""
    owner, source = alike.owner, NoiseSource(KEY, START)
    rows = [
        owner.phase_of_two(
            before_division(owner, alike.answers[model], alike.keys, source, bits)
        )
        for _ in range(ANSWERS)
    ]  # fmt: skip
    return centred(np.stack(rows) - alike.phase, owner.modulus)


def switching_noise(alike: Alike, model: int) -> Objects:
    """The part of κ that depends on the model; the owner of the keys can compute it."""
    zero = np.zeros(alike.owner.degree, np.int64)
    pair = relinearised(alike.owner, alike.answers[model], alike.keys, zero)
    return centred(alike.owner.phase_of_two(pair) - alike.phase, alike.owner.modulus)


def enough(components: int, bits: int = 10) -> int:
    """Flooding by which answers of so many components are that far from what they should be."""
    hidden = flooding.statistical_bits(PARAMETERS, components, 1, 0)
    return int(-(-(bits - hidden) // 1))


@pytest.mark.parametrize("model", [0, 1])
def test_what_it_decrypts_to_shows_nothing(alike: Alike, model: int) -> None:
    """κ + E is as uniform as E: that it is not happens with a probability of ANSWERS · 2^-10.

    So says the statement, and much less is true, as κ is far below its worst case. Flooding with
    ten bits less is found, and so is flooding for encryptions of zero alone: then relinearisation
    shows, and tells which model it was.
    """
    assert enough(3) == BITS
    noise = [switching_noise(alike, number) for number in range(2)]
    between, middle = noise[0] - noise[1], (noise[0] + noise[1]) / 2

    def verdict(bits: int) -> float:
        """The likelier model by correlation, in deviations; towards model 0 where positive."""
        rest = (residuals(alike, model, bits) - middle).astype(float)
        norm = float(np.linalg.norm(between.astype(float)))
        whole = sqrt(ANSWERS) * norm * 2.0**bits / sqrt(12)
        return float((rest @ between.astype(float)).sum() / whole)

    kept = residuals(alike, model, BITS)
    assert uniform(kept.ravel(), 1 << BITS)
    assert not uniform(residuals(alike, model, BITS - 10).ravel(), 1 << BITS)
    assert not uniform(residuals(alike, model, BITS - 1).ravel(), 1 << BITS)
    assert abs(verdict(BITS)) < DEVIATIONS
    forgotten = enough(2)
    assert BITS - forgotten > 40
    assert not uniform(residuals(alike, model, forgotten).ravel(), 1 << forgotten)
    assert verdict(forgotten) * (1 if model == 0 else -1) > 1000


def test_answers_do_not_share_their_noise(alike: Alike) -> None:
    """The same answer three times: E and masks are independent, within a message and between."""
    sanitiser = Sanitiser(PARAMETERS, 3, BITS, threads=2)
    thrice = np.repeat(alike.answers[:1], 3, axis=0)
    sent = np.concatenate([sanitiser.sanitise(thrice, alike.keys) for _ in range(2)])
    rest = alike.owner.modulus // PARAMETERS.data_primes[0]
    errors = []
    for message in sent:
        found = message_phase(alike.owner, message)
        errors.append((found - alike.phase / rest).astype(float))
    normalised = np.array(errors) / (2.0**BITS / rest / sqrt(12))
    assert np.allclose(normalised.std(axis=1), 1, atol=0.1)
    correlations = normalised @ normalised.T / 4096
    off = correlations[~np.eye(len(sent), dtype=bool)]
    assert np.abs(off).max() < DEVIATIONS / sqrt(4096)


# ------------------------------------------------------------------------------ κ, measured


def test_the_keys_errors_are_what_the_bound_assumes(alike: Alike) -> None:
    """At most 21, with the variance 21/2, in SEAL's encryptions; and a ternary secret."""
    errors = np.concatenate(alike.owner.key_errors(alike.keys)).astype(float)
    assert np.abs(errors).max() <= flooding.MAX_ERROR
    # Kurtosis of a sum of 42 bits: 3 − 2/42, so squares vary by less than 2·10.5².
    deviation = sqrt(2 / len(errors))
    assert abs(np.square(errors).mean() / 10.5 - 1) < DEVIATIONS * deviation
    assert set(alike.owner.short_secret) == {-1, 0, 1}


@pytest.mark.parametrize("components", [2, 3, 5])
def test_the_noise_that_is_hidden(components: int) -> None:
    """κ of uniform answers, against its bound and against its deviation.

    A digit is q/2 and something uniform of variance q²/12. Its half shows as q/2 · Σ ± e, known to
    the owner of the key; the rest of a coefficient of κ has variance Σ |e|² q²/12. Digits far
    below their bound have n coefficients that depend on each other through e: with λ the spectrum
    of e, the mean of squares is within 2·√(x Σ λ²) + 2·x·max λ of Σ λ, but for 2·exp(−x) (Laurent
    and Massart 2000, Lemma 1).
    """
    owner = Owner(PARAMETERS)
    keys, degree = owner.keys(components), owner.degree
    answer = uniform_answer(PARAMETERS, components, np.random.default_rng(components))
    source = NoiseSource(KEY, START)
    mask, bound = (
        source.ternary(degree),
        flooding.largest_noise(PARAMETERS.ring_degree, PARAMETERS.data_primes, components),
    )
    pair = relinearised(owner, answer, keys, mask)
    noise = centred(owner.phase_of_two(pair) - owner.phase(answer), owner.modulus)
    zero = centred(owner.integers(owner.transformed(owner.phase(keys[0])) * owner.transformed(
        mask.astype(object))), owner.modulus)  # fmt: skip
    assert np.abs(noise).max() <= bound
    if components == 2:
        assert np.array_equal(noise, zero)
        return
    rest = 2 * (noise - zero)
    spectrum = np.zeros(degree)
    twist = np.exp(1j * np.pi * np.arange(degree) / degree)
    for number, error in enumerate(owner.key_errors(keys)[1:]):
        q = owner.primes[number % len(owner.primes)]
        sums = np.cumsum(error)
        rest -= (q - 1) * (2 * sums - sums[-1])
        transformed = np.abs(np.fft.fft(error.astype(float) * twist)) ** 2
        spectrum += transformed * (q * q - 1) / 12
    mean, x = spectrum.sum() / degree, 25
    spread = 2 * sqrt(x * np.square(spectrum).sum()) + 2 * x * spectrum.max()
    found = float(np.square((rest / 2).astype(float)).mean())
    tolerance = spread / degree / mean
    assert tolerance < 0.7
    assert abs(found / mean - 1) < tolerance
    assert not abs(4 * found / mean - 1) < tolerance and not abs(found / mean / 4 - 1) < tolerance
    # Far below the worst case, which all signs would have to conspire for.
    assert bound / sqrt(mean) > 100


# ------------------------------------------------------------------------------ bit for bit


def uniform_answer(parameters: Parameters, components: int, rng: np.random.Generator) -> Residues:
    """Uniform residues, in the NTT domain, extremes among them."""
    rows = []
    for p in parameters.data_primes:
        row = rng.integers(0, p, (components, parameters.ring_degree), dtype=np.uint64)
        row[:, :5] = [0, 1, p // 2, p // 2 + 1, p - 1]
        rows.append(row)
    return np.stack(rows, axis=1)


def extreme_answer(owner: Owner, components: int) -> Residues:
    """Coefficients of p − 1 everywhere: the largest digits."""
    rows = np.empty((components, len(owner.primes), owner.degree), np.uint64)
    rows[:] = np.array(owner.primes, np.uint64)[:, None] - np.uint64(1)
    for part in rows:
        for prime in range(len(owner.primes)):
            owner.transform.forward(part[prime], prime)
    return rows


def coefficient(a: Objects, b: Objects, k: int) -> int:
    """Coefficient k of the negacyclic product."""
    return int(a[: k + 1] @ b[k::-1]) - int(a[k + 1 :] @ b[:k:-1])


def reference(
    owner: Owner, answer: Residues, keys: Residues, bits: int, places: Sequence[int]
) -> list[list[int]]:
    """The definition, in Python's integers: c0 and c1 of a message at some places."""
    source, degree = NoiseSource(KEY, START), owner.degree
    mask = source.ternary(degree).astype(object)
    words = source.words(-(-bits // 64), degree).astype(object)
    errors = [source.binomial(degree), source.binomial(degree)]
    flooded = sum(word << (64 * i) for i, word in enumerate(words))
    flooded = flooded % (1 << bits) - (1 << (bits - 1))
    factors = [(mask, keys[0])]
    for number, key in enumerate(keys[1:]):
        power, prime = divmod(number, len(owner.primes))
        digit = answer[power + 2, prime].copy()
        owner.transform.inverse(digit, prime)
        factors.append((digit.astype(object), key))
    result = []
    for part in range(2):
        wholes = [owner.integers(key[part].astype(object)) for _, key in factors]
        start = owner.integers(answer[part].astype(object))
        row = []
        for k in places:
            x = int(start[k]) + int(errors[part][k]) + (int(flooded[k]) if part == 0 else 0)
            x += sum(coefficient(f, w, k) for (f, _), w in zip(factors, wholes, strict=True))
            row.append(divided(x % owner.modulus, owner.primes))
        result.append(row)
    return result


def divided(x: int, primes: Sequence[int]) -> int:
    for q in reversed(primes[1:]):
        x = (x - centred(x, q)) // q
    return int(x % primes[0])


CASES = [
    (4096, (20, 20), 2, 64),
    (4096, (42, 42), 3, 70),
    (4096, (20, 42, 28), 5, 128),
    (4096, (20, 20, 20, 20), 9, 1),
    (8192, (36, 42, 20, 40, 41), 3, 400),
    (8192, (42, 20, 37, 25, 42, 28), 5, 129),
    (4096, (42,), 2, 63),
]


@pytest.mark.parametrize(("degree", "data", "components", "bits"), CASES)
def test_messages_bit_for_bit(
    degree: int,
    data: tuple[int, ...],
    components: int,
    bits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Relinearisation, mask, flooding and division against the definition; then SEAL decrypts."""
    monkeypatch.setattr(module, "NoiseSource", lambda: NoiseSource(KEY, START))
    parameters = ParametersLiteral(degree, data, 16 if degree == 4096 else 17).resolve()
    owner = Owner(parameters)
    keys = owner.keys(components)
    answers = np.stack(
        [
            uniform_answer(parameters, components, np.random.default_rng(bits)),
            extreme_answer(owner, components),
        ]
    )
    sent = Sanitiser(parameters, components, bits).sanitise(answers, keys)
    places = [0, 1, degree // 2 + 1, degree - 1]
    for answer, message in zip(answers, sent, strict=True):
        assert message[:, places].tolist() == reference(owner, answer, keys, bits, places)
    decrypts(owner, sent[0])


def message_phase(owner: Owner, message: Residues) -> Objects:
    """c0 + c1·s modulo the first prime, centred, of a message (2, N)."""
    q = owner.primes[0]
    c1 = message[1].copy()
    owner.transform.forward(c1, 0)
    product = (c1.astype(object) * owner.secret[0] % q).astype(np.uint64)
    owner.transform.inverse(product, 0)
    return np.asarray(centred(message[0].astype(object) + product.astype(object), q))


def decrypts(owner: Owner, message: Residues) -> Objects:
    """That SEAL decrypts a message to c0 + c1·s modulo the first prime, which is returned."""
    degree, phase = owner.degree, message_phase(owner, message)
    whole = np.zeros(2 * degree)
    whole[:degree] = phase.astype(float)
    expected = np.fft.ifft(whole)[slot_exponents(degree)].real * 2 * degree
    found = owner.holder.decrypt(message, 1.0)
    tolerance = 8 * EPS * log2(2 * degree) * float(np.linalg.norm(whole)) * sqrt(degree)
    assert np.abs(found - expected).max() <= tolerance < 1e-6 * np.abs(expected).max()
    return phase


def test_a_message_decrypts_to_the_network_of_the_query_and_flooding() -> None:
    """f_W(X) for what the queries decrypt to, noise included, and E; nothing else above κ."""
    made = compiled(one_square(), FEATURES, "private")
    client, sent, _ = asked(made, examples(FEATURES))
    plan, owner = made.program.plan, Owner(made.parameters, client._keys)
    answers = ResidueEvaluator(plan).evaluate(sent)
    sanitiser = Sanitiser(plan.parameters, plan.components, plan.flooding_bits)
    messages = sanitiser.sanitise(answers, owner.keys(plan.components))
    x = [(c0.astype(object) + c1.astype(object) * owner.secret) % owner.column for c0, c1 in sent]
    # A coefficient of r0 + r1·s, r rounding errors, is a sum of so many uniform ones of size 1/2:
    # Hoeffding's bound, for all of them together.
    rest = owner.modulus // owner.primes[0]
    count = int(sum(abs(owner.short_secret))) + 1
    rounding = rest * sqrt(count / 2 * log(2 * plan.outputs * owner.degree / P_VALUE)) * 1.001
    bound = 2 ** (plan.flooding_bits - 1)
    bound += flooding.largest_noise(
        plan.parameters.ring_degree, plan.parameters.data_primes, plan.components
    )
    variance = 4.0**plan.flooding_bits / 12 + float(rest) ** 2 * count / 12
    for output, message in enumerate(messages):
        expected = owner.integers(function(plan, output, owner.primes, x))
        assert np.array_equal(expected, owner.phase(answers[output]))
        error = centred(decrypts(owner, message) * rest - expected, owner.modulus)
        assert np.abs(error).max() <= bound + rounding
        # The square over its mean varies by less than a normal variable's, by 2.
        size = float(np.square(error.astype(float)).mean()) / variance
        assert abs(size - 1) < DEVIATIONS * sqrt(2 / owner.degree)


def function(
    plan: BatchedPlan, output: int, primes: Sequence[int], x: Sequence[Objects]
) -> Objects:
    """f_W of the features' phases (primes, N) in the NTT domain."""
    rows = []
    for prime, p in enumerate(primes):
        square, linear, constant = quadratic_form(plan, output, p)
        row = sum((c * v[prime] for c, v in zip(linear, x, strict=True)), start=constant)
        for c, (f, g) in zip(square, PAIRS, strict=True):
            row = row + c * x[f][prime] * x[g][prime]
        rows.append(row % p)
    return np.stack(rows)


# ------------------------------------------------------------------------------ limits


def test_queries_may_be_larger_than_the_range_and_answers_more_precise(alike: Alike) -> None:
    """What the statement leaves out: how much the answers themselves show.

    The range of queries is the client's affair. Feature f is K·X^f with K above the flooding, so
    one sanitised message, of honest keys and 40 bits, is a list of a linear network's weights.
    """
    owner, features = alike.owner, 64
    weights = np.random.default_rng(1).integers(-127, 128, (1, features))
    plan = make_plan([stage({(0, 1): (1, weights)}, [5], 1)], features, PARAMETERS)
    bits = enough(2, 40)
    queries = []
    for feature in range(features):
        cipher = owner.expanded(owner.holder.zero()).astype(object)
        value = np.zeros(owner.degree, object)
        value[feature] = 1 << (bits + 1)
        cipher[0] = (cipher[0] + owner.transformed(value)) % owner.column
        queries.append(cipher.astype(np.uint64))
    answers = ResidueEvaluator(plan).evaluate(np.stack(queries))
    assert flooding.statistical_bits(PARAMETERS, 2, 1, bits) >= 40
    (message,) = Sanitiser(PARAMETERS, 2, bits).sanitise(answers, owner.keys(2))
    rest = owner.modulus // owner.primes[0]
    found = message_phase(owner, message)[:features] * rest / (1 << (bits + 1))
    assert np.array_equal(np.rint(found.astype(float)), weights[0])


def test_keys_of_another_kind_show_the_weights(alike: Alike) -> None:
    """What the statement leaves out: the owner adds a large constant to what a key encrypts.

    Then the digits of c_2 stand above the flooding, some bits of them in every answer, and c_2 is
    a polynomial of the weights. Two sets of keys suffice here.
    """
    owner, q = alike.owner, PARAMETERS.data_primes[0]
    each, bits = 22, 58
    digit = np.zeros(owner.degree, object)
    for number in (2, 1):
        unit = 1 << (each * number)
        constant = owner.modulus // unit
        keys = alike.keys.copy()
        keys[1, 0] = ((keys[1, 0].astype(object) + constant) % owner.column).astype(np.uint64)
        pair = before_division(owner, alike.answers[0], keys, NoiseSource(KEY, START), bits)
        seen = (owner.phase_of_two(pair) - alike.phase) % owner.modulus
        # seen = digit · constant + noise modulo Q: the digit modulo `unit`, but for its low bits.
        approximate = (seen * unit + owner.modulus // 2) // owner.modulus % unit
        if number == 2:
            digit = approximate
        else:
            digit += centred(approximate - digit, unit)
    words = digit.astype(np.uint64)
    owner.transform.forward(words, 0)
    a = alike.queries[:, 1, 0].astype(object)
    columns = np.stack([a[0] * a[0], a[0] * a[1], a[1] * a[1]]) % q
    found, agreeing = attack(columns, words.astype(object), q)
    assert agreeing == 1 and found.tolist() == [7 * 7 * 5, 0, 0]


def test_other_shapes_are_refused(alike: Alike) -> None:
    sanitiser = Sanitiser(PARAMETERS, 3, BITS)
    for answers, keys in (
        (alike.answers[:, :2], alike.keys),
        (alike.answers[0], alike.keys),
        (alike.answers, alike.keys[:-1]),
        (alike.answers, alike.keys[:, :1]),
    ):
        with pytest.raises(InputError, match=r"expected answers \(outputs, 3, 2, 4096\)"):
            sanitiser.sanitise(answers, keys)
