"""Machine code for the innermost loop: a tile of rows × coefficients held in vector registers.

A tile is `maps` rows by `WIDTH · COLUMNS` coefficients. For every tap one row of residues is
loaded and multiplied by one weight of each map, which is broadcast; the sums stay in registers
from the first tap to the last. A compiler does not find this by itself from plain loops, so the
tile is written as LLVM instructions and numba compiles it into its caller.

Rows are found through offsets in bytes, so that the patches of a convolution are read in place.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic


def _vector_shape() -> tuple[int, int]:
    """(float64s in a register, registers of a row), for six maps at most, on this processor."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 8, 4  # 24 sums, 4 residues and a weight in 32 registers
    if features.get("avx"):
        return 4, 2  # 12, 2 and 1 in 16
    return 2, 4


WIDTH, COLUMNS = _vector_shape()
MAX_MAPS = 6
TILE = WIDTH * COLUMNS
"""Coefficients of a tile."""

_DOUBLE, _INT = ir.DoubleType(), ir.IntType(64)
_VECTOR = ir.VectorType(_DOUBLE, WIDTH)
_ZERO = ir.Constant(_VECTOR, [0.0] * WIDTH)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)
_FIRST_LANE = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)

_intrinsic: Callable[..., Any] = intrinsic
"""Its own type says that what it makes is never called from Python."""


class _Tile:
    """Emits one tile for a number of maps."""

    def __init__(self, builder: Any, arguments: Any, maps: int) -> None:
        self.builder, self.maps = builder, maps
        self.weights, self.source, self.gather, self.taps, self.target, self.rows, first = arguments
        self.first = builder.trunc(first, ir.IntType(1))

    def emit(self) -> None:
        """sums ← zero or the target; a loop over taps; target ← sums."""
        b = self.builder
        sums = [
            b.select(self.first, _ZERO, b.load(address, align=8)) for address in self._targets()
        ]
        entry, loop, done = b.block, b.append_basic_block("taps"), b.append_basic_block("done")
        b.branch(loop)
        b.position_at_end(loop)
        tap = b.phi(_INT)
        phis = [b.phi(_VECTOR) for _ in sums]
        updated = self._one_tap(tap, phis)
        following = b.add(tap, _INT(1))
        for phi, start, update in zip([tap, *phis], [_INT(0), *sums], [following, *updated],
                                      strict=True):  # fmt: skip
            phi.add_incoming(start, entry)
            phi.add_incoming(update, loop)
        b.cbranch(b.icmp_signed("<", following, self.taps), loop, done)
        b.position_at_end(done)
        for address, value in zip(self._targets(), updated, strict=True):
            b.store(value, address, align=8)

    def _one_tap(self, tap: Any, sums: list[Any]) -> list[Any]:
        b = self.builder
        row = b.add(self.source, self._word(self.gather, tap))
        residues = [b.load(address, align=8) for address in self._columns(row)]
        start = b.mul(tap, _INT(self.maps))
        result = []
        for index, total in enumerate(sums):
            map_, column = divmod(index, COLUMNS)
            if column == 0:
                weight = self._broadcast(b.add(start, _INT(map_)))
            result.append(_emit_fma(b, _VECTOR, f"v{WIDTH}f64", weight, residues[column], total))
        return result

    def _broadcast(self, index: Any) -> Any:
        b = self.builder
        pointer = b.inttoptr(self.weights, _DOUBLE.as_pointer())
        weight = b.load(b.gep(pointer, [index]))
        vector = b.insert_element(_UNDEFINED, weight, ir.IntType(32)(0))
        return b.shuffle_vector(vector, _UNDEFINED, _FIRST_LANE)

    def _targets(self) -> list[Any]:
        b = self.builder
        words = [self._word(self.rows, _INT(m)) for m in range(self.maps)]
        return [a for word in words for a in self._columns(b.add(self.target, word))]

    def _columns(self, row: Any) -> list[Any]:
        b = self.builder
        offsets = [_INT(column * WIDTH * 8) for column in range(COLUMNS)]
        return [b.inttoptr(b.add(row, offset), _VECTOR.as_pointer()) for offset in offsets]

    def _word(self, base: Any, index: Any) -> Any:
        b = self.builder
        return b.load(b.gep(b.inttoptr(base, _INT.as_pointer()), [index]))


def _emit_fma(builder: Any, kind: Any, suffix: str, x: Any, y: Any, z: Any) -> Any:
    return _call(builder, f"llvm.fma.{suffix}", kind, [x, y, z])


def _call(builder: Any, name: str, returned: Any, arguments: list[Any]) -> Any:
    """Call one of LLVM's own functions."""
    signature = ir.FunctionType(returned, [argument.type for argument in arguments])
    declare: Callable[..., Any] = cgutils.get_or_insert_function
    return builder.call(declare(builder.module, signature, name), arguments)


def _tile(maps: int) -> Any:
    """multiply(weights, source, gather, taps, target, rows, first), all but taps addresses.

    weights: (taps, maps) float64. gather: (taps,) and rows: (maps,) int64 offsets in bytes from
    source and target. first: 1 to overwrite the target, 0 to add to it. taps ≥ 1.
    """

    def multiply(typing: Any, w: Any, s: Any, g: Any, n: Any, t: Any, r: Any, first: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Tile(builder, arguments, maps).emit()
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return _intrinsic(multiply)


tile1, tile2, tile3, tile4, tile5, tile6 = (_tile(maps) for maps in range(1, MAX_MAPS + 1))


def _fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """x·y + z rounded once, float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _emit_fma(builder, _DOUBLE, "f64", *arguments)

    return types.float64(types.float64, types.float64, types.float64), generate


def _rint(typing: Any, x: Any) -> Any:
    """The nearest integer, float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, "llvm.rint.f64", _DOUBLE, list(arguments))

    return types.float64(types.float64), generate


def _prefetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which need not be valid."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, word = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()), ir.IntType(32)
        for_reading, in_second_level, of_data = word(0), word(2), word(1)
        call = [pointer, for_reading, in_second_level, of_data]
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), call)
        return context.get_dummy_value()

    return types.void(types.int64), generate


fma: Callable[[float, float, float], float] = _intrinsic(_fma)
rint: Callable[[float], float] = _intrinsic(_rint)
prefetch: Callable[[int], None] = _intrinsic(_prefetch)
