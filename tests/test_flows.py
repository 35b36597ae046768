"""From a torch module to a decrypted answer, in three steps whose errors are kept apart.

1. torch ≈ network           rounding of float64 sums
2. network ≈ program         the same, in slots and with completed squares
3. program ≈ ciphertexts     noise, by the law that `simulate` draws from; a wrong law is rejected

Client and server share bytes and files only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from he_inference import Client, Server, compile, load_network, load_program, load_signature
from he_inference.backend import clear
from he_inference.compiler import Compiled
from he_inference.errors import CompileError
from he_inference.nn import Polynomial, Square
from he_inference.nodes import Array
from tests.conftest import (
    EPS,
    Case,
    Party,
    cases,
    laplace_tail,
    majorant,
    program_majorant,
    roundings,
)

ROOT = Path(__file__).parents[1]
P_VALUE = 1e-9


def law(compiled: Compiled, x: Array, draws: int = 60) -> tuple[Array, Array]:
    """Mean and deviation of every answer's error, (batch, outputs) each, from the noise model.

    The mean is the rounding of the encoded weights, which is exact; the deviation of 60 draws is
    within 1/√120 of the truth, as a relative standard deviation.
    """
    expected = compiled.network.evaluate(x)
    errors = np.array([compiled.simulate(x, seed=seed) - expected for seed in range(draws)])
    return errors.mean(axis=0), errors.std(axis=0)


def asked(client: Client, server: Server, x: Array) -> Array:
    return client.decrypt_with_noise(server.evaluate(client.encrypt(x)))


def connected(compiled: Compiled) -> tuple[Client, Server]:
    client, server = Client(compiled.signature), Server(compiled.program)
    server.register(client.evaluation_keys())
    return client, server


def all_three_steps(case: Case, compiled: Compiled) -> None:
    network, program, x = compiled.network, compiled.program, case.x
    torch_says, reference = case.torch_says(), network.evaluate(x)
    slots = clear.evaluate(program, x)
    size = majorant(case)
    count = roundings(case.module)
    assert (np.abs(reference - torch_says) <= 2 * count * EPS * size).all()
    steps = 2 * (count + 2 * len(program.instructions)) * EPS
    assert (np.abs(slots - reference) <= steps * (size + program_majorant(program, x))).all()
    bias, deviation = law(compiled, x)
    error = asked(*connected(compiled), x) - reference
    limit = laplace_tail(P_VALUE, error.size) * deviation * (1 + 6 / np.sqrt(120))
    assert (np.abs(error - bias) <= limit).all()


@given(cases(max_degree=4, max_layers=3))
@settings(max_examples=10)
def test_random_networks(case: Case) -> None:
    try:
        compiled = compile(case.network, layout="packed", response="plain", precision=6)
    except CompileError as error:
        assert "does not depend on the query" in str(error)
        return
    all_three_steps(case, compiled)


def case_of(*layers: nn.Module, shape: tuple[int, ...]) -> Case:
    torch.manual_seed(0)
    for layer in layers:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    x = np.random.default_rng(0).random((3, *shape)).astype(np.float32)
    return Case(nn.Sequential(*layers).eval(), x.astype(np.float64))


CASES: dict[str, Case] = {
    "one number": case_of(nn.Linear(1, 1), shape=(1,)),
    "logistic regression": case_of(nn.Linear(30, 10), shape=(30,)),
    "cubic": case_of(
        nn.Linear(6, 5), Polynomial([0.1, 1.0, -0.3, 0.2]), nn.Linear(5, 3), shape=(6,)
    ),
    "quartic": case_of(
        nn.Linear(6, 5), Polynomial([0, 0.5, 0, 0, 0.2]), nn.Linear(5, 3), shape=(6,)
    ),
    "ends in a square": case_of(nn.Linear(6, 5), Square(), shape=(6,)),
    "begins with one": case_of(Square(), nn.Linear(6, 2), shape=(6,)),
    "three squares": case_of(
        nn.Linear(4, 6), Square(), nn.Linear(6, 6), Square(), nn.Linear(6, 6), Square(),
        nn.Linear(6, 2), shape=(4,),
    ),
    "two convolutions": case_of(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), Polynomial.quadratic(4),
        nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(2), Square(), nn.Flatten(), nn.Linear(36, 5),
        shape=(1, 12, 12),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_networks(name: str) -> None:
    case = CASES[name]
    all_three_steps(case, compile(case.network, layout="packed", response="plain", precision=6))


# ---------------------------------------------------------------------------- the law of the noise

KEYS, QUERIES, DRAWS = 32, 6, 200


@pytest.fixture(scope="module")
def measured() -> tuple[Array, Array]:
    """Errors (keys, queries, outputs) of many clients less their bias; the modelled deviation."""
    case = case_of(nn.Linear(8, 10), Square(), nn.Linear(10, 8), shape=(8,))
    compiled = compile(case.network, layout="packed", response="plain", precision=6)
    x = np.random.default_rng(1).random((QUERIES, 8))
    bias, deviation = law(compiled, x, draws=DRAWS)
    server, errors = Server(compiled.program, max_clients=1), []
    for _ in range(KEYS):
        client = Client(compiled.signature)
        server.register(client.evaluation_keys())
        errors.append(asked(client, server, x) - compiled.network.evaluate(x) - bias)
    return np.array(errors), deviation


def accepted(errors: Array, deviation: Array) -> bool:
    """Mean of (error/deviation)², whose expectation is 1, within six standard deviations.

    For one key and output the square's expectation is itself an exponential variable at worst (see
    `laplace_tail`), variance 1; given it, a query's square has variance 4. Keys and outputs are
    independent, queries of one key are not. The square of the modelled deviation has a relative
    variance of 2/DRAWS for each output.
    """
    keys, queries, outputs = errors.shape
    mean = float(np.square(errors / deviation).mean())
    spread = np.sqrt((1 + 4 / queries) / (keys * outputs) + 2 / DRAWS / outputs)
    return bool(abs(mean - 1) < 6 * spread)


def test_encrypted_answers_follow_the_law(measured: tuple[Array, Array]) -> None:
    errors, deviation = measured
    assert accepted(errors, deviation)


@pytest.mark.parametrize("factor", [1 / 2, 1 / np.sqrt(2), 2, 4])
def test_a_wrong_law_is_rejected(measured: tuple[Array, Array], factor: float) -> None:
    """Deviations half, 0.7, twice and four times the modelled ones."""
    errors, deviation = measured
    assert not accepted(errors, deviation * factor)


def test_errors_have_no_bias_beyond_the_weights(measured: tuple[Array, Array]) -> None:
    """The mean over keys, per query and output, in units of its own standard deviation."""
    errors, deviation = measured
    mean = errors.mean(axis=0) / deviation * np.sqrt(KEYS)
    # Sums of Laplace variables have lighter tails than one. The bias was subtracted with an error
    # of 1/√DRAWS deviations, which √KEYS makes 0.4.
    assert np.abs(mean).max() < laplace_tail(P_VALUE, mean.size) * np.sqrt(1 + KEYS / DRAWS)


# ---------------------------------------------------------------------------- files and bytes


def test_labels_survive(deep: Party) -> None:
    x = np.random.default_rng(2).random((8, 1, 8, 8))
    expected = deep.compiled.network.evaluate(x)
    scores = deep.client.decrypt(deep.server.evaluate(deep.client.encrypt(x)))
    best = np.sort(expected, axis=1)
    # Two scores, each off by the tail of its error at most; see test_server for the bound.
    tail = laplace_tail(P_VALUE, scores.size) * np.sqrt(scores.shape[1]) + 1 / 2
    clear_cut = best[:, -1] - best[:, -2] > 2 * tail * deep.compiled.signature.resolution
    assert clear_cut.any()
    assert (scores.argmax(1) == expected.argmax(1))[clear_cut].all()


CLIENT_ONE = """
import numpy as np
from he_inference import Client, load_signature
client = Client(load_signature("signature"))
client.save("secret")
open("keys", "wb").write(client.evaluation_keys())
"""
CLIENT_TWO = """
import numpy as np
from he_inference import Client, load_signature
client = Client.load("secret", load_signature("signature"))
open("query", "wb").write(client.encrypt(np.load("x.npy")))
"""
SERVER = """
import sys
from he_inference import Server
server = Server("program")
server.register(open("keys", "rb").read())
open("answer", "wb").write(server.evaluate(open("query", "rb").read()))
raise SystemExit("he_inference.client" in sys.modules or "torch" in sys.modules)
"""
CLIENT_THREE = """
import numpy as np
from he_inference import Client, load_signature
client = Client.load("secret", load_signature("signature"))
np.save("scores.npy", client.decrypt(open("answer", "rb").read()))
"""


def test_processes_that_share_files_alone(shallow: Party, tmp_path: Path) -> None:
    """Compile here; keys, query, evaluation and decryption each in a process of its own."""
    shallow.program.save(tmp_path / "program")
    (tmp_path / "signature").write_bytes(shallow.compiled.signature.to_bytes())
    np.save(tmp_path / "x.npy", shallow.x)
    for script in (CLIENT_ONE, CLIENT_TWO, SERVER, CLIENT_THREE):
        subprocess.run(
            [sys.executable, "-c", script], check=True, cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
        )  # fmt: skip
    found = np.load(tmp_path / "scores.npy")
    bias, deviation = law(shallow.compiled, shallow.x)
    limit = laplace_tail(P_VALUE, found.size) * deviation * (1 + 6 / np.sqrt(120))
    error = np.abs(found - shallow.compiled.network.evaluate(shallow.x) - bias)
    assert (error <= limit + shallow.compiled.signature.resolution / 2).all()
    assert load_program(tmp_path / "program").signature.digest == (
        load_signature(tmp_path / "signature").digest
    )


def test_a_network_that_was_saved_compiles_to_the_same_program(tmp_path: Path) -> None:
    """Compilation draws nothing but the identity."""
    case = CASES["cubic"]
    case.network.save(tmp_path / "network.safetensors")
    network = load_network(tmp_path / "network.safetensors")
    one, two = (
        compile(case.network, layout="packed", response="plain", precision=6).program,
        compile(network, layout="packed", response="plain", precision=6).program,
    )
    assert one.instructions == two.instructions and np.array_equal(one.vectors, two.vectors)
    assert one.signature.parameters == two.signature.parameters
    assert one.signature.identity != two.signature.identity
