"""Sums of products of polynomials, as the server of the coefficient layout takes them.

In the NTT domain a product of polynomials is one of values, so an answer's ciphertext is

    c_i[k] = Σ_u w_u[k] · x_ui[k] mod q,      i = 0, 1

for every k: exact in float64, as elsewhere here (see `kernels`).
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from he_inference.backend.residues.kernels import Floats, Words, compiled, product, reduced
from he_inference.backend.residues.transforms import Transform, inverse_row
from he_inference.processors import processors
from he_inference.wire import Residues

_BLOCK = 512
"""Coefficients at a time: what is summed stays in the first-level cache."""


def transformed(weights: npt.NDArray[np.int64], prime: int) -> Floats:
    """Coefficients (..., N) → float64 in the NTT domain, within prime / 2 of zero."""
    residues = np.mod(weights, prime).astype(np.uint64)
    Transform(weights.shape[-1], (prime,)).forward(residues, 0)
    centred = residues.astype(np.float64)
    centred[residues > prime // 2] -= prime
    return centred


class InnerProducts:
    """Fixed weight polynomials, for queries that come.

    weights: float64 (answers, queries, N) of `transformed`, at most `MAX_CIPHERTEXTS` queries (see
    `layouts.coefficients`); they may be mapped from a file. prime: q, up to 42 bits. threads: as
    many as this process may use processors, unless given.
    """

    def __init__(self, weights: Floats, prime: int, *, threads: int | None = None) -> None:
        answers, _, degree = weights.shape
        self._transform, self._prime = Transform(degree, (prime,)), float(prime)
        self._weights = weights
        self._threads = min(threads or processors(), answers)

    def prepare(self) -> None:
        """Compile the kernels now, and not when the first query comes."""
        queries, degree = self._weights.shape[1:]
        self.evaluate(np.zeros((queries, 2, degree), np.uint64))

    def evaluate(self, query: Residues) -> Residues:
        """Ciphertexts (queries, 2, N) in the NTT domain → coefficients (answers, 2, N)."""
        answers = np.empty((len(self._weights), 2, query.shape[2]), np.uint64)
        parts = np.array_split(np.arange(len(answers)), self._threads)
        table = self._transform.inverse_tables[0]

        def work(part: npt.NDArray[np.int64]) -> None:
            rows = slice(int(part[0]), int(part[-1]) + 1)
            _evaluate(query, self._weights[rows], table, self._prime, answers[rows])

        if len(parts) == 1:
            work(parts[0])
        else:
            with ThreadPoolExecutor(len(parts)) as pool:
                list(pool.map(work, parts))
        return answers


@compiled
def _evaluate(query: Words, weights: Floats, table: Floats, p: float, answers: Words) -> None:
    """query (queries, 2, N), weights (answers, queries, N) → answers (answers, 2, N)."""
    inverse = 1.0 / p
    queries, _, degree = query.shape
    sums = np.empty((2, _BLOCK))
    for answer in range(len(weights)):
        for start in range(0, degree, _BLOCK):
            sums[:] = 0.0
            for u in range(queries):
                w = weights[answer, u, start : start + _BLOCK]
                for part in range(2):
                    x, total = query[u, part, start : start + _BLOCK], sums[part]
                    for k in range(_BLOCK):
                        total[k] += product(float(np.int64(x[k])), w[k], p, inverse)
            for part in range(2):
                out, total = answers[answer, part, start : start + _BLOCK], sums[part]
                for k in range(_BLOCK):
                    value = reduced(total[k], p, inverse)
                    out[k] = np.uint64(np.int64(value + p if value < 0 else value))
        for part in range(2):
            inverse_row(answers[answer, part], table, p)
