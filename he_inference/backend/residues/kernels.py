"""The steps of a schedule as compiled loops, without the interpreter's lock.

A chunk is LANES coefficients of one prime. Registers lie in a workspace of float64, each as
(components, elements, LANES): rows of 256 bytes one after the other, so that a chunk's whole
network stays in the second-level cache.

Reductions are x − ⌊x/p⌉·p with one fused multiply-add; the quotient may be off by one near a
half, which leaves the result a little over p/2 (see `layouts.batched.half_width`) and exact.
A product of two residues exceeds 2^53: it is kept as the float64 nearest to it and the exact
rest, a·b = h + l, and both are reduced together.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from he_inference.backend.residues.vectors import (
    MAX_MAPS,
    TILE,
    fma,
    prefetch,
    rint,
    tile1,
    tile2,
    tile3,
    tile4,
    tile5,
    tile6,
)
from he_inference.machine_code import njit

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

LANES = 32
ROW_BYTES = LANES * 8
TAPS_AT_ONCE = 128
"""Rows that are read again for every six maps: 32 kB, in the first-level cache."""

FEATURES_AHEAD = 8
"""Requests to memory in flight: its latency, not its width, is what loading waits for."""

LOAD, CLEAR, MULTIPLY, FINISH, SQUARE, SCALE, STORE = range(7)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code that does not hold the interpreter's lock."""
    made: Callable[..., Any] = njit(nogil=True, boundscheck=False, cache=True)(function)
    return made


@compiled
def reduced(x: float, p: float, inverse: float) -> float:
    return fma(-rint(x * inverse), p, x)


@compiled
def product(a: float, b: float, p: float, inverse: float) -> float:
    """a·b modulo p for reduced a (or twice that) and b."""
    high = a * b
    low = fma(a, b, -high)
    return fma(-rint(high * inverse), p, high) + low


@compiled
def _load(queries: Words, prime: int, at: int, target: Floats, p: float, inverse: float) -> None:
    """queries (features, 2, primes, N) → target (2, features, LANES)."""
    ahead = FEATURES_AHEAD * queries.strides[0]
    for feature in range(target.shape[1]):
        for component in range(2):
            coming = queries[feature, component, prime, at:].ctypes.data + ahead
            for line in range(0, ROW_BYTES, 64):
                prefetch(coming + line)
            words, out = queries[feature, component, prime, at:], target[component, feature]
            for lane in range(len(out)):
                out[lane] = reduced(float(np.int64(words[lane])), p, inverse)


@compiled
def _store(source: Floats, answers: Words, prime: int, at: int, p: float) -> None:
    """source (components, outputs, LANES) → answers (outputs, components, primes, N)."""
    for component in range(source.shape[0]):
        for output in range(source.shape[1]):
            row, words = source[component, output], answers[output, component, prime, at:]
            for lane in range(len(row)):
                x = row[lane]
                words[lane] = np.uint64(np.int64(x + p if x < 0 else x))


@compiled
def _finish(target: Floats, offsets: Floats, p: float, inverse: float) -> None:
    for component in range(target.shape[0]):
        for element in range(target.shape[1]):
            offset = offsets[element] if component == 0 else 0.0
            row = target[component, element]
            for lane in range(len(row)):
                row[lane] = reduced(row[lane] + offset, p, inverse)


@compiled
def _square(source: Floats, target: Floats, p: float, inverse: float) -> None:
    """Component k of the square: Σ_(i + j = k) a_i a_j."""
    top = source.shape[0] - 1
    for k in range(target.shape[0]):
        first = max(0, k - top)
        out = target[k].reshape(-1)
        for i in range(first, k // 2 + 1):
            a, b = source[i].reshape(-1), source[k - i].reshape(-1)
            factor = 1.0 if 2 * i == k else 2.0
            if i == first:
                for lane in range(len(out)):
                    out[lane] = product(factor * a[lane], b[lane], p, inverse)
            else:
                for lane in range(len(out)):
                    out[lane] += product(factor * a[lane], b[lane], p, inverse)
        if first < k // 2:
            for lane in range(len(out)):
                out[lane] = reduced(out[lane], p, inverse)


@compiled
def _scale(source: Floats, target: Floats, factor: float, p: float, inverse: float) -> None:
    a, out = source.reshape(-1), target.reshape(-1)
    for i in range(len(a)):
        out[i] = product(a[i], factor, p, inverse)


@compiled
def _tile(
    maps: int, weights: int, source: int, gather: int, taps: int, target: int, rows: int, first: int
) -> None:
    if maps == 6:
        tile6(weights, source, gather, taps, target, rows, first)
    elif maps == 5:
        tile5(weights, source, gather, taps, target, rows, first)
    elif maps == 4:
        tile4(weights, source, gather, taps, target, rows, first)
    elif maps == 3:
        tile3(weights, source, gather, taps, target, rows, first)
    elif maps == 2:
        tile2(weights, source, gather, taps, target, rows, first)
    else:
        tile1(weights, source, gather, taps, target, rows, first)


@compiled
def _position(
    weights: int, maps: int, taps: int, source: int, gather: int, target: int, rows: int
) -> None:
    """One position of a block: addresses, all of them."""
    tiles = -(-maps // MAX_MAPS)
    for start in range(0, taps, TAPS_AT_ONCE):
        count = min(TAPS_AT_ONCE, taps - start)
        first = 1 if start == 0 else 0
        done = 0
        for tile in range(tiles):
            here = -(-(maps - done) // (tiles - tile))
            packed = weights + 8 * (done * taps + start * here)
            for lane in range(0, LANES, TILE):
                _tile(
                    here, packed, source + 8 * lane, gather + 8 * start, count,
                    target + 8 * lane, rows + 8 * done, first,
                )  # fmt: skip
            done += here


@compiled
def _add_reduced(scratch: Floats, target: Floats, rows: Integers, p: float, inverse: float) -> None:
    """target (elements, LANES) += scratch (maps, LANES), reduced; rows as offsets in bytes."""
    for m in range(len(rows)):
        row, partial = target[rows[m] // ROW_BYTES], scratch[m]
        for lane in range(len(row)):
            row[lane] += reduced(partial[lane], p, inverse)


@compiled
def _register(workspace: Floats, at: int, components: int, elements: int, lanes: int) -> Floats:
    size = components * elements * lanes
    view: Floats = workspace[at : at + size].reshape((components, elements, lanes))
    return view


@compiled
def _multiply(
    step: Integers,
    weights: Floats,
    indices: Integers,
    workspace: Floats,
    lanes: int,
    p: float,
    inverse: float,
) -> None:
    source = _register(workspace, step[1], step[2], step[3], lanes)
    target = _register(workspace, step[4], step[5], step[6], lanes)
    maps, taps, positions, add = step[7], step[8], step[9], step[13]
    scratch = workspace[step[14] : step[14] + maps * lanes].reshape((maps, lanes))
    packed = weights[step[10] :].ctypes.data
    for position in range(positions):
        gather = indices[step[11] + position * taps :].ctypes.data
        rows = indices[step[12] + position * maps : step[12] + (position + 1) * maps]
        for component in range(source.shape[0]):
            source_at, target_at = source[component].ctypes.data, target[component].ctypes.data
            if add:
                _position(
                    packed, maps, taps, source_at, gather, scratch.ctypes.data,
                    indices[step[15] :].ctypes.data,
                )  # fmt: skip
                _add_reduced(scratch, target[component], rows, p, inverse)
            else:
                _position(packed, maps, taps, source_at, gather, target_at, rows.ctypes.data)


@compiled
def run(
    steps: Integers,
    weights: Floats,
    indices: Integers,
    constants: Floats,
    queries: Words,
    answers: Words,
    workspace: Floats,
    prime: int,
    modulus: float,
    start: int,
    stop: int,
    lanes: int,
) -> None:
    """All steps for coefficients start … stop − 1 of one prime, chunk by chunk.

    lanes: must be LANES. Loops of a length known beforehand are unrolled and then not vectorised.
    """
    p, inverse = modulus, 1.0 / modulus
    for at in range(start, stop, lanes):
        for number in range(len(steps)):
            step = steps[number]
            operation = step[0]
            source = _register(workspace, step[1], step[2], step[3], lanes)
            target = _register(workspace, step[4], step[5], step[6], lanes)
            if operation == MULTIPLY:
                _multiply(step, weights, indices, workspace, lanes, p, inverse)
            elif operation == LOAD:
                _load(queries, prime, at, target, p, inverse)
            elif operation == CLEAR:
                target[:] = 0.0
            elif operation == FINISH:
                _finish(target, constants[prime, step[7] :], p, inverse)
            elif operation == SQUARE:
                _square(source, target, p, inverse)
            elif operation == SCALE:
                _scale(source, target, constants[prime, step[7]], p, inverse)
            elif operation == STORE:
                _store(source, answers, prime, at, p)
