"""A small compiled network for tests that are not about networks, made once per session."""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from he_inference.coefficient_compiler import CompiledCoefficients
from he_inference.compiler import Compiled
from he_inference.compiler import compile as compile_network
from he_inference.nn import Square
from he_inference.torch_modules import from_torch

INPUTS = 16
KINDS = {
    "private": ("coefficients", "private"),
    "plain": ("coefficients", "plain"),
    "packed": ("packed", "plain"),
}
"""Layout and response."""


def compiled(kind: str = "private") -> Compiled | CompiledCoefficients:
    """Two linear layers around squares, 16 → 8 → 4."""
    return _compiled(kind)


@cache
def _compiled(kind: str) -> Compiled | CompiledCoefficients:
    torch.manual_seed(0)
    layers = (torch.nn.Linear(INPUTS, 8), Square(), torch.nn.Linear(8, 4))
    module = torch.nn.Sequential(*layers).eval()
    network = from_torch(module, torch.zeros(1, INPUTS))
    layout, response = KINDS[kind]
    made = compile_network(network, layout=layout, response=response, precision=8.0)
    assert isinstance(made, Compiled | CompiledCoefficients)
    return made


def inputs(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Queries (count, 16) in the range that the network takes."""
    return np.random.default_rng(seed).uniform(0.0, 1.0, (count, INPUTS))
