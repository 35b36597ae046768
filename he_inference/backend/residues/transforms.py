"""The negacyclic number theoretic transform, bit for bit as SEAL computes it.

Forward: a polynomial of Z_p[X]/(X^N + 1) → its values at the odd powers of ψ, the smallest
primitive 2N-th root of unity modulo p; value i is that at ψ^(2·rev(i) + 1), rev reversing the bits.
Stages are Cooley and Tukey's as in Harvey, "Faster arithmetic for number-theoretic transforms"
(2014) and in SEAL (dwthandler.h): for m = 1, 2, 4 … N/2 there are m groups, and group i has the
root ψ^rev(m + i). Results are reduced, so that they are SEAL's whatever lies between.

Residues are float64 integers; they lie where the words lay, so there is no workspace. A product
b·w is exact as h + l (see `kernels`) and its remainder is

    r = h − ⌊h/p⌉·p + l,   |r| ≤ p/2 + 2⁻⁵³·|b|·p       for |w| ≤ p/2, |b| ≤ 16·p, p < 2⁴⁸

which is (1/2 + B/32)·p at most for |b| ≤ B·p; quotients stay below 2⁵¹, to where they are rounded
exactly. Forward, x ± r grows by that much a stage: from 4·p,
below 16·p after 15 of them, and is reduced once, at the end. Inverse, x + y doubles: every three
stages grow from 8/3·p to 22·p at most, in the one row of eight that is only ever added to. It is
reduced then, and so is the one difference of two such sums before it is multiplied; the others are
sums of at most four remainders of smaller factors, 8/3·p again. All stays below 2⁵³, and so exact.

The work is done on eight vectors of eight coefficients, three stages between load and store. In
the last block of 64 a transposition brings neighbours into the same lane, and a second one back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

from he_inference.backend.residues.memory import aligned
from he_inference.errors import CompileError, InputError, ParameterError
from he_inference.machine_code import njit
from he_inference.parameters import EXACT_PRIME_BITS, MAX_LOG_MODULUS, is_prime

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Residues = npt.NDArray[np.uint64]

LANES = 8
BLOCK = LANES * LANES

DOUBLE, INT = ir.DoubleType(), ir.IntType(64)
VECTOR, WORDS = ir.VectorType(DOUBLE, LANES), ir.VectorType(INT, LANES)
_MASK = ir.VectorType(ir.IntType(32), LANES)
_UNDEFINED = ir.Constant(VECTOR, ir.Undefined)
_INTEGERS = 2.0**52
"""A float64 from here to its double has an integer below 2⁵² for its mantissa."""
_NEAREST = 1.5 * 2.0**52
"""Added and subtracted: the nearest integer of anything below 2⁵¹. Cheaper than to ask for it."""

inline: Callable[..., Any] = intrinsic
"""Its own type says that what it makes is never called from Python."""


def every(value: float) -> Any:
    return ir.Constant(VECTOR, [value] * LANES)


def _words(value: int) -> Any:
    return ir.Constant(WORDS, [value] * LANES)


class Emitter:
    """Emits arithmetic modulo p on vectors, and stages on lists of them."""

    def __init__(self, builder: Any, p: Any, reciprocal: Any) -> None:
        self.builder = builder
        self.p, self.reciprocal = self.broadcast(p), self.broadcast(reciprocal)

    def broadcast(self, value: Any) -> Any:
        b = self.builder
        vector = b.insert_element(_UNDEFINED, value, ir.IntType(32)(0))
        return b.shuffle_vector(vector, _UNDEFINED, ir.Constant(_MASK, [0] * LANES))

    def _fma(self, x: Any, y: Any, z: Any) -> Any:
        signature = ir.FunctionType(VECTOR, [VECTOR] * 3)
        declare: Callable[..., Any] = cgutils.get_or_insert_function
        function = declare(self.builder.module, signature, f"llvm.fma.v{LANES}f64")
        return self.builder.call(function, [x, y, z])

    def reduce(self, x: Any) -> Any:
        """x modulo p, within p/2 of zero."""
        b = self.builder
        quotient = b.fsub(self._fma(x, self.reciprocal, every(_NEAREST)), every(_NEAREST))
        return self._fma(b.fneg(quotient), self.p, x)

    def positive(self, x: Any) -> Any:
        """x in (−p, p) → the same residue in [0, p)."""
        b = self.builder
        return b.select(b.fcmp_ordered("<", x, every(0.0)), b.fadd(x, self.p), x)

    def nearest(self, x: Any) -> Any:
        """x in (−p, p) → the same residue in (−p/2, p/2)."""
        b = self.builder
        half = b.fmul(self.p, every(0.5))
        x = b.select(b.fcmp_ordered("<", half, x), b.fsub(x, self.p), x)
        return b.select(b.fcmp_ordered("<", x, b.fneg(half)), b.fadd(x, self.p), x)

    def product(self, x: Any, w: Any) -> Any:
        high = self.builder.fmul(x, w)
        low = self._fma(x, w, self.builder.fneg(high))
        return self.builder.fadd(self.reduce(high), low)

    def forward(self, x: list[Any], roots: list[Any]) -> None:
        """x, roots: 2^n and 2^n − 1 vectors. n stages, in place."""
        b, half = self.builder, len(x) // 2
        while half:
            for i, j, group in _pairs(len(x), half):
                r = self.product(x[j], roots[group])
                x[i], x[j] = b.fadd(x[i], r), b.fsub(x[i], r)
            half //= 2

    def inverse(self, x: list[Any], roots: list[Any], scale: Any = None) -> None:
        """n stages back; the last one times `scale`, which its root already has in it."""
        b, half = self.builder, 1
        while half < len(x):
            for i, j, group in _pairs(len(x), half):
                total, difference = b.fadd(x[i], x[j]), b.fsub(x[i], x[j])
                if i == 0 and half == 4:  # of two sums of four: its quotient may exceed 2⁵¹
                    difference = self.reduce(difference)
                last = scale is not None and 2 * half == len(x)
                x[i] = self.product(total, scale) if last else total
                x[j] = self.product(difference, roots[group])
            half *= 2
        if scale is None:
            x[0] = self.reduce(x[0])

    def transpose(self, x: list[Any]) -> None:
        """Lane j of vector i ↔ lane i of vector j, for eight of both."""
        step = LANES // 2
        while step:
            low = [j + LANES - step if j & step else j for j in range(LANES)]
            high = [j + LANES if j & step else j + step for j in range(LANES)]
            for i, j, _ in _pairs(LANES, step):
                x[i], x[j] = (
                    self.builder.shuffle_vector(x[i], x[j], ir.Constant(_MASK, mask))
                    for mask in (low, high)
                )
            step //= 2

    def floats(self, words: Any) -> Any:
        """uint64 below 2⁵² → float64; processors before AVX-512 convert nothing else in vectors."""
        b = self.builder
        exponent = int(np.float64(_INTEGERS).view(np.int64))
        return b.fsub(b.bitcast(b.or_(words, _words(exponent)), VECTOR), every(_INTEGERS))

    def words(self, x: Any) -> Any:
        """float64 in (−p, p) → uint64 in [0, p)."""
        b = self.builder
        bits = b.bitcast(b.fadd(self.positive(x), every(_INTEGERS)), WORDS)
        return b.and_(bits, _words((1 << 52) - 1))

    def load(self, kind: Any, at: Any, stride: Any, rows: int) -> list[Any]:
        return [
            self.builder.load(address, align=8) for address in self._rows(kind, at, stride, rows)
        ]

    def store(self, kind: Any, values: list[Any], at: Any, stride: Any) -> None:
        for value, address in zip(values, self._rows(kind, at, stride, len(values)), strict=True):
            self.builder.store(value, address, align=8)

    def _rows(self, kind: Any, at: Any, stride: Any, rows: int) -> list[Any]:
        b = self.builder
        offsets = [b.mul(stride, INT(row)) for row in range(rows)]
        return [b.inttoptr(b.add(at, offset), kind.as_pointer()) for offset in offsets]

    def roots(self, table: Any, group: Any, rows: int) -> list[Any]:
        """Entries k; 2k, 2k + 1; 4k … 4k + 3 for k = m + i: three stages of one group."""
        b = self.builder
        found, count = [], 1
        while count < rows:
            first = b.add(table, b.mul(group, INT(8 * count)))
            found += [self.broadcast(word) for word in self.load(DOUBLE, first, INT(8), count)]
            count *= 2
        return found


def _pairs(count: int, half: int) -> list[tuple[int, int, int]]:
    """(i, i + half, place of its root) of a stage's butterflies."""
    groups = count // (2 * half)
    return [(i, i + half, groups - 1 + i // (2 * half)) for i in range(count) if not i & half]


def _kernel(emit: Callable[..., None]) -> Any:
    """emit(emitter, at, stride or lanes, table, group), compiled into its caller.

    All int64: the first three are addresses or a stride in bytes. p and 1/p: float64.
    """

    def kernel(typing: Any, at: Any, other: Any, table: Any, group: Any, p: Any, r: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *integers, p, reciprocal = arguments
            emit(Emitter(builder, p, reciprocal), *integers)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4, *[types.float64] * 2), generate

    return inline(kernel)


def _forward_first(e: Emitter, at: Any, stride: Any, table: Any, group: Any) -> None:
    x = [e.floats(words) for words in e.load(WORDS, at, stride, 8)]
    e.forward(x, e.roots(table, group, 8))
    e.store(VECTOR, x, at, stride)


def _forward_rows(rows: int) -> Callable[..., None]:
    def emit(e: Emitter, at: Any, stride: Any, table: Any, group: Any) -> None:
        x = e.load(VECTOR, at, stride, rows)
        e.forward(x, e.roots(table, group, rows))
        e.store(VECTOR, x, at, stride)

    return emit


def _forward_block(e: Emitter, at: Any, lanes: Any, table: Any, group: Any) -> None:
    line = INT(8 * LANES)
    x = e.load(VECTOR, at, line, 8)
    e.forward(x, e.roots(table, group, 8))
    e.transpose(x)
    e.forward(x, e.load(VECTOR, lanes, line, 7))
    e.transpose(x)
    e.store(WORDS, [e.words(e.reduce(row)) for row in x], at, line)


def _inverse_block(e: Emitter, at: Any, lanes: Any, table: Any, group: Any) -> None:
    line = INT(8 * LANES)
    x = [e.floats(words) for words in e.load(WORDS, at, line, 8)]
    e.transpose(x)
    e.inverse(x, e.load(VECTOR, lanes, line, 7))
    e.transpose(x)
    e.inverse(x, e.roots(table, group, 8))
    e.store(VECTOR, x, at, line)


def _inverse_rows(rows: int) -> Callable[..., None]:
    def emit(e: Emitter, at: Any, stride: Any, table: Any, group: Any) -> None:
        x = e.load(VECTOR, at, stride, rows)
        e.inverse(x, e.roots(table, group, rows))
        e.store(VECTOR, x, at, stride)

    return emit


def _inverse_last(e: Emitter, at: Any, stride: Any, table: Any, group: Any) -> None:
    x = e.load(VECTOR, at, stride, 8)
    scale = e.roots(table, INT(0), 2)[0]
    e.inverse(x, e.roots(table, group, 8), scale)
    e.store(WORDS, [e.words(e.reduce(row)) for row in x], at, stride)


_forward_first8, forward8, forward4, _forward64 = (
    _kernel(emit) for emit in (_forward_first, _forward_rows(8), _forward_rows(4), _forward_block)
)
_inverse64, inverse8, inverse4, _inverse_last8 = (
    _kernel(emit) for emit in (_inverse_block, _inverse_rows(8), _inverse_rows(4), _inverse_last)
)


@njit(nogil=True, cache=True)
def rows_of(groups):  # type: ignore[no-untyped-def]
    """Rows of a pass, where so many groups are to be multiplied: 8 as often as 4s can fill up."""
    return 4 if groups == 4 or groups == 16 else 8


@njit(nogil=True, cache=True)
def forward_row(row, table, p):  # type: ignore[no-untyped-def]
    """row: (N,) uint64, contiguous, in place. table: of `Transform.tables`. p: float64."""
    n, reciprocal = len(row), 1.0 / p
    at, roots = row.ctypes.data, table.ctypes.data
    for lane in range(0, n // 8, LANES):
        _forward_first8(at + 8 * lane, n, roots, 1, p, reciprocal)
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
    for group in range(groups):
        lanes = roots + 8 * (n // 8 + 7 * LANES * group)
        _forward64(at + 8 * BLOCK * group, lanes, roots, groups + group, p, reciprocal)


@njit(nogil=True, cache=True)
def inverse_row(row, table, p):  # type: ignore[no-untyped-def]
    """As `forward_row`, with a table for the inverse."""
    n, reciprocal = len(row), 1.0 / p
    at, roots = row.ctypes.data, table.ctypes.data
    groups = n // BLOCK
    for group in range(groups):
        lanes = roots + 8 * (n // 8 + 7 * LANES * group)
        _inverse64(at + 8 * BLOCK * group, lanes, roots, groups + group, p, reciprocal)
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
        _inverse_last8(at + 8 * lane, n, roots, 1, p, reciprocal)


@njit(nogil=True, cache=True)
def _forward(rows, table, p):  # type: ignore[no-untyped-def]
    for row in rows:
        forward_row(row, table, p)


@njit(nogil=True, cache=True)
def _inverse(rows, table, p):  # type: ignore[no-untyped-def]
    for row in rows:
        inverse_row(row, table, p)


class Transform:
    """Tables for one ring degree and several primes. Nothing changes after it is made.

    tables, inverse_tables: float64 (primes, N) for `forward_row` and `inverse_row`: N/8 roots by
    m + i, then those of the last three stages as lanes, (N/64, 7, 8).
    """

    def __init__(self, degree: int, primes: Sequence[int]) -> None:
        """Raises `ParameterError` for a degree or primes without a transform, and `CompileError`
        for primes whose products are not exact."""
        self.degree, self.primes = degree, tuple(primes)
        _check(degree, self.primes)
        powers = [_powers(degree, prime) for prime in self.primes]
        self.tables = _tables(degree, [_forward_roots(degree, row) for row in powers], self.primes)
        self.inverse_tables = _tables(
            degree,
            [_inverse_roots(degree, row, p) for row, p in zip(powers, self.primes, strict=True)],
            self.primes,
        )

    def forward(self, rows: Residues, prime: int) -> None:
        """Coefficients → NTT domain, in place and without the interpreter's lock.

        rows: uint64 (..., N), C-contiguous, residues in [0, p) modulo p = primes[prime], which is
        not checked. Raises `InputError` for other arrays and for a prime that is not there.
        """
        _forward(self._checked(rows, prime), self.tables[prime], float(self.primes[prime]))

    def inverse(self, rows: Residues, prime: int) -> None:
        """NTT domain → coefficients: what `forward` takes, refuses and does, in reverse."""
        _inverse(self._checked(rows, prime), self.inverse_tables[prime], float(self.primes[prime]))

    def _checked(self, rows: Residues, prime: int) -> Residues:
        if not 0 <= prime < len(self.primes):
            raise InputError(f"expected a prime from 0 to {len(self.primes) - 1}, found {prime}")
        usable = rows.dtype == np.uint64 and rows.shape[-1:] == (self.degree,)
        if not (usable and rows.flags.carray):
            raise InputError(
                f"expected residues uint64 (..., {self.degree}), C-contiguous, aligned and "
                f"writeable, found {rows.dtype} {rows.shape}, strides {rows.strides}, "
                f"aligned {rows.flags.aligned}, writeable {rows.flags.writeable}"
            )
        return rows.reshape(-1, self.degree)


def forward_roots(degree: int, prime: int) -> Integers:
    """ψ^rev(k) for k = 0 … N − 1, in [0, prime): what the stages of a transform multiply by."""
    _check(degree, (prime,))
    return _forward_roots(degree, _powers(degree, prime))


def _check(degree: int, primes: Sequence[int]) -> None:
    if degree not in MAX_LOG_MODULUS:
        raise ParameterError(
            f"ring degree {degree} is not supported: use one of "
            f"{', '.join(map(str, MAX_LOG_MODULUS))}"
        )
    for prime in primes:
        if prime.bit_length() > EXACT_PRIME_BITS:
            raise CompileError(
                f"prime {prime} has {prime.bit_length()} bits: transforms are exact up to "
                f"{EXACT_PRIME_BITS}"
            )
        if prime % (2 * degree) != 1 or not is_prime(prime):
            raise ParameterError(f"{prime} is not a prime congruent to 1 modulo {2 * degree}")


def _powers(degree: int, prime: int) -> list[int]:
    """ψ^0 … ψ^(N − 1) for the smallest primitive 2N-th root of unity ψ."""
    candidates = (pow(g, (prime - 1) // (2 * degree), prime) for g in range(2, prime))
    any_root = next(root for root in candidates if pow(root, degree, prime) == prime - 1)
    square = any_root * any_root % prime
    return _multiples(1, min(_multiples(any_root, square, prime, degree)), prime, degree)


def _multiples(first: int, factor: int, prime: int, count: int) -> list[int]:
    found = [first]
    while len(found) < count:
        found.append(found[-1] * factor % prime)
    return found


def _reversed(degree: int) -> Integers:
    """rev(0) … rev(N − 1)."""
    order = np.zeros(1, np.int64)
    while len(order) < degree:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def _forward_roots(degree: int, powers: Sequence[int]) -> Integers:
    return np.array(powers, np.int64)[_reversed(degree)]


def _inverse_roots(degree: int, powers: Sequence[int], prime: int) -> Integers:
    """ψ^(−k) = −ψ^(N − k); the first two are 1/N and, of the last stage, ψ^(−N/2)/N."""
    roots = np.array([1, *(prime - power for power in powers[:0:-1])], np.int64)[_reversed(degree)]
    scale = pow(degree, -1, prime)
    roots[:2] = scale, int(roots[1]) * scale % prime
    return roots


def _tables(degree: int, roots: Sequence[Integers], primes: Sequence[int]) -> Floats:
    """Residues in [0, p) → roots and their lanes, within p/2 of zero, read-only."""
    tables = aligned(len(primes), degree)
    for table, row, prime in zip(tables, roots, primes, strict=True):
        centred = np.where(row > prime // 2, row - prime, row)
        table[: degree // 8] = centred[: degree // 8]
        lanes = table[degree // 8 :].reshape(-1, 7, LANES)
        for count in (1, 2, 4):
            stage = centred[count * degree // 8 : count * degree // 4]
            lanes[:, count - 1 : 2 * count - 1] = stage.reshape(-1, LANES, count).swapaxes(1, 2)
    tables.flags.writeable = False
    return tables
