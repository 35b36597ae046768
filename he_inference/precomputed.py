"""What a server of the coefficient layout makes of its weights, made once and kept in a file.

    ready = precompute(program, "cuda")        # weights → polynomials → NTT domain
    ready.save("head.precomputed")             # beside the program: it holds the weights as well
    Server(program, precomputed=load_precomputed("head.precomputed", program))

The file is mapped and not read: what no query needs never comes into memory.
"""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from he_inference.backend.residues.inner_products import transformed
from he_inference.coefficient_program import CoefficientProgram
from he_inference.errors import ModelFileError, ServiceError
from he_inference.processors import CPU
from he_inference.programs import AnyProgram
from he_inference.tensor_file import map_tensor, write_tensors

FORMAT = "sottovoce-precomputed-weights"
VERSION = 1
_NAME = "weights"


@dataclass(frozen=True, eq=False)
class Precomputed:
    """Weight polynomials of one program in the NTT domain; for the server only.

    identity: of the program's signature. weights: float64 (answers, queries, N), within half the
    prime of zero. device: where they were made. milliseconds: how long that took.
    """

    identity: bytes
    weights: npt.NDArray[np.float64]
    device: str
    milliseconds: float

    def check(self, program: CoefficientProgram) -> None:
        """Raises `ServiceError` where this was made of another program."""
        if self.identity != program.signature.identity:
            raise ServiceError(
                f"weights were precomputed of program {self.identity.hex()[:16]}…, this is "
                f"{program.signature.identity.hex()[:16]}…: precompute them again"
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, for the server only. Raises `ModelFileError`."""
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "identity": self.identity.hex(),
            "device": self.device,
            "milliseconds": repr(self.milliseconds),
        }
        write_tensors(path, {_NAME: np.ascontiguousarray(self.weights)}, metadata)


def precompute(program: AnyProgram, device: str = CPU) -> Precomputed:
    """Transform a program's weights, on "cpu" or a device that torch has.

    Raises `ServiceError` for another layout, whose weights need no transform or are small, and for
    a device that is not there.
    """
    if not isinstance(program, CoefficientProgram):
        raise ServiceError("weights are precomputed for programs of the coefficient layout only")
    begun, signature = perf_counter(), program.signature
    polynomials = signature.layout.weights(program.weights)
    prime = signature.parameters.data_primes[0]
    weights = (
        transformed(polynomials, prime) if device == CPU else _by_torch(polynomials, prime, device)
    )
    return Precomputed(signature.identity, weights, device, (perf_counter() - begun) * 1e3)


def _by_torch(
    polynomials: npt.NDArray[np.int64], prime: int, device: str
) -> npt.NDArray[np.float64]:
    try:
        from he_inference.backend.residues.torch_transform import torch_transformed
    except ModuleNotFoundError:
        raise ServiceError(f"device {device!r} needs torch: pip install 'sottovoce[all]'") from None
    return torch_transformed(polynomials, prime, device)


def load_precomputed(path: str | Path, program: CoefficientProgram) -> Precomputed:
    """Map a saved file; nothing is read until a query needs it.

    Raises `ModelFileError` for anything but such a file, and `ServiceError` where it was made of
    another program.
    """
    metadata, weights = map_tensor(path, _NAME, FORMAT, VERSION)
    layout = program.signature.layout
    expected = (layout.answers, layout.queries, layout.degree)
    try:
        identity = bytes.fromhex(metadata["identity"])
        ready = Precomputed(identity, weights, metadata["device"], float(metadata["milliseconds"]))
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"{path}: malformed ({error!r:.100}): precompute it again") from None
    ready.check(program)
    if weights.shape != expected:
        raise ModelFileError(f"{path}: weights {weights.shape}, expected {expected}")
    return ready
