"""`he_inference.layouts.batched` and its search: integers that are exact, small and right."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
import tenseal.sealapi as seal
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from he_inference.affine import affine_stages
from he_inference.backend import seal as backend
from he_inference.backend import seal_format
from he_inference.backend.residues.evaluator import ResidueEvaluator
from he_inference.errors import CompileError
from he_inference.layouts.batched import (
    EXACT,
    BatchedPlan,
    forward,
    half_width,
    quantise,
    weight_sum_limit,
)
from he_inference.layouts.batched_search import batched_plan
from he_inference.layouts.blocks import Block, blocks
from he_inference.network import Network, load_network
from he_inference.nn import Polynomial, Square
from he_inference.nodes import Array
from he_inference.torch_modules import from_torch
from tests.conftest import Residual
from workloads.datasets import mnist_sample
from workloads.models import MNIST_CNN


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(7)


def network(*layers: nn.Module, shape: tuple[int, ...] = (1, 8, 8)) -> tuple[Network, Array]:
    module = nn.Sequential(*layers).eval()
    x = np.random.default_rng(1).random((40, *shape))
    return from_torch(module, x.astype(np.float32)), x


# ------------------------------------------------------------------------------ blocks


@st.composite
def matrices(draw: st.DrawFn) -> sp.csr_array:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    filled = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.4, 0.9]))
    matrix = sp.csr_array(filled * rng.integers(-3, 4, shape))
    matrix.data[rng.random(matrix.nnz) < 0.1] = 0
    return matrix


def assembled(parts: tuple[Block, ...], shape: tuple[int, ...]) -> np.ndarray:
    matrix = np.zeros(shape, dtype=np.int64)
    for block in parts:
        for gather, rows in zip(block.gather, block.rows, strict=True):
            matrix[np.ix_(rows, gather)] += block.weights
    return matrix


@given(matrices(), st.integers(3, 20))
def test_blocks_hold_the_matrix(matrix: sp.csr_array, limit: int) -> None:
    found = blocks(matrix)
    assert np.array_equal(assembled(found, matrix.shape), matrix.toarray())
    rows = np.concatenate([block.rows.ravel() for block in found]) if found else []
    assert len(set(rows)) == len(rows)
    parts = tuple(part for block in found for part in block.within(limit) or [])
    assert np.array_equal(assembled(parts, matrix.shape), matrix.toarray())
    assert all(np.abs(part.weights).sum(1).max() <= limit for part in parts)


def test_the_matrix_is_left_as_it_is() -> None:
    """Its columns may stand in any order, and the arrays may be shared with other matrices."""
    data, indices, indptr = np.array([1, 2, 3, 4]), np.array([2, 0, 1, 0]), np.array([0, 2, 4])
    matrix = sp.csr_array((data, indices, indptr), shape=(2, 3))
    found = blocks(matrix)
    assert np.array_equal(assembled(found, matrix.shape), [[2, 0, 1], [4, 3, 0]])
    assert indices.tolist() == [2, 0, 1, 0] and data.tolist() == [1, 2, 3, 4]
    assert matrix.indices.tolist() == [2, 0, 1, 0]


def test_a_convolution_is_few_blocks() -> None:
    """Padding of one on all sides: nine kinds of border."""
    layers = nn.Conv2d(1, 3, 3, padding=1), Square(), nn.Flatten(), nn.Linear(192, 2)
    made, _ = network(*layers)
    stage = affine_stages(made, [1.0] * len(made.nodes))[0]
    found = quantise(stage, [1.0], [1], 8).terms[0, 1].blocks
    assert sorted(len(block.gather) for block in found) == [1] * 4 + [6] * 4 + [36]
    assert {block.weights.shape for block in found} == {(3, 4), (3, 6), (3, 9)}


def test_a_dense_layer_is_one_block() -> None:
    weights = np.random.default_rng(0).integers(-9, 9, (30, 50))
    (block,) = blocks(sp.csr_array(weights))
    assert block.weights.shape == (30, 50 - int((weights == 0).all(0).sum()))


def test_equal_rows_share_their_weights() -> None:
    """Average pooling without a layer after it, and residual arms."""
    pool = sp.csr_array(np.kron(np.eye(16, dtype=np.int64), np.full((1, 4), 3)))
    (block,) = blocks(pool)
    assert block.weights.shape == (1, 4) and len(block.gather) == 16


def test_a_weight_above_the_limit_cannot_be_cut() -> None:
    (block,) = blocks(sp.csr_array(np.array([[5, -7]])))
    assert block.within(6) is None


# ------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("bits", range(17, 43))
def test_sums_and_offsets_stay_exact(bits: int) -> None:
    """Largest sum, offset and quotient·p, in integers."""
    p = (1 << bits) - 1
    largest = weight_sum_limit(p) * half_width(p) + p // 2
    assert largest + half_width(p) <= EXACT
    assert weight_sum_limit(p) >= 1024


# ------------------------------------------------------------------------------ plans


CASES = {
    "one square": lambda: (nn.Flatten(), nn.Linear(64, 9), Square(), nn.Linear(9, 4)),
    "quadratic": lambda: (
        nn.Conv2d(1, 3, 3, stride=2), Polynomial([0.3, 0.8, -0.4]), nn.Flatten(),
        nn.Linear(27, 4),
    ),
    "a channel without a square": lambda: (
        nn.Conv2d(1, 2, 3), Polynomial([[0.1, 0.5, 0.3], [0.2, 0.7, 0.0]]), nn.Flatten(),
        nn.Linear(72, 4),
    ),
    "pooled": lambda: (
        nn.Conv2d(1, 2, 3, padding=1), Square(), nn.AvgPool2d(2), Square(), nn.Flatten(),
        nn.Linear(32, 3),
    ),
    "residual": lambda: (
        nn.Conv2d(1, 2, 3, padding=1), Square(),
        Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), Square())),
        nn.Flatten(), nn.Linear(128, 3),
    ),
}  # fmt: skip


@cache
def planned(name: str) -> tuple[Network, Array, BatchedPlan]:
    torch.manual_seed(7)
    made, x = network(*CASES[name]())
    return made, x, batched_plan(made, x)


@pytest.mark.parametrize("name", CASES)
def test_plans_hold_the_precision(name: str) -> None:
    """Other noise than the search drew: the mean of 120 errors is within a sixth of its mean."""
    made, x, plan = planned(name)
    errors = [plan.simulate(x, seed=seed + 1) - made.evaluate(x) for seed in range(10)]
    relative = np.sqrt(np.mean(np.square(errors))) / np.abs(made.evaluate(x)).max()
    assert relative < 2.0**-plan.precision_bits * 1.3
    assert plan.precision_bits >= 8
    assert plan.output_scale * plan.largest_answer * 16 <= 2 ** plan.parameters.log_modulus(
        len(plan.parameters.data_primes)
    )


@pytest.mark.parametrize("name", CASES)
def test_integers_are_the_simulated_ones(name: str) -> None:
    """Python's integers on a scaled query, against the float64 simulation without noise."""
    _, x, plan = planned(name)
    query = np.rint(x[0].ravel() * plan.input_scale)
    values = [[int(v) for v in query]]
    for stage in plan.stages:
        total = list(stage.offset)
        for (source, power), term in stage.terms.items():
            powers = np.array([v**power for v in values[source]], dtype=object)
            product = term.weights.toarray().astype(object) @ powers
            total = [t + term.multiplier * p for t, p in zip(total, product, strict=True)]
        values.append(total)
    exact = np.array([float(v) for v in values[-1]]) / plan.output_scale
    simulated = forward(plan.input_scale, plan.stages, query[None] / plan.input_scale)[0]
    assert np.allclose(simulated, exact, rtol=0, atol=1e-9 * plan.largest_answer)


@pytest.mark.parametrize("name", CASES)
def test_encrypted_answers_are_the_networks(name: str) -> None:
    """Encrypted by SEAL, evaluated on residues, decrypted by SEAL."""
    made, x, plan = planned(name)
    answers = encrypted_answers(plan, x)
    error = np.sqrt(np.mean((answers - made.evaluate(x)) ** 2))
    assert error < 1.3 * 2.0**-plan.precision_bits * plan.largest_answer


def encrypted_answers(plan: BatchedPlan, x: Array) -> Array:
    """(batch, …) → (batch, outputs), through SEAL on both ends."""
    parameters = plan.parameters
    context = backend._context(parameters, len(parameters.data_primes))
    secret = seal.KeyGenerator(context).secret_key()
    encoder, encryptor = seal.CKKSEncoder(context), seal.Encryptor(context, secret)
    decryptor = seal.Decryptor(context, secret)
    residues = []
    for feature in x.reshape(len(x), -1).T:
        plain, cipher = seal.Plaintext(), seal.Ciphertext()
        encoder.encode(feature.tolist(), plan.input_scale, plain)
        encryptor.encrypt_symmetric(plain, cipher)
        residues.append(seal_format.read_ciphertext(backend._saved(cipher)))
    result = ResidueEvaluator(plan).evaluate(np.stack(residues))
    name = backend._parms_ids(parameters)[-1]
    answers = []
    for output in result:
        data = seal_format.ciphertext(name, output, plan.output_scale, ntt=True)
        plain = seal.Plaintext()
        decryptor.decrypt(backend._loaded(seal.Ciphertext(), context, data), plain)
        answers.append(np.array(encoder.decode_double(plain))[: len(x)])
    return np.stack(answers, axis=1)


@pytest.mark.slow
def test_encrypted_mnist() -> None:
    """The network that ships with the project: all labels of the sample."""
    made, images = load_network(MNIST_CNN), mnist_sample().images.astype(np.float64)
    plan = batched_plan(made, images[:100])
    expected = made.evaluate(images).argmax(1)
    assert plan.parameters.ring_degree == 8192
    assert np.array_equal(plan.simulate(images).argmax(1), expected)
    assert np.array_equal(encrypted_answers(plan, images).argmax(1), expected)


# ------------------------------------------------------------------------------ refusals


def test_three_squares_need_the_larger_ring() -> None:
    """Nine components, which SEAL decrypts as they are."""
    layers = [nn.Flatten()]
    for _ in range(3):
        layers += [nn.Linear(64, 64), Square()]
    made, x = network(*layers, nn.Linear(64, 3))
    plan = batched_plan(made, x, precision=15)
    assert (plan.parameters.ring_degree, plan.components) == (16384, 9)
    error = np.sqrt(np.mean((encrypted_answers(plan, x) - made.evaluate(x)) ** 2))
    assert error < 1.3 * 2.0**-15 * plan.largest_answer


def test_a_precision_that_does_not_fit_names_one_that_does() -> None:
    layers = [layer for _ in range(3) for layer in (nn.Linear(6, 6), Square())]
    made, x = network(*layers, nn.Linear(6, 2), shape=(6,))
    with pytest.raises(CompileError, match=r"N = 16384: answers need \d+ bits") as refusal:
        batched_plan(made, x, precision=20)
    precision = float(re.findall(r"precision=([\d.]+) would fit", str(refusal.value))[-1])
    assert 8 <= precision < 20
    assert batched_plan(made, x, precision=precision).precision_bits >= precision


def test_refusals_name_the_remedy() -> None:
    deep = [layer for _ in range(4) for layer in (nn.Linear(6, 6), Square())]
    made, x = network(*deep, nn.Linear(6, 2), shape=(6,))
    with pytest.raises(CompileError, match=r"4 squares one after the other.*leave out 1"):
        batched_plan(made, x)
    cubic = nn.Linear(6, 6), Polynomial([0.0, 1.0, 0.0, 1.0]), nn.Linear(6, 2)
    made, x = network(*cubic, shape=(6,))
    with pytest.raises(CompileError, match=r"degree 3.*use degree 2"):
        batched_plan(made, x)
    made, x = network(nn.Linear(6, 6), Square(), nn.Linear(6, 2), shape=(6,))
    with pytest.raises(CompileError, match="the best precision is"):
        batched_plan(made, x, precision=40)
    with torch.no_grad():
        blind = nn.Linear(6, 2)
        blind.weight.zero_()
    made, x = network(nn.Linear(6, 6), Square(), blind, shape=(6,))
    with pytest.raises(CompileError, match="layer 2 does not depend on the query"):
        batched_plan(made, x)
