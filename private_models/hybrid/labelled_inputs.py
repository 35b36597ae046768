"""Pictures or texts with labels, in what is private, what is for testing, and what is public."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from private_models.backbones import catalogue
from private_models.backbones.extraction import Backbone
from private_models.errors import InputError, OptionError
from private_models.hybrid.trial import Rows
from private_models.inputs import read_inputs
from private_models.solvers.task import Progress

Labelled = tuple[Sequence[object], npt.NDArray[Any]]
"""Inputs as a backbone takes them, and a label each."""
TEST_EVERY = 5
"""One in so many is for testing, where nothing else was set aside."""
SINGLES = 1000
"""Test inputs, at most, that are asked one by one."""
_BATCH = 16
"""Inputs to a backbone at a time: what lies between two layers stays in a core's cache."""


@dataclass(frozen=True)
class Columns:
    """Of a CSV file: where the texts are, and their labels."""

    text: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class LabelledInputs:
    """Attributes:
    name: for tables. backbone: of the features. private, test: inputs and labels.
    classes: every label that may occur. public: inputs without labels, or None.
    count: the number of private rows, where that is public.
    """

    name: str
    backbone: Backbone
    private: Labelled
    test: Labelled
    classes: Sequence[Any]
    public: Sequence[object] | None
    count: int | None = None

    def rows(self, cache: Path, device: str, progress: Progress) -> Rows:
        """Features of all of it, from the cache's folder where it has them. Raises `InputError`."""

        def features(inputs: Sequence[object], what: str) -> npt.NDArray[np.float32]:
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                progress(f"features, {what}", done, len(inputs))

            return self.backbone.cached(inputs, cache, device, _BATCH, advance)

        return Rows(
            self.name, features(self.private[0], "private rows"), self.private[1], self.classes,
            features(self.test[0], "test rows"), self.test[1], self.test[0][:SINGLES],
            None if self.public is None else features(self.public, "public rows"),
            catalogue.usual_norm(self.backbone.name), self.count,
        )  # fmt: skip


def set_aside(
    name: str, backbone: Backbone, train: Labelled, test: Labelled, classes: Sequence[Any],
    public_rows: int,
) -> LabelledInputs:  # fmt: skip
    """Of public data sets: training rows at equal distances, about so many, are the public ones."""
    inputs, labels = train
    public = np.arange(len(labels)) % max(2, len(labels) // public_rows) == 0
    private = _picked(inputs, labels, ~public)
    others, _ = _picked(inputs, labels, public)
    return LabelledInputs(name, backbone, private, test, classes, others, len(private[1]))


def of_files(
    path: Path,
    public: Path | None,
    backbone: str | None,
    columns: Columns,
    classes: Sequence[str] | None,
) -> LabelledInputs:
    """Of a folder with a folder for each class, or of two such, train and test; or a CSV file.

    backbone: its short name, or None for what suits. classes: names of folders are taken where they
    are not given; labels in a file are not, as rare ones would be published.

    Raises `InputError` for files, `OptionError` for options, `BackboneError` for a backbone that is
    not installed.
    """
    if not path.exists():
        raise InputError(f"{path} is not there: expected mnist, cifar10, a folder or a CSV file")
    if not path.is_dir() and classes is None:
        raise OptionError(
            "--classes: name every label that may occur, with commas: taken from the file, rare "
            "ones would be published"
        )
    short = backbone or ("minilm" if _holds_texts(path) else "efficientnet-lite0")
    texts = short == "minilm"
    train, test = _read(path, texts, columns)
    others = None if public is None else read_inputs(public, texts, columns.text)[0]
    named = np.unique(np.concatenate([train[1], test[1]])).tolist() if classes is None else classes
    extractor = catalogue.short_named(short)
    return LabelledInputs(path.name or str(path), extractor, train, test, named, others)


def _read(path: Path, texts: bool, columns: Columns) -> tuple[Labelled, Labelled]:
    """What to train on, and what to test."""
    parts = path / "train", path / "test"
    if all(part.is_dir() for part in parts):
        train, test = (_labelled(part, texts, columns) for part in parts)
        return train, test
    inputs, labels = _labelled(path, texts, columns)
    tested = np.arange(len(labels)) % TEST_EVERY == 0
    return _picked(inputs, labels, ~tested), _picked(inputs, labels, tested)


def _labelled(path: Path, texts: bool, columns: Columns) -> Labelled:
    inputs, names = read_inputs(path, texts, columns.text, columns.label)
    if names is None:
        raise InputError(f"{path}: no labels: expected a folder for each class, or --label-column")
    return inputs, np.array(names)


def _picked(
    inputs: Sequence[object], labels: npt.NDArray[Any], chosen: npt.NDArray[np.bool_]
) -> Labelled:
    return [inputs[int(at)] for at in np.flatnonzero(chosen)], labels[chosen]


def _holds_texts(path: Path) -> bool:
    return path.suffix == ".csv" or (path.is_dir() and any(path.rglob("*.txt")))
