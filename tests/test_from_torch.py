"""`he_inference.torch_modules`: the translation computes what torch does, and refuses the rest."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn

from he_inference.errors import HEError, ModelError, UnsupportedModel
from he_inference.nn import Polynomial, Square
from he_inference.nodes import Activation, Conv2d, Flatten, Linear, ScaleShift
from he_inference.torch_modules import from_torch
from tests.conftest import EPS, Case, cases, majorant, roundings

IMAGES = np.random.default_rng(0).random((3, 1, 6, 6)).astype(np.float32)
ROWS = np.random.default_rng(0).random((3, 5)).astype(np.float32)


def agree(case: Case) -> None:
    """|reference − torch| within what rounding of either side explains."""
    error = np.abs(case.network.evaluate(case.x) - case.torch_says())
    assert (error <= 2 * roundings(case.module) * EPS * majorant(case)).all()


class Lambda(nn.Module):
    """A forward written as one function of the module's layers and the input."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@given(cases())
@settings(max_examples=150)
def test_the_reference_computes_what_torch_computes(case: Case) -> None:
    agree(case)


def test_the_tolerance_would_notice_a_wrong_weight() -> None:
    """An error of 2⁻⁴⁰ in one weight is outside it."""
    torch.manual_seed(0)
    case = Case(
        nn.Sequential(nn.Linear(5, 4), Square(), nn.Linear(4, 2)).eval(), ROWS.astype(float)
    )
    right = case.network.evaluate(case.x)
    with torch.no_grad():
        case.module.double()[0].weight[:, 0] *= 1 + 2**-40
    error = np.abs(case.torch_says() - right)
    assert (error > 2 * roundings(case.module) * EPS * majorant(case)).any()


# ---------------------------------------------------------------------------- ways to write it

FLATTENINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.flatten": lambda y: torch.flatten(y, 1),
    "torch.flatten by name": lambda y: torch.flatten(y, start_dim=1),
    "method": lambda y: y.flatten(1),
    "method to -1": lambda y: y.flatten(1, -1),
    "view by size": lambda y: y.view(y.size(0), -1),
    "view by shape": lambda y: y.view(y.shape[0], -1),
    "view by count": lambda y: y.view(-1, 32),
    "reshape": lambda y: y.reshape(y.shape[0], -1),
    "reshape of a tuple": lambda y: y.reshape((y.shape[0], -1)),
    "reshape of a list": lambda y: y.reshape([y.shape[0], -1]),
    "torch.reshape": lambda y: torch.reshape(y, (-1, 32)),
    "contiguous": lambda y: y.contiguous().view(y.size(0), -1),
}


@pytest.mark.parametrize("name", [*FLATTENINGS, "module"])
def test_flattening_in_every_way(name: str) -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        flattening = FLATTENINGS.get(name) or self.flat
        return self.head(flattening(self.conv(x)))

    module = Lambda(forward, conv=nn.Conv2d(1, 2, 3), flat=nn.Flatten(), head=nn.Linear(32, 3))
    network = from_torch(module, IMAGES)
    assert [type(node) for node in network.nodes[1:]] == [Conv2d, Flatten, Linear]


SQUARES: dict[str, Callable[[Tensor], Tensor]] = {
    "operator": lambda y: y * y,
    "power": lambda y: y**2,
    "method": lambda y: y.pow(2),
    "torch.square": torch.square,
    "torch.pow": lambda y: torch.pow(y, 2),
    "torch.mul": lambda y: torch.mul(y, y),
}


@pytest.mark.parametrize("name", [*SQUARES, "module"])
def test_squaring_in_every_way(name: str) -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.b((SQUARES.get(name) or self.square)(self.a(x)))

    module = Lambda(forward, a=nn.Linear(5, 4), square=Square(), b=nn.Linear(4, 2))
    network = from_torch(module, ROWS)
    assert isinstance(network.nodes[2], Activation)


ADDITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "operator": lambda y, z: y + z,
    "torch.add": torch.add,
    "method": lambda y, z: y.add(z),
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_adding_in_every_way(name: str) -> None:
    module = Lambda(lambda self, x: ADDITIONS[name](self.a(x), x), a=nn.Linear(5, 5))
    found = from_torch(module, ROWS).evaluate(ROWS)
    expected = (copy.deepcopy(module).double())(torch.from_numpy(ROWS).double()).detach().numpy()
    # Sums of six products and of two values, each at most 1 or so: a few dozen roundings of 1.
    assert np.abs(found - expected).max() <= 32 * EPS * 6


def test_layers_used_twice_and_values_used_twice() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.a(x)
        y = self.a(y) + y
        return y + y

    network = from_torch(Lambda(forward, a=nn.Linear(5, 5)), ROWS)
    assert len(network.nodes) == 5


@pytest.mark.parametrize(
    "layer", [nn.Linear(5, 2), Square(), Polynomial([1.0, 2.0, 3.0]), nn.Identity()]
)
def test_a_single_layer(layer: nn.Module) -> None:
    from_torch(layer, ROWS)


def test_dead_ends_are_left_out() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.a(x)
        self.b(y)
        return y

    network = from_torch(Lambda(forward, a=nn.Linear(5, 3), b=nn.Linear(3, 7)), ROWS)
    assert network.outputs == 3


def test_functions_that_do_nothing_at_evaluation() -> None:
    module = Lambda(lambda self, x: self.a(F.dropout(x, 0.5, self.training)), a=nn.Linear(5, 3))
    assert len(from_torch(module, ROWS).nodes) == 2


# ---------------------------------------------------------------------------- what it leaves alone


def test_the_module_is_not_changed() -> None:
    module = nn.Sequential(
        nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)
    ).train()
    before = copy.deepcopy(module.state_dict())
    from_torch(module, ROWS)
    assert module.training and next(module.parameters()).dtype == torch.float32
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_batch_norm_is_taken_in_evaluation_mode() -> None:
    norm = nn.BatchNorm1d(5).train()
    norm.running_mean.fill_(2.0)
    norm.running_var.fill_(4.0 - norm.eps)
    network = from_torch(nn.Sequential(norm), ROWS)
    assert isinstance(network.nodes[1], ScaleShift)
    # y = (x − 2)/2; the running variance is a float32 next to 4 − eps.
    assert np.allclose(network.evaluate(ROWS), (ROWS - 2.0) / 2, atol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ([[0.0, 1.0]], (0.0, 1.0)),
        ([[0.25, 0.5]], (0.0, 1.0)),
        ([[-3.0, 1.0]], (-6.0, 6.0)),
        ([[0.0, 4.0]], (-8.0, 8.0)),
    ],
)
def test_the_range_of_queries_follows_the_example(
    example: list[list[float]], expected: tuple[float, float]
) -> None:
    assert from_torch(nn.Linear(2, 1), example).input_range == expected
    assert from_torch(nn.Linear(2, 1), example, input_range=(-1, 9)).input_range == (-1.0, 9.0)


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 3, 5), (1, 1, 1, 1, 5)])
def test_examples_of_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="example_input has shape"):
        from_torch(nn.Linear(5, 2), np.zeros(shape))


# ---------------------------------------------------------------------------- refusals


def refused(module: nn.Module, example: np.ndarray = IMAGES) -> tuple[str, ...]:
    with pytest.raises(UnsupportedModel) as caught:
        from_torch(module, example)
    assert all(fault in str(caught.value) for fault in caught.value.faults)
    return caught.value.faults


def test_all_faults_are_listed_at_once_with_names_and_remedies() -> None:
    module = nn.Sequential()
    module.add_module("grouped", nn.Conv2d(1, 2, 3, groups=1, dilation=2))
    module.add_module("activation", nn.ReLU())
    module.add_module("depthwise", nn.Conv2d(2, 2, 1, groups=2))
    module.add_module("pool", nn.MaxPool2d(2))
    module.add_module("norm", nn.GroupNorm(1, 2))
    module.add_module("flat", nn.Flatten())
    module.add_module("head", nn.Linear(2, 3))
    module.add_module("normalise", nn.Softmax(1))
    expected = [
        ("'grouped' (Conv2d)", "dilation=(2, 2)"),
        ("'activation' (ReLU)", "he_inference.nn.Polynomial"),
        ("'depthwise' (Conv2d)", "groups=2"),
        ("'pool' (MaxPool2d)", "nn.AvgPool2d"),
        ("'norm' (GroupNorm)", "BatchNorm"),
        ("'normalise' (Softmax)", "leave it out"),
    ]
    faults = refused(module)
    assert len(faults) == len(expected)
    for fault, (name, remedy) in zip(faults, expected, strict=True):
        assert name in fault and remedy in fault


LAYERS: dict[str, tuple[nn.Module, str]] = {
    "several faults of one layer": (
        nn.Conv2d(2, 2, 3, groups=2, dilation=2, padding_mode="circular"),
        "groups=2.*dilation.*padding_mode",
    ),
    "same with an even kernel": (nn.Conv2d(1, 1, 2, padding="same"), "lopsided"),
    "ceil_mode": (nn.AvgPool2d(4, ceil_mode=True), "ceil_mode"),
    "divisor": (nn.AvgPool2d(2, divisor_override=3), "divisor_override"),
    "count": (nn.AvgPool2d(2, padding=1, count_include_pad=False), "count_include_pad"),
    "no statistics": (nn.BatchNorm2d(1, track_running_stats=False), "running statistics"),
    "partial flatten": (nn.Flatten(2), "start_dim=1"),
    "unknown": (nn.Upsample(scale_factor=2), "not supported"),
    "sigmoid": (nn.Sigmoid(), "transcendental"),
    "adaptive": (nn.AdaptiveAvgPool2d(1), "nn.AvgPool2d"),
    "transposed": (nn.ConvTranspose2d(1, 1, 2), "not supported"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_refused_layers(name: str) -> None:
    layer, message = LAYERS[name]
    (fault,) = refused(nn.Sequential(layer, nn.Flatten()))
    assert "layer '0'" in fault
    assert re.search(message, fault)


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "F.relu": (lambda self, x: F.relu(x), "he_inference.nn"),
    "method relu": (lambda self, x: x.relu(), "he_inference.nn"),
    "torch.sigmoid": (lambda self, x: torch.sigmoid(x) + x, "he_inference.nn"),
    "sigmoid at the end": (lambda self, x: torch.sigmoid(x), "leave it out"),
    "F.max_pool2d": (lambda self, x: F.max_pool2d(x, 2), "AvgPool2d"),
    "F.softmax": (lambda self, x: F.softmax(x, 1), "leave it out"),
    "cube": (lambda self, x: x**3, "pow"),
    "constant": (lambda self, x: x + 1, "add"),
    "scaled sum": (lambda self, x: torch.add(x, x, alpha=2), "add"),
    "product": (lambda self, x: x * self.a(x), "mul"),
    "slice": (lambda self, x: x[:, :, 1:], "getitem"),
    "transposed": (lambda self, x: x.transpose(2, 3), "transpose"),
    "mean": (lambda self, x: x.mean((2, 3)), "mean"),
    "all flattened": (lambda self, x: x.flatten(), "flatten"),
    "three axes": (lambda self, x: x.view(x.size(0), 1, -1), "view"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_refused_functions(name: str) -> None:
    forward, message = FUNCTIONS[name]
    (fault,) = refused(Lambda(forward, a=nn.Conv2d(1, 1, 1)))
    assert message in fault


def test_what_cannot_be_traced_says_so() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    (fault,) = refused(Lambda(forward))
    assert "cannot be traced" in fault and "branches on data" in fault


def test_several_results_and_free_tensors() -> None:
    assert "several values" in refused(Lambda(lambda self, x: (x, x)))[0]

    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.gain

    assert any("gain" in fault for fault in refused(Free()))


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_two_inputs() -> None:
    assert any("one array only" in fault for fault in refused(TwoInputs()))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.a(x)[:, :3],
        lambda self, x: self.a(x[:, [1, 0, 2, 3, 4]]),
        lambda self, x: self.a(x).view(5, -1),
        lambda self, x: self.a(x) + x.size(1),
        lambda self, x: torch.reshape(self.a(x), shape=(-1, 1)),
        lambda self, x: self.a(x).view(-1),
        lambda self, x: self.a(x).reshape(x.shape),
    ],
)
def test_what_is_neither_taken_nor_known_never_slips_through(
    forward: Callable[..., Tensor],
) -> None:
    """Every one of these is refused by name or found out by comparison with torch."""
    try:
        network = from_torch(Lambda(forward, a=nn.Linear(5, 5)), ROWS)
    except HEError as error:
        assert isinstance(error, ModelError)
    else:
        assert network.outputs == 5
