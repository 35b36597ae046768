"""Real numbers as ring elements: x is held as round(x·2^bits) modulo 2^64.

Each kind of number has its own count of fraction bits, so that a product never has to be rounded
before it is summed, and never leaves the interval in which truncation is exact:

    kind           bits   one ulp     interval that is checked or documented
    activations    16     1.5e-5      |x| < 2^15, where comparisons are exact
    weights        24     6.0e-8      |w| < 64 for steps, 2^22 for products with activations
    gradients      20     9.5e-7      |δ| < 2^18
    softmax        20     9.5e-7      values below 4 in chains of products
    updates        56     1.4e-17     |velocity| < 64, before they are truncated to weights

A product of b and c bits has b + c bits, and |product| < 2^(62 − b − c) must hold for its
truncation.
"""

import numpy as np
import numpy.typing as npt

from mpc_training.errors import RangeError
from mpc_training.ring import Ring

ACTIVATION_BITS = 16
WEIGHT_BITS = 24
GRADIENT_BITS = 20
SOFTMAX_BITS = 20
UPDATE_BITS = 56

PRODUCT_BITS = 62
"""A ring element is truncated exactly while its absolute value is below 2 to this power."""
COMPARED_BITS = 32
"""Signs are read from this many low bits, so they are right for |x| < 2^31 ulp."""

Array = npt.NDArray[np.float64]


def encode(values: npt.ArrayLike, bits: int, bound: float) -> Ring:
    """Real numbers → ring elements of the same shape, each rounded to the nearest ulp 2^−bits.

    Raises `RangeError` for values that are not finite or not below `bound` in absolute value.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise RangeError("a value is not finite (NaN or infinite): clean the data")
    largest = float(np.abs(array).max(initial=0.0))
    if largest >= min(bound, 2.0 ** (63 - bits)):  # the ring's own limit
        bound = min(bound, 2.0 ** (63 - bits))
        raise RangeError(
            f"a value of size {largest:.6g}: expected less than {bound:.6g}; scale data to 0…1 "
            "or to mean 0 and standard deviation 1"
        )
    return np.rint(np.ldexp(array, bits)).astype(np.int64).view(np.uint64)


def decode(elements: Ring, bits: int) -> Array:
    """Ring elements → the real numbers that they hold, float64 of the same shape."""
    return np.ldexp(elements.view(np.int64).astype(np.float64), -bits)


def bound_of(bits: int) -> float:
    """Values with this many fraction bits are compared correctly below this bound."""
    return float(2.0 ** (COMPARED_BITS - 1 - bits))
