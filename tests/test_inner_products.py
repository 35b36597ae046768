"""`backend.residues.inner_products` against integers of any size."""

from __future__ import annotations

import numpy as np
import pytest

from he_inference.backend.residues.inner_products import InnerProducts, transformed
from he_inference.backend.residues.transforms import Transform
from he_inference.parameters import ParametersLiteral


@pytest.mark.parametrize("bits", [20, 31, 42])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("answers", "queries"), [(1, 1), (3, 2), (2, 40)])
def test_sums_of_products_are_exact(bits: int, threads: int, answers: int, queries: int) -> None:
    prime = ParametersLiteral(4096, (bits,), 17).resolve().data_primes[0]
    rng = np.random.default_rng(bits)
    weights = rng.integers(-(prime // 2), prime // 2 + 1, (answers, queries, 4096))
    query = rng.integers(0, prime, (queries, 2, 4096)).astype(np.uint64)
    query[0, 0, :4] = prime - 1, 0, 1, prime // 2
    found = InnerProducts(transformed(weights, prime), prime, threads=threads).evaluate(query)
    transform = Transform(4096, (prime,))
    spectra = np.mod(weights, prime).astype(np.uint64)
    transform.forward(spectra, 0)
    sums = np.einsum("aun,uin->ain", spectra.astype(object), query.astype(object)) % prime
    expected = np.ascontiguousarray(sums.astype(np.uint64))
    transform.inverse(expected, 0)
    assert np.array_equal(found, expected)
