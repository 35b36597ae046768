"""Options and arguments that several verbs of `he-inference` have, and numbers within bounds."""

from pathlib import Path
from typing import Annotated

import typer

from he_inference.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
NetworkFile = Annotated[Path, typer.Argument(help="Network saved by `train` or Network.save.")]
ProgramFile = Annotated[Path, typer.Argument(help="Program that `compile` wrote.")]
SignatureFile = Annotated[Path, typer.Argument(help="Signature that `compile` wrote.")]
SecretFile = Annotated[Path, typer.Argument(help="Secret key that `keygen` wrote.")]
Images = Annotated[
    list[Path], typer.Argument(help="Pictures (png, …), .npy arrays, IDX files, or folders.")
]
Optimise = Annotated[
    str, typer.Option(help="For single answers: latency, bytes, keys, or balanced between them.")
]
Precision = Annotated[float, typer.Option(help="Bits of the answers to hold.")]
Examples = Annotated[
    Path | None, typer.Option(help="Typical queries, to judge magnitudes by; not kept.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]


def check_range(option: str, value: int, low: int, high: int) -> None:
    """Raises `InputError`, which names the option."""
    if not low <= value <= high:
        raise InputError(f"{option} {value}: expected {low} to {high}")
