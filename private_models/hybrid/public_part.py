"""What clients get of a bundle: how to make features, how to ask, and what is promised.

    bundle.json         backbone, its digest, what goes in, classes, statement of privacy
    single.signature    for one query          batch.signature    for thousands at once
    map.safetensors                            a public map of features, where there is one

Nothing that was trained is in it but what signatures show: scales of the head's numbers. Which head
it is shows by the signatures' identities, drawn at random when it was compiled, so that nobody can
confirm a guess of its weights. All of it is checked when read: a server may send anything.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import he_inference
from he_inference import BatchSignature, CoefficientSignature
from private_models.backbones.catalogue import Kind, kind_of
from private_models.backbones.extraction import Backbone
from private_models.errors import BundleError, PrivacyError
from private_models.features import check_classes
from private_models.hybrid.feature_map import FeatureMap, load_map, save_map
from private_models.statement import Statement, read_statement

FORMAT = "sottovoce-bundle"
VERSION = 2
DESCRIPTION, SINGLE, BATCH = "bundle.json", "single.signature", "batch.signature"
MAP = "map.safetensors"
_MAX_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class PublicPart:
    """Attributes:
    single, batch: signatures of the programs for one query, and for thousands, or None.
    backbone: its full name. identity: SHA-256 of its name and weights, in hexadecimal.
    classes: (K,) labels, in the order of scores. statement: of the head, or None where it was said
        that it has no privacy. feature_map: what features go through before they are encrypted,
        or None.
    """

    single: CoefficientSignature
    batch: BatchSignature | None
    backbone: str
    identity: str
    classes: npt.NDArray[Any]
    statement: Statement | None
    feature_map: FeatureMap | None = None

    @property
    def kind(self) -> Kind:
        """What goes into the backbone."""
        return kind_of(self.backbone)

    @property
    def version(self) -> str:
        """Of the head, in hexadecimal: another for every build, even of the same weights."""
        return self.single.identity.hex()

    def promise(self) -> str:
        """The statement of privacy in a line."""
        if self.statement is None or not self.statement.is_private:
            return "no differential privacy: answers may tell who was in the training data"
        s = self.statement
        return f"({s.epsilon:g}, {s.delta:g})-differential privacy, {s.relation} neighbours"

    def check_backbone(self, backbone: Backbone) -> None:
        """Raises `BundleError` for another one than the head was trained on."""
        if (found := backbone.identity()) != self.identity:
            raise BundleError(
                f"the head was trained on backbone {self.backbone!r} with digest "
                f"{self.identity[:16]}…, this is {backbone.name!r} with {found[:16]}…: install the "
                "same release of it"
            )

    def prepare(self, features: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Features (rows, d) as they are encrypted: mapped, and clipped to what is taken."""
        mapped = self.feature_map(features) if self.feature_map else np.asarray(features)
        # Rounding to float32 after a clip in float64 could lead out of the range again.
        low, high = _inside(self.single.input_range)
        with np.errstate(over="ignore"):
            return mapped.astype(np.float32).clip(low, high)

    def save(self, folder: Path) -> None:
        """Write the files; the folder must be there. Raises `BundleError`."""
        description = {
            "format": FORMAT,
            "version": VERSION,
            "backbone": self.backbone,
            "identity": self.identity,
            "classes": self.classes.tolist(),
            "statement": None if self.statement is None else self.statement.to_dict(),
            "feature_map": self.feature_map is not None,
        }
        try:
            (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")
            (folder / SINGLE).write_bytes(self.single.to_bytes())
            if self.batch is not None:
                (folder / BATCH).write_bytes(self.batch.to_bytes())
            if self.feature_map is not None:
                save_map(self.feature_map, folder / MAP)
        except OSError as error:
            raise BundleError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _inside(limits: tuple[float, float]) -> tuple[np.float32, np.float32]:
    """The outermost float32 numbers within the limits."""
    low, high = map(np.float32, limits)
    if low < limits[0]:
        low = np.nextafter(low, np.float32(np.inf))
    if high > limits[1]:
        high = np.nextafter(high, np.float32(-np.inf))
    return low, high


def load_public(folder: str | Path) -> PublicPart:
    """Read and check what `save` wrote. Raises `BundleError` or what reading a signature raises."""
    folder = Path(folder)
    values = _description(folder)
    try:
        statement = values["statement"]
        part = PublicPart(
            _signature(folder / SINGLE, CoefficientSignature),
            _signature(folder / BATCH, BatchSignature) if (folder / BATCH).exists() else None,
            _text(values["backbone"], 200),
            _text(values["identity"], 64),
            check_classes(values["classes"]),
            None if statement is None else read_statement(json.dumps(statement)),
            load_map(folder / MAP) if values["feature_map"] is True else None,
        )
    except PrivacyError as error:
        raise BundleError(f"{folder}: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{folder}: {DESCRIPTION} is malformed: {error!r:.100}") from None
    _check(part, folder)
    return part


def _description(folder: Path) -> Mapping[str, Any]:
    path = folder / DESCRIPTION
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        values = json.loads(content) if len(content) <= _MAX_BYTES else None
    except OSError as error:
        hint = ": expected the public part of a bundle, BUNDLE/public" if folder.is_dir() else ""
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}{hint}") from None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise BundleError(f"{path}: not a {FORMAT} file")
    if values.get("version") != VERSION:
        raise BundleError(f"{path}: version {values.get('version')!r:.20}, this release reads "
                          f"{VERSION}: build the bundle again")  # fmt: skip
    return values


def _signature(path: Path, kind: type[Any]) -> Any:
    found = he_inference.load_signature(path)
    if not isinstance(found, kind):
        raise BundleError(f"{path.name} is a {type(found).__name__}, expected {kind.__name__}")
    return found


def _text(value: Any, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ValueError(f"a text of at most {longest} characters")
    return value


def _check(part: PublicPart, folder: Path) -> None:
    """Whether the parts belong together."""
    shapes, outputs = {part.single.input_shape}, {part.single.outputs}
    if part.batch is not None:
        shapes.add(part.batch.input_shape)
        outputs.add(part.batch.outputs)
    if len(shapes) > 1 or outputs != {len(part.classes)} or len(part.single.input_shape) != 1:
        raise BundleError(
            f"{folder}: signatures of {sorted(shapes)} features and {sorted(outputs)} scores do "
            f"not go together, or not with {len(part.classes)} classes"
        )
    if part.feature_map is not None and {(part.feature_map.width,)} != shapes:
        raise BundleError(f"{folder}: the map of features gives another number of them")
