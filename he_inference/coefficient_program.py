"""What a server of the coefficient layout does, as frozen data: integer weights and a signature."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from he_inference.coefficient_signature import CoefficientSignature
from he_inference.errors import HEError, ModelFileError
from he_inference.flooding import STATISTICAL_BITS, statistical_bits
from he_inference.parameters import Parameters
from he_inference.tensor_file import MALFORMED, read_tensors, write_tensors

FORMAT = "sottovoce-coefficient-program"
VERSION = 1
Integers = npt.NDArray[np.int64]

COMPONENTS = 2
"""Polynomials of an answer's ciphertext: nothing multiplies one by another."""
SHOWN = 1
"""Coefficients of c0 that an answer shows of every output."""


@dataclass(frozen=True, eq=False)
class CoefficientProgram:
    """For the server, which holds the weights; the signature is what clients get.

    weights: int64 (outputs, M). offset: int64 (outputs,), at the scale of answers.
    flooding_bits: log2 of how many integers the noise of private answers is drawn from; 0 for
        plain ones.
    """

    signature: CoefficientSignature
    weights: Integers
    offset: Integers
    flooding_bits: int

    @property
    def parameters(self) -> Parameters:
        return self.signature.parameters

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, for the server only: it holds the weights."""
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "signature": self.signature.to_bytes().decode(),
            "flooding_bits": str(self.flooding_bits),
        }
        small = np.abs(self.weights).max() < 1 << 24
        tensors = {
            "weights": self.weights.astype(np.float32 if small else np.float64),
            "offset": self.offset.astype(np.float64),
        }
        write_tensors(path, tensors, metadata)


def load_coefficient_program(path: str | Path) -> CoefficientProgram:
    """Read and check a saved program. Raises `ModelFileError` for anything but a sound one."""
    metadata, tensors = read_tensors(path, FORMAT, VERSION)
    try:
        program = CoefficientProgram(
            CoefficientSignature.from_bytes(metadata["signature"].encode()),
            _whole(tensors["weights"]),
            _whole(tensors["offset"]),
            int(metadata["flooding_bits"]),
        )
        check(program)
        return program
    except MALFORMED as error:
        raise ModelFileError(f"{path}: the program is malformed: {error!r:.120}") from None
    except HEError as error:
        raise ModelFileError(f"{path}: {error}") from None


def _whole(values: npt.NDArray[np.float64]) -> Integers:
    if not (np.abs(values) < 2.0**53).all():  # which NaN is not
        raise ValueError("numbers that are not integers of at most 53 bits")
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise ValueError("weights that are not whole")
    return whole


def check(program: CoefficientProgram) -> None:
    """Whether weights and signature belong together, and answers are hidden as it promises.

    Raises `ModelFileError`.
    """
    signature, parameters = program.signature, program.parameters
    expected = (signature.outputs, len(signature.monomials))
    if program.weights.shape != expected or program.offset.shape != expected[:1]:
        raise ModelFileError(
            f"weights {program.weights.shape} and offset {program.offset.shape}, where the "
            f"signature promises {expected}"
        )
    half = parameters.data_primes[0] // 2
    if max(np.abs(program.weights).max(), np.abs(program.offset).max()) > half:
        raise ModelFileError(f"weights or offsets beyond half the modulus, {half}")
    if (program.flooding_bits != 0) != signature.private:
        raise ModelFileError(
            f"flooding of {program.flooding_bits} bits, where the signature promises "
            f"{signature.response} answers"
        )
    if signature.private:
        _check_flooding(program)


def _check_flooding(program: CoefficientProgram) -> None:
    signature, bits = program.signature, program.flooding_bits
    if not 0 < bits <= program.parameters.total_bits:
        raise ModelFileError(f"flooding of {bits} bits is larger than the modulus")
    hidden = statistical_bits(program.parameters, COMPONENTS, signature.outputs, bits, SHOWN)
    if hidden < max(STATISTICAL_BITS, signature.statistical_bits - 1e-6):
        raise ModelFileError(
            f"flooding hides {hidden:.1f} bits, expected at least {STATISTICAL_BITS} and the "
            f"{signature.statistical_bits:.1f} of the signature: compile the network again"
        )
