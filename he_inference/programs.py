"""Programs of either layout, told apart by what their files say themselves."""

from pathlib import Path

from he_inference.batch_program import FORMAT as BATCHED
from he_inference.batch_program import BatchProgram, load_batch_program
from he_inference.checker import load_packed_program
from he_inference.errors import ModelFileError
from he_inference.program import Program
from he_inference.tensor_file import read_format

AnyProgram = Program | BatchProgram


def load_program(path: str | Path) -> AnyProgram:
    """Read and check a saved program. Raises `ModelFileError` for anything but a sound one."""
    if _first_byte(path) == b"{":
        raise ModelFileError(f"{path}: a signature? Expected the program, which compile wrote too")
    if read_format(path) == BATCHED:
        return load_batch_program(path)
    return load_packed_program(path)


def _first_byte(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(1)
    except OSError:
        return b""  # whoever reads it next says why
