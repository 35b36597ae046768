"""Signatures of either layout, told apart by what they say themselves."""

from pathlib import Path

from he_inference.batch_signature import LAYOUT as BATCHED
from he_inference.batch_signature import BatchSignature
from he_inference.errors import ModelFileError
from he_inference.signature import LAYOUT as PACKED
from he_inference.signature import MAX_BYTES, Signature, layout_of

AnySignature = Signature | BatchSignature


def read_signature(data: bytes) -> AnySignature:
    """Read and check a signature. Raises `ModelFileError` or `ParameterError`."""
    layout = layout_of(data)
    if layout == PACKED:
        return Signature.from_bytes(data)
    if layout == BATCHED:
        return BatchSignature.from_bytes(data)
    raise ModelFileError(
        f"a signature of the {layout[:40]!r} layout: this release knows {PACKED} and {BATCHED}"
    )


def load_signature(path: str | Path) -> AnySignature:
    """Read and check a saved signature. Raises `ModelFileError` or `ParameterError`."""
    try:
        with Path(path).open("rb") as file:
            return read_signature(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
