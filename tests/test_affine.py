"""`he_inference.affine`: the merged stages compute what the network does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings

from he_inference.affine import MAX_CENTRE, AffineStage, affine_stages
from he_inference.network import Network
from he_inference.nodes import Activation, Array, Conv2d, Flatten, Input, Linear, Node, Pad2d
from tests.conftest import EPS, Case, cases, majorant, roundings


def run(stages: Sequence[AffineStage], x: Array, *, positive: bool = False) -> Array:
    """The formula of the module's docstring; with `positive`, every number's absolute value."""
    size = np.abs if positive else np.asarray
    values = [size(x.reshape(len(x), -1))]
    for stage in stages:
        total = np.zeros((len(x), stage.size)) + size(stage.offset)
        for (source, power), matrix in stage.terms.items():
            total = total + values[source] ** power @ size(matrix.toarray()).T
        values.append(total)
    return values[-1]


def magnitudes(network: Network, x: Array) -> list[float]:
    return [float(np.abs(value).max()) for value in network.trace(x)]


@given(cases())
@settings(max_examples=150)
def test_the_stages_compute_what_the_network_computes(case: Case) -> None:
    """Merging rounds relative to the sizes of the merged entries and of the completed squares."""
    network = case.network
    stages = affine_stages(network, magnitudes(network, case.x))
    error = np.abs(run(stages, case.x) - network.evaluate(case.x))
    size = majorant(case) + run(stages, case.x, positive=True)
    assert (error <= 4 * roundings(case.module) * EPS * size).all()
    assert stages[-1].shape == network.shapes[-1]
    assert all(int(np.prod(stage.shape)) == stage.size for stage in stages)


def chain(*nodes: Node, size: int = 2) -> Network:
    return Network([Input(()), *nodes], (size,), (-1.0, 1.0))


def test_neighbours_merge_until_an_activation() -> None:
    eye, zero = np.eye(2), np.zeros(2)
    slope = Activation((2,), np.array([[1.0, 2.0]]))
    square = Activation((3,), np.array([[0.0, 0.0, 1.0]]))
    network = chain(
        Linear((0,), 3 * eye, zero),
        Linear((1,), eye, zero + 1),
        slope,
        square,
        Linear((4,), eye, zero),
    )
    first, second = affine_stages(network, [1.0] * 6)
    # 1 + 2·(3x + 1) = 6x + 3, then its square as it is.
    assert np.array_equal(first.terms[0, 1].toarray(), 6 * eye)
    assert first.offset.tolist() == [3, 3]
    assert second.terms.keys() == {(1, 2)}
    assert np.array_equal(second.terms[1, 2].toarray(), eye)


def test_a_quadratic_costs_one_square() -> None:
    """2x² + 4x + 5 = 2(x + 1)² + 3."""
    network = chain(Activation((0,), np.array([[5.0, 4.0, 2.0]])))
    first, second = affine_stages(network, [1.0, 1.0])
    assert first.offset.tolist() == [1, 1]
    assert {source: m.toarray().tolist() for source, m in second.terms.items()} == {
        (1, 2): [[2, 0], [0, 2]]
    }
    assert second.offset.tolist() == [3, 3]


@pytest.mark.parametrize(("quadratic", "completed"), [(1.0, True), (2.0**-8, False), (0.0, False)])
def test_squares_are_completed_only_where_that_keeps_precision(
    quadratic: float, completed: bool
) -> None:
    """The centre b/2a may be MAX_CENTRE times the value, and no more."""
    network = chain(Activation((0,), np.array([[0.0, 1.0, 1.0], [0.0, 1.0, quadratic]])))
    _, second = affine_stages(network, [1.0, 1.0])
    assert second.terms.keys() == ({(1, 2)} if completed else {(1, 1), (1, 2)})


def test_the_limit_on_the_centre() -> None:
    at_limit = 1 / (2 * MAX_CENTRE)
    for factor, completed in ((1.0, True), (0.99, False)):
        network = chain(Activation((0,), np.array([[0.0, 1.0, at_limit * factor]])))
        _, second = affine_stages(network, [1.0, 1.0])
        assert ((1, 1) not in second.terms) is completed


def test_powers_that_nobody_has_are_left_out() -> None:
    coefficients = np.array([[1.0, 0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0, 0.0]])
    _, second = affine_stages(chain(Activation((0,), coefficients)), [1.0, 1.0])
    assert second.terms.keys() == {(1, 2), (1, 4)}


def test_entries_outside_the_image_are_absent() -> None:
    """A convolution's matrix holds one entry for every tap that hits the image, and no zeros."""
    network = Network(
        [
            Input(()),
            Conv2d((0,), np.ones((1, 1, 3, 3)), np.zeros(1), (1, 1), (1, 1)),
            Pad2d((1,), (-1, 2, 0, -1)),
            Flatten((2,)),
        ],
        (1, 3, 3),
        (0.0, 1.0),
    )
    (stage,) = affine_stages(network, [1.0] * 4)
    matrix = sp.csr_array(stage.terms[0, 1])
    # Rows 0 and 1 of the image and columns 1 and 2 are kept, then two columns of zeros.
    assert stage.shape == (8,)
    assert np.diff(matrix.indptr).tolist() == [6, 4, 0, 0, 9, 6, 0, 0]
    assert matrix.count_nonzero() == matrix.nnz
