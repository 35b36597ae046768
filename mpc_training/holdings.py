"""What one party brings: rows of a common table, or columns of it.

    rows      every party has the same columns and labels, of other records      (horizontal)
    columns   every party has other columns of the same records; one has labels  (vertical)

Everything is checked here, before a connection is made, and said to the owner alone.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mpc_training import record_files
from mpc_training.errors import DataError
from mpc_training.fixed_point import Array

Kind = Literal["rows", "columns"]
MAX_VALUE = 64.0
"""Features beyond this size train badly and leave the interval of fixed point: they are refused."""
_BLOCK = 4096


@dataclass(frozen=True)
class Holding:
    """Checked records of one party.

    features: (n, *shape), any real dtype; `values` divides them by `divisor`. labels: int64 (n,),
    or None where another party has them. ids: names of records, needed for columns. names: of the
    columns, where the file had any.
    """

    kind: Kind
    features: npt.NDArray[Any]
    labels: npt.NDArray[np.int64] | None
    divisor: float = 1.0
    ids: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        faults = []
        count = len(self.features) if self.features.ndim else 0
        if self.features.ndim < 2 or count == 0 or self.features.size == 0:
            faults.append(f"features have shape {self.features.shape}: expected (records, …)")
        if not (np.isfinite(self.divisor) and self.divisor > 0):
            faults.append(f"divisor {self.divisor}: expected a positive number")
        elif not faults:
            faults.extend(self._out_of_scale())
        if self.labels is not None and self.labels.shape != (count,):
            faults.append(f"{self.labels.shape} labels for {count} records: expected one each")
        if self.kind == "rows" and self.labels is None:
            faults.append("no labels: a party that holds rows needs those of its records")
        if self.kind == "columns":
            if self.ids is None:
                faults.append("no record ids: columns are aligned by them; name the id column")
            elif len(set(self.ids)) != count:
                faults.append(
                    f"{count} records, {len(set(self.ids))} different ids: expected equal"
                )
        if faults:
            raise DataError("; ".join(faults))

    def _out_of_scale(self) -> list[str]:
        largest = 0.0
        for start in range(0, len(self.features), _BLOCK):
            block = self.values(slice(start, start + _BLOCK))
            if not np.isfinite(block).all():
                return ["features hold NaN or infinite values: clean the file"]
            largest = max(largest, float(np.abs(block).max()))
        if largest > MAX_VALUE:
            return [
                f"features go up to {largest:.6g}, expected at most {MAX_VALUE:g}: divide them "
                "(divisor), or standardise each column"
            ]
        return []

    @property
    def count(self) -> int:
        """Records."""
        return len(self.features)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one record."""
        return tuple(self.features.shape[1:])

    def values(self, rows: slice | npt.NDArray[np.int64]) -> Array:
        """Features of these records, scaled, float64."""
        return np.asarray(self.features[rows], np.float64) / self.divisor

    def one_hot(self, rows: slice | npt.NDArray[np.int64], classes: int) -> Array:
        """Labels of these records, float64 (rows, classes). Raises `DataError` without labels."""
        if self.labels is None:
            raise DataError("this party has no labels")
        return np.eye(classes)[self.labels[rows]]

    def check_classes(self, classes: int) -> None:
        """Raises `DataError` for a label that the network has no logit for."""
        if self.labels is not None and int(self.labels.max()) >= classes:
            raise DataError(
                f"labels go up to {int(self.labels.max())}, the network answers {classes} classes: "
                "number them from 0, or widen the last layer"
            )

    def reordered(self, rows: npt.NDArray[np.int64]) -> "Holding":
        """Some of the records, in this order."""
        labels = None if self.labels is None else self.labels[rows]
        ids = None if self.ids is None else tuple(self.ids[int(k)] for k in rows)
        return Holding(self.kind, self.features[rows], labels, self.divisor, ids, self.names)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that enters shares. Never leaves this party."""
        labels = None if self.labels is None else self.labels.shape
        form = (self.features.dtype.str, self.features.shape, labels)
        state = hashlib.sha256(repr((self.kind, form, self.divisor, self.ids)).encode())
        state.update(np.ascontiguousarray(self.features).data)
        state.update(b"" if self.labels is None else self.labels.tobytes())
        return state.hexdigest()


def read_holding(
    kind: Kind,
    features: Path,
    *,
    labels: Path | None = None,
    divisor: float = 1.0,
    columns: tuple[str, ...] | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    shape: tuple[int, ...] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Holding:
    """A holding from files: CSV (with column names), .npy or IDX (labels in another file), or a
    folder of images. shape: of one record, where the file holds them flat or without channels.
    classes: names of an image folder's folders, in the order of their labels.

    Raises `DataError`.
    """
    if features.is_dir():
        table = record_files.read_images(features, classes)
    elif features.suffix == ".csv":
        table = record_files.read_csv(
            features, columns=columns, label=label_column, identifier=id_column
        )
    else:
        table = record_files.Table(record_files.read_array(features))
    found = table.labels if labels is None else record_files.read_labels(labels)
    data = table.features
    if shape is not None and data.ndim and data[0].size == int(np.prod(shape)):
        data = data.reshape(len(data), *shape)
    return Holding(kind, data, found, divisor, table.ids, table.names)
