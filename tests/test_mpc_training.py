"""The training loop: in the clear it is PyTorch's, on shares it is the one in the clear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mpc_training.clear import Clear
from mpc_training.errors import SettingsError, UnsupportedNetwork
from mpc_training.fixed_point import ACTIVATION_BITS, GRADIENT_BITS, WEIGHT_BITS, Array
from mpc_training.network import Network, read_network
from mpc_training.party import Party
from mpc_training.replicated import Replicated
from mpc_training.sharing import Entry, reveal, share
from mpc_training.torch_modules import SquareModule, from_torch, to_torch, weights_of
from mpc_training.training import Recipe, Trainer
from tests.insecure_parties import together

NETWORKS: dict[str, tuple[nn.Sequential, tuple[int, ...]]] = {
    "logistic": (nn.Sequential(nn.Linear(7, 3)), (7,)),
    "mlp": (nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)), (6,)),
    "square": (nn.Sequential(nn.Linear(5, 8), SquareModule(), nn.Linear(8, 3)), (5,)),
    "cnn": (
        nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 2, stride=2),
            nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3),
        ),
        (2, 8, 8),
    ),
    "pool of 3": (
        nn.Sequential(nn.AvgPool2d(3), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8,
        2)), (1, 9, 9),
    ),
}  # fmt: skip
STEPS, ROWS = 4, 16
RATE, MOMENTUM = 0.25, 0.75
"""RATE/ROWS and MOMENTUM are exact in the fixed point, so that no rounding of them is compared."""


def task(name: str) -> tuple[Network, Array, Array, Array]:
    """A network, first weights, and data for each step."""
    module, shape = NETWORKS[name]
    rng = np.random.default_rng(list(name.encode()))
    network = from_torch(module, shape)
    x = np.round(rng.uniform(-1, 1, (STEPS, ROWS, *shape)) * 256) / 256
    labels = rng.integers(0, network.classes, (STEPS, ROWS))
    return network, network.first_weights(rng), x, np.eye(network.classes)[labels]


def in_the_clear(name: str) -> Array:
    network, first, x, y = task(name)
    clear = Clear()
    trainer = Trainer.start(clear, network, first)
    for step in range(STEPS):
        trainer.step(
            clear.public(x[step], ACTIVATION_BITS),
            clear.public(y[step], GRADIENT_BITS),
            RATE,
            MOMENTUM,
        )
    return np.asarray(trainer.weights.parts[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_in_the_clear_it_is_torch_s_sgd(name: str) -> None:
    """Softmax is within 7e-4 of its definition; a step's weights then differ by that times the
    rate, the sum of momenta and the size of layers' inputs and weights (below 8 here)."""
    network, first, x, y = task(name)
    module = to_torch(network, first).double()
    optimiser = torch.optim.SGD(module.parameters(), RATE, MOMENTUM)
    for step in range(STEPS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(
            module(torch.from_numpy(x[step])), torch.from_numpy(y[step])
        ).backward()
        optimiser.step()
    expected = weights_of(module)
    found = in_the_clear(name)
    tolerance = 7e-4 * RATE * STEPS / (1 - MOMENTUM) * 8
    assert np.abs(found - expected).max() < tolerance
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected - first).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_on_shares_it_is_the_loop_in_the_clear(name: str) -> None:
    """In the first steps no unit is near its kink, so roundings only add up: activations by 1 ulp
    (2^−16) a layer, seen through weights and inputs below 8, scaled as above, for 4 layers."""
    network, first, x, y = task(name)

    def part(party: Party) -> Array:
        trainer = Trainer.start(Replicated(party), network, first)
        for step in range(STEPS):
            entries = [
                Entry(0, x[step].shape, ACTIVATION_BITS, 64.0, x[step]),
                Entry(1, y[step].shape, GRADIENT_BITS, 2.0, y[step]),
            ]
            trainer.step(*share(party, entries), RATE, MOMENTUM)
        weights = reveal(party, trainer.weights, (0, 1, 2))
        assert weights is not None
        return weights

    results = together(part)
    assert all(np.array_equal(result, results[0]) for result in results)
    tolerance = 4 * 2.0**-ACTIVATION_BITS * 8 * RATE * STEPS / (1 - MOMENTUM)
    assert np.abs(results[0] - in_the_clear(name)).max() < tolerance


def test_weights_survive_the_way_to_torch_and_back() -> None:
    for name in NETWORKS:
        network, first, x, _ = task(name)
        module = to_torch(network, first).double()
        assert np.abs(weights_of(module) - first).max() < 2.0**-20
        clear = Clear()
        trainer = Trainer.start(clear, network, weights_of(module))
        ours = trainer.logits(clear.public(x[0], ACTIVATION_BITS)).parts[0]
        theirs = module(torch.from_numpy(x[0])).detach().numpy()
        assert np.abs(ours - theirs).max() < 1e-12


def test_momentum_and_rate_are_kept_to_the_last_bit() -> None:
    """Weights on shares after a step from zero velocity: w − round(η/n · Σ) within an ulp of
    2^−24."""
    network, first, x, y = task("logistic")
    first = np.zeros_like(first)

    def part(party: Party) -> Array:
        a = Replicated(party)
        trainer = Trainer.start(a, network, first)
        x_, y_ = a.public(x[0], ACTIVATION_BITS), a.public(y[0], GRADIENT_BITS)
        trainer.step(x_, y_, RATE, MOMENTUM)
        found = reveal(party, trainer.weights, (0, 1, 2))
        assert found is not None
        return found

    found = together(part)[0]
    p = np.full((ROWS, 3), 1 / 3)
    gradient = np.concatenate([(x[0].T @ (p - y[0])).reshape(-1), (p - y[0]).sum(0)])
    slack = ROWS * 2e-4 * RATE / ROWS + 2.0**-WEIGHT_BITS
    assert np.abs(found + RATE / ROWS * gradient).max() < slack


# ---------------------------------------------------------------------------- refusals

REFUSED: list[tuple[nn.Module, tuple[int, ...], str]] = [
    (nn.Linear(3, 2), (3,), "expected an nn.Sequential"),
    (nn.Sequential(nn.Linear(3, 2), nn.Tanh()), (3,), "Tanh"),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)), (1, 8, 8), "AvgPool2d or a stride"),
    (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), (3,), "leave it out"),
    (nn.Sequential(nn.Linear(3, 2, bias=False)), (3,), "expected a bias"),
    (nn.Sequential(nn.Linear(4, 2)), (3,), "its input has shape"),
    (nn.Sequential(nn.Linear(3, 1)), (3,), "2 or more classes"),
    (nn.Sequential(nn.ReLU()), (3,), "no layer has weights"),
    (nn.Sequential(nn.Conv2d(1, 2, 9)), (1, 8, 8), "is larger than its input"),
    (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), (2, 8, 8), "groups 1"),
    (nn.Sequential(nn.Conv2d(1, 2, (3, 1))), (1, 8, 8), "equal sides"),
    (nn.Sequential(nn.AvgPool2d(3, stride=2), nn.Flatten(), nn.Linear(9, 2)), (1, 8, 8), "stride"),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(4)), (1, 8, 8), "divides"),
    (nn.Sequential(nn.Flatten(0), nn.Linear(3, 2)), (3,), "all but the batch"),
    (nn.Sequential(nn.Conv2d(1, 2, 3, padding="same")), (1, 8, 8), "padding as a number"),
]


@pytest.mark.parametrize(("module", "shape", "said"), REFUSED)
def test_what_cannot_be_trained_is_refused_with_a_reason(
    module: nn.Module, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(UnsupportedNetwork, match=said):
        from_torch(module, shape)


def test_all_faults_at_once() -> None:
    module = nn.Sequential(nn.Tanh(), nn.MaxPool2d(2), nn.Softmax(1))
    with pytest.raises(UnsupportedNetwork) as caught:
        from_torch(module, (1, 4, 4))
    assert len(caught.value.faults) == 3


def test_networks_travel_as_plain_data() -> None:
    digests = set()
    for module, shape in NETWORKS.values():
        network = from_torch(module, shape)
        assert read_network(network.describe()) == network
        digests.add(network.digest)
    assert len(digests) == len(NETWORKS)


@pytest.mark.parametrize("damaged", [None, {}, {"layers": [{"kind": "Lambda"}], "input_shape": [1]},
    {"layers": [{"kind": "Linear", "inputs": "x", "outputs": 2}], "input_shape": [1]}])  # fmt: skip
def test_damaged_descriptions(damaged: object) -> None:
    with pytest.raises(UnsupportedNetwork, match="damaged"):
        read_network(damaged)


@settings(max_examples=30)
@given(st.sampled_from(["learning_rate", "momentum", "batch", "epochs", "decay"]), st.booleans())
def test_recipes_have_ranges(name: str, high: bool) -> None:
    wrong = {"learning_rate": (0.0, 9.0), "momentum": (-0.1, 1.0), "batch": (0, 5000),
             "epochs": (0, 2000), "decay": (0.0, 1.1)}[name][high]  # fmt: skip
    with pytest.raises(SettingsError, match=f"{name} {wrong}"):
        Recipe(**{name: wrong})


def test_nothing_to_judge_before_a_step() -> None:
    network, first, _, y = task("logistic")
    clear = Clear()
    trainer = Trainer.start(clear, network, first)
    with pytest.raises(SettingsError, match="no step"):
        trainer.blown_up()
    with pytest.raises(SettingsError, match="no step"):
        trainer.loss(clear.public(y[0], GRADIENT_BITS))
