"""`private-models`: train a head with differential privacy, account for it, attack it.

features ─▸ fit ─▸ predict
             └─▸ audit          account: what is it worth, what does it cost?
"""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer

from he_inference import terminal, user_files
from he_inference.errors import HEError
from private_models import accounting, audit, feature_files
from private_models.accounting import Budget, PoissonSteps
from private_models.classifier import PrivateClassifier
from private_models.errors import InputError, OptionError, PrivacyError
from private_models.features import ArrayRows, check_classes, class_indices
from private_models.head import PrivateHead, load_head
from private_models.solvers.gradient import FeatureCovariance
from private_models.training import SOLVERS, Options, train

USER_ERROR = 2
REFUTED = 1
INTERRUPTED = 130
_Misuse = cast(type[Exception], typer.BadParameter.__mro__[2])
"""click's ClickException, or that of the copy of click which newer releases of typer hold."""

app = typer.Typer(
    help="Train a head that provably forgets its training data.",
    epilog="Try: private-models account --epsilon 1 --delta 1e-5",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
Epsilon = Annotated[float, typer.Option(help="Privacy budget, 0.001 to 100.")]
Delta = Annotated[float, typer.Option(help="Well below 1 / rows.")]
RelationName = Annotated[str, typer.Option(help="add-remove or replace.")]
FeaturesFile = Annotated[Path, typer.Argument(help="Rows of numbers: .npy, .csv, IDX.")]
LabelsFile = Annotated[Path, typer.Argument(help="One label a row: .npy, .csv, IDX.")]


@app.command(epilog="Example: private-models features photos/ -o features.npy")
def features(
    pictures: Annotated[Path, typer.Argument(help="Folder of pictures, or of one a class.")],
    output: Output,
    labels: Annotated[Path | None, typer.Option(help="File for the folders' names.")] = None,
    pixels: Annotated[int, typer.Option(help="Side that pictures are resized to.")] = 128,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep features in.")] = None,
    as_json: Json = False,
) -> None:
    """Extract features of pictures with EfficientNet-Lite0, a public backbone."""
    from private_models.backbones.efficientnet import efficientnet_lite0

    for path in (output, labels):
        if path is not None:
            user_files.check_output(path, pictures)
    images, names = feature_files.read_picture_folder(pictures)
    if labels is not None and names is None:
        raise InputError(f"{pictures}: no folder for each class, so there are no labels to write")
    backbone = efficientnet_lite0(pixels)
    with terminal.bar(as_json, "pictures") as progress:
        task = progress.add_task("extracting features", total=len(images))

        def show(done: int) -> None:
            progress.advance(task, done)

        found = (
            backbone.features(images, progress=show)
            if cache is None
            else backbone.cached(images, cache, progress=show)
        )
    _write_array(output, found)
    if labels is not None:
        _write_array(labels, np.array(names))
    values = {"features": str(output), "rows": len(found), "columns": found.shape[1]}
    terminal.report(values, f"{output}: {len(found)} rows of {found.shape[1]} features", as_json)


@app.command(
    epilog="Example: private-models fit features.npy labels.npy --classes 0,1,2 -o head.safetensors"
)
def fit(
    rows: FeaturesFile,
    labels: LabelsFile,
    output: Output,
    classes: Annotated[str, typer.Option(help="Every label that may occur, with commas.")],
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    solver: Annotated[str, typer.Option(help=", ".join(SOLVERS))] = "fc",
    feature_norm: Annotated[float, typer.Option(help="Rows are clipped to it.")] = 1.0,
    public: Annotated[Path | None, typer.Option(help="Public features, to whiten by.")] = None,
    relation: RelationName = "add-remove",
    count: Annotated[int | None, typer.Option(help="Rows there are, if that is public.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or what torch knows.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Train a head with differential privacy; print what it promises."""
    user_files.check_output(output, rows, labels, *([] if public is None else [public]))
    matrix, names = feature_files.read_features(rows), feature_files.read_labels(labels)
    head = PrivateClassifier(
        epsilon, delta, cast(Any, solver), feature_norm,
        None if public is None else feature_files.read_features(public),
        cast(Any, relation), _classes(classes, names), count, device=device,
    )  # fmt: skip
    with terminal.bar(as_json, "steps") as progress:
        task = progress.add_task("checking rows", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

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
    relation: RelationName = "add-remove",
    as_json: Json = False,
) -> None:
    """What epsilon is this noise, or what noise is this epsilon?

    A noise multiplier is standard deviation / sensitivity, the latter under the relation that is
    asked about; for Poisson batches it is standard deviation / clip norm of one example.
    """
    if (epsilon is None) == (not noise_multiplier):
        raise OptionError("give either --epsilon or --noise-multiplier")
    accounting.check_delta(delta)
    multipliers = list(noise_multiplier or [])
    if probability is not None and len(multipliers) > 1:
        raise OptionError(
            "--probability takes one --noise-multiplier: composed ones are full batch"
        )
    asked = PoissonSteps(1.0, 1.0 if probability is None else probability, steps)
    name = cast(accounting.Relation, relation)
    budget = Budget(1.0 if epsilon is None else epsilon, delta, name)
    values: dict[str, Any] = {"delta": delta, "relation": relation, "steps": steps}
    if epsilon is not None and probability is None:
        found = math.sqrt(steps) / accounting.gaussian_mu(epsilon, delta)
        values |= {"epsilon": epsilon, "noise_multiplier": found, "by": "exact closed form"}
    elif epsilon is not None:
        found = accounting.poisson_noise_multiplier(budget, asked.probability, steps)
        values |= {"epsilon": epsilon, "noise_multiplier": found, "by": "PLD"}
    elif probability is None:
        mu = accounting.composed_mu(multipliers) * math.sqrt(steps)
        found = accounting.gaussian_epsilon(mu, delta)
        values |= {"epsilon": found, "noise_multiplier": multipliers, "by": "exact closed form"}
    else:
        poisson = PoissonSteps(multipliers[0], probability, steps)
        found = accounting.poisson_epsilon(poisson, delta, name)
        values |= {"epsilon": found, "noise_multiplier": multipliers, "by": "PLD"}
    values |= {"probability": probability}
    noise = values["noise_multiplier"]
    shown = f"{noise:.6g}" if isinstance(noise, float) else ", ".join(f"{z:g}" for z in noise)
    text = (
        f"noise multiplier {shown}, {steps} step(s){_of(probability)}: epsilon "
        f"{values['epsilon']:.6g} at delta {delta:g}, {relation} neighbours, by {values['by']}"
    )
    terminal.report(values, text, as_json)


def _of(probability: float | None) -> str:
    return "" if probability is None else f" of Poisson batches with q = {probability:g}"


@app.command(name="audit", epilog="Example: private-models audit --epsilon 1 --runs 2000")
def audit_(
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    solver: Annotated[str, typer.Option(help="fc, least_squares or newton")] = "fc",
    runs: Annotated[int, typer.Option(help="Fits with a canary, and as many without.")] = 1000,
    members: Annotated[
        Path | None, typer.Option(help="Features to attack a head on; needs --member-labels.")
    ] = None,
    member_labels: Annotated[Path | None, typer.Option(help="Their labels.")] = None,
    shadows: Annotated[int, typer.Option(help="Shadow heads of the membership attack.")] = 64,
    as_json: Json = False,
) -> None:
    """Attack: thousands of tiny fits, and, with --members, membership inference.

    Exit code 1 if the claim was refuted. A low bound is no reassurance.
    """
    if (members is None) != (member_labels is None):
        raise OptionError("--members and --member-labels go together")
    if solver not in SOLVERS or solver == "sgd":
        raise OptionError(f"--solver {solver!r}: expected fc, least_squares or newton")
    with terminal.bar(as_json, "fits") as progress:
        task = progress.add_task("fits with and without a canary", total=runs)
        bound = audit.audit_mechanism(
            _tiny(Budget(epsilon, delta), solver), 1.0, runs,
            progress=lambda done: progress.update(task, completed=done),
        )  # fmt: skip
    values: dict[str, Any] = {"claimed": epsilon, "found_at_least": bound.found, "runs": runs}
    values |= {"confidence": bound.confidence, "refuted": bound.is_broken, "note": bound.note}
    lines = [
        f"claimed epsilon {epsilon:g}; {2 * runs} fits prove that it is at least {bound.found:.3f}",
        "REFUTED: the claim does not hold" if bound.is_broken else f"not refuted ({bound.note})",
    ]
    if members is not None and member_labels is not None:
        found = _membership(Budget(epsilon, delta), members, member_labels, shadows, as_json)
        values["membership"] = found
        lines.append(
            f"membership: true positives {found['tpr_at_0.1%']:.2%} at 0.1 % false positives, "
            f"{found['tpr_at_1%']:.2%} at 1 %; area {found['area']:.3f} ({bound.note})"
        )
    terminal.report(values, "\n".join(lines), as_json)
    if bound.is_broken:
        raise typer.Exit(REFUTED)


def _tiny(budget: Budget, solver: str) -> audit.Fit:
    settings = FeatureCovariance(2, 1.0) if solver == "fc" else None

    def fit(matrix: Any, labels: Any) -> PrivateHead:
        options = Options(budget, np.arange(3), cast(Any, solver), settings, rows=30, bias=0.0)
        return train(ArrayRows(matrix, labels), options)

    return fit


def _membership(
    budget: Budget, members: Path, labels: Path, shadows: int, as_json: bool
) -> dict[str, float]:
    matrix, names = feature_files.read_features(members), feature_files.read_labels(labels)
    classes = check_classes(np.unique(names))
    indices = class_indices(names, classes)

    def fit(rows: Any, chosen: Any) -> PrivateHead:
        options = Options(budget, np.arange(len(classes)), rows=max(1, len(matrix) // 2))
        return train(ArrayRows(rows, chosen), options)

    with terminal.bar(as_json, "heads") as progress:
        task = progress.add_task("shadow heads", total=shadows + 1)
        found = audit.membership(
            fit, np.asarray(matrix, np.float64), indices, shadows,
            lambda done: progress.update(task, completed=done),
        )  # fmt: skip
    return {
        "tpr_at_0.1%": found.true_positive_at(0.001),
        "tpr_at_1%": found.true_positive_at(0.01),
        "area": found.area,
    }


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


def _complain(text: str) -> None:
    line = f"private-models: {' '.join(text.split())}"
    terminal.notes.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _misuse(error: Any) -> str:
    """The line for a command line that does not parse."""
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context else ""
    return f"{error.format_message().rstrip('.')}{hint}"


def _run(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    try:
        code = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        terminal.forget_output()
        return 1
    except (PrivacyError, HEError) as error:
        _complain(str(error))
    except _Misuse as error:
        if str(error):  # without any verb typer has shown the help, and says no more
            _complain(_misuse(error))
    except ModuleNotFoundError as error:
        _complain(
            f"this verb needs {error.name or 'a package'}: pip install 'sottovoce[heads,backbones]'"
        )
    except OSError as error:
        terminal.forget_output()
        _complain(str(error))
    return USER_ERROR


def main() -> None:
    """Run a verb; a user's mistake is one line on stderr and exit code 2."""
    terminal.show_what_can_be_shown(terminal.out, sys.stdout)
    terminal.show_what_can_be_shown(terminal.notes, sys.stderr)
    sys.exit(_run())


if __name__ == "__main__":
    main()
