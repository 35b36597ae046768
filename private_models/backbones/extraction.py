"""Features of any frozen `nn.Module`, in batches, cached on disk under what they were made from.

    inputs ─batches─▸ module ─▸ float32 (rows, d)          cache: <sha256>.safetensors

The cache's name is a digest of the inputs, of the module's weights and of its name, so that another
image or other weights never find old features. What is cached is as private as the inputs are: the
folder is made for its owner alone (mode 0700).
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from private_models.devices import AUTO, usable_device
from private_models.errors import BackboneError, InputError

Features = npt.NDArray[np.float32]
Progress = Callable[[int], None]
BATCH = 64
PART = 2000
"""Inputs to a file of the cache."""


def ignore(_rows: int) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class Backbone:
    """A frozen module and how inputs get into it.

    Attributes:
        name: which architecture, resolution and preprocessing; part of the cache's digest.
        module: gives (batch, d), or (batch, d, height, width), which is averaged over positions.
        prepare: from a batch of inputs, in whatever form they are given, to the module's tensor.
        size: of an input, where batches of alike ones are quicker (texts are filled up to the
            longest of a batch); rows come back in the order of the inputs all the same.
        probe: inputs whose prepared form is part of `identity`, so that another tokenizer or
            another way to resize is another backbone.
    """

    name: str
    module: torch.nn.Module
    prepare: Callable[[Sequence[object]], torch.Tensor]
    size: Callable[[object], int] | None = None
    probe: Sequence[object] = ()

    def features(
        self,
        inputs: Sequence[object],
        device: str | None = None,
        batch: int = BATCH,
        progress: Progress = ignore,
    ) -> Features:
        """float32 (len(inputs), d); rows do not depend on each other.

        device: None for a GPU where there is one, else the CPU.

        Raises `InputError` for no inputs, `OptionError` for another device, `BackboneError` for a
        module that gives something else than one finite vector an input.
        """
        if not len(inputs):
            raise InputError("no inputs: expected at least one to extract features of")
        place = usable_device(AUTO if device is None else device)
        module = self.module.eval().to(place)
        found = []
        order = self._order(inputs)
        with torch.inference_mode():
            for start in range(0, len(inputs), batch):
                chunk = [inputs[at] for at in order[start : start + batch]]
                given = module(self.prepare(chunk).to(place))
                found.append(self._pooled(given, len(chunk)))
                progress(len(chunk))
        features = np.empty((len(inputs), found[0].shape[1]), np.float32)
        features[order] = np.concatenate(found)
        return features

    def _order(self, inputs: Sequence[object]) -> list[int]:
        places = range(len(inputs))
        if self.size is None:
            return list(places)
        sizes = [self.size(value) for value in inputs]
        return sorted(places, key=sizes.__getitem__)

    def _pooled(self, given: object, expected: int) -> Features:
        if not isinstance(given, torch.Tensor) or given.ndim not in (2, 4):
            kind = tuple(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
            raise BackboneError(
                f"{self.name} gave {kind}: expected (batch, d) or (batch, d, height, width)"
            )
        pooled = given.mean((2, 3)) if given.ndim == 4 else given
        features = pooled.float().cpu().numpy()
        if len(features) != expected or not np.isfinite(features).all():
            raise BackboneError(f"{self.name} gave values that are not finite, or too few rows")
        return features

    def identity(self) -> str:
        """SHA-256 in hexadecimal of the name, the weights, and the probe as it is prepared: equal
        for equal backbones."""
        return self.digest(self.probe)

    def digest(self, inputs: Sequence[object]) -> str:
        """SHA-256 in hexadecimal of the name, the weights, and the inputs as they are prepared."""
        state = hashlib.sha256(self.name.encode() + b"\0")
        for name, tensor in sorted(self.module.state_dict().items()):
            state.update(name.encode() + b"\0")
            state.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        for chunk in _batches(inputs, BATCH):
            tensor = self.prepare(chunk).contiguous()
            state.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
            state.update(tensor.numpy().tobytes())
        return state.hexdigest()

    def cached(
        self,
        inputs: Sequence[object],
        folder: Path,
        device: str | None = None,
        batch: int = BATCH,
        progress: Progress = ignore,
    ) -> Features:
        """As `features`, from the folder's cache where it holds them, and kept there otherwise.

        In parts, so that what was interrupted goes on where it was. A damaged file is made anew.
        Raises `InputError` for a folder that cannot be used.
        """
        if not len(inputs):
            raise InputError("no inputs: expected at least one to extract features of")
        parts = [
            self._cached_part(part, folder, device, batch, progress)
            for part in _batches(inputs, PART)
        ]
        return np.concatenate(parts)

    def _cached_part(
        self,
        inputs: Sequence[object],
        folder: Path,
        device: str | None,
        batch: int,
        progress: Progress,
    ) -> Features:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / f"{self.digest(inputs)}.safetensors"
            if (kept := _read(path, len(inputs))) is not None:
                progress(len(inputs))
                return kept
            features = self.features(inputs, device, batch, progress)
            part = folder / f".{token_hex(8)}.part"
            save_file({"features": features}, part)
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{folder}: the cache cannot be used: {error}") from None
        return features


def _batches(inputs: Sequence[object], size: int) -> Iterator[Sequence[object]]:
    return (inputs[start : start + size] for start in range(0, len(inputs), size))


def _read(path: Path, rows: int) -> Features | None:
    try:
        features = load_file(path)["features"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if features.ndim != 2 or len(features) != rows or features.dtype != np.float32:
        return None
    return features
