"""A public linear map of features, which clients apply themselves before they encrypt.

Made from public features alone, it costs no privacy. Fewer columns are fewer bytes, and a hidden
quadratic layer of a head can only be had on few.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from private_models.errors import InputError
from private_models.features import check_matrix, check_values, public_moments


@dataclass(frozen=True, eq=False)
class Projection:
    """(x − mean) · matrix, then clipped to ± bound; mean: (d,), matrix: (d, r), float64."""

    mean: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]
    bound: float

    def __call__(self, features: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(rows, d) → float32 (rows, r). Raises `InputError` for another width."""
        rows = check_matrix(features)
        if rows.shape[1] != len(self.mean):
            raise InputError(f"{rows.shape[1]} features, the projection takes {len(self.mean)}")
        turned = (check_values(rows) - self.mean) @ self.matrix
        return turned.clip(-self.bound, self.bound).astype(np.float32)


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
