"""How a head is found, one way a file: each plans its releases, then carries them out.

A `Solver` is made of public numbers alone. `plan` says what will be published for a total μ (or,
with Poisson batches, for a budget); `fit` publishes exactly that and computes weights from it.
"""

from typing import Literal, get_args

SolverName = Literal["fc", "sgd", "least_squares", "newton"]
SOLVERS: tuple[SolverName, ...] = get_args(SolverName)
