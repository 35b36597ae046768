"""Public maps of features, which clients apply themselves before they encrypt.

Made from public features alone, they cost no privacy. A `Projection` gives fewer columns: fewer
bytes, and few enough for a module with a hidden quadratic layer. A head that has a `QuadraticLayer`
of its own leaves it to clients: what is asked under encryption is then linear.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from private_models.errors import BundleError, InputError
from private_models.features import check_matrix, check_values
from private_models.preparation import public_moments
from private_models.quadratic import QuadraticLayer, read_layer

_MAX_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Projection:
    """(x − mean) · matrix, then clipped to ± bound; mean: (d,), matrix: (d, r), float64."""

    mean: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]
    bound: float

    @property
    def width_in(self) -> int:
        """d."""
        return len(self.mean)

    @property
    def width(self) -> int:
        """r."""
        return int(self.matrix.shape[1])

    def __call__(self, features: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(rows, d) → (rows, r). Raises `InputError` for another width."""
        rows = check_matrix(features)
        if rows.shape[1] != self.width_in:
            raise InputError(f"{rows.shape[1]} features, the projection takes {self.width_in}")
        turned = (check_values(rows) - self.mean) @ self.matrix
        return np.asarray(turned.clip(-self.bound, self.bound))

    def tensors(self) -> dict[str, npt.NDArray[np.float64]]:
        """For a file."""
        matrix = np.ascontiguousarray(self.matrix)
        return {"mean": self.mean, "matrix": matrix, "bound": np.array([self.bound])}


FeatureMap = Projection | QuadraticLayer


def save_map(made: FeatureMap, path: Path) -> None:
    """Write one safetensors file. Raises OSError."""
    save_file(made.tensors(), path)


def load_map(path: Path) -> FeatureMap:
    """Read and check a saved one. Raises `BundleError`."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BundleError(f"{path.name}: over {_MAX_BYTES} bytes")
        tensors = load_file(path)
        return _projection(tensors) if "bound" in tensors else read_layer(tensors)
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{path.name}: cannot be read: {str(error)[:100]}") from None


def _projection(tensors: dict[str, Any]) -> Projection:
    mean, matrix, bound = (tensors[name] for name in ("mean", "matrix", "bound"))
    right = all(a.dtype == np.float64 and np.isfinite(a).all() for a in (mean, matrix, bound))
    if not right or mean.ndim != 1 or matrix.shape[:1] != mean.shape or matrix.ndim != 2:
        raise ValueError("expected finite float64 (d,) and (d, r)")
    if bound.shape != (1,) or not bound[0] > 0:
        raise ValueError("expected a bound over 0")
    return Projection(mean, matrix, float(bound[0]))


def principal(public: npt.ArrayLike, directions: int, bound: float = 4.0) -> Projection:
    """The largest directions of public features (m, d), each scaled to variance 1 there.

    bound: to which values are clipped, in standard deviations. Raises `InputError`.
    """
    moments = public_moments(public)
    usable = int((moments.variances > 1e-9 * moments.variances[0]).sum())
    if not 1 <= directions <= usable:
        raise InputError(f"{directions} directions: the public features have 1 to {usable}")
    scales = 1 / np.sqrt(moments.variances[:directions])
    return Projection(moments.mean, moments.axes[:, :directions] * scales, bound)
