"""The verbs of `private-models` that make heads and account for them; each loads what it runs."""

import os
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer

from he_inference import terminal, user_files
from private_models import feature_files
from private_models.backbones import NAMES
from private_models.errors import InputError, OptionError
from private_models.solvers import SOLVERS
from private_models.verbs.options import (
    Classes,
    Delta,
    Epsilon,
    FeaturesFile,
    HiddenDirections,
    Json,
    LabelsFile,
    Output,
    PublicFile,
    RelationName,
)

app = typer.Typer()


@app.command(epilog="Example: private-models features photos/ -o features.npy")
def features(
    inputs: Annotated[
        Path,
        typer.Argument(
            help="Pictures: folder, one a class, IDX. Texts: CSV, folder of .txt files."
        ),
    ],
    output: Output,
    backbone: Annotated[str, typer.Option(help=", ".join(NAMES))] = NAMES[0],
    labels: Annotated[Path | None, typer.Option(help="File for folders' names, or labels.")] = None,
    column: Annotated[str | None, typer.Option(help="Of a CSV file that holds the texts.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of the labels beside them.")] = None,
    pixels: Annotated[
        int | None, typer.Option(help="Side of pictures: resized to 128; of digits, 28.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Word pieces that texts are cut to.")] = 256,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep features in.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
    as_json: Json = False,
) -> None:
    """Extract features of pictures or texts with a public backbone."""
    from private_models.backbones import catalogue
    from private_models.inputs import read_inputs

    for path in (output, labels):
        if path is not None:
            user_files.check_output(path, inputs)
    texts = backbone == "minilm"
    given, names = read_inputs(inputs, texts, column, label_column)
    if labels is not None and names is None:
        raise InputError(f"{inputs}: neither a folder for each class nor --label-column, so there "
                         "are no labels to write")  # fmt: skip
    extractor = catalogue.short_named(backbone, pixels, tokens)
    with terminal.bar(as_json, "inputs") as progress:
        task = progress.add_task("extracting features", total=len(given))

        def show(done: int) -> None:
            progress.advance(task, done)

        found = (
            extractor.features(given, device, progress=show)
            if cache is None
            else extractor.cached(given, cache, device, progress=show)
        )
    _write_array(output, found)
    if labels is not None:
        _write_array(labels, np.array(names))
    values = {"features": str(output), "rows": len(found), "columns": found.shape[1],
              "backbone": extractor.name}  # fmt: skip
    text = f"{output}: {len(found)} rows of {found.shape[1]} features by {extractor.name}"
    terminal.report(values, text, as_json)


@app.command(
    epilog="Example: private-models fit features.npy labels.npy --classes 0,1,2 -o head.safetensors"
)
def fit(
    rows: FeaturesFile,
    labels: LabelsFile,
    output: Output,
    classes: Classes,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    solver: Annotated[str, typer.Option(help=", ".join(SOLVERS))] = "fc",
    feature_norm: Annotated[float, typer.Option(help="Rows are clipped to it.")] = 1.0,
    public: PublicFile = None,
    relation: RelationName = "add-remove",
    count: Annotated[int | None, typer.Option(help="Rows there are, if that is public.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or what torch knows.")] = "cpu",
    hidden_directions: HiddenDirections = None,
    as_json: Json = False,
) -> None:
    """Train a head with differential privacy; print what it promises."""
    from private_models.classifier import PrivateClassifier

    user_files.check_output(output, rows, labels, *([] if public is None else [public]))
    matrix, names = feature_files.read_features(rows), feature_files.read_labels(labels)
    head = PrivateClassifier(
        epsilon, delta, cast(Any, solver), feature_norm,
        None if public is None else feature_files.read_features(public),
        cast(Any, relation), _classes(classes, names), count, device=device,
        hidden_directions=hidden_directions,
    )  # fmt: skip
    with terminal.stages(as_json) as show:
        head.fit(matrix, names, progress=show)
    head.head_.save(output.resolve())
    values = {"head": str(output), **head.statement_.to_dict()}
    terminal.report(values, f"{output}\n{head.statement_}", as_json)


@app.command(epilog="Example: private-models predict head.safetensors new.npy --labels truth.npy")
def predict(
    head: Annotated[Path, typer.Argument(help="Head that `fit` wrote.")],
    rows: FeaturesFile,
    labels: Annotated[Path | None, typer.Option(help="True labels, for the accuracy.")] = None,
    as_json: Json = False,
) -> None:
    """Predict a label for every row."""
    from private_models.head import load_head

    loaded = load_head(head)
    found = loaded.predict(feature_files.read_features(rows))
    values: dict[str, Any] = {"labels": found.tolist()}
    lines = [str(label) for label in found[:20]]
    if len(found) > 20:
        lines.append(f"… and {len(found) - 20} more (all of them with --json)")
    if labels is not None:
        truth = feature_files.read_labels(labels)
        if len(truth) != len(found):
            raise InputError(f"{labels}: {len(truth)} labels for {len(found)} rows")
        values["accuracy"] = float((truth == found).mean())
        lines.append(f"accuracy {values['accuracy']:.2%}")
    terminal.report(values, "\n".join(lines), as_json)


@app.command(
    epilog="Example: private-models pate features.npy labels.npy public.npy --classes 0,1 -o s.head"
)
def pate(
    rows: FeaturesFile,
    labels: LabelsFile,
    public: Annotated[Path, typer.Argument(help="Unlabelled public features to ask about.")],
    output: Output,
    classes: Classes,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    teachers: Annotated[int, typer.Option(help="Disjoint parts of the private rows.")] = 100,
    answers: Annotated[int | None, typer.Option(help="At most; default: by the budget.")] = None,
    threshold: Annotated[float, typer.Option(help="Share of teachers that must agree.")] = 0.5,
    data_dependent: Annotated[
        bool, typer.Option("--data-dependent", help="Publish what these votes cost as well.")
    ] = False,
    relation: RelationName = "add-remove",
    as_json: Json = False,
) -> None:
    """Train a student on noisy votes of teachers; print what it promises."""
    from private_models.accounting import Budget, Relation
    from private_models.features import ArrayRows, check_classes, class_indices
    from private_models.pate.ensemble import PateOptions, train_student

    user_files.check_output(output, rows, labels, public)
    matrix, names = feature_files.read_features(rows), feature_files.read_labels(labels)
    chosen = check_classes(_classes(classes, names))
    options = PateOptions(
        Budget(epsilon, delta, cast(Relation, relation)), chosen, teachers, answers, threshold,
        data_dependent=data_dependent,
    )  # fmt: skip
    private = ArrayRows(matrix, class_indices(names, chosen))
    with terminal.stages(as_json) as show:
        student = train_student(
            private, feature_files.read_features(public), options, progress=show
        )
    student.save(output.resolve())
    values = {"head": str(output), **student.statement.to_dict()}
    terminal.report(values, f"{output}\n{student.statement}", as_json)


@app.command(epilog="Example: private-models account --noise-multiplier 4 --steps 10 --delta 1e-5")
def account(
    delta: Delta = 1e-5,
    epsilon: Annotated[float | None, typer.Option(help="Ask for the noise that keeps it.")] = None,
    noise_multiplier: Annotated[
        list[float] | None, typer.Option(help="Ask for epsilon; several are composed.")
    ] = None,
    steps: Annotated[int, typer.Option(help="How many times each release is made.")] = 1,
    probability: Annotated[
        float | None, typer.Option(help="Of a Poisson sample; without it, full batch.")
    ] = None,
    beside: Annotated[
        list[float] | None,
        typer.Option(help="Noise multiplier of a full-batch release made once beside; several."),
    ] = None,
    relation: RelationName = "add-remove",
    as_json: Json = False,
) -> None:
    """What epsilon is this noise, or what noise is this epsilon?

    A noise multiplier is standard deviation / sensitivity, the latter under the relation that is
    asked about; for Poisson batches it is standard deviation / clip norm of one example.
    """
    from private_models import questions
    from private_models.accounting import Budget, Relation, check_delta

    if (epsilon is None) == (not noise_multiplier):
        raise OptionError("give either --epsilon or --noise-multiplier")
    check_delta(delta)
    name = cast(Relation, relation)
    budget = Budget(1.0 if epsilon is None else epsilon, delta, name)
    made = questions.Releases(steps, probability, tuple(beside or []))
    multipliers = list(noise_multiplier or [])
    if epsilon is None:
        found, how = questions.epsilon_of(made, multipliers, delta, name)
        values: dict[str, Any] = {"epsilon": found, "noise_multiplier": multipliers}
    else:
        found, how = questions.noise_for(made, budget)
        values, multipliers = {"epsilon": epsilon, "noise_multiplier": found}, [found]
    values |= {"by": how, "delta": delta, "relation": relation, "steps": steps,
               "probability": probability, "beside": list(made.beside)}  # fmt: skip
    shown = ", ".join(f"{z:.6g}" for z in multipliers)
    batches = "" if probability is None else f" of Poisson batches with q = {probability:g}"
    others = "".join(f", {z:g}" for z in made.beside)
    text = (
        f"noise multiplier {shown}, {steps} step(s){batches}"
        f"{f' beside{others[1:]}' if others else ''}: epsilon {values['epsilon']:.6g} at delta "
        f"{delta:g}, {relation} neighbours, by {how}"
    )
    terminal.report(values, text, as_json)


def _classes(given: str, labels: Any) -> list[Any]:
    """What stands between the commas, as numbers where the labels are numbers."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if labels.dtype.kind in "US":
        return list(names)
    try:
        return [int(name) for name in names]
    except ValueError:
        raise OptionError(
            f"--classes {given!r}: the labels are numbers, so expected numbers and commas"
        ) from None


def _write_array(path: Path, array: Any) -> None:
    """All of it or nothing, as an .npy file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            np.save(file, array, allow_pickle=False)
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
