"""Signatures of all layouts, told apart by what they say themselves."""

from collections.abc import Callable, Mapping
from pathlib import Path

from he_inference.batch_signature import LAYOUT as BATCHED
from he_inference.batch_signature import BatchSignature
from he_inference.coefficient_signature import LAYOUT as COEFFICIENTS
from he_inference.coefficient_signature import CoefficientSignature
from he_inference.errors import ModelFileError
from he_inference.signature import LAYOUT as PACKED
from he_inference.signature import MAX_BYTES, Signature, layout_of

AnySignature = Signature | BatchSignature | CoefficientSignature

_READERS: Mapping[str, Callable[[bytes], AnySignature]] = {
    PACKED: Signature.from_bytes,
    BATCHED: BatchSignature.from_bytes,
    COEFFICIENTS: CoefficientSignature.from_bytes,
}


def read_signature(data: bytes) -> AnySignature:
    """Read and check a signature. Raises `ModelFileError` or `ParameterError`."""
    layout = layout_of(data)
    if layout not in _READERS:
        raise ModelFileError(
            f"a signature of the {layout[:40]!r} layout: this release knows {', '.join(_READERS)}"
        )
    return _READERS[layout](data)


def load_signature(path: str | Path) -> AnySignature:
    """Read and check a saved signature. Raises `ModelFileError` or `ParameterError`."""
    try:
        with Path(path).open("rb") as file:
            return read_signature(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
