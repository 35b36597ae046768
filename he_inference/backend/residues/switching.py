"""Rows of residues as float64, in the NTT domain or out of it: what key switching is made of.

A *row* is one polynomial modulo one prime: N float64 integers. Between steps it is *reduced*: at
most p/2 from zero, or a little over where a quotient was rounded the other way; only `digit` gives
the one residue that is nearest to zero, or that in [0, p).

Transforms are those of `transforms`, and so bit for bit SEAL's, but from row to row: nothing is
written as words, and what is multiplied at once is not even reduced. Of every block of 64 that
comes out of the last stages, the products with both rows of a key are summed while it is in
registers and the first-level cache: a digit's values in the NTT domain are never written down.

Bounds, for p < 2⁴⁸: a stage adds r = x·w mod p with |r| ≤ p/2 + 2⁻⁵³·|x|·p, so that what is below
B·p becomes less than (B + 1/2 + B/32)·p: from 4·p, 16·p after fifteen of them. The product of that
with a key is below p, and 30 of these add up exactly.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from he_inference.backend.residues.transforms import (
    BLOCK,
    DOUBLE,
    INT,
    LANES,
    VECTOR,
    Emitter,
    every,
    forward4,
    forward8,
    inline,
    inverse4,
    inverse8,
    rows_of,
)
from he_inference.machine_code import njit

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.uint16]

MAX_DIGITS = 30
GROWTH = 4.0
"""A digit is reduced modulo another prime if its own is more than so many times larger."""

_LINE = INT(8 * LANES)
_BLOCK_BYTES = INT(8 * BLOCK)


def _kernel(emit: Callable[..., None]) -> Any:
    """emit(emitter, a, b, c, d, e, f, g), compiled into its caller. All int64; p, 1/p: float64."""

    def kernel(
        typing: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, p: Any, r: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *integers, p, reciprocal = arguments
            emit(Emitter(builder, p, reciprocal), *integers)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7, *[types.float64] * 2), generate

    return inline(kernel)


def _first_stages(reduced: bool) -> Callable[..., None]:
    """Eight vectors of `source`, `stride` apart → three stages → `target`."""

    def emit(e: Emitter, source: Any, target: Any, stride: Any, table: Any, *_: Any) -> None:
        x = e.load(VECTOR, source, stride, 8)
        if reduced:
            x = [e.reduce(row) for row in x]
        e.forward(x, e.roots(table, INT(1), 8))
        e.store(VECTOR, x, target, stride)

    return emit


def _last_stages(e: Emitter, at: Any, lanes: Any, table: Any, group: Any) -> list[Any]:
    """A block out of the last six stages, not reduced."""
    x = e.load(VECTOR, at, _LINE, 8)
    e.forward(x, e.roots(table, group, 8))
    e.transpose(x)
    e.forward(x, e.load(VECTOR, lanes, _LINE, 7))
    e.transpose(x)
    return x


def _accumulate(e: Emitter, x: list[Any], key: Any, apart: Any, sums: Any) -> None:
    """sums += x · key, for both rows of a key, which lie `apart`; sums: two blocks."""
    for place, at in ((key, sums), (e.builder.add(key, apart), e.builder.add(sums, _BLOCK_BYTES))):
        rows = zip(e.load(VECTOR, at, _LINE, 8), x, e.load(VECTOR, place, _LINE, 8), strict=True)
        e.store(VECTOR, [e.builder.fadd(s, e.product(v, k)) for s, v, k in rows], at, _LINE)


def _transform_and_sum(
    e: Emitter, at: Any, lanes: Any, table: Any, group: Any, key: Any, apart: Any, sums: Any
) -> None:
    _accumulate(e, _last_stages(e, at, lanes, table, group), key, apart, sums)


def _sum(e: Emitter, at: Any, key: Any, apart: Any, sums: Any, *_: Any) -> None:
    _accumulate(e, e.load(VECTOR, at, _LINE, 8), key, apart, sums)


def _clear(e: Emitter, sums: Any, *_: Any) -> None:
    e.store(VECTOR, [every(0.0)] * 16, sums, _LINE)


def _finish(e: Emitter, sums: Any, first: Any, second: Any, *_: Any) -> None:
    x = [e.reduce(row) for row in e.load(VECTOR, sums, _LINE, 16)]
    e.store(VECTOR, x[:8], first, _LINE)
    e.store(VECTOR, x[8:], second, _LINE)


def _values(e: Emitter, at: Any, lanes: Any, table: Any, group: Any, target: Any, *_: Any) -> None:
    """Not reduced: for `_sum`."""
    e.store(VECTOR, _last_stages(e, at, lanes, table, group), target, _LINE)


def _divide(
    e: Emitter, at: Any, lanes: Any, table: Any, group: Any, source: Any, target: Any, factor: Any
) -> None:
    """target ← (source − the block out of the last stages) · the factor at an address."""
    scale = e.broadcast(e.load(DOUBLE, factor, INT(8), 1)[0])
    rows = zip(
        e.load(VECTOR, source, _LINE, 8), _last_stages(e, at, lanes, table, group), strict=True
    )
    x = [e.reduce(e.product(e.builder.fsub(s, v), scale)) for s, v in rows]
    e.store(VECTOR, x, target, _LINE)


def _inverse_first(e: Emitter, source: Any, target: Any, lanes: Any, table: Any, group: Any,
                   *_: Any) -> None:  # fmt: skip
    x = e.load(VECTOR, source, _LINE, 8)
    e.transpose(x)
    e.inverse(x, e.load(VECTOR, lanes, _LINE, 7))
    e.transpose(x)
    e.inverse(x, e.roots(table, group, 8))
    e.store(VECTOR, x, target, _LINE)


def _inverse_last(centred: bool) -> Callable[..., None]:
    def emit(e: Emitter, at: Any, stride: Any, table: Any, *_: Any) -> None:
        x = e.load(VECTOR, at, stride, 8)
        scale = e.roots(table, INT(0), 2)[0]
        e.inverse(x, e.roots(table, INT(1), 8), scale)
        x = [e.nearest(e.reduce(row)) if centred else e.positive(e.reduce(row)) for row in x]
        e.store(VECTOR, x, at, stride)

    return emit


_start, _start_reduced = (_kernel(_first_stages(reduced)) for reduced in (False, True))
_switch64, _sum64, _clear64, _finish64, _values64, _divide64 = (
    _kernel(emit) for emit in (_transform_and_sum, _sum, _clear, _finish, _values, _divide)
)
_inverse64 = _kernel(_inverse_first)
_nearest8, _positive8 = (_kernel(_inverse_last(centred)) for centred in (True, False))


@njit(nogil=True)
def digit(source, target, table, p, centred):  # type: ignore[no-untyped-def]
    """A row out of the NTT domain: its residues nearest to zero, or those in [0, p).

    source, target: (N,) float64, contiguous; the same or apart. table: for the inverse.
    """
    n, reciprocal = len(target), 1.0 / p
    start, at, roots = source.ctypes.data, target.ctypes.data, table.ctypes.data
    groups = n // BLOCK
    for group in range(groups):
        lanes = roots + 8 * (n // 8 + 7 * LANES * group)
        block = 8 * BLOCK * group
        _inverse64(start + block, at + block, lanes, roots, groups + group, 0, 0, p, reciprocal)
    while groups > 8:
        gap = n // groups
        rows = rows_of(groups // 8)
        groups //= rows
        size = n // groups
        for group in range(groups):
            for lane in range(group * size, group * size + gap, LANES):
                if rows == 8:
                    inverse8(at + 8 * lane, 8 * gap, roots, groups + group, p, reciprocal)
                else:
                    inverse4(at + 8 * lane, 8 * gap, roots, groups + group, p, reciprocal)
    for lane in range(0, n // 8, LANES):
        if centred:
            _nearest8(at + 8 * lane, n, roots, 0, 0, 0, 0, p, reciprocal)
        else:
            _positive8(at + 8 * lane, n, roots, 0, 0, 0, 0, p, reciprocal)


@njit(nogil=True)
def first_stages(source, target, table, p, larger):  # type: ignore[no-untyped-def]
    """All stages but the last six, of a row modulo another prime if `larger` is that one's size.

    source, target: (N,) float64, contiguous; the same or apart.
    """
    n, reciprocal = len(target), 1.0 / p
    start, at, roots = source.ctypes.data, target.ctypes.data, table.ctypes.data
    reduced = larger > GROWTH * p
    for lane in range(0, n // 8, LANES):
        if reduced:
            _start_reduced(start + 8 * lane, at + 8 * lane, n, roots, 0, 0, 0, p, reciprocal)
        else:
            _start(start + 8 * lane, at + 8 * lane, n, roots, 0, 0, 0, p, reciprocal)
    groups = 8
    while groups < n // BLOCK:
        rows = rows_of(n // BLOCK // groups)
        size = n // groups
        gap = size // rows
        for group in range(groups):
            for lane in range(group * size, group * size + gap, LANES):
                if rows == 8:
                    forward8(at + 8 * lane, 8 * gap, roots, groups + group, p, reciprocal)
                else:
                    forward4(at + 8 * lane, 8 * gap, roots, groups + group, p, reciprocal)
        groups *= rows


@njit(nogil=True)
def values(row, target, table, p):  # type: ignore[no-untyped-def]
    """The last six stages; not reduced."""
    n, reciprocal = len(row), 1.0 / p
    at, to, roots = row.ctypes.data, target.ctypes.data, table.ctypes.data
    groups = n // BLOCK
    for group in range(groups):
        lanes = roots + 8 * (n // 8 + 7 * LANES * group)
        block = 8 * BLOCK * group
        _values64(at + block, lanes, roots, groups + group, to + block, 0, 0, p, reciprocal)


@njit(nogil=True)
def switched(rows, own, key, apart, sums, first, second, table, p):  # type: ignore[no-untyped-def]
    """first, second ← Σ digits · both rows of the key, reduced.

    rows: (digits, N), out of `first_stages`, but row `own` in the NTT domain (−1: none is).
    key: (digits, 2, moduli, N)'s rows modulo this prime: the address of the first, int64; apart:
    bytes from a row to the next part's. sums: (128,) float64, workspace.
    """
    digits, n = rows.shape
    reciprocal, roots = 1.0 / p, table.ctypes.data
    groups, at, place = n // BLOCK, rows.ctypes.data, sums.ctypes.data
    one, other = first.ctypes.data, second.ctypes.data
    for group in range(groups):
        lanes = roots + 8 * (n // 8 + 7 * LANES * group)
        block = 8 * BLOCK * group
        _clear64(place, 0, 0, 0, 0, 0, 0, p, reciprocal)
        for i in range(digits):
            here, part = at + 8 * n * i + block, key + 2 * apart * i + block
            if i == own:
                _sum64(here, part, apart, place, 0, 0, 0, p, reciprocal)
            else:
                _switch64(here, lanes, roots, groups + group, part, apart, place, p, reciprocal)
        _finish64(place, one + block, other + block, 0, 0, 0, 0, p, reciprocal)


@njit(nogil=True)
def multiplied(rows, key, apart, sums, first, second, p):  # type: ignore[no-untyped-def]
    """As `switched`, for digits that are in the NTT domain, all of them."""
    digits, n = rows.shape
    reciprocal = 1.0 / p
    at, place = rows.ctypes.data, sums.ctypes.data
    one, other = first.ctypes.data, second.ctypes.data
    for block in range(0, 8 * n, 8 * BLOCK):
        _clear64(place, 0, 0, 0, 0, 0, 0, p, reciprocal)
        for i in range(digits):
            here, part = at + 8 * n * i + block, key + 2 * apart * i + block
            _sum64(here, part, apart, place, 0, 0, 0, p, reciprocal)
        _finish64(place, one + block, other + block, 0, 0, 0, 0, p, reciprocal)


@njit(nogil=True)
def divided(row, source, target, table, p, factor):  # type: ignore[no-untyped-def]
    """target ← (source − row) · factor modulo p, reduced; row: out of `first_stages`.

    factor: (1,) float64, centred. target: apart from row, may be source.
    """
    n, reciprocal = len(row), 1.0 / p
    at, start, to = row.ctypes.data, source.ctypes.data, target.ctypes.data
    roots, scale = table.ctypes.data, factor.ctypes.data
    groups = n // BLOCK
    for group in range(groups):
        lanes = roots + 8 * (n // 8 + 7 * LANES * group)
        block = 8 * BLOCK * group
        _divide64(
            at + block, lanes, roots, groups + group, start + block, to + block, scale,
            p, reciprocal,
        )  # fmt: skip
