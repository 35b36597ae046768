"""The batched layout from network to labels, private and plain, and a server without SEAL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import he_inference
from he_inference import Client, Server, wire
from he_inference.batch_compiler import CompiledBatch
from he_inference.batch_format import BatchFormat
from he_inference.cost import SEED_BYTES
from he_inference.errors import (
    AnswerOverflow,
    CompileError,
    InputError,
    MessageError,
    UnknownKey,
    WrongProgram,
)
from he_inference.flooding import STATISTICAL_BITS, rounding_deviation
from he_inference.network import Network
from he_inference.nn import Polynomial, Square
from he_inference.nodes import Array
from he_inference.noise import NoiseModel
from he_inference.torch_modules import from_torch
from tests.conftest import Residual, resealed
from workloads.datasets import mnist_sample
from workloads.models import MNIST_CNN

DRAWS = 60
RESPONSES = ("private", "plain")
LAYERS = {
    "linear, one output": lambda: (nn.Linear(6, 1),),
    "one square": lambda: (nn.Linear(6, 5), Square(), nn.Linear(5, 3)),
    "quadratic": lambda: (nn.Linear(6, 5), Polynomial([0.3, 0.8, -0.4]), nn.Linear(5, 3)),
    "residual": lambda: (
        nn.Linear(6, 5), Residual(nn.Sequential(Square(), nn.Linear(5, 5))), nn.Linear(5, 3),
    ),
    "two squares": lambda: (
        nn.Linear(6, 5), Square(), nn.Linear(5, 5), Square(), nn.Linear(5, 3),
    ),
}  # fmt: skip
COMPONENTS = {
    "linear, one output": 2, "one square": 3, "quadratic": 3, "residual": 3, "two squares": 5,
}  # fmt: skip
ENVELOPE = 40 + wire.TICKET_BYTES + 16 + wire.CHECKSUM_BYTES


@dataclass(frozen=True)
class Party:
    """A compiled network, a server of it that knows the client, and queries."""

    compiled: CompiledBatch
    client: Client
    server: Server
    x: Array

    @property
    def form(self) -> BatchFormat:
        return BatchFormat.of(self.compiled.signature)

    def asked(self) -> Array:
        return self.client.decrypt_with_noise(self.server.evaluate(self.client.encrypt(self.x)))


@cache
def network(name: str) -> tuple[Network, Array]:
    torch.manual_seed(7)
    x = np.random.default_rng(1).random((40, 6))
    return from_torch(nn.Sequential(*LAYERS[name]()).eval(), x.astype(np.float32)), x


@cache
def party(name: str, response: str) -> Party:
    made, x = network(name)
    compiled = he_inference.compile(
        made, layout="batched", response=response, precision=6, examples=x
    )
    assert isinstance(compiled, CompiledBatch)
    client, server = Client(compiled.signature, processes=0), Server(compiled.program)
    server.register(client.evaluation_keys())
    return Party(compiled, client, server, x)


every_network = pytest.mark.parametrize("name", LAYERS)
either_response = pytest.mark.parametrize("response", RESPONSES)


# ---------------------------------------------------------------------------- answers


def law(compiled: CompiledBatch, x: Array) -> tuple[Array, Array]:
    """Mean and deviation of every answer's error, (batch, outputs) each.

    The mean is the rounding of weights; encryption and flooding are simulated, and 60 draws tell a
    deviation within 1/√120 of itself, as a relative standard deviation. What dividing by primes and
    cutting low bits add to private answers is not simulated: it is worked out.
    """
    clear = compiled.network.evaluate(x)
    errors = np.array([compiled.simulate(x, seed=seed) - clear for seed in range(DRAWS)])
    s, variance = compiled.signature, 0.0
    if s.response == "private":
        rounded = rounding_deviation(s.parameters.ring_degree) ** 2
        variance = (rounded + NoiseModel(s.parameters).cut(s.cut_bits)) / s.output_scale**2
    return errors.mean(axis=0), np.sqrt(errors.var(axis=0) + variance)


@either_response
@every_network
def test_answers_are_the_networks(name: str, response: str) -> None:
    """Six deviations for every answer, of which the mean was found with 1/√60 of one's error.

    Rounding and cutting have longer tails than normal, at a quarter of flooding's deviation.
    """
    this = party(name, response)
    compiled, x = this.compiled, this.x
    clear, scores = compiled.network.evaluate(x), this.asked()
    bias, deviation = law(compiled, x)
    limit = 6 * deviation * (1 + 6 / np.sqrt(2 * DRAWS)) * np.sqrt(1 + 1 / DRAWS)
    assert (np.abs(scores - clear - bias) <= limit).all()
    # What is promised, of a mean of as many squares: 1/√(2·count) is its relative deviation.
    error = float(np.sqrt(np.mean((scores - clear) ** 2)))
    promised = 2.0**-compiled.signature.precision_bits * compiled.program.plan.largest_answer
    assert error <= promised * (1 + 6 / np.sqrt(2 * scores.size))
    assert compiled.signature.precision_bits >= 6
    best = np.sort(clear, axis=1)
    if scores.shape[1] > 1:
        sure = best[:, -1] - best[:, -2] > 2 * (np.abs(bias) + limit).max(axis=1)
        assert sure.any()
        assert np.array_equal(scores.argmax(1)[sure], clear.argmax(1)[sure])


@either_response
@every_network
def test_messages_are_of_the_promised_form(name: str, response: str) -> None:
    this = party(name, response)
    s, form, compiled = this.compiled.signature, this.form, this.compiled
    keys, query = this.client.evaluation_keys(), this.client.encrypt(this.x)
    answer = this.server.evaluate(query)
    assert (s.components, s.response) == (COMPONENTS[name], response)
    assert len(keys) == form.key_bytes and len(query) == form.query_bytes
    assert len(answer) == form.answer_bytes
    assert len(answer) == ENVELOPE + compiled.download_bytes
    assert len(query) == ENVELOPE + wire.KEY_ID_BYTES + compiled.upload_bytes
    assert len(keys) == 40 + wire.CHECKSUM_BYTES + compiled.key_bytes
    wanted = 1 + (s.components - 2) * len(s.parameters.data_primes) if s.needs_keys else 0
    assert s.seeded_keys == wanted
    assert s.needs_keys == (response == "private")
    if s.needs_keys:
        assert s.statistical_bits >= STATISTICAL_BITS
        assert min(s.response_bits) > 0 and max(s.response_bits) <= 60
    else:
        assert (s.statistical_bits, s.response_bits) == (0, (0, 0))


def test_no_slot_is_noisier_than_the_others() -> None:
    """A mean error of half a unit in every coefficient is one of 1/|1 − ζ|, thousands, in slot 0.

    Mean square of 16 keys and 3 outputs in each of the first slots, in units of what is predicted:
    that of 48 normal variables exceeds 3 once in 10¹⁰ times.
    """
    this = party("one square", "private")
    x, errors = np.repeat(this.x[:1], 8, axis=0), []
    bias, deviation = law(this.compiled, x)
    for _ in range(16):
        client = Client(this.compiled.signature, processes=0)
        this.server.register(client.evaluation_keys())
        scores = client.decrypt_with_noise(this.server.evaluate(client.encrypt(x)))
        errors.append(scores - this.compiled.network.evaluate(x) - bias.mean(axis=0))
    this.server.register(this.client.evaluation_keys())
    squares = np.mean(np.square(errors / deviation.mean(axis=0)), axis=(0, 2))
    assert (squares < 3).all()


def test_two_squares_and_one_are_private_in_the_ring_of_8192() -> None:
    for name in ("one square", "two squares"):
        assert party(name, "private").compiled.parameters.ring_degree == 8192


def test_a_linear_network_needs_no_key_but_an_encryption_of_zero() -> None:
    s = party("linear, one output", "private").compiled.signature
    assert (s.components, s.seeded_keys, s.outputs) == (2, 1, 1)


def test_private_answers_to_one_query_differ() -> None:
    """Masked and flooded anew: not a coefficient of c1 is what it was, but by chance."""
    this = party("one square", "private")
    query = this.client.encrypt(this.x)
    one, two = this.server.evaluate(query), this.server.evaluate(query)
    assert one != two
    first, second = (np.frombuffer(a[ENVELOPE - 16 : -16], np.uint8) for a in (one, two))
    # Uniform bytes agree once in 256 times; the highest bits of c0 are the answer's.
    assert (first == second).mean() < 0.1
    plain = party("one square", "plain")
    query = plain.client.encrypt(plain.x)
    assert plain.server.evaluate(query) == plain.server.evaluate(query)


def test_scores_are_rounded_to_the_resolution() -> None:
    this = party("one square", "private")
    answer = this.server.evaluate(this.client.encrypt(this.x))
    resolution = this.compiled.signature.resolution
    scores, raw = this.client.decrypt(answer), this.client.decrypt_with_noise(answer)
    assert (scores / resolution % 1 == 0).all() and (scores != raw).any()
    assert (np.abs(scores - raw) <= resolution / 2).all()


def test_an_answer_that_overflows_is_noticed() -> None:
    """Compiled for answers of 1/8, so for some ones at most; asked for 4096: it wraps around."""
    made = from_torch(nn.Sequential(nn.Linear(3, 3), Square()).eval(), np.ones((1, 3)))
    wide = Network(made.nodes, made.input_shape, (-4096.0, 4096.0))
    compiled = he_inference.compile(
        wide, layout="batched", precision=4, examples=np.full((1, 3), 1 / 8)
    )
    client, server = Client(compiled.signature, processes=0), Server(compiled.program)
    server.register(client.evaluation_keys())
    x = 4096.0 * np.sign(np.random.default_rng(0).standard_normal((2048, 3)))
    with pytest.raises(AnswerOverflow, match="larger than the modulus has room for"):
        client.decrypt(server.evaluate(client.encrypt(x)))
    assert client.decrypt(server.evaluate(client.encrypt([[0.1, 0.1, 0.1]]))).shape == (1, 3)


@either_response
def test_a_damaged_batch_is_refused_and_the_next_one_served(response: str) -> None:
    this = party("one square", response)
    query = bytearray(this.client.encrypt(this.x))
    for at in (50, len(query) // 2, len(query) - 1):
        query[at] ^= 1
        with pytest.raises(MessageError):
            this.server.evaluate(bytes(query))
        query[at] ^= 1
    for other in (query[:-1], query + b"\0", b""):
        with pytest.raises(MessageError):
            this.server.evaluate(bytes(other))
    scores = this.client.decrypt(this.server.evaluate(bytes(query)))
    assert scores.shape == (40, 3)


def test_more_queries_than_slots() -> None:
    for response in RESPONSES:
        client = party("one square", response).client
        slots = client.signature.parameters.slots
        assert client.max_queries == slots
        for encrypt in (client.encrypt, client.encrypt_parts):
            with pytest.raises(InputError, match=f"{slots + 1} queries: at most {slots}"):
                encrypt(np.zeros((slots + 1, 6)))


# ---------------------------------------------------------------------------- keys


@pytest.fixture
def served() -> Iterator[tuple[Party, Server]]:
    """A server of its own for every test, which knows the party's client."""
    this = party("one square", "private")
    server = Server(this.compiled.program)
    server.register(this.client.evaluation_keys())
    yield this, server
    scores = this.client.decrypt(server.evaluate(this.client.encrypt(this.x)))
    assert scores.shape == (40, 3)  # whatever came, the client is still served


def test_queries_without_keys(served: tuple[Party, Server]) -> None:
    this, server = served
    stranger = Client(this.compiled.signature, processes=0)
    query = stranger.encrypt(this.x)
    with pytest.raises(UnknownKey, match=f"{stranger.key_id}: register them") as caught:
        server.evaluate(query)
    assert "\n" not in str(caught.value)
    assert server.key_id(query).hex() == stranger.key_id
    assert server.register(stranger.evaluation_keys()) == stranger.key_id
    assert stranger.decrypt(server.evaluate(query)).shape == (40, 3)


def test_a_query_under_anothers_keys_does_not_show_what_was_asked(
    served: tuple[Party, Server],
) -> None:
    """Evaluated with keys of another secret: what comes back is noise, which is noticed."""
    this, server = served
    stranger = Client(this.compiled.signature, processes=0)
    query = stranger.encrypt(this.x)
    own = bytes.fromhex(stranger.key_id)
    assert query[40:56] == own
    other = query[:40] + bytes.fromhex(this.client.key_id) + query[56:]
    with pytest.raises(AnswerOverflow):
        stranger.decrypt(server.evaluate(resealed(other)))


def test_keys_are_dropped_and_taken_again() -> None:
    this = party("one square", "private")
    server = Server(this.compiled.program, max_clients=1)
    stranger = Client(this.compiled.signature, processes=0)
    query = this.client.encrypt(this.x)
    server.register(this.client.evaluation_keys())
    server.register(stranger.evaluation_keys())
    with pytest.raises(UnknownKey):
        server.evaluate(query)
    server.register(this.client.evaluation_keys())
    assert this.client.decrypt(server.evaluate(query)).shape == (40, 3)


KEY_FAULTS = {
    "nothing": (lambda keys: b"", MessageError, "truncated"),
    "a header": (lambda keys: keys[:40], MessageError, "truncated"),
    "half": (lambda keys: keys[: len(keys) // 2], MessageError, "truncated"),
    "a byte short": (lambda keys: keys[:-1], MessageError, "truncated"),
    "a byte more": (lambda keys: keys + b"\0", MessageError, "too long"),
    "twice": (lambda keys: keys + keys, MessageError, "too long"),
    "a flipped bit": (
        lambda keys: keys[:5000] + bytes([keys[5000] ^ 1]) + keys[5001:], MessageError, "damaged",
    ),
    "residues that are none": (
        lambda keys: resealed(keys[: 40 + SEED_BYTES] + b"\xff" * 64 + keys[168:]),
        MessageError, "is not below its prime",
    ),
    "another program": (
        lambda keys: Client(party("quadratic", "private").compiled.signature).evaluation_keys(),
        WrongProgram, "fetch the signature again",
    ),
    "the plain program's": (
        lambda keys: Client(party("one square", "plain").compiled.signature).evaluation_keys(),
        WrongProgram, "fetch the signature again",
    ),
    "a query": (
        lambda keys: party("one square", "private").client.encrypt(np.zeros((1, 6))),
        MessageError, "expected a message of kind EVALUATION_KEYS, found BATCH_QUERY",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", KEY_FAULTS)
def test_keys_that_are_refused(served: tuple[Party, Server], fault: str) -> None:
    this, server = served
    change, kind, because = KEY_FAULTS[fault]
    with pytest.raises(MessageError, match=because) as caught:
        server.register(change(this.client.evaluation_keys()))
    assert type(caught.value) is kind and "\n" not in str(caught.value)


def test_messages_of_another_program(served: tuple[Party, Server]) -> None:
    this, server = served
    for name, response in (("quadratic", "private"), ("one square", "plain")):
        other = party(name, response)
        query = other.client.encrypt(other.x)
        with pytest.raises(WrongProgram, match="fetch the signature again"):
            server.evaluate(query)
        with pytest.raises(WrongProgram):
            this.client.decrypt(other.server.evaluate(query))


def test_a_saved_client_goes_on(served: tuple[Party, Server], tmp_path: Path) -> None:
    this, server = served
    this.client.save(tmp_path / "key")
    heir = Client.load(tmp_path / "key", this.compiled.signature, processes=0)
    assert heir.key_id == this.client.key_id
    answer = server.evaluate(heir.encrypt(this.x))
    assert np.array_equal(heir.decrypt(answer), this.client.decrypt(answer))


# ---------------------------------------------------------------------------- a trained network


@pytest.fixture(scope="module", params=RESPONSES)
def mnist(request: pytest.FixtureRequest) -> CompiledBatch:
    return he_inference.compile(
        he_inference.load_network(MNIST_CNN),
        layout="batched",
        precision=8,
        response=request.param,
        examples=mnist_sample().images,
    )


def test_encrypted_labels_are_those_in_the_clear(mnist: CompiledBatch) -> None:
    images = mnist_sample().images
    server = Server(mnist.program)
    with Client(mnist.signature) as client:
        server.register(client.evaluation_keys())
        query = client.encrypt(images)
        answer = server.evaluate(query)
        scores = client.decrypt(answer)
    clear, form = mnist.network.evaluate(images), BatchFormat.of(mnist.signature)
    assert mnist.parameters.ring_degree == 8192
    assert (len(query), len(answer)) == (form.query_bytes, form.answer_bytes)
    # Six standard deviations of what simulation finds, and what rounding to the resolution adds;
    # dividing and cutting private answers adds 1/8 of the precision twice.
    simulated = float(np.mean((mnist.simulate(images) - clear) ** 2))
    responded = 2.0**-8 / 8 * mnist.program.plan.largest_answer if form.private else 0.0
    limit = 6 * np.sqrt(simulated + 2 * responded**2) + mnist.signature.resolution
    assert np.abs(scores - clear).max() < limit
    # The sample was chosen for the examples, whose labels rounding keeps; noise may be another's.
    best = np.sort(clear, axis=1)
    sure = best[:, -1] - best[:, -2] > (2 * limit if form.private else 0.0)
    assert sure.mean() > 0.8
    assert np.array_equal(scores.argmax(1)[sure], clear.argmax(1)[sure])


def test_the_summary_is_for_people(mnist: CompiledBatch) -> None:
    text, private = mnist.summary(), mnist.signature.needs_keys
    for word in ("4096 queries", "128-bit security", "kB a query", "precision"):
        assert word in text
    assert ("private: flooded with" in text) == private
    assert ("learns the weights" in text) != private
    assert ("MB once, no rotations" in text) == private


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
print(sorted(m for m in sys.modules if m.startswith("tenseal")))
"""


def test_the_server_needs_no_seal(tmp_path: Path) -> None:
    this = party("one square", "private")
    this.compiled.program.save(tmp_path / "program")
    (tmp_path / "keys").write_bytes(this.client.evaluation_keys())
    (tmp_path / "query").write_bytes(this.client.encrypt(this.x))
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_SEAL, str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert run.stdout.strip() == "['tenseal']"
    scores = this.client.decrypt_with_noise((tmp_path / "answer").read_bytes())
    bias, deviation = law(this.compiled, this.x)
    limit = 6 * deviation * (1 + 6 / np.sqrt(2 * DRAWS)) * np.sqrt(1 + 1 / DRAWS)
    assert (np.abs(scores - this.compiled.network.evaluate(this.x) - bias) <= limit).all()


# ---------------------------------------------------------------------------- choices


def test_options_of_the_layout() -> None:
    made, x = network("one square")
    for options, message in (
        ({"layout": "batched", "response": "secret"}, "response 'secret' is unknown: use private"),
        ({"layout": "packed", "response": "secret"}, "response 'secret' is unknown"),
        ({"layout": "packed", "response": "private"}, "use layout='batched', or choose response="),
        ({"layout": "batches"}, "'batches' is unknown: use auto, coefficients, packed"),
        ({"layout": "batched", "precision": 41}, "expected 1 to 40"),
        ({"layout": "batched", "precision": float("nan")}, "expected 1 to 40"),
    ):
        with pytest.raises(CompileError, match=message) as caught:
            he_inference.compile(made, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"\(batch, 6\)"):
        he_inference.compile(made, layout="batched", examples=x[:, :5])
    with pytest.raises(CompileError, match="the network takes 0 to 1"):
        he_inference.compile(made, layout="batched", examples=2 * x)


def test_batches_are_private_unless_they_are_said_to_be_plain() -> None:
    """And examples may be left out."""
    made, x = network("one square")
    compiled = he_inference.compile(made, layout="batched", precision=6)
    assert compiled.signature.response == compiled.facts()["response"] == "private"
    assert compiled.facts()["layout"] == "batched"
    client, server = Client(compiled.signature, processes=0), Server(compiled.program)
    server.register(client.evaluation_keys())
    scores = client.decrypt(server.evaluate(client.encrypt(x)))
    bias, deviation = law(compiled, x)
    limit = 6 * deviation * (1 + 6 / np.sqrt(2 * DRAWS)) * np.sqrt(1 + 1 / DRAWS)
    error = np.abs(scores - made.evaluate(x) - bias)
    assert (error <= limit + compiled.signature.resolution / 2).all()
    plain = he_inference.compile(made, layout="batched", response="plain", precision=6)
    assert plain.signature.response == plain.facts()["response"] == "plain"
    packed = he_inference.compile(made, layout="packed", precision=6, response="plain")
    assert packed.facts()["layout"] == "packed"


def test_too_much_precision_for_private_answers_names_what_would_fit() -> None:
    torch.manual_seed(7)
    sizes = ((6, 5), (5, 5), (5, 5))
    layers = [layer for size in sizes for layer in (nn.Linear(*size), Square())]
    x = np.random.default_rng(1).random((40, 6))
    made = from_torch(nn.Sequential(*layers, nn.Linear(5, 3)).eval(), x)

    def compiled(precision: float) -> CompiledBatch:
        return he_inference.compile(made, layout="batched", precision=precision, examples=x)

    with pytest.raises(CompileError, match=r"N = 16384: .*precision=[\d.]+ would fit") as caught:
        compiled(20)
    named = float(str(caught.value).split("precision=")[-1].split()[0])
    assert 8 <= named < 20
    assert compiled(named).signature.precision_bits >= named
