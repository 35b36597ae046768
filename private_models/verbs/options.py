"""Options and arguments that several verbs of `private-models` have."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
Epsilon = Annotated[float, typer.Option(help="Privacy budget, 0.001 to 100.")]
Delta = Annotated[float, typer.Option(help="Well below 1 / rows.")]
RelationName = Annotated[str, typer.Option(help="add-remove or replace.")]
FeaturesFile = Annotated[Path, typer.Argument(help="Rows of numbers: .npy, .csv, IDX.")]
LabelsFile = Annotated[Path, typer.Argument(help="One label a row: .npy, .csv, IDX.")]
PublicFile = Annotated[Path | None, typer.Option(help="Public features, to whiten by.")]
HiddenDirections = Annotated[
    int | None,
    typer.Option(
        min=1, max=89, help="A hidden layer of their products; for pixels. Needs public features."
    ),
]
Classes = Annotated[str, typer.Option(help="Every label that may occur, with commas.")]
