"""Memory that begins on a cache line: every vector that crosses one costs two loads."""

from math import prod

import numpy as np

from he_inference.nodes import Array

_CACHE_LINE = 64


def aligned(*shape: int) -> Array:
    """An array of float64 that holds anything."""
    words, count = _CACHE_LINE // 8, prod(shape)
    memory = np.empty(count + words)
    start = -(memory.ctypes.data // 8) % words
    return memory[start : start + count].reshape(shape)
