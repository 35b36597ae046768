"""Features and labels: checked, in memory or from a stream, and gone through a chunk at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse

from private_models.errors import InputError, OptionError
from private_models.noise import Array
from private_models.releases import CHUNK_ROWS, MAX_ROWS

Labels = npt.NDArray[np.int64]
Chunk = tuple[Array, Labels]
Source = Callable[[], Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]]
"""Gives the same (features, labels) in chunks each time it is called."""

MAX_FEATURES = 4096
MAX_CLASSES = 4096


class Rows(Protocol):
    """Private rows that can be gone through more than once."""

    @property
    def width(self) -> int:
        """Columns of the features."""

    def chunks(self) -> Iterator[Chunk]:
        """Features (m, width) float64 and class indices (m,), m ≤ CHUNK_ROWS."""

    def checked_count(self) -> int:
        """How many rows there are, once every value was looked at. Raises `InputError`."""


def check_matrix(features: npt.ArrayLike, name: str = "features") -> npt.NDArray[Any]:
    """A real (rows, features) array with at least one of each, not copied, values unchecked.

    Raises `InputError`.
    """
    if issparse(features):
        raise InputError(f"{name}: sparse input is not supported: give a dense array (toarray())")
    try:
        array = np.asanyarray(features)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name}: expected an array of numbers: {error}") from None
    if array.dtype.kind == "O":
        array = _numbers(array, name)
    if array.dtype.kind not in "biuf":
        complex_hint = "Complex data not supported: " if array.dtype.kind == "c" else ""
        raise InputError(f"{complex_hint}{name}: expected real numbers, found {array.dtype}")
    if array.ndim != 2:
        raise InputError(
            f"{name}: expected (rows, features), found shape {array.shape}. Reshape your data: "
            "array.reshape(1, -1) if it is one row"
        )
    if not array.shape[0]:
        raise InputError(f"{name}: 0 sample(s) (shape={array.shape}) while a minimum of 1 is "
                         "required.")  # fmt: skip
    if not array.shape[1]:
        raise InputError(f"{name}: 0 feature(s) (shape={array.shape}) while a minimum of 1 is "
                         "required.")  # fmt: skip
    if array.shape[1] > MAX_FEATURES:
        raise InputError(f"{name}: {array.shape[1]} features, at most {MAX_FEATURES} are taken")
    return array


def _numbers(array: npt.NDArray[Any], name: str) -> Array:
    try:
        return array.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: expected numbers: {error}") from None


def check_finite(chunk: npt.NDArray[Any], first: int = 0, name: str = "features") -> None:
    """Raise `InputError` naming the first row that is not finite."""
    if chunk.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        flat = chunk.ravel()
        if np.isfinite(np.dot(flat, flat)):  # one pass, no copy: finite only where all of them are
            return
        wide = chunk.astype(np.float64)
        fine = np.isfinite(np.vecdot(wide, wide))
    if not fine.all():
        bad = int(np.flatnonzero(~fine)[0])
        kind = "NaN" if np.isnan(wide[bad]).any() else "infinity, or values over 1e150,"
        raise InputError(
            f"{name}: row {first + bad} holds {kind} and nothing was released: remove or repair it"
        )


def check_values(chunk: npt.NDArray[Any], first: int = 0, name: str = "features") -> Array:
    """A chunk as float64. Raises `InputError` naming the first row that is not finite."""
    check_finite(chunk, first, name)
    return chunk.astype(np.float64)


def check_classes(classes: Sequence[Any] | npt.ArrayLike) -> npt.NDArray[Any]:
    """Distinct labels in ascending order, (classes,). Raises `OptionError`."""
    listed = np.asarray(classes if isinstance(classes, np.ndarray) else list(classes))  # type: ignore[arg-type]
    distinct = np.unique(listed)
    if listed.ndim != 1 or len(distinct) != len(listed) or distinct.dtype.kind not in "biufUS":
        raise OptionError(f"classes: expected distinct numbers or strings, found {listed!r:.100}")
    if not 2 <= len(distinct) <= MAX_CLASSES:
        raise OptionError(
            f"classes: {len(distinct)} class(es), expected 2 to {MAX_CLASSES}; a head with one "
            "class has nothing to learn"
        )
    return distinct


def class_indices(labels: npt.ArrayLike, classes: npt.NDArray[Any]) -> Labels:
    """Where each label stands in the sorted classes. Raises `InputError` for strangers."""
    array = np.asarray(labels)
    if array.ndim != 1:
        raise InputError(f"labels: expected shape (rows,), found {array.shape}")
    try:
        places = np.searchsorted(classes, array)
        known = classes[np.minimum(places, len(classes) - 1)] == array
    except TypeError:
        raise InputError(f"labels are {array.dtype}, the classes are {classes.dtype}") from None
    if not np.all(known):
        # Which label, and how many, stays unsaid: error messages travel further than data may.
        raise InputError("labels: some are not among `classes`: name every class that may occur")
    return places.astype(np.int64)


@dataclass(frozen=True)
class ArrayRows:
    """Rows in memory or in a memory map; converted to float64 a chunk at a time."""

    features: npt.NDArray[Any]
    labels: Labels

    def __post_init__(self) -> None:
        """Raises `InputError` for lengths that differ or more than MAX_ROWS rows."""
        if len(self.features) != len(self.labels):
            raise InputError(
                f"Found input variables with inconsistent numbers of samples: {len(self.features)} "
                f"rows of features, {len(self.labels)} labels"
            )
        if len(self.features) > MAX_ROWS:
            raise InputError(f"{len(self.features)} rows: at most {MAX_ROWS} are taken")

    @property
    def width(self) -> int:
        return int(self.features.shape[1])

    def chunks(self) -> Iterator[Chunk]:
        for start in range(0, len(self.labels), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            yield check_values(self.features[rows], start), self.labels[rows]

    def checked_count(self) -> int:
        for start in range(0, len(self.labels), CHUNK_ROWS):
            check_finite(self.features[start : start + CHUNK_ROWS], start)
        return len(self.labels)


class StreamRows:
    """Rows from a source that is asked for anew on every pass; they need not fit in memory.

    The sensitivity of a sum holds whatever a source gives; that it gives *the same* rows on every
    pass is the caller's to see to, and only their number is compared.
    """

    def __init__(self, source: Source, classes: npt.NDArray[Any], width: int) -> None:
        self._source, self._classes, self._width = source, classes, width
        self._count: int | None = None

    @property
    def width(self) -> int:
        return self._width

    def chunks(self) -> Iterator[Chunk]:
        """Chunks of exactly CHUNK_ROWS rows, but for the last. Raises `InputError`."""
        count, held, labels_held = 0, np.empty((0, self.width)), np.empty(0, np.int64)
        for features, labels in self._source():
            matrix = check_matrix(features)
            indices = class_indices(labels, self._classes)
            if matrix.shape != (len(indices), self.width):
                raise InputError(
                    f"a chunk holds features {matrix.shape} and {len(indices)} labels: expected "
                    f"{self.width} features and one label a row"
                )
            if count + len(indices) > MAX_ROWS:
                raise InputError(f"over {MAX_ROWS} rows: no more are taken")
            start = 0
            while start < len(indices):  # a part at a time, while it lies in a processor's cache
                part = slice(start, start + CHUNK_ROWS - len(held))
                values, places = check_values(matrix[part], count + start), indices[part]
                start += len(places)
                if len(held):
                    values = np.concatenate([held, values])
                    places = np.concatenate([labels_held, places])
                if len(places) == CHUNK_ROWS:
                    yield values, places
                    values, places = values[:0], places[:0]
                held, labels_held = values, places
            count += len(indices)
        if len(held):
            yield held, labels_held
        if self._count is None:
            self._count = count
        elif self._count != count:
            raise InputError(f"the source gave {self._count} rows, then {count}: make it repeat")

    def checked_count(self) -> int:
        return sum(len(labels) for _, labels in self.chunks())
