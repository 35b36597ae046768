"""`workloads.fitting`: it learns, repeats itself, keeps its bounds, and says when it cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from he_inference import from_torch, load_network
from he_inference.nn import Polynomial
from workloads import training
from workloads.datasets import Dataset, Splits, mnist_sample
from workloads.fitting import FittingError, Recipe, accuracy, fit, fitting_progress, hold_vertices
from workloads.models import MNIST_CNN, MNIST_DEEP
from workloads.networks import ARCHITECTURES, mnist_cnn
from workloads.training import PLANS, shipped, train_mnist

SAMPLE = mnist_sample()
SMALL = Recipe(batch=50, learning_rate=0.02)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Steps this small are slower on several, the more so where others run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return mnist_cnn(maps=4, hidden=16)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().double().flatten() for value in network.state_dict().values()])


def quadratics(network: nn.Module) -> list[torch.Tensor]:
    return [m.coefficients.detach() for m in network.modules() if isinstance(m, Polynomial)]


def test_fit_learns() -> None:
    network = fresh()
    fitted = fit(network, SAMPLE, epochs=8, recipe=SMALL)
    assert len(fitted.losses) == 8 and fitted.losses[-1] < fitted.losses[0] / 3
    # Far above the share of the commonest digit, 41 of 300.
    assert accuracy(network, SAMPLE) > 0.8
    assert not network.training


def test_fit_repeats_with_its_seed_alone() -> None:
    """Whatever the state of torch's own generator, which it leaves as it was."""
    found = []
    for seed, state in [(1, 10), (1, 20), (2, 10)]:
        network = fresh()
        torch.manual_seed(state)
        expected = torch.random.get_rng_state()
        losses = fit(network, SAMPLE, epochs=2, seed=seed, recipe=SMALL).losses
        assert torch.equal(torch.random.get_rng_state(), expected)
        found.append((losses, weights(network)))
    assert found[0][0] == found[1][0] != found[2][0]
    assert torch.equal(found[0][1], found[1][1]) and not torch.equal(found[0][1], found[2][1])


def test_statistics_are_those_of_the_undistorted_images() -> None:
    network = fresh()
    fit(network, SAMPLE, epochs=2, recipe=SMALL)
    with torch.no_grad():
        values = network[0](torch.from_numpy(SAMPLE.images)).double()
    found = network[1].state_dict()
    # Means over 300·64 float32 values, whose rounding is relative to their largest.
    tolerance = 64 * 2.0**-24 * values.abs().max() * (1 + values.abs().max())
    assert (found["running_mean"] - values.mean((0, 2, 3))).abs().max() < tolerance
    assert (found["running_var"] - values.var((0, 2, 3))).abs().max() < tolerance


def test_vertices_stay_near() -> None:
    recipe = replace(SMALL, vertex=1.0, curvature=0.1, learning_rate=0.05)
    network = fresh()
    fit(network, SAMPLE, epochs=3, recipe=recipe)
    for coefficients in quadratics(network):
        _, slope, curvature = coefficients.unbind(1)
        assert curvature.min() >= 0.1 * (1 - 2.0**-20)
        assert (slope / (2 * curvature)).abs().max() <= 1 + 2.0**-20


def test_hold_vertices_moves_what_lies_outside_and_nothing_else() -> None:
    inside, outside = [5.0, 0.5, 0.25], [5.0, -9.0, -1.0]
    network = nn.Sequential(Polynomial([inside, outside]), Polynomial([0.0, 9.0]))
    hold_vertices(network, Recipe(vertex=2.0, curvature=0.5 / 4))
    quadratic, line = quadratics(network)
    assert quadratic.tolist() == [inside, [5.0, -0.5, 0.125]]
    assert line.tolist() == [0.0, 9.0]


def test_the_range_penalty_draws_values_in() -> None:
    def largest(penalty: float) -> float:
        network = fresh()
        fit(network, SAMPLE, epochs=6, recipe=replace(SMALL, bound=2.0, range_penalty=penalty))
        with torch.no_grad():
            values: torch.Tensor = network[:6](torch.from_numpy(SAMPLE.images))
        return float(values.abs().max())

    assert largest(10.0) < largest(0.0)


class Favours(nn.Module):
    """A teacher that always answers with one digit, and counts what it was asked."""

    def __init__(self, digit: int) -> None:
        super().__init__()
        self.digit, self.asked = digit, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training and not torch.is_grad_enabled()
        self.asked += len(images)
        return 20 * nn.functional.one_hot(torch.full((len(images),), self.digit), 10).float()


def test_a_teacher_is_learned_from() -> None:
    network, teacher = fresh(), Favours(3)
    fit(network, SAMPLE, epochs=4, teacher=teacher, recipe=replace(SMALL, distillation=1.0))
    with torch.no_grad():
        answers = network(torch.from_numpy(SAMPLE.images)).argmax(1)
    assert teacher.asked == 4 * 300 and teacher.training
    assert (answers == 3).double().mean() > 0.95


def test_a_loss_that_is_not_finite_is_refused() -> None:
    bad = Dataset(np.full_like(SAMPLE.images, math.nan), SAMPLE.labels)
    with pytest.raises(FittingError, match="finite loss; found nan after 0 steps"):
        fit(fresh(), bad, epochs=1, recipe=SMALL)


@pytest.mark.parametrize(("epochs", "count"), [(0, 300), (1, 1), (1, 0)])
def test_nothing_to_do_is_refused(epochs: int, count: int) -> None:
    with pytest.raises(FittingError, match=f"epochs={epochs} .* len\\(data\\)={count} "):
        fit(fresh(), SAMPLE.take(slice(count)), epochs=epochs)


def test_progress_reaches_its_end() -> None:
    progress = fitting_progress()
    fitted = fit(fresh(), SAMPLE, epochs=2, recipe=SMALL, progress=progress, description="here")
    (task,) = progress.tasks
    assert (task.description, task.completed, task.total) == ("here", 12, 12)
    assert task.fields["loss"] == pytest.approx(fitted.losses[-1], rel=1e-12)
    assert 0 < task.fields["accuracy"] <= 1


def test_library_use_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    fit(fresh(), SAMPLE, epochs=1, recipe=SMALL)
    assert capfd.readouterr() == ("", "")


class AlwaysSeven(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return nn.functional.one_hot(torch.full((len(images),), 7), 10)


def test_accuracy_counts_right_answers_and_keeps_the_mode() -> None:
    network = nn.Sequential(nn.Dropout().eval(), AlwaysSeven())
    network.training = True
    assert accuracy(network, SAMPLE) == 34 / 300
    assert [module.training for module in network.modules()] == [True, False, True]


@pytest.mark.parametrize("count", [2, 51, 1001])
def test_no_number_of_images_leaves_a_batch_of_one(count: int) -> None:
    """BatchNorm refuses one image; 1001 are one more than the statistics take at once."""
    rows = np.arange(count) % len(SAMPLE)
    assert len(fit(fresh(), SAMPLE.take(rows), epochs=1, recipe=SMALL).losses) == 1


def test_train_mnist_does_all_of_it() -> None:
    splits = Splits(train=SAMPLE, test=SAMPLE.take(slice(100)))
    network, result = train_mnist("mnist-cnn", epochs=2, teacher_epochs=1, seed=3, data=splits)
    assert (result.architecture, result.epochs, result.seed) == ("mnist-cnn", 2, 3)
    assert result.test_accuracy == accuracy(network, splits.test)
    assert result.teacher_accuracy is not None and len(result.losses) == 2


def test_train_mnist_repeats_with_its_seed_and_needs_no_teacher() -> None:
    splits = Splits(train=SAMPLE, test=SAMPLE)
    first, again, other = (
        train_mnist("tutorial-cnn", epochs=1, teacher_epochs=0, seed=seed, data=splits)
        for seed in (1, 1, 2)
    )
    assert torch.equal(weights(first[0]), weights(again[0]))
    assert not torch.equal(weights(first[0]), weights(other[0]))
    assert first[1].teacher_accuracy is None


def test_a_shipped_network_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = Splits(train=SAMPLE, test=SAMPLE)
    plan = replace(PLANS["mnist-quadratic"], recipe=SMALL)
    monkeypatch.setattr(training, "PLANS", {"mnist-quadratic": plan})
    network, result = train_mnist("mnist-quadratic", epochs=1, data=splits)
    assert plan.shipped_teacher is not None and result.teacher_accuracy == 1
    alone, result = train_mnist("mnist-quadratic", epochs=1, teacher_epochs=0, data=splits)
    assert result.teacher_accuracy is None and not torch.equal(weights(network), weights(alone))


@pytest.mark.parametrize("path", [MNIST_CNN, MNIST_DEEP])
def test_a_shipped_network_answers_as_it_does(path: Path) -> None:
    expected = load_network(path).evaluate(SAMPLE.images)
    with torch.no_grad():
        found = shipped(path)(torch.from_numpy(SAMPLE.images)).numpy()
    # float32 sums of up to 1024 products, whose parts are hardly larger than the answers.
    assert np.abs(found - expected).max() < 1024 * 2.0**-24 * np.abs(expected).max()


def test_a_network_with_branches_is_no_teacher(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            flat = torch.flatten(images, 1)
            return flat + flat

    from_torch(Doubled(), SAMPLE.images[:2]).save(tmp_path / "network")
    with pytest.raises(FittingError, match="expected layers one after the other"):
        shipped(tmp_path / "network")


def test_train_mnist_refuses_what_it_does_not_know() -> None:
    with pytest.raises(FittingError, match="architecture='lenet' to be one of"):
        train_mnist("lenet")


def test_every_architecture_has_a_plan() -> None:
    assert PLANS.keys() == ARCHITECTURES.keys()
