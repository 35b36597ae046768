"""`he_inference.layouts.packed`: products, rotations and folds apply the matrix they came from.

Everything here is arithmetic on arrays; the only tolerance is the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings

from he_inference.affine import AffineStage, affine_stages
from he_inference.errors import CompileError
from he_inference.layouts import packed
from he_inference.layouts.packed import PackedPlan, PackedStage, ceil_power, grid_slots, pack
from he_inference.nodes import Array
from tests.conftest import EPS, Case, cases


def rotate(slots: Array, step: int) -> Array:
    return np.roll(slots, -step)


def arranged(gather: np.ndarray, x: Array) -> Array:
    """What a client puts into slots."""
    return np.append(x, 0.0)[gather]


def applied(stage: PackedStage, slots: dict[int, Array]) -> Array:
    """The module's formula, slot by slot."""
    total = np.zeros_like(next(iter(slots.values())))
    for (source, power), products in stage.products.items():
        for p in products:
            total = total + rotate(p.vector * rotate(slots[source] ** power, p.baby), p.giant)
    for fold in stage.folds:
        total = total + rotate(total, fold)
    return total + stage.offset


def run(plan: PackedPlan, x: Array) -> list[Array]:
    """Slots of the query and after every stage."""
    values = {0: arranged(plan.input.gather, x)}
    for number, stage in enumerate(plan.stages, 1):
        values[number] = applied(stage, values)
    return list(values.values())


def expected_values(stages: Sequence[AffineStage], x: Array) -> list[Array]:
    values = [x]
    for stage in stages:
        total = stage.offset
        for (source, power), matrix in stage.terms.items():
            total = total + matrix @ values[source] ** power
        values.append(total)
    return values


def positive(stage: AffineStage) -> AffineStage:
    """The stage with every number's absolute value: what roundings are relative to."""
    terms = {source: abs(matrix) for source, matrix in stage.terms.items()}
    return AffineStage(terms, np.abs(stage.offset), stage.shape)


def assert_holds(stage: PackedStage, slots: Array, expected: Array, size: float) -> None:
    """Element e is in every slot positions[e] + k·period.

    size bounds Σ|product|; a slot's sum has at most as many terms as there are slots, and numpy's
    own product with the matrix rounds as often.
    """
    layout = stage.layout
    assert len(slots) % layout.period == 0
    assert layout.positions.min() >= 0 and layout.positions.max() < layout.period
    assert len(np.unique(layout.positions)) == len(layout.positions)
    copies = slots.reshape(-1, layout.period)[:, layout.positions]
    assert np.abs(copies - expected).max() <= 2 * len(slots) * EPS * size


# ---------------------------------------------------------------------------- one matrix

SLOTS = 64


@st.composite
def matrices(draw: st.DrawFn, most: int = SLOTS) -> Array:
    """Dense, sparse, structured as a convolution, or with rows that share supports unevenly."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    edges = [1, 2, 3, 7, 8, 9, 16, 31, 32, 33, most - 1, most]
    sizes = st.sampled_from([n for n in edges if n <= most])
    rows, columns = draw(sizes), draw(sizes)
    matrix = rng.normal(size=(rows, columns))
    match draw(st.sampled_from(["dense", "sparse", "toeplitz", "shared", "one"])):
        case "sparse":
            matrix *= rng.random(matrix.shape) < 0.2
        case "toeplitz":
            band = np.subtract.outer(np.arange(rows), np.arange(columns)) % columns
            matrix = np.where(band < 3, matrix, 0)
        case "shared":
            supports = rng.random((4, columns)) < 0.3
            matrix *= supports[rng.choice(4, rows, p=[0.7, 0.1, 0.1, 0.1])]
        case "one":
            matrix *= 0
    if not matrix.any():
        matrix[rng.integers(rows), rng.integers(columns)] = 1.0
    return matrix


def stage_of(matrix: Array, source: tuple[int, int] = (0, 1)) -> AffineStage:
    offset = np.arange(float(len(matrix)))
    return AffineStage({source: sp.csr_array(matrix)}, offset, (len(matrix),))


@given(matrices(), st.integers(0, 2**31))
@settings(max_examples=150)
def test_every_placement_applies_the_matrix(matrix: Array, seed: int) -> None:
    """Not only the one that is cheapest: each that the planner weighs."""
    x = np.random.default_rng(seed).normal(size=matrix.shape[1])
    stage = stage_of(matrix)
    size = float((np.abs(matrix) @ np.abs(x)).max() + len(matrix))
    tried = 0
    for partial in packed._starts(stage, SLOTS):
        for placement in packed._placements(partial, stage, SLOTS):
            made = packed._packed(stage, placement, SLOTS)
            slots = applied(made, {0: arranged(partial.input.gather, x)})
            assert_holds(made, slots, matrix @ x + stage.offset, size)
            tried += 1
    assert tried >= 1 + (len(matrix) > 1)


@given(matrices(32), st.data(), st.integers(0, 2**31))
@settings(max_examples=100)
def test_chains_read_what_was_laid_out_before(first: Array, data: st.DataObject, seed: int) -> None:
    """Three stages; the last reads the second's square and the first one's value."""
    rng = np.random.default_rng(seed)
    middle, outputs = data.draw(st.integers(1, 33)), data.draw(st.integers(1, 33))
    second = rng.normal(size=(middle, len(first)))
    stages = [
        stage_of(first),
        stage_of(second, (1, 2)),
        AffineStage(
            {
                (2, 2): sp.csr_array(rng.normal(size=(outputs, middle))),
                (1, 1): sp.csr_array(rng.normal(size=(outputs, len(first)))),
            },
            np.zeros(outputs),
            (outputs,),
        ),
    ]
    x = rng.normal(size=first.shape[1])
    plan = pack(stages, SLOTS)
    values = expected_values(stages, x)
    sizes = expected_values([positive(stage) for stage in stages], np.abs(x))
    # A relative error of a value doubles when it is squared: 7 times that of one stage at the end.
    for stage, slots, value, size in zip(
        plan.stages, run(plan, x)[1:], values[1:], sizes[1:], strict=True
    ):
        assert_holds(stage, slots, value, 7 * float(size.max()))


@given(cases(max_degree=4))
@settings(max_examples=60)
def test_whole_networks(case: Case) -> None:
    network = case.network
    magnitudes = [float(np.abs(v).max()) for v in network.trace(case.x)]
    stages = affine_stages(network, magnitudes)
    if not all(any(m.nnz for m in stage.terms.values()) for stage in stages):
        return  # refused by the compiler
    plan = pack(stages, 1024)
    x = case.x[0].ravel()
    values = expected_values(stages, x)
    sizes = expected_values([positive(stage) for stage in stages], np.abs(x))
    for stage, slots, value, size in zip(
        plan.stages, run(plan, x)[1:], values[1:], sizes[1:], strict=True
    ):
        assert_holds(stage, slots, value, 5 * len(stages) * float(size.max()))


# ---------------------------------------------------------------------------- limits


@pytest.mark.parametrize("size", [1, 2, 63, 64])
def test_as_many_values_as_slots_fit(size: int) -> None:
    matrix = np.eye(size)
    plan = pack([stage_of(matrix)], SLOTS)
    x = np.arange(1.0, size + 1)
    assert_holds(plan.stages[0], run(plan, x)[1], x + np.arange(size), 2.0 * size)


def test_more_outputs_than_slots() -> None:
    with pytest.raises(CompileError, match="layer 1 has 65 values, more than the 64 slots"):
        pack([stage_of(np.ones((65, 2)))], SLOTS)
    with pytest.raises(CompileError, match="layer 2 has 65 values"):
        pack([stage_of(np.eye(2)), stage_of(np.ones((65, 2)), (1, 2))], SLOTS)


def test_more_inputs_than_slots() -> None:
    with pytest.raises(CompileError, match="a query has 65 values, more than the 64 slots"):
        pack([stage_of(np.ones((3, 65)))], SLOTS)


@pytest.mark.parametrize("maps", [3, 33])
def test_positions_that_are_padded_do_not_run_over(maps: int) -> None:
    """33 positions are laid out as 64, so 33 maps of them need more slots than they have values."""
    slots = 2048
    rng = np.random.default_rng(0)
    positions = np.eye(33, 40) + np.eye(33, 40, 1)
    matrix = np.kron(rng.normal(size=(maps, 1)), positions)
    plan = pack([stage_of(matrix)], slots)
    x = rng.normal(size=40)
    size = float((np.abs(matrix) @ np.abs(x)).max() + len(matrix))
    assert_holds(plan.stages[0], run(plan, x)[1], matrix @ x + np.arange(len(matrix)), size)


def test_slot_zero_stays_free_where_there_is_room() -> None:
    """It is key switching's noisiest: stacked rows start one block later."""
    stage = stage_of(np.random.default_rng(0).normal(size=(10, 64)))
    (partial,) = [p for p in packed._starts(stage, 4096) if p.hint is None]
    stacked = list(packed._placements(partial, stage, 4096))[-1]
    assert stacked.target.period == 4096 and stacked.target.positions.min() > 0


def test_baby_and_giant_steps_take_about_twice_the_root() -> None:
    """A dense 64×64 matrix: 64 diagonals, 7 + 7 rotations or so, never 63."""
    stage = stage_of(np.random.default_rng(0).normal(size=(64, 64)))
    plan = pack([stage], 64)
    products = plan.stages[0].products[0, 1]
    steps = {("baby", p.baby) for p in products if p.baby} | {
        ("giant", p.giant) for p in products if p.giant
    }
    assert len(products) == 64 and len(steps) <= 2 * np.sqrt(64)


def test_the_first_convolution_is_unrolled_by_the_client() -> None:
    """Kernel taps by positions: rotations do not grow with the image."""
    rng = np.random.default_rng(0)
    positions = sp.csr_array(np.kron(np.eye(16), np.ones((1, 4))))  # 16 windows of 4
    matrix = sp.kron(np.ones((4, 1)), positions).toarray() * rng.normal(size=(64, 64))
    (unrolled,) = [p for p in packed._starts(stage_of(matrix), 64) if p.hint is not None]
    gathered = np.sort(unrolled.input.gather)
    assert np.array_equal(gathered, np.arange(64))  # every pixel once: windows do not overlap
    columns = np.arange(64).reshape(16, 4)
    assert np.array_equal(unrolled.input.gather.reshape(4, 16).T, columns)


@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(0, 20)] * 3))
def test_grid_slots(shape: tuple[int, int, int], strides: tuple[int, int, int]) -> None:
    found = grid_slots(shape, strides)
    index = np.array(list(np.ndindex(*shape)))
    assert np.array_equal(found, index @ np.array(strides))


@given(st.integers(1, 2**40))
def test_ceil_power(n: int) -> None:
    power = ceil_power(n)
    assert power.bit_count() == 1 and power >= n and (power == 1 or power // 2 < n)
