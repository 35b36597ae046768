"""`he_inference.backend.residues` against Python's integers and against SEAL, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
import tenseal.sealapi as seal
from hypothesis import given, settings

from he_inference.affine import Source
from he_inference.backend import seal as backend
from he_inference.backend import seal_format
from he_inference.backend.residues import schedule as schedule_module
from he_inference.backend.residues.evaluator import ResidueEvaluator
from he_inference.backend.residues.torch_evaluator import TorchResidueEvaluator
from he_inference.errors import CompileError, InputError
from he_inference.layouts.batched import (
    BatchedPlan,
    IntegerStage,
    Term,
    half_width,
    weight_sum_limit,
)
from he_inference.parameters import Parameters, ParametersLiteral
from he_inference.wire import Residues

LANES = np.array([0, 1, 4, 5, 6, 7, 31, 32, 255, 256, 4095])
"""Coefficients that are compared: borders of vectors, chunks and tasks; 4 to 7 hold extremes."""


@cache
def parameters(*bits: int) -> Parameters:
    return ParametersLiteral(4096, bits, 16).resolve()


def make_plan(stages: list[IntegerStage], features: int, params: Parameters) -> BatchedPlan:
    bits = (8,) * len(stages)
    return BatchedPlan(params, (features,), (0.0, 1.0), 2.0**20, tuple(stages), bits, 1.0, 8.0)


def stage(
    terms: dict[Source, tuple[int, npt.ArrayLike]], offset: list[int], degree: int
) -> IntegerStage:
    made = {
        source: Term(multiplier, sp.csr_array(np.asarray(weights, dtype=np.int64)))
        for source, (multiplier, weights) in terms.items()
    }
    return IntegerStage(made, tuple(offset), 1.0, degree)


def queries(plan: BatchedPlan, seed: int = 0) -> Residues:
    """Uniform residues, extreme ones among them; in some coefficients all are the same extreme.

    (p − 1)/2 is a multiple of N, so its sums are exact far beyond 2^53: its odd neighbours are not.
    """
    rng = np.random.default_rng(seed)
    shape = (plan.features, 2, plan.parameters.ring_degree)
    rows = []
    for p in plan.parameters.data_primes:
        row = rng.integers(0, p, shape, dtype=np.uint64)
        extremes = np.array([0, 1, p // 2, p // 2 + 1, p - 1], dtype=np.uint64)
        row[:, :, :64] = rng.choice(extremes, (*shape[:2], 64))
        row[:, :, 4:8] = [p // 2, p // 2 + 1, p // 2 - 1, p // 2 + 2]
        rows.append(row)
    return np.stack(rows, axis=2)


def exact(
    plan: BatchedPlan, asked: Residues, prime: int, lanes: npt.NDArray[np.int64]
) -> npt.NDArray[np.object_]:
    """The definition in Python's integers: (outputs, components, lanes)."""
    p = plan.parameters.data_primes[prime]
    values = [list(asked[:, :, prime][:, :, lanes].astype(object).transpose(1, 0, 2))]
    for this in plan.stages:
        total: list[Any] = [np.zeros((this.size, len(lanes)), dtype=object)] * this.components
        total[0] = total[0] + np.array(this.offset, dtype=object)[:, None]
        for (source, power), term in this.terms.items():
            value = values[source] if power == 1 else square(values[source])
            weights = term.weights.toarray().astype(object)
            for component, residues in enumerate(value):
                total[component] = total[component] + term.multiplier * (weights @ residues)
        values.append([component % p for component in total])
    return np.stack(values[-1], axis=1)


def square(value: list[Any]) -> list[Any]:
    result: list[Any] = [0] * (2 * len(value) - 1)
    for i, a in enumerate(value):
        for j, b in enumerate(value):
            result[i + j] = result[i + j] + a * b
    return result


def check_exact(plan: BatchedPlan, answers: Residues, asked: Residues) -> None:
    for prime in range(len(plan.parameters.data_primes)):
        found = answers[:, :, prime][:, :, LANES].astype(object)
        assert np.array_equal(found, exact(plan, asked, prime, LANES))


# ------------------------------------------------------------------------------ exactness


@st.composite
def plans(draw: st.DrawFn) -> BatchedPlan:
    """Random integer networks: sparse and dense, several arms, up to three squares."""
    params = parameters(*draw(st.sampled_from([(20,), (27, 26), (36,), (42, 41), (42,)])))
    limit = weight_sum_limit(max(params.data_primes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes, degrees, stages = [draw(st.integers(1, 9))], [1], []
    for number in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 14))
        terms: dict[Source, tuple[int, npt.ArrayLike]] = {}
        for source in sorted({draw(st.integers(0, number)), number}):
            power = 2 if source and degrees[source] <= 4 and draw(st.booleans()) else 1
            filled = rng.random((size, sizes[source])) < draw(st.sampled_from([0.2, 0.7, 1.0]))
            top = draw(st.sampled_from([3, 200, min(limit, 2**22)]))
            weights = rng.integers(-top, top + 1, filled.shape) * filled
            weights[0, 0] = top
            multiplier = draw(st.sampled_from([1, 1, 2, 2**40 + 1, 3**90]))
            terms[source, power] = (multiplier, weights)
        degrees.append(max(power * degrees[source] for source, power in terms))
        offset = [int(v) * 5**30 for v in rng.integers(-(2**62), 2**62, size)]
        stages.append(stage(terms, offset, degrees[-1]))
        sizes.append(size)
    return make_plan(stages, sizes[0], params)


@settings(max_examples=25)
@given(plans())
def test_random_networks_are_exact(plan: BatchedPlan) -> None:
    asked = queries(plan)
    answers = ResidueEvaluator(plan, threads=2).evaluate(asked)
    check_exact(plan, answers, asked)
    on_torch = TorchResidueEvaluator(plan, "cpu", coefficients=1000).evaluate(asked)
    assert np.array_equal(on_torch, answers)


@pytest.mark.parametrize("bits", [20, 26, 33, 42])
@pytest.mark.parametrize("maps", range(1, 14))
def test_the_longest_sums_of_the_largest_products(bits: int, maps: int) -> None:
    """Residues of one sign at their largest, and weights whose sum is all that is allowed."""
    params = parameters(bits)
    limit = weight_sum_limit(params.data_primes[0])
    taps = 3000 if maps == 5 else 40
    weights = np.full((maps, taps), limit // taps)
    weights[:, 0] += limit - weights.sum(1)
    plan = make_plan([stage({(0, 1): (1, weights)}, [0] * maps, 1)], taps, params)
    assert len(plan.stages[0].terms[0, 1].parts(limit) or ()) == 1
    asked = queries(plan)
    answers = ResidueEvaluator(plan).evaluate(asked)
    check_exact(plan, answers, asked)


def test_sums_that_are_cut_into_parts() -> None:
    params = parameters(42)
    limit = weight_sum_limit(params.data_primes[0])
    weights = np.full((7, 50), limit // 3)
    plan = make_plan([stage({(0, 1): (1, weights)}, [-1] * 7, 1)], 50, params)
    assert len(plan.stages[0].terms[0, 1].parts(limit) or ()) == 17
    asked = queries(plan)
    check_exact(plan, ResidueEvaluator(plan).evaluate(asked), asked)


@pytest.mark.parametrize("bits", [20, 27, 36, 42])
def test_squares_of_the_largest_residues(bits: int) -> None:
    """Three squares of ±p/2 in all components: nine components, products of up to 2^83."""
    identity = (
        {(0, 1): (1, [[1]])},
        {(1, 2): (1, [[1]])},
        {(2, 2): (1, [[1]])},
        {(3, 2): (1, [[1]])},
    )
    stages = [
        stage(terms, [0], degree) for terms, degree in zip(identity, (1, 2, 4, 8), strict=True)
    ]
    plan = make_plan(stages, 1, parameters(bits))
    asked = queries(plan)
    answers = ResidueEvaluator(plan).evaluate(asked)
    assert answers.shape[1] == 9
    lanes = np.arange(4096)
    assert np.array_equal(answers[:, :, 0].astype(object), exact(plan, asked, 0, lanes))


@given(st.integers(20, 42), st.data())
def test_reduced_residues_stay_below_their_bound(bits: int, data: st.DataObject) -> None:
    """`half_width`, for both reductions, in Python's own float64."""
    p = parameters(bits).data_primes[0]
    half = half_width(p)
    a = data.draw(st.one_of(st.integers(-half, half), st.sampled_from([half, -half])))
    b = data.draw(st.one_of(st.integers(-half, half), st.sampled_from([half, -half])))
    high = float(2 * a) * float(b)
    quotient = round(high * (1.0 / p))
    assert abs(2 * a * b - quotient * p) <= half
    x = data.draw(st.integers(-(2**53), 2**53))
    assert abs(x - round(float(x) * (1.0 / p)) * p) <= half


def test_a_planner_that_allows_overflow_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same check fails once the bound on sums is four times too large."""
    params = parameters(36)
    right = weight_sum_limit(params.data_primes[0])
    rng = np.random.default_rng(0)
    weights = 4 * right // 100 - rng.integers(1, 1000, (3, 100))
    plan = make_plan([stage({(0, 1): (1, weights)}, [0] * 3, 1)], 100, params)
    asked = queries(plan)
    check_exact(plan, ResidueEvaluator(plan).evaluate(asked), asked)
    monkeypatch.setattr(schedule_module, "weight_sum_limit", lambda prime: 4 * right)
    with pytest.raises(AssertionError):
        check_exact(plan, ResidueEvaluator(plan).evaluate(asked), asked)


# ------------------------------------------------------------------------------ refusals


def test_a_weight_too_large_is_refused() -> None:
    params = parameters(42)
    limit = weight_sum_limit(params.data_primes[0])
    plan = make_plan([stage({(0, 1): (1, [[limit + 1]])}, [0], 1)], 1, params)
    with pytest.raises(CompileError, match=f"exceeds {limit}"):
        ResidueEvaluator(plan)


@pytest.mark.parametrize(
    "stages",
    [
        [stage({(0, 1): (1, [[1, 2, 3]])}, [0], 1)],
        [stage({(0, 1): (1, [[1, 2]])}, [0, 0], 1)],
        [stage({(1, 1): (1, [[1, 2]])}, [0], 1)],
        [stage({(0, 3): (1, [[1, 2]])}, [0], 3)],
        [stage({(0, 2): (1, [[1, 2]])}, [0], 1)],
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: list[IntegerStage]) -> None:
    """Before anything is read or written out of bounds."""
    with pytest.raises(CompileError, match="layer 1"):
        ResidueEvaluator(make_plan(stages, 2, parameters(26)))


def test_wide_primes_are_refused() -> None:
    plan = make_plan([stage({(0, 1): (1, [[1]])}, [0], 1)], 1, parameters(43))
    with pytest.raises(CompileError, match="43 bits"):
        ResidueEvaluator(plan)


@pytest.mark.parametrize("kind", [ResidueEvaluator, TorchResidueEvaluator])
def test_other_arrays_are_refused(kind: Any) -> None:
    plan = make_plan([stage({(0, 1): (1, [[1, 2]])}, [0], 1)], 2, parameters(26))
    evaluator = kind(plan) if kind is ResidueEvaluator else kind(plan, "cpu")
    asked = queries(plan)
    for wrong in (asked[:1], asked.astype(np.int64), asked[..., :-1]):
        with pytest.raises(InputError, match=r"expected residues uint64 \(2, 2, 1, 4096\)"):
            evaluator.evaluate(wrong)
    strided = np.asfortranarray(asked)
    strided.flags.writeable = False
    assert np.array_equal(evaluator.evaluate(strided), evaluator.evaluate(asked))


# ------------------------------------------------------------------------------ SEAL

SEAL_PARAMETERS = ParametersLiteral(8192, (41, 40, 40), 17).resolve()
SCALE = 2.0**18


def seal_context() -> Any:
    return backend._context(SEAL_PARAMETERS, 3)


def loaded(residues: Residues, scale: float) -> Any:
    name = backend._parms_ids(SEAL_PARAMETERS)[-1]
    data = seal_format.ciphertext(name, residues, scale, ntt=True)
    return backend._loaded(seal.Ciphertext(), seal_context(), data)


@pytest.fixture(scope="module")
def encrypted() -> tuple[Any, npt.NDArray[np.float64], Residues, list[Any]]:
    """A secret key, values (3 features, slots), their residues, and SEAL's own ciphertexts."""
    context = seal_context()
    secret = seal.KeyGenerator(context).secret_key()
    encoder, encryptor = seal.CKKSEncoder(context), seal.Encryptor(context, secret)
    values = np.random.default_rng(3).uniform(-1, 1, (3, SEAL_PARAMETERS.slots))
    ciphers = []
    for row in values:
        plain, cipher = seal.Plaintext(), seal.Ciphertext()
        encoder.encode(row.tolist(), SCALE, plain)
        encryptor.encrypt_symmetric(plain, cipher)
        ciphers.append(cipher)
    residues = np.stack([seal_format.read_ciphertext(backend._saved(c)) for c in ciphers])
    return secret, values, residues, ciphers


def test_products_and_squares_agree_with_seal(encrypted: Any) -> None:
    """3·x − 5·y squared: SEAL's evaluator gives the same residues."""
    _, _, asked, (x, y, _) = encrypted
    stages = [
        stage({(0, 1): (1, [[3, -5, 0]])}, [0], 1),
        stage({(1, 2): (1, [[1]])}, [0], 2),
    ]
    plan = make_plan(stages, 3, SEAL_PARAMETERS)
    answers = ResidueEvaluator(plan).evaluate(asked)
    evaluator, encoder = seal.Evaluator(seal_context()), seal.CKKSEncoder(seal_context())
    parts = []
    for cipher, factor in ((x, 3.0), (y, -5.0)):
        plain, product = seal.Plaintext(), seal.Ciphertext()
        encoder.encode(factor, 1.0, plain)
        evaluator.multiply_plain(cipher, plain, product)
        parts.append(product)
    evaluator.add_inplace(parts[0], parts[1])
    evaluator.square_inplace(parts[0])
    assert np.array_equal(seal_format.read_ciphertext(backend._saved(parts[0])), answers[0])


def test_seal_decrypts_two_squares(encrypted: Any) -> None:
    """A ciphertext of five components, a constant added to every slot, within derived bounds."""
    secret, values, asked, _ = encrypted
    offset = round(0.25 * SCALE * 4)
    stages = [
        stage({(0, 1): (1, [[4, -3, 2], [1, 1, 1]])}, [offset, 0], 1),
        stage({(1, 2): (1, [[1, -1]])}, [7], 2),
        stage({(2, 2): (1, [[2], [-1]])}, [0, 1 << 80], 4),
    ]
    plan = make_plan(stages, 3, SEAL_PARAMETERS)
    answers = ResidueEvaluator(plan).evaluate(asked)
    integers = np.rint(values * SCALE)
    first = np.array([[4, -3, 2], [1, 1, 1]]) @ integers + [[offset], [0]]
    second = first[0] ** 2 - first[1] ** 2 + 7
    expected = np.stack([2 * second**2, (1 << 80) - second**2]) / SCALE**4
    deviation = np.sqrt(8192 * (10.5 / 2 + 1 / 12)) / SCALE
    slope = 2 * 2 * np.abs(second).max() / SCALE**2 * 2 * np.abs(first).max() / SCALE * 12
    decryptor, encoder = seal.Decryptor(seal_context(), secret), seal.CKKSEncoder(seal_context())
    for answer, row in zip(answers, expected, strict=True):
        plain = seal.Plaintext()
        decryptor.decrypt(loaded(answer, SCALE**4), plain)
        found = np.array(encoder.decode_double(plain))
        assert np.abs(found - row).max() < 7 * deviation * slope


def test_ciphertexts_round_trip(encrypted: Any) -> None:
    _, _, asked, _ = encrypted
    again = seal_format.read_ciphertext(backend._saved(loaded(asked[0], SCALE)))
    assert np.array_equal(again, asked[0])


def test_threads_do_not_change_answers() -> None:
    rng = np.random.default_rng(1)
    plan = make_plan(
        [stage({(0, 1): (1, rng.integers(-99, 99, (9, 5)))}, [3] * 9, 1)], 5, parameters(30, 29)
    )
    asked = queries(plan)
    alone = ResidueEvaluator(plan, threads=1).evaluate(asked)
    assert np.array_equal(ResidueEvaluator(plan, threads=3).evaluate(asked), alone)
    fewer = replace(plan, parameters=parameters(30))
    part = ResidueEvaluator(fewer).evaluate(np.ascontiguousarray(asked[:, :, :1]))
    assert np.array_equal(part, alone[:, :, :1])
