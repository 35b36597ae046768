"""A head and the statement that goes with it: predicts, saves, becomes a torch module.

The saved form is one safetensors file: weights as float64 tensors, classes and statement as JSON in
the metadata. Reading it executes nothing.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from private_models.errors import HeadFileError, InputError, OptionError
from private_models.features import check_classes, check_matrix, check_values
from private_models.noise import Array
from private_models.quadratic import QuadraticLayer, read_layer
from private_models.releases import CHUNK_ROWS
from private_models.statement import Statement, read_statement

if TYPE_CHECKING:
    from torch import nn

FORMAT = "sottovoce-private-head"
VERSION, WITH_HIDDEN = "1", "2"
"""Of files with weights alone, and of those with a hidden layer before them."""
MAX_FILE_BYTES = 1 << 30
_HIDDEN = "hidden."
_LARGEST_WEIGHT = float(np.finfo(np.float32).max)
"""Heads become modules in float32."""


@dataclass(frozen=True)
class PrivateHead:
    """scores = features @ weights.T + bias, or hidden(features) @ weights.T + bias.

    Attributes:
        weights: (K, d) float64, or (K, width of the hidden layer). bias: (K,) float64.
        classes: (K,) labels in ascending order, the ones that predictions name.
        statement: what is promised of the rows that it was trained on.
        hidden: a public layer of products, or None.
    """

    weights: Array
    bias: Array
    classes: npt.NDArray[Any]
    statement: Statement
    hidden: QuadraticLayer | None = None

    @property
    def n_features(self) -> int:
        """d, columns of the features."""
        return self.weights.shape[1] if self.hidden is None else self.hidden.width_in

    def scores(self, features: npt.ArrayLike) -> Array:
        """(rows, d) → (rows, K), a logit or regression score for every class.

        Raises `InputError` for another width or values that are not finite.
        """
        matrix = check_matrix(features)
        if matrix.shape[1] != self.n_features:
            raise InputError(
                f"X has {matrix.shape[1]} features, but this head is expecting "
                f"{self.n_features} features as input"
            )
        if self.hidden is None:
            return check_values(matrix) @ self.weights.T + self.bias
        found = np.empty((len(matrix), len(self.weights)))
        for start in range(0, len(matrix), CHUNK_ROWS):  # products are many times the features
            part = slice(start, start + CHUNK_ROWS)
            found[part] = self.hidden(matrix[part]) @ self.weights.T + self.bias
        return found

    def predict(self, features: npt.ArrayLike) -> npt.NDArray[Any]:
        """The label with the largest score for every row, (rows,)."""
        return np.asarray(self.classes[self.scores(features).argmax(axis=1)])

    def to_torch(
        self, square: "Callable[[], nn.Module] | None" = None
    ) -> "nn.Linear | nn.Sequential":
        """An `nn.Linear(d, K)` in float32 with these weights, in evaluation mode.

        With a hidden layer: Linear(d, h) - square - Linear(h, K), h = K·(r + 1). Labels are hardly
        others then, but scores are: it does not clip rows (see `QuadraticLayer.squares`).

        square: makes the module that stands for x², such as `he_inference.nn.Square`. Raises
        `OptionError` without it, where there is a hidden layer.
        """
        if self.hidden is None:
            return self.output_layer()
        if square is None:
            raise OptionError(
                "this head has a hidden layer: name the module that squares, as "
                "to_torch(he_inference.nn.Square); hybrid.build takes the head itself"
            )
        import torch

        inner, shift, outer, bias = self.hidden.squares(self.weights, self.bias)
        layers = (_linear(inner, shift), square(), _linear(outer, bias))
        return torch.nn.Sequential(*layers).eval()

    def output_layer(self) -> "nn.Linear":
        """What was trained, as an `nn.Linear` in float32; it takes what a hidden layer gives."""
        return _linear(self.weights, self.bias)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file. Raises `HeadFileError`."""
        metadata = {
            "format": FORMAT,
            "version": VERSION if self.hidden is None else WITH_HIDDEN,
            "classes": json.dumps(self.classes.tolist()),
            "statement": self.statement.to_json(),
        }
        tensors = {"weights": np.ascontiguousarray(self.weights), "bias": self.bias}
        if self.hidden is not None:
            tensors |= {_HIDDEN + name: array for name, array in self.hidden.tensors().items()}
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
            version, form = metadata.get("version"), metadata.get("format", "no format at all")
            if form != FORMAT or version not in (VERSION, WITH_HIDDEN):
                raise HeadFileError(
                    f"{path}: expected a {FORMAT} of version {VERSION} or {WITH_HIDDEN}, found "
                    f"{form[:60]!r} of version {version!r:.20}"
                )
            weights, bias = file.get_tensor("weights"), file.get_tensor("bias")
            hidden = None
            if version == WITH_HIDDEN:
                names = [name for name in file.keys() if name.startswith(_HIDDEN)]  # noqa: SIM118
                found = {name.removeprefix(_HIDDEN): file.get_tensor(name) for name in names}
                hidden = read_layer(found)
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
    weights, bias = _checked(path, weights, bias, len(classes))
    if hidden is not None and hidden.width != weights.shape[1]:
        raise HeadFileError(f"{path}: {weights.shape[1]} weights, hidden layer of {hidden.width}")
    return PrivateHead(weights, bias, classes, statement, hidden)


def _linear(weights: Array, bias: Array) -> "nn.Linear":
    import torch

    layer = torch.nn.Linear(weights.shape[1], weights.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer.eval().requires_grad_(False)


def _checked(path: Path, weights: Any, bias: Any, classes: int) -> tuple[Array, Array]:
    fits = weights.ndim == 2 and weights.shape[0] == classes and bias.shape == (classes,)
    if not fits or {weights.dtype, bias.dtype} != {np.dtype(np.float64)}:
        raise HeadFileError(f"{path}: weights {weights.shape} do not fit {classes} classes")
    if not max(np.abs(weights).max(), np.abs(bias).max()) <= _LARGEST_WEIGHT:
        raise HeadFileError(f"{path}: weights that are not finite, or over {_LARGEST_WEIGHT:g}")
    return weights, bias
