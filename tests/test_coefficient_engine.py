"""`he_inference.coefficient_engine`: attacks on answers, and what is left of them.

As in `test_sanitiser` the attacker is the owner of the keys. It suspects one of two models that
answer its query alike, W and W + V with V·X = 0 for the X that its ciphertexts decrypt to. From a
plain answer's second polynomial it tells which one it was; from private ones it cannot, and every
test that sees nothing there sees something once a part of what hides the model is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chi2

from he_inference import Server, coefficient_engine, wire
from he_inference.backend import seeds
from he_inference.backend.residues import sanitiser
from he_inference.backend.residues.sampling import NoiseSource
from he_inference.coefficient_compiler import compile_coefficients
from he_inference.coefficient_engine import CoefficientEngine
from he_inference.coefficient_program import CoefficientProgram, check
from he_inference.coefficient_wire import read_answer
from he_inference.errors import MessageError, UnknownKey
from he_inference.nodes import Array
from tests.test_coefficient_flow import Party, linear, party, phases, products, sent, uncut
from tests.test_sanitiser import Objects, centred, solved, uniform

P_VALUE = 1e-9
FEATURES = 20


@cache
def program(response: str, group: int) -> CoefficientProgram:
    """Two outputs; every bit of c1 is sent, so that nothing is hidden by what is cut."""
    network, x = linear(FEATURES, 2)
    found = compile_coefficients(network, x, precision=9, response=response)  # type: ignore[arg-type]
    made = next(c.program for c in found if c.signature.group == group)
    return uncut(made)


# ------------------------------------------------------------------------------ two models alike


def alternative(this: Party, x: Objects) -> CoefficientProgram:
    """Another model that answers a query alike: its ciphertexts decrypt to x, (ciphertexts, N).

    W + V where V is small but for as many weights as there are equations: these are solved for.
    """
    program, q = this.program, this.owner.primes[0]
    layout, weights = program.signature.layout, np.zeros_like(program.weights)
    free = weights.reshape(-1)
    columns = []
    for place in range(len(free)):
        free[:] = 0
        free[place] = 1
        columns.append(products(replace(program, weights=weights.copy()), x) % q)
    system = np.stack(columns, axis=1)  # (outputs, weights)
    v = np.random.default_rng(0).integers(-99, 100, len(free)).astype(object)
    pivots = [output * layout.features for output in range(layout.outputs)]
    v[pivots] = 0
    v[pivots] = centred(solved(system[:, pivots], -(system @ v) % q, q), q)
    changed = centred(program.weights.astype(object) + v.reshape(weights.shape), q)
    found = replace(program, weights=changed.astype(np.int64))
    check(found)
    return found


@dataclass(frozen=True)
class Alike:
    """A client, one query, and servers of two models that answer it alike."""

    this: Party
    query: bytes
    models: tuple[CoefficientProgram, CoefficientProgram]
    servers: tuple[Server, Server]

    def answered(self, model: int) -> bytes:
        return self.servers[model].evaluate(self.query)

    def guessed(self, suspected: int) -> Objects:
        """c1 = Σ w_u·a_u of a suspected model, (answers, N): the client knows its own seeds."""
        owner, q = self.this.owner, self.this.owner.primes[0]
        signature = self.this.program.signature
        polynomials = signature.layout.weights(self.models[suspected].weights)
        rows = []
        for answer in polynomials:
            total = np.zeros(owner.degree, object)
            for ciphertext, w in zip(
                wire.read_query(signature, self.query).ciphertexts, answer, strict=True
            ):
                a = np.empty((1, owner.degree), np.uint64)
                seeds.expand(ciphertext.seed, (q,), a)
                spectrum = np.mod(w, q).astype(np.uint64)
                owner.transform.forward(spectrum, 0)
                total = (total + a[0].astype(object) * spectrum) % q
            words = total.astype(np.uint64)
            owner.transform.inverse(words, 0)
            rows.append(words.astype(object))
        return np.stack(rows)

    def difference(self, answer: bytes, suspected: int) -> Objects:
        """c1 of an answer less what it would be, unmasked, of a suspected model."""
        found = read_answer(self.this.program.signature, answer).polynomials[0]
        q = self.this.owner.primes[0]
        return np.asarray(centred(found.astype(object) - self.guessed(suspected), q))


@cache
def alike(response: str, group: int) -> Alike:
    this = party(program(response, group))
    query = this.client.encrypt(np.random.default_rng(2).random((1, FEATURES)))
    (x,) = phases(this, query)
    models = (this.program, alternative(this, x))
    servers = (this.server, Server(models[1], threads=1))
    servers[1].register(this.client.evaluation_keys())
    return Alike(this, query, models, servers)


both = pytest.mark.parametrize("group", [1, 2])
either_model = pytest.mark.parametrize("model", [0, 1])


@both
@pytest.mark.parametrize("response", ["private", "plain"])
def test_both_models_answer_alike(response: str, group: int) -> None:
    it = alike(response, group)
    (x,) = phases(it.this, it.query)
    q = it.this.owner.primes[0]
    one, other = (products(model, x) for model in it.models)
    assert np.array_equal(centred(one - other, q), np.zeros(2))
    assert np.count_nonzero(it.models[0].weights != it.models[1].weights) > FEATURES


@both
@either_model
@pytest.mark.parametrize("suspected", [0, 1])
def test_a_plain_answer_tells_which_model_it_was(group: int, model: int, suspected: int) -> None:
    """Exactly, where all bits are sent; and below what is cut, where some are not."""
    it = alike("plain", group)
    q, right = it.this.owner.primes[0], model == suspected
    found = it.difference(it.answered(model), suspected)
    assert (np.abs(found).max() == 0) == right
    assert uniform(found.ravel(), q) != right
    cut = 6
    bits = q.bit_length() - cut
    whole = read_answer(it.this.program.signature, it.answered(model)).polynomials[0]
    kept = wire.shift_down(whole.reshape(-1), cut, bits).astype(object) << cut
    rest = centred(kept - it.guessed(suspected).reshape(-1), q)
    assert (np.abs(rest).max() <= 1 << cut) == right
    assert uniform(rest, q) != right


def hides(it: Alike, model: int) -> bool:
    """Whether c1 shows neither which of the models it was nor which it was not."""
    q = it.this.owner.primes[0]
    found = [it.difference(it.answered(model), suspected) for suspected in (0, 1)]
    return all(uniform(each.ravel(), q) for each in found)


def renews(it: Alike) -> bool:
    """Whether two answers to one query differ by something uniform."""
    q = it.this.owner.primes[0]
    one, other = (
        read_answer(it.this.program.signature, it.answered(0)).polynomials[0].astype(object)
        for _ in range(2)
    )
    return uniform(centred(one - other, q).ravel(), q)


@both
@either_model
def test_a_private_answer_shows_neither(group: int, model: int) -> None:
    it = alike("private", group)
    assert hides(it, model)
    assert renews(it)
    assert not hides(alike("plain", group), model)
    assert not renews(alike("plain", group))


# ------------------------------------------------------------------------------ what it decrypts to

QUERIES = 300


def law(program: CoefficientProgram) -> float:
    """The deviation of c0 + c1·s − m at the scale of answers: F, divided by Q, and rounding."""
    primes, degree = program.parameters.data_primes, program.parameters.ring_degree
    flooding = 2.0**program.flooding_bits / prod(primes[1:])
    return sqrt((flooding**2 + 1 + 2 * degree / 3) / 12)


def residuals(it: Alike, model: int) -> Array:
    """What many answers decrypt to, less W·X and the offset: (queries, outputs)."""
    this, q = it.this, it.this.owner.primes[0]
    x = np.random.default_rng(model).random((1, FEATURES))
    query = this.client.encrypt(np.repeat(x, QUERIES, axis=0))
    held = np.stack([products(it.models[model], row) for row in phases(this, query)])
    found = sent(this, it.servers[model].evaluate(query))
    offset = it.models[model].offset.astype(object)
    return np.asarray(centred(found - held - offset, q)).astype(np.float64)


def accepts(errors: Array, deviation: float) -> bool:
    """Uniform variables: their squares vary less than a normal one's, which chi-square is for."""
    total = float(np.square(errors / deviation).sum())
    return bool(chi2.ppf(P_VALUE, errors.size) < total < chi2.isf(P_VALUE, errors.size))


@both
@either_model
def test_the_noise_of_private_answers(group: int, model: int) -> None:
    it = alike("private", group)
    errors = residuals(it, model)
    for output in range(2):
        row, deviation = errors[:, output], law(it.models[model])
        assert accepts(row, deviation)
        assert not accepts(row, deviation / 2) and not accepts(row, deviation * 2)
        # Uniform: nothing is beyond F/2Q, rounding and κ aside.
        primes = it.models[model].parameters.data_primes
        half = 2.0 ** (it.models[model].flooding_bits - 1) / prod(primes[1:])
        assert np.abs(row).max() <= half + 12 * sqrt((1 + 2 * 4096 / 3) / 12)
    correlation = float(np.corrcoef(errors.T)[0, 1])
    assert abs(correlation) < 7 / sqrt(QUERIES)


def test_plain_answers_have_no_noise_of_their_own() -> None:
    it = alike("plain", 2)
    assert np.abs(residuals(it, 0)).max() == 0


# ------------------------------------------------------------------------------ mutants


Mutation = Callable[[pytest.MonkeyPatch], object]
_TERNARY, _WORDS = NoiseSource.ternary, NoiseSource.words


def without_zero(patch: pytest.MonkeyPatch) -> None:
    """No encryption of zero is added: flooding and errors alone."""
    patch.setattr(NoiseSource, "ternary", lambda self, count: np.zeros(count, np.int64))


def without_flooding(patch: pytest.MonkeyPatch) -> None:
    """E is zero everywhere: the words that make half of F."""

    def words(self: NoiseSource, *shape: int) -> npt.NDArray[np.uint64]:
        found = _WORDS(self, *shape)
        if len(shape) == 1:
            return found
        bits = program("private", 1).flooding_bits
        made = np.zeros(shape, np.uint64)
        made[(bits - 1) // 64] = 1 << (bits - 1) % 64
        return made

    patch.setattr(NoiseSource, "words", words)


def with_one_mask(patch: pytest.MonkeyPatch) -> None:
    """The same u for every answer."""
    mask = _TERNARY(NoiseSource(bytes(32), bytes(16)), 4096)
    patch.setattr(NoiseSource, "ternary", lambda self, count: mask[:count].copy())


def with_plain_answers(patch: pytest.MonkeyPatch) -> None:
    """What is drawn is not added."""
    made = sanitiser.Sanitiser.sanitise
    patch.setattr(
        coefficient_engine.Sanitiser, "sanitise", lambda *given: np.zeros_like(made(*given))
    )


@pytest.mark.parametrize(
    ("mutation", "hidden", "renewed", "flooded"),
    [
        (None, True, True, True),
        (without_zero, False, False, True),
        (without_flooding, True, True, False),
        (with_one_mask, True, False, True),
        (with_plain_answers, False, False, False),
    ],
)
def test_what_is_left_out_is_found(
    monkeypatch: pytest.MonkeyPatch,
    mutation: Mutation | None,
    hidden: bool,
    renewed: bool,
    flooded: bool,
) -> None:
    it = alike("private", 1)
    if mutation is not None:
        mutation(monkeypatch)
    assert hides(it, 0) == hidden
    assert renews(it) == renewed
    assert accepts(residuals(it, 0)[:, 0], law(it.models[0])) == flooded


# ------------------------------------------------------------------------------ limits


def test_queries_may_be_anything_in_the_ring() -> None:
    """What the statement leaves out: how much the answers themselves show.

    A client chooses X: 2^k in the place of one feature, the modulus above the noise in one answer.
    So each query is answered with a weight of every output, with a few bits more than precision.
    """
    it = alike("private", 2)
    this, owner, q = it.this, it.this.owner, it.this.owner.primes[0]
    layout, weights = this.program.signature.layout, this.program.weights
    size = q // (4 * int(np.abs(weights).max()))
    (encrypted,) = this.client._keys.encrypt_coefficients(np.zeros((1, 2048), complex))
    chosen = np.zeros(owner.degree, np.uint64)
    chosen[3] = size
    owner.transform.forward(chosen, 0)
    moved = (encrypted.residues[0] + chosen) % np.uint64(q)
    key_id, ticket = bytes.fromhex(this.client.key_id), bytes(32)
    message = wire.Query(key_id, ticket, (encrypted._replace(residues=moved[None]),))
    answer = this.server.evaluate(wire.write_query(this.program.signature, message))
    found = sent(this, answer)[0] - this.program.offset.astype(object)
    assert layout.queries == 1
    noise = 7 * (law(this.program) + sqrt(10.6) * np.linalg.norm(weights)) / size
    assert (np.abs(found.astype(float) / size - weights[:, 3]) < noise).all()


def test_private_answers_never_go_plain() -> None:
    """Whoever looks keys up and finds none gets an error, not an answer that shows the weights."""
    it = alike("private", 1)
    engine = CoefficientEngine(it.this.program, threads=1)
    with pytest.raises(UnknownKey, match=f"{it.this.client.key_id}: register it first"):
        engine.evaluate(it.query, lambda _: None)
    zero = engine.keys(it.this.client.evaluation_keys())
    assert zero is not None and zero.shape == (1, 2, len(it.this.owner.primes), 4096)
    assert len(engine.evaluate(it.query, lambda _: zero)) > 0
    plain = alike("plain", 1)
    bare = CoefficientEngine(plain.this.program, threads=1)
    assert bare.keys(plain.this.client.evaluation_keys()) is None


def test_the_number_of_threads_changes_nothing() -> None:
    it = alike("plain", 1)
    answers = [
        CoefficientEngine(it.this.program, threads=threads).evaluate(it.query, _no_keys)
        for threads in (1, 2, 5)
    ]
    assert answers[0] == answers[1] == answers[2]


def _no_keys(_: bytes) -> Any:
    raise AssertionError("plain answers need no keys")


def test_a_query_is_checked_before_keys_are_looked_for() -> None:
    it = alike("private", 1)
    engine = CoefficientEngine(it.this.program, threads=1)
    with pytest.raises(MessageError, match="damaged"):
        engine.evaluate(it.query[:-20] + bytes(20), _no_keys)
    assert engine.key_id(it.query).hex() == it.this.client.key_id
