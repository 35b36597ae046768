"""Programs of all layouts, told apart by what their files say themselves."""

from collections.abc import Callable, Mapping
from pathlib import Path

from he_inference.batch_program import FORMAT as BATCHED
from he_inference.batch_program import BatchProgram, load_batch_program
from he_inference.checker import load_packed_program
from he_inference.coefficient_program import FORMAT as COEFFICIENTS
from he_inference.coefficient_program import CoefficientProgram, load_coefficient_program
from he_inference.errors import ModelFileError
from he_inference.program import Program
from he_inference.tensor_file import read_format

AnyProgram = Program | BatchProgram | CoefficientProgram

_READERS: Mapping[str, Callable[[str | Path], AnyProgram]] = {
    BATCHED: load_batch_program,
    COEFFICIENTS: load_coefficient_program,
}


def load_program(path: str | Path) -> AnyProgram:
    """Read and check a saved program. Raises `ModelFileError` for anything but a sound one."""
    if _first_byte(path) == b"{":
        raise ModelFileError(f"{path}: a signature? Expected the program, which compile wrote too")
    return _READERS.get(read_format(path), load_packed_program)(path)


def _first_byte(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(1)
    except OSError:
        return b""  # whoever reads it next says why
