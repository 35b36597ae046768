"""`he_inference.expansion`: what is multiplied out is the network, with the pairs it needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from he_inference.affine import affine_stages
from he_inference.errors import CompileError
from he_inference.expansion import MAX_MONOMIALS, NONE, Expansion, expand, features
from he_inference.network import Network
from he_inference.nn import Polynomial, Square
from he_inference.torch_modules import from_torch
from tests.conftest import EPS, Residual


def expanded(network: Network, x: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Expansion:
    magnitudes = [float(np.abs(value).max()) for value in network.trace(x)]
    return expand(affine_stages(network, magnitudes))


def of(module: nn.Module, *shape: int, seed: int = 0) -> tuple[Network, np.ndarray]:  # type: ignore[type-arg]
    x = np.random.default_rng(seed).random((5, *shape))
    return from_torch(module.eval(), torch.from_numpy(x).float()), x


@st.composite
def one_square(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """Convolutions and dense layers around one activation, with what merges into them."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    maps, size = draw(st.integers(1, 4)), draw(st.integers(5, 9))
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, 1))
    activation = draw(st.sampled_from((Square(), Polynomial.quadratic(maps))))
    if isinstance(activation, Polynomial):
        with torch.no_grad():
            activation.coefficients.copy_(torch.randn_like(activation.coefficients))
    side = (size + 2 * padding - kernel) // stride + 1
    layers: list[nn.Module] = [nn.Conv2d(1, maps, kernel, stride, padding), nn.BatchNorm2d(maps)]
    layers += [activation, nn.Flatten(), nn.Linear(maps * side * side, draw(st.integers(1, 4)))]
    return nn.Sequential(*layers), (1, size, size)


@given(case=one_square())
@settings(max_examples=60)
def test_the_expansion_is_the_network(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    module, shape = case
    network, x = of(module, *shape)
    found = expanded(network, x)
    flat = x.reshape(len(x), -1)
    # Sums of products in another order: each is off by at most one unit in the last place for
    # every term, and no partial sum is larger than the sum of sizes.
    sizes = np.abs(features(found.monomials, flat)) @ np.abs(found.weights).T
    limit = 1e4 * EPS * (sizes + np.abs(found.offset) + 1)
    assert (np.abs(found.evaluate(flat) - network.evaluate(x)) <= limit).all()
    rows = {tuple(row) for row in found.monomials.tolist()}
    assert len(rows) == len(found.monomials)
    assert all(NONE <= i <= j for i, j in rows)


def test_a_linear_network_has_no_pairs() -> None:
    network, x = of(nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)), 7)
    found = expanded(network, x)
    assert (found.monomials[:, 0] == NONE).all()
    assert found.monomials[:, 1].tolist() == list(range(7))
    assert np.allclose(found.evaluate(x), network.evaluate(x), rtol=0, atol=1e3 * EPS)


def test_pairs_are_those_within_a_window() -> None:
    """Kernel 3, stride 2 on 7 × 7: pairs of pixels that some window holds both."""
    module = nn.Sequential(nn.Conv2d(1, 9, 3, 2), Square(), nn.Flatten(), nn.Linear(81, 2))
    network, x = of(module, 1, 7, 7)
    windows = [
        {(2 * y + i) * 7 + 2 * z + j for i in range(3) for j in range(3)}
        for y in range(3)
        for z in range(3)
    ]
    wanted = {(a, b) for window in windows for a in window for b in window if a <= b}
    found = {tuple(row) for row in expanded(network, x).monomials.tolist()}
    assert {(i, j) for i, j in found if i != NONE} == wanted


def test_a_residual_around_the_activation_is_linear_in_the_query() -> None:
    module = nn.Sequential(Residual(nn.Sequential(nn.Linear(4, 4), Square())), nn.Linear(4, 2))
    network, x = of(module, 4)
    found = expanded(network, x)
    assert np.allclose(found.evaluate(x), network.evaluate(x), rtol=0, atol=1e3 * EPS)


def test_what_no_answer_needs_is_not_asked_for() -> None:
    module = nn.Sequential(nn.Linear(4, 3), Square(), nn.Linear(3, 2))
    with torch.no_grad():
        module[0].weight[:, 1] = 0  # type: ignore[index]
    network, x = of(module, 4)
    assert not (expanded(network, x).monomials == 1).any()


@pytest.mark.parametrize(
    ("layers", "size", "message"),
    [
        ([nn.Linear(3, 3), Square(), nn.Linear(3, 3), Square()], 3, "2 activations one after"),
        ([nn.Linear(3, 3), Polynomial(torch.ones(3, 4))], 3, "degree 3"),
        ([nn.Linear(3000, 2), Square(), nn.Linear(2, 2)], 3000, "4501500 pairs"),
        ([nn.Linear(800, 2), Square(), nn.Linear(2, 2)], 800, f"at most {MAX_MONOMIALS}"),
    ],
)
def test_refusals(layers: list[nn.Module], size: int, message: str) -> None:
    network, x = of(nn.Sequential(*layers), size)
    with pytest.raises(CompileError, match=message) as caught:
        expanded(network, x)
    assert "packed" in str(caught.value)
