"""Numbers that several threads of compiled code share: read, and added to, one at a time."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types

from he_inference.backend.residues.transforms import inline


def _generate_add(typing: Any, address: Any) -> Any:
    """The int64 at an address, to which one is added; nobody comes in between."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, ir.IntType(64)(1), "seq_cst")

    return types.int64(types.int64), generate


def _generate_look(typing: Any, address: Any) -> Any:
    """The int64 at an address, as other threads left it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(types.int64), generate


fetch_and_add: Callable[[int], int] = inline(_generate_add)
look: Callable[[int], int] = inline(_generate_look)
