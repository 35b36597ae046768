"""A linear head and the statement that goes with it: predicts, saves, becomes an `nn.Linear`.

The saved form is one safetensors file: weights as float64 tensors, classes and statement as JSON in
the metadata. Reading it executes nothing.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from private_models.errors import HeadFileError, InputError
from private_models.features import check_classes, check_matrix, check_values
from private_models.noise import Array
from private_models.statement import Statement, read_statement

if TYPE_CHECKING:
    from torch import nn

FORMAT = "sottovoce-private-head"
VERSION = "1"
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class PrivateHead:
    """scores = features @ weights.T + bias.

    Attributes:
        weights: (K, d) float64. bias: (K,) float64.
        classes: (K,) labels in ascending order, the ones that predictions name.
        statement: what is promised of the rows that it was trained on.
    """

    weights: Array
    bias: Array
    classes: npt.NDArray[Any]
    statement: Statement

    def scores(self, features: npt.ArrayLike) -> Array:
        """(rows, d) → (rows, K), a logit or regression score for every class.

        Raises `InputError` for another width or values that are not finite.
        """
        matrix = check_matrix(features)
        if matrix.shape[1] != self.weights.shape[1]:
            raise InputError(
                f"X has {matrix.shape[1]} features, but this head is expecting "
                f"{self.weights.shape[1]} features as input"
            )
        return check_values(matrix) @ self.weights.T + self.bias

    def predict(self, features: npt.ArrayLike) -> npt.NDArray[Any]:
        """The label with the largest score for every row, (rows,)."""
        return np.asarray(self.classes[self.scores(features).argmax(axis=1)])

    def to_torch(self) -> "nn.Linear":
        """An `nn.Linear(d, K)` in float32 with these weights, in evaluation mode."""
        import torch

        layer = torch.nn.Linear(self.weights.shape[1], self.weights.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.weights))
            layer.bias.copy_(torch.from_numpy(self.bias))
        return layer.eval().requires_grad_(False)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file. Raises `HeadFileError`."""
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "classes": json.dumps(self.classes.tolist()),
            "statement": self.statement.to_json(),
        }
        tensors = {"weights": np.ascontiguousarray(self.weights), "bias": self.bias}
        try:
            save_file(tensors, str(path), metadata=metadata)
        except (OSError, SafetensorError) as error:
            raise HeadFileError(f"{path}: cannot be written: {error}") from None


def load_head(path: str | Path) -> PrivateHead:
    """Read a saved head. Raises `HeadFileError` for anything but a sound one.

    The statement is what the file says; who wrote the file vouches for it.
    """
    path = Path(path)
    try:
        if path.is_dir() or path.stat().st_size > MAX_FILE_BYTES:
            raise HeadFileError(f"{path}: expected a file of at most {MAX_FILE_BYTES} bytes")
        with safe_open(str(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
                raise HeadFileError(
                    f"{path}: expected a {FORMAT} of version {VERSION}, found "
                    f"{metadata.get('format', 'no format at all')[:60]!r}"
                )
            weights, bias = file.get_tensor("weights"), file.get_tensor("bias")
        classes = check_classes(json.loads(metadata["classes"]))
        statement = read_statement(metadata["statement"])
    except OSError as error:
        raise HeadFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except HeadFileError as error:
        raise HeadFileError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except SafetensorError:
        raise HeadFileError(
            f"{path}: not a saved head: expected a file that `private-models fit` or `pate` wrote"
        ) from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise HeadFileError(f"{path}: not a saved head: {error!r:.120}") from None
    return PrivateHead(*_checked(path, weights, bias, len(classes)), classes, statement)


def _checked(path: Path, weights: Any, bias: Any, classes: int) -> tuple[Array, Array]:
    fits = weights.ndim == 2 and weights.shape[0] == classes and bias.shape == (classes,)
    if not fits or {weights.dtype, bias.dtype} != {np.dtype(np.float64)}:
        raise HeadFileError(f"{path}: weights {weights.shape} do not fit {classes} classes")
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise HeadFileError(f"{path}: weights that are not finite")
    return weights, bias
