"""The coefficient layout from network to scores, in steps whose errors are kept apart.

1. network ≈ integers      weights and features are rounded: a bound that is worked out
2. integers = ciphertexts  W·X modulo q for what the queries decrypt to, bit for bit
3. integers ≈ scores       noise, by the law that `simulated` draws from; wrong laws are rejected

What multiplying out costs is in `test_expansion`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from math import prod, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm
from torch import nn

import he_inference
from he_inference import Client, Server, wire
from he_inference.affine import affine_stages
from he_inference.backend import seeds
from he_inference.coefficient_compiler import (
    CompiledCoefficients,
    compile_coefficients,
    simulated,
)
from he_inference.coefficient_program import CoefficientProgram
from he_inference.coefficient_wire import read_answer
from he_inference.errors import AnswerOverflow, HEError, InputError, MessageError, UnknownKey
from he_inference.expansion import expand, features
from he_inference.lengths import lengths
from he_inference.network import Network
from he_inference.nodes import Array
from he_inference.noise import ERROR_VARIANCE
from he_inference.torch_modules import from_torch
from he_inference.wire import Seeded
from tests.conftest import EPS, resealed
from tests.test_expansion import of, one_square
from tests.test_sanitiser import Objects, Owner, centred

P_VALUE = 1e-6
RESPONSES = ("private", "plain")
either_response = pytest.mark.parametrize("response", RESPONSES)


@dataclass(frozen=True)
class Party:
    """A program, a client and a server that know each other."""

    program: CoefficientProgram
    client: Client
    server: Server

    @cached_property
    def owner(self) -> Owner:
        """What the client could compute with its keys, modulo the first prime."""
        return Owner(self.program.parameters, self.client._keys)

    def asked(self, x: Array) -> Array:
        return self.client.decrypt_with_noise(self.server.evaluate(self.client.encrypt(x)))


def party(program: CoefficientProgram) -> Party:
    client, server = Client(program.signature), Server(program, threads=1)
    server.register(client.evaluation_keys())
    return Party(program, client, server)


def choices(network: Network, x: Array, precision: float, response: str) -> list[
    CompiledCoefficients
]:  # fmt: skip
    found = compile_coefficients(network, x, precision=precision, response=response)  # type: ignore[arg-type]
    return list(found)


def linear(inputs: int, outputs: int, seed: int = 0) -> tuple[Network, Array]:
    torch.manual_seed(seed)
    return of(nn.Sequential(nn.Linear(inputs, outputs)), inputs, seed=seed)


# ---------------------------------------------------------------------------- integers


def integers(program: CoefficientProgram, x: Array) -> Objects:
    """What answers are without noise, at their scale: (batch, outputs)."""
    s = program.signature
    found = np.rint(features(s.monomials, x.reshape(len(x), -1)) * s.input_scale)
    exact = found.astype(np.int64).astype(object) @ program.weights.T.astype(object)
    return np.asarray(exact + program.offset.astype(object))


def phases(this: Party, query: bytes) -> Objects:
    """What a message's ciphertexts decrypt to, noise included: (queries, ciphertexts, N)."""
    signature = this.program.signature
    parsed = wire.read_query(signature, query)
    rows = [phase(this.owner, ciphertext) for ciphertext in parsed.ciphertexts]
    return np.stack(rows).reshape(-1, signature.query_ciphertexts, this.owner.degree)


def phase(owner: Owner, ciphertext: Seeded) -> Objects:
    """c0 + c1·s of a ciphertext modulo the first prime: coefficients, centred."""
    q, second = owner.primes[0], np.empty((1, owner.degree), np.uint64)
    seeds.expand(ciphertext.seed, (q,), second)
    total = (ciphertext.residues[0].astype(object) + second[0].astype(object) * owner.secret[0]) % q
    words = total.astype(np.uint64)
    owner.transform.inverse(words, 0)
    return np.asarray(centred(words.astype(object), q))


def products(program: CoefficientProgram, x: Objects) -> Objects:
    """W·X at the coefficients of the outputs, straight from its definition: (outputs,).

    x: (ciphertexts, N). Coefficient r·n of Σ_u w_u·x_u, X^N = −1, where w_u holds the weight of
    output r' and feature j of block u at X^(r'n − j).
    """
    layout, weights = program.signature.layout, program.weights.astype(object)
    n, degree = layout.block, layout.degree
    result = []
    for output in range(layout.outputs):
        first = output // layout.group * layout.group
        total = 0
        for other in range(first, min(first + layout.group, layout.outputs)):
            for u in range(layout.queries):
                row = weights[other, u * n : (u + 1) * n]
                at = (output - other) * n + np.arange(len(row))
                total += int(row @ (x[u, at % degree] * np.where(at < 0, -1, 1)))
        result.append(total)
    return np.array(result, object)


def sent(this: Party, answer: bytes) -> Objects:
    """Outputs as they decrypt, before scores are made of them: (queries, outputs), centred."""
    signature, owner = this.program.signature, this.owner
    layout, q = signature.layout, owner.primes[0]
    parsed = read_answer(signature, answer)
    rows = []
    for outputs, polynomials in zip(parsed.outputs, parsed.polynomials, strict=True):
        row = outputs.astype(object)
        for number, polynomial in enumerate(polynomials):
            words = polynomial.copy()
            owner.transform.forward(words, 0)
            words = (words.astype(object) * owner.secret[0] % q).astype(np.uint64)
            owner.transform.inverse(words, 0)
            at = layout.positions(number)
            row[number * layout.group :][: len(at)] += words[at].astype(object)
        rows.append(row)
    return np.asarray(centred(np.stack(rows), q))


def uncut(program: CoefficientProgram) -> CoefficientProgram:
    whole = program.parameters.data_primes[0].bit_length()
    return replace(program, signature=replace(program.signature, answer_bits=whole))


# ---------------------------------------------------------------------------- noise


def deviation(program: CoefficientProgram, *, together: bool = True) -> Array:
    """Of every output's noise, at the scale of answers, as the compiler's docstring has it.

    together: whether errors meet the weights of outputs that share a ciphertext.
    """
    s = program.signature
    degree, primes, layout = s.parameters.ring_degree, s.parameters.data_primes, s.layout
    squares = np.square(program.weights.astype(np.float64)).sum(axis=1)
    variance = ERROR_VARIANCE * (layout.together(squares) if together else squares)
    variance = variance + (4.0**s.cut_bits - 1) / 12 * (2 * degree / 3)
    if s.private:
        variance += (2.0**program.flooding_bits / prod(primes[1:])) ** 2 / 12
        variance += (1 + 2 * degree / 3) / 12
    return np.asarray(np.sqrt(variance))


def rounding(program: CoefficientProgram, network: Network, x: Array) -> Array:
    """How far rounded weights and features may be from the network, (batch, outputs)."""
    s = program.signature
    weight_scale = s.output_scale / s.input_scale
    found = np.abs(features(s.monomials, x.reshape(len(x), -1))) + 1 / (2 * s.input_scale)
    magnitude = np.abs(program.weights).sum(axis=1) / weight_scale
    sizes = found @ np.abs(program.weights.T) / weight_scale + np.abs(network.evaluate(x))
    limit = magnitude / (2 * s.input_scale) + found.sum(axis=1, keepdims=True) / (2 * weight_scale)
    return np.asarray(limit + 1 / (2 * s.output_scale) + 1e4 * EPS * (sizes + 1))


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, Array]:
    """Random, with one square or none, and a few queries."""
    seed = draw(st.integers(0, 2**31))
    if draw(st.booleans()):
        return linear(draw(st.integers(1, 60)), draw(st.integers(1, 12)), seed)
    module, shape = draw(one_square())
    return of(module, *shape, seed=seed)


@given(
    case=networks(),
    response=st.sampled_from(RESPONSES),
    precision=st.floats(3, 14),
    place=st.integers(0, 99),
    queries=st.integers(1, 5),
)
@settings(max_examples=12)
def test_from_network_to_scores(
    case: tuple[Network, Array], response: str, precision: float, place: int, queries: int
) -> None:
    network, examples = case
    found = choices(network, examples, precision, response)
    compiled = found[place % len(found)]
    this, x = party(compiled.program), examples[:queries]
    query = this.client.encrypt(x)
    answer = this.server.evaluate(query)
    scores = this.client.decrypt_with_noise(answer)
    exact, s = integers(compiled.program, x), compiled.signature
    # Integers: everything up to the noise, which has a normal law.
    scaled = (exact / s.output_scale).astype(np.float64)
    assert (np.abs(scaled - network.evaluate(x)) <= rounding(compiled.program, network, x)).all()
    tail = norm.isf(P_VALUE / 1000 / scores.size)
    limit = tail * deviation(compiled.program) / s.output_scale
    assert (np.abs(scores - scaled) <= limit + 1e-9 * np.abs(scaled)).all()
    # Ciphertexts: what is decrypted is what they hold, and within what private answers may add.
    q = s.parameters.data_primes[0]
    held = np.stack([products(compiled.program, row) for row in phases(this, query)])
    seen = sent(this, answer)
    assert np.allclose(scores, seen.astype(np.float64) / s.output_scale, rtol=1e-9, atol=0)
    rest = centred(seen - held - compiled.program.offset.astype(object), q).astype(np.float64)
    added = sqrt(max(0.0, (deviation(_without_weights(compiled.program)) ** 2).max()))
    assert (np.abs(rest) <= tail * added + 1e-9).all()
    # Lengths: exactly what was promised of a query and its answer.
    cost, measured = compiled.cost, lengths(s)
    assert len(query) == measured.query(queries)
    assert len(query) == wire.envelope_bytes(wire.Kind.QUERY) + queries * cost.upload_bytes
    assert len(answer) == measured.answer(queries)
    assert len(answer) == wire.envelope_bytes(wire.Kind.ANSWER) + queries * cost.download_bytes
    keys = this.client.evaluation_keys()
    assert len(keys) == measured.keys
    assert len(keys) == wire.envelope_bytes(wire.Kind.EVALUATION_KEYS) + cost.key_bytes
    assert measured.queries_in(len(query)) == queries
    assert wire.claimed_key_id(query).hex() == this.client.key_id == wire.key_id(keys).hex()


def _without_weights(program: CoefficientProgram) -> CoefficientProgram:
    return replace(program, weights=np.zeros_like(program.weights))


@pytest.mark.parametrize("outputs", [1, 7])
@pytest.mark.parametrize("place", [0, -1])
def test_plain_answers_without_a_cut_are_exact(outputs: int, place: int) -> None:
    """m = W·X modulo q for the X that the client's own ciphertexts decrypt to, bit for bit."""
    network, x = linear(5000, outputs)
    program = uncut(choices(network, x, 8, "plain")[place].program)
    this = party(program)
    query = this.client.encrypt(x[:2])
    held = np.stack([products(program, row) for row in phases(this, query)])
    q, offset = program.parameters.data_primes[0], program.offset.astype(object)
    assert np.array_equal(sent(this, this.server.evaluate(query)), centred(held + offset, q))
    assert program.signature.layout.queries > 1


# ---------------------------------------------------------------------------- the law of the noise

QUERIES = 400


def accepts(errors: Array, deviations: float) -> bool:
    total = float(np.square(errors / deviations).sum())
    return bool(chi2.ppf(P_VALUE, errors.size) < total < chi2.isf(P_VALUE, errors.size))


@dataclass(frozen=True)
class Measured:
    """Errors of one output for many queries, at its scale, and what the law says of them."""

    program: CoefficientProgram
    errors: Array
    simulated: float


LAWS = [("private", 1), ("plain", 1), ("private", 3), ("plain", 3)]


@pytest.fixture(scope="module", params=LAWS, ids=lambda law: f"{law[0]}-{law[1]}")
def measured(request: pytest.FixtureRequest) -> Measured:
    """The output with the smallest weights: where others share its ciphertext, theirs matter."""
    response, group = request.param
    rng = np.random.default_rng(group)
    layer = nn.Linear(40, group)
    with torch.no_grad():
        layer.weight[0] /= 3
    network, x = of(nn.Sequential(layer), 40)
    queries = rng.random((QUERIES, 40))
    (compiled, *_) = (c for c in choices(network, x, 9, response) if c.signature.group == group)
    program = compiled.program
    exact = (integers(program, queries) / program.signature.output_scale).astype(np.float64)
    found = features(program.signature.monomials, queries)
    drawn = np.stack([simulated(program, found, seed)[:, 0] - exact[:, 0] for seed in range(20)])
    errors = party(program).asked(queries)[:, 0] - exact[:, 0]
    return Measured(program, errors, float(drawn.std()))


def test_encrypted_answers_follow_the_law(measured: Measured) -> None:
    """And half and twice the deviation are rejected: by the law's formula, and by its draws."""
    scale = measured.program.signature.output_scale
    for right in (measured.simulated, float(deviation(measured.program)[0]) / scale):
        assert accepts(measured.errors, right)
        assert not accepts(measured.errors, right / 2)
        assert not accepts(measured.errors, right * 2)
    assert abs(measured.errors.mean()) < norm.isf(P_VALUE) * measured.simulated / sqrt(QUERIES)


def test_errors_meet_the_weights_of_those_that_share_a_ciphertext(measured: Measured) -> None:
    """Without these the law is another one, if there are any."""
    scale = measured.program.signature.output_scale
    alone = float(deviation(measured.program, together=False)[0]) / scale
    assert accepts(measured.errors, alone) == (measured.program.signature.group == 1)


@either_response
@pytest.mark.parametrize("precision", [4, 10, 13])
def test_the_error_is_as_promised(response: str, precision: float) -> None:
    """A mean of squares over n queries is off by 2/n, as a variance, relative to its mean.

    Outputs of one query share errors, so only queries are counted. The promise was simulated on
    32 examples. An answer is rounded to the resolution, a power of two up to twice the error.
    """
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, 2), he_inference.nn.Square(), nn.Flatten(), nn.Linear(27, 4)
    )
    network, _ = of(module, 1, 8, 8)
    rng = np.random.default_rng(4)
    examples, queries = rng.random((32, 1, 8, 8)), rng.random((60, 1, 8, 8))
    compiled = he_inference.compile(
        network, layout="coefficients", precision=precision, examples=examples, response=response
    )
    s, clear = compiled.signature, network.evaluate(queries)
    assert s.precision_bits >= precision
    error = sqrt(float(np.mean(np.square(party(compiled.program).asked(queries) - clear))))
    promised = 2.0**-s.precision_bits * float(np.abs(network.evaluate(examples)).max())
    spread = 6 * sqrt(2 / len(queries) + 2 / 32) / 2
    assert promised / 4 < error <= promised * (1 + spread)
    assert promised / 2 < s.resolution <= 4 * promised


def test_scores_are_rounded_to_the_resolution() -> None:
    network, x = linear(6, 3)
    this = party(choices(network, x, 8, "private")[0].program)
    answer, resolution = this.server.evaluate(this.client.encrypt(x)), 0.0
    resolution = this.program.signature.resolution
    scores, raw = this.client.decrypt(answer), this.client.decrypt_with_noise(answer)
    assert (scores / resolution % 1 == 0).all() and (scores != raw).any()
    assert (np.abs(scores - raw) <= resolution / 2).all()


# ---------------------------------------------------------------------------- large numbers


@either_response
def test_an_answer_that_overflows_is_noticed(response: str) -> None:
    """Beyond a quarter of the modulus: answers up to four times the examples' are read."""
    made, _ = linear(3, 3)
    wide = Network(made.nodes, made.input_shape, (-100.0, 100.0))
    examples = np.full((1, 3), 1.0)
    this = party(choices(wide, examples, 6, response)[0].program)
    scale = this.program.signature.parameters.data_primes[0] / this.program.signature.output_scale
    noticed = 0
    for factor in np.linspace(1, 100, 12):
        x = factor * examples
        clear = wide.evaluate(x)
        if np.abs(clear).max() < scale / 4.1:
            assert np.abs(this.asked(x) - clear).max() < 1
        elif scale / 3.9 < np.abs(clear).max() < scale / 2:
            noticed += 1
            with pytest.raises(AnswerOverflow, match="larger than the modulus has room for"):
                this.client.decrypt(this.server.evaluate(this.client.encrypt(x)))
    assert noticed


def test_offsets_that_features_cancel() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[8.0, 8.0]]))
        layer.bias.copy_(torch.tensor([-800.0]))
    made = from_torch(nn.Sequential(layer).eval(), torch.zeros(1, 2))
    network = Network(made.nodes, made.input_shape, (0.0, 100.0))
    x = np.array([[50.0, 50.5], [20.0, 80.25], [49.5, 50.25]])
    program = choices(network, x, 6, "plain")[0].program
    error = np.abs(party(program).asked(x) - network.evaluate(x))
    limit = norm.isf(1e-9) * deviation(program) / program.signature.output_scale
    assert (error <= rounding(program, network, x) + limit).all()


@either_response
@pytest.mark.parametrize("precision", [1, 6])
def test_features_beyond_the_modulus_are_refused(response: str, precision: float) -> None:
    """Eight times the examples' fit, whatever the precision; SEAL takes up to a quarter of it."""
    made, x = linear(3, 1)
    wide = Network(made.nodes, made.input_shape, (-1e30, 1e30))
    this = party(choices(wide, x, precision, response)[0].program)
    s = this.program.signature
    most = 2.0 ** (s.parameters.data_primes[0].bit_length() - 2) / s.input_scale
    assert most >= 8 * x.max()
    for value in (most * 1.001, 1e29):
        with pytest.raises(InputError, match=re.escape(f"at most {most:.3g} fit; ")) as caught:
            this.client.encrypt([[0.0, -value, 0.0]])
        assert "\n" not in str(caught.value)
    query = this.client.encrypt([[0.0, -most * 0.999, 0.0]])
    assert len(query) == lengths(s).query(1)


# ---------------------------------------------------------------------------- keys and damage


@pytest.fixture(scope="module")
def many() -> Party:
    """80 outputs: noise in the place of answers is noticed but for 2^-80."""
    network, x = linear(6, 80)
    return party(choices(network, x, 8, "private")[0].program)


X = np.random.default_rng(1).random((4, 6))


@pytest.fixture
def served(many: Party) -> Iterator[Party]:
    """A server of its own for every test, which knows the client and serves it afterwards."""
    this = party(many.program)
    yield this
    assert this.client.decrypt(this.server.evaluate(this.client.encrypt(X))).shape == (4, 80)


def test_queries_without_keys(served: Party) -> None:
    stranger = Client(served.program.signature)
    query = stranger.encrypt(X)
    with pytest.raises(UnknownKey, match=f"{stranger.key_id}: register them") as caught:
        served.server.evaluate(query)
    assert "\n" not in str(caught.value)
    assert served.server.key_id(query).hex() == stranger.key_id
    assert served.server.register(stranger.evaluation_keys()) == stranger.key_id
    assert stranger.decrypt(served.server.evaluate(query)).shape == (4, 80)


def test_a_query_under_anothers_keys_does_not_show_what_was_asked(served: Party) -> None:
    """Made private with an encryption under another secret: noise, which is noticed."""
    stranger = Client(served.program.signature)
    query = stranger.encrypt(X)
    assert query[40:56] == bytes.fromhex(stranger.key_id)
    other = resealed(query[:40] + bytes.fromhex(served.client.key_id) + query[56:])
    answer = served.server.evaluate(other)
    with pytest.raises(AnswerOverflow):
        stranger.decrypt(answer)
    with pytest.raises(MessageError, match="does not answer a query of this key"):
        served.client.decrypt(answer)


@either_response
def test_a_damaged_query_is_refused_and_the_next_one_served(response: str) -> None:
    network, x = linear(6, 3)
    this = party(choices(network, x, 8, response)[0].program)
    query, keys = this.client.encrypt(x), this.client.evaluation_keys()
    for message, takes in ((query, this.server.evaluate), (keys, this.server.register)):
        for at in (3, 45, len(message) // 2, len(message) - 1):
            flipped = bytearray(message)
            flipped[at] ^= 1
            with pytest.raises(MessageError):
                takes(bytes(flipped))
        for other in (message[:-1], message + b"\0", b"", resealed(message[:-1])):
            with pytest.raises(MessageError):
                takes(other)
    with pytest.raises(MessageError, match="expected a message of kind QUERY"):
        this.server.evaluate(keys)
    with pytest.raises(MessageError, match="expected a message of kind EVALUATION_KEYS"):
        this.server.register(query)
    assert this.client.decrypt(this.server.evaluate(query)).shape == (5, 3)


def test_messages_of_another_program(served: Party) -> None:
    network, x = linear(6, 3)
    for response in RESPONSES:
        other = party(choices(network, x, 8, response)[0].program)
        for takes, message in (
            (served.server.evaluate, other.client.encrypt(x)),
            (served.server.register, other.client.evaluation_keys()),
            (served.client.decrypt, other.server.evaluate(other.client.encrypt(x))),
        ):
            with pytest.raises(HEError, match="fetch the signature again"):
                takes(message)


def test_an_answer_to_fewer_queries(served: Party) -> None:
    """A ticket is for as many queries as were asked."""
    s = served.program.signature
    answer = served.server.evaluate(served.client.encrypt(X[:2]))
    each = lengths(s).answer(2) - lengths(s).answer(1)
    at = 40 + wire.TICKET_BYTES
    body = answer[:at] + wire.COUNT.pack(1) + answer[at + 4 : -16 - each]
    with pytest.raises(MessageError, match="not as many"):
        served.client.decrypt(resealed(body + bytes(16)))


def test_a_saved_client_goes_on(served: Party, tmp_path: Path) -> None:
    served.client.save(tmp_path / "key")
    heir = Client.load(tmp_path / "key", served.program.signature)
    assert heir.key_id == served.client.key_id
    answer = served.server.evaluate(heir.encrypt(X))
    assert np.array_equal(heir.decrypt(answer), served.client.decrypt(answer))


def test_private_answers_to_one_query_differ(served: Party) -> None:
    query = served.client.encrypt(X)
    assert served.server.evaluate(query) != served.server.evaluate(query)
    network, x = linear(6, 3)
    plain = party(choices(network, x, 8, "plain")[0].program)
    query = plain.client.encrypt(x)
    assert plain.server.evaluate(query) == plain.server.evaluate(query)


# ---------------------------------------------------------------------------- without SEAL


WITHOUT_SEAL = """
import sys
sys.modules["tenseal"] = None
from pathlib import Path
from he_inference import Server
folder = Path(sys.argv[1])
server = Server(folder / "program")
server.register((folder / "keys").read_bytes())
(folder / "answer").write_bytes(server.evaluate((folder / "query").read_bytes()))
print(sorted(m for m in sys.modules if m.startswith(("tenseal", "torch"))))
"""


def test_the_server_needs_no_seal(tmp_path: Path) -> None:
    network, x = linear(6, 3)
    this = party(choices(network, x, 8, "private")[0].program)
    this.program.save(tmp_path / "program")
    (tmp_path / "keys").write_bytes(this.client.evaluation_keys())
    (tmp_path / "query").write_bytes(this.client.encrypt(x))
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_SEAL, str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert run.stdout.strip() == "['tenseal']"
    scores = this.client.decrypt_with_noise((tmp_path / "answer").read_bytes())
    limit = norm.isf(1e-9) * deviation(this.program) / this.program.signature.output_scale
    limit = limit + rounding(this.program, network, x)
    assert (np.abs(scores - network.evaluate(x)) <= limit).all()


# ---------------------------------------------------------------------------- what a program shows


def test_scales_show_no_more_than_their_size() -> None:
    """Signatures go to clients: scales are quarters of powers of two, precision is in tenths."""
    for seed, precision in zip(range(4), count(5), strict=False):
        network, x = linear(9, 3, seed)
        for response in RESPONSES:
            for compiled in choices(network, x, precision, response):
                s = compiled.signature
                for scale in (s.input_scale, s.output_scale):
                    steps = 4 * np.log2(scale)
                    assert abs(steps - round(steps)) < 1e-9
                assert abs(10 * s.precision_bits - round(10 * s.precision_bits)) < 1e-9
                assert float(np.log2(s.resolution)).is_integer()


def test_the_integers_are_the_expansion_rounded() -> None:
    network, x = of(nn.Sequential(nn.Linear(5, 4), he_inference.nn.Square(), nn.Linear(4, 2)), 5)
    magnitudes = [float(np.abs(value).max()) for value in network.trace(x)]
    expansion = expand(affine_stages(network, magnitudes))
    for compiled in choices(network, x, 9, "private"):
        s = compiled.signature
        assert np.array_equal(s.monomials, expansion.monomials)
        exact = expansion.weights * (s.output_scale / s.input_scale)
        # Half a unit, and what float64 makes of the quotient of the scales.
        assert (np.abs(compiled.program.weights - exact) <= 0.5 + 8 * EPS * np.abs(exact)).all()
        offset = expansion.offset * s.output_scale
        assert (np.abs(compiled.program.offset - offset) <= 0.5 + 8 * EPS * np.abs(offset)).all()
