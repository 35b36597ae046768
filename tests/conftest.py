"""What several test files share: random modules, bounds on rounding, one compiled network."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from he_inference import wire
from he_inference.backend import clear
from he_inference.client import Client
from he_inference.compiler import Compiled, compile
from he_inference.network import Network
from he_inference.nn import Polynomial, Square
from he_inference.nodes import Array
from he_inference.program import Program
from he_inference.server import Server
from he_inference.torch_modules import from_torch

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", parent=settings.get_profile("repeatable"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

EPS = float(np.finfo(np.float64).eps)


# ---------------------------------------------------------------------------- random modules


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


@dataclass(frozen=True)
class Case:
    """A module in evaluation mode and queries for it, float64 and uniform in [0, 1)."""

    module: nn.Module
    x: Array

    @property
    def network(self) -> Network:
        return from_torch(self.module, self.x.astype(np.float32))

    def torch_says(self) -> Array:
        with torch.no_grad():
            return self.module.double()(torch.from_numpy(self.x)).numpy()


small = st.integers(1, 3)


@st.composite
def cases(draw: st.DrawFn, *, max_degree: int = 8, max_layers: int = 4) -> Case:
    """A random network whose layers change shape in every way that is supported."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    shape: tuple[int, ...] = draw(
        st.one_of(
            st.tuples(small, st.integers(4, 9), st.integers(4, 9)), st.tuples(st.integers(1, 9))
        )
    )
    size, layers, degree = shape, [], 1
    for _ in range(draw(st.integers(0, max_layers))):
        kinds = ["polynomial", "norm", "residual", "nothing"]
        kinds += ["conv", "pool", "pad"] if len(size) == 3 else ["linear"]
        kind = draw(st.sampled_from(kinds))
        if kind == "polynomial":
            layer = draw(polynomials(size[0], max_degree // degree))
            degree *= layer.degree
        else:
            layer = draw(_affine_layer(kind, size))
        with torch.no_grad():
            size = tuple(layer.eval()(torch.zeros(2, *size)).shape[1:])
        layers.append(layer)
    layers.append(nn.Flatten())
    layers.append(nn.Linear(math.prod(size), draw(st.integers(1, 5)), bias=draw(st.booleans())))
    module = nn.Sequential(*layers).eval()
    x = torch.rand(draw(small), *shape, dtype=torch.float32).double().numpy()
    return Case(module, x)


@st.composite
def polynomials(draw: st.DrawFn, channels: int, max_degree: int) -> nn.Module:
    """Degrees 1 to 4, shared or per channel, some channels without the highest term."""
    degree = draw(st.integers(1, max(1, min(4, max_degree))))
    coefficients = torch.randn(channels, degree + 1, dtype=torch.float64) / 2
    if draw(st.booleans()):
        coefficients[draw(st.integers(0, channels - 1)), -1] = 0
    if coefficients[:, 1:].abs().max() == 0:
        coefficients[0, 1] = 1
    return Polynomial(coefficients[0] if draw(st.booleans()) and channels == 1 else coefficients)


@st.composite
def _affine_layer(draw: st.DrawFn, kind: str, size: tuple[int, ...]) -> nn.Module:
    match kind:
        case "linear":
            return nn.Linear(size[0], draw(st.integers(1, 6)))
        case "norm":
            return _worn_norm(size, draw(st.booleans()))
        case "residual" if len(size) == 3:
            kernel = draw(st.sampled_from([1, 3]))
            return Residual(nn.Conv2d(size[0], size[0], kernel, padding=kernel // 2))
        case "residual":
            return Residual(nn.Linear(size[0], size[0]))
        case "nothing":
            return draw(st.sampled_from([nn.Identity(), nn.Dropout(0.5)]))
        case "pad":
            sides = [draw(st.integers(-((n - 1) // 2), 2)) for n in (size[2],) * 2 + (size[1],) * 2]
            return nn.ZeroPad2d(tuple(sides))
    stride = (draw(small), draw(small))
    kernel = tuple(draw(st.integers(1, min(3, n))) for n in size[1:])
    if kind == "pool":
        padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
        return nn.AvgPool2d(kernel, stride, padding)
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    return nn.Conv2d(size[0], draw(small), kernel, stride, padding, bias=draw(st.booleans()))


def _worn_norm(size: tuple[int, ...], affine: bool) -> nn.Module:
    """A BatchNorm as training leaves it: no number in it is its initial one."""
    norm = (nn.BatchNorm2d if len(size) == 3 else nn.BatchNorm1d)(size[0], affine=affine)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


# ---------------------------------------------------------------------------- float64 rounding


def majorant(case: Case) -> Array:
    """Σ of the absolute values of all products in the network: what roundings are relative to.

    The module itself with every number made positive. A BatchNorm's mean is subtracted, so it
    becomes negative.
    """
    module = copy.deepcopy(case.module).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_mean.abs_().neg_()
        return module(torch.from_numpy(np.abs(case.x))).numpy()


def roundings(module: nn.Module) -> int:
    """How many roundings an output goes through at most, each relative to its majorant.

    A sum of n products rounds n times after its n products. A polynomial of degree k multiplies the
    relative error of what it reads by k, and adds 2k roundings of Horner's rule.
    """
    count = 1
    for layer in module.modules():
        match layer:
            case nn.Linear():
                count += layer.in_features + 2
            case nn.Conv2d():
                count += layer.weight[0].numel() + 2
            case nn.AvgPool2d():
                count += int(np.prod(np.broadcast_to(layer.kernel_size, 2))) + 2
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                count += 8
            case Polynomial():
                count = (count + 2) * layer.degree
            case Square():
                count = (count + 1) * 2
            case Residual():
                count += 1
    return count


def program_majorant(program: Program, x: Array) -> Array:
    """As `majorant`, for the sums and products of a program."""
    positive = replace(program, vectors=np.abs(program.vectors))
    return clear.evaluate(positive, np.abs(x))


# ---------------------------------------------------------------------------- encryption noise


def laplace_tail(p_value: float, count: int) -> float:
    """How many standard deviations `count` errors all stay below, but for a chance of p_value.

    Rounding noise in slot j is r(ζ_j)·s(ζ_j) with a secret s drawn once for a key: a normal
    variable times the root of an exponential one, which is a Laplace variable, with
    P(|z| > t) = exp(−√2·t). Everything else is normal, and its tail is lighter.
    """
    return math.log(count / p_value) / math.sqrt(2)


# ---------------------------------------------------------------------------- hostile messages


def resealed(message: bytes) -> bytes:
    """The message with a checksum that fits it: what someone hostile would send."""
    body = message[: -wire.CHECKSUM_BYTES]
    return body + hashlib.blake2b(body, digest_size=wire.CHECKSUM_BYTES).digest()


# ---------------------------------------------------------------------------- one network


@dataclass(frozen=True)
class Party:
    """A compiled network with both sides of it."""

    compiled: Compiled
    client: Client
    server: Server
    x: Array

    @property
    def program(self) -> Program:
        return self.compiled.program


def convolutional() -> nn.Sequential:
    """Two activations, one with a channel that has no square; overlapping windows; padding."""
    torch.manual_seed(5)
    quadratic = Polynomial([[0.1, 0.5, 0.3], [0.0, 0.8, 0.0], [-0.2, 0.4, 0.2]])
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1),
        nn.BatchNorm2d(3),
        quadratic,
        nn.Flatten(),
        nn.Linear(48, 6),
        Square(),
        nn.Linear(6, 4),
    ).eval()


def dense() -> nn.Sequential:
    """One square between two dense layers."""
    torch.manual_seed(6)
    return nn.Sequential(nn.Linear(4, 5), Square(), nn.Linear(5, 3)).eval()


def _party(module: nn.Module, shape: tuple[int, ...]) -> Party:
    x = np.random.default_rng(1).random((5, *shape))
    compiled = compile(from_torch(module, x), layout="packed", response="plain")
    client, server = Client(compiled.signature), Server(compiled.program)
    server.register(client.evaluation_keys())
    return Party(compiled, client, server, x)


@pytest.fixture(scope="session")
def deep() -> Party:
    return _party(convolutional(), (1, 8, 8))


@pytest.fixture(scope="session")
def shallow() -> Party:
    return _party(dense(), (4,))
