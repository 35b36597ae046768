"""The verbs of `private-models` that query heads under encryption: hybrid, bundle, ask."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import numpy as np
import typer

from he_inference import terminal
from private_models import feature_files
from private_models.backbones import NAMES
from private_models.errors import InputError, OptionError
from private_models.verbs.options import Delta, Epsilon, HiddenDirections, Json

if TYPE_CHECKING:
    from private_models.hybrid import Client
    from private_models.hybrid.labelled_inputs import Columns, LabelledInputs

app = typer.Typer()

PUBLIC_ROWS = 10_000
Response = Annotated[str, typer.Option(help="private, or plain: quicker, and shows the head.")]
Device = Annotated[str, typer.Option(help="auto, cpu, or what torch knows.")]
Column = Annotated[str | None, typer.Option(help="Of a CSV file, that holds the texts.")]
LabelColumn = Annotated[str | None, typer.Option(help="Of the labels beside them.")]
BackboneName = Annotated[str | None, typer.Option(help=", ".join(NAMES))]


@app.command(epilog="Example: private-models hybrid --data mnist --epsilon 1 --output bundle")
def hybrid(
    data: Annotated[
        str,
        typer.Option(help="mnist, cifar10, a folder of class folders (or of train and test), CSV."),
    ],
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    public: Annotated[
        Path | None, typer.Option(help="Public inputs of the same kind, to whiten by.")
    ] = None,
    backbone: BackboneName = None,
    column: Column = None,
    label_column: LabelColumn = None,
    classes: Annotated[
        str | None, typer.Option(help="Every label of a CSV file that may occur, with commas.")
    ] = None,
    queries: Annotated[
        int, typer.Option(min=1, help="Asked one by one, beside the batches.")
    ] = 200,
    output: Annotated[Path | None, typer.Option(help="Folder for the bundle.")] = None,
    response: Response = "private",
    device: Device = "auto",
    hidden_directions: HiddenDirections = None,
    as_json: Json = False,
) -> None:
    """Fit a private head, serve it, query a test set encrypted: one table of all that costs.

    Features are kept in the platform's cache. Of mnist and cifar10, 10,000 training rows are taken
    as public. Every fifth row of a folder without train and test is kept for testing. Accuracies
    are measured on your rows and have no privacy themselves: they are for you.
    """
    from private_models.hybrid.bundle import check_place
    from private_models.hybrid.labelled_inputs import Columns
    from private_models.hybrid.trial import Wishes, trial
    from workloads.datasets import cache_folder

    checked = _response(response)
    if output is not None:
        check_place(output)
    with terminal.stages(as_json) as show:
        given = _labelled(data, public, backbone, Columns(column, label_column), classes)
        if hidden_directions is not None and given.public is None:
            raise OptionError("--hidden-directions: the layer is made of public inputs: --public")
        rows = given.rows(cache_folder() / "features", device, show)
        wishes = Wishes(
            epsilon,
            delta,
            min(queries, len(rows.test_inputs)),
            output,
            checked,
            device,
            hidden_directions,
        )
        found = trial(rows, given.backbone, wishes, show)
    values = {**found.to_dict(), "output": None if output is None else str(output)}
    saved = "" if output is None else f"\n{'bundle':<16} {output}; clients get {output / 'public'}"
    terminal.report(values, f"{found}{saved}", as_json)


@app.command(epilog="Example: private-models bundle head.safetensors --public x.npy -o bundle")
def bundle(
    head: Annotated[Path, typer.Argument(help="Head that `fit` or `pate` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    backbone: Annotated[str, typer.Option(help=", ".join(NAMES))] = NAMES[0],
    public: Annotated[
        Path | None, typer.Option(help="Public features by the backbone: .npy, .csv.")
    ] = None,
    feature_norm: Annotated[
        float | None, typer.Option(help="Or the norm that rows were clipped to.")
    ] = None,
    pixels: Annotated[
        int | None, typer.Option(help="Side of pictures: resized to 128; of digits, 28.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Word pieces that texts are cut to.")] = 256,
    response: Response = "private",
    precision: Annotated[float, typer.Option(help="Bits of an answer.")] = 10.0,
    no_privacy: Annotated[
        bool, typer.Option("--no-privacy", help="Take a head that promises none.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compile a head for encrypted queries; `he-inference serve` takes its single.program."""
    from private_models.backbones import catalogue
    from private_models.head import load_head
    from private_models.hybrid import build
    from private_models.hybrid.bundle import check_place

    check_place(output)
    loaded = load_head(head)
    examples = None if public is None else feature_files.read_features(public)
    made = build(
        loaded, catalogue.short_named(backbone, pixels, tokens), examples=examples,
        feature_norm=feature_norm, precision=precision, response=_response(response),
        no_privacy=no_privacy, device=device,
    )  # fmt: skip
    made.save(output)
    values = {"bundle": str(output), "version": made.public.version, "response": response,
              "backbone": made.public.backbone, "privacy": made.public.promise()}  # fmt: skip
    text = (
        f"{output}: for the server alone\n{output / 'public'}: for clients\n"
        f"backbone {made.public.backbone}\n{made.public.promise()}"
    )
    terminal.report(values, text, as_json)


@app.command(epilog="Example: private-models ask bundle/public cat.jpg --server https://host:8080")
def ask(
    public: Annotated[Path, typer.Argument(help="Public part of a bundle.")],
    given: Annotated[str, typer.Argument(help="A picture's file, or a text.")],
    server: Annotated[str, typer.Option(help="URL of `he-inference serve BUNDLE/single.program`.")],
    insecure_plain_http: Annotated[
        bool, typer.Option("--insecure-plain-http", help="Without TLS, beyond this machine.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask about one picture or text; only ciphertexts leave this machine."""
    from private_models.hybrid.client import STAGES, Client

    with Client(public, server, insecure_plain_http=insecure_plain_http) as client:
        answer = client.ask(_input(client, given))
        values = {
            "label": answer.label.item(), "scores": answer.scores.tolist(),
            "classes": client.classes.tolist(), "milliseconds": answer.milliseconds,
            "bytes_up": len(answer.query), "bytes_down": len(answer.answer),
            "privacy": client.public.promise(),
        }  # fmt: skip
    times = ", ".join(f"{stage} {answer.milliseconds[stage]:.1f} ms" for stage in STAGES)
    text = (
        f"{answer.label}\n{times}; {len(answer.query) / 1e3:.1f} kB up, "
        f"{len(answer.answer) / 1e3:.1f} kB down\ntraining rows: {client.public.promise()}"
    )
    terminal.report(values, text, as_json)


def _input(client: "Client", given: str) -> object:
    from private_models.picture_files import read_picture

    if client.kind == "text":
        return given
    if client.kind == "vector":
        raise OptionError("this bundle's backbone is a module of your own: use hybrid.Client")
    picture = read_picture(Path(given))
    return picture.convert("L") if client.kind == "digit" else picture


def _response(name: str) -> Literal["private", "plain"]:
    if name not in ("private", "plain"):
        raise OptionError(f"--response {name!r}: expected private or plain")
    return cast(Literal["private", "plain"], name)


def _labelled(
    data: str, public: Path | None, backbone: str | None, columns: "Columns", classes: str | None
) -> "LabelledInputs":
    from private_models.hybrid.labelled_inputs import of_files
    from workloads.datasets import DatasetError

    try:
        if data == "mnist":
            return _digits(_one_of(backbone, "orientations", "pixels"))
        if data == "cifar10":
            _one_of(backbone, "efficientnet-lite0")
            return _cifar()
    except DatasetError as error:
        raise InputError(str(error)) from None
    named = None if classes is None else [name.strip() for name in classes.split(",")]
    return of_files(Path(data), public, backbone, columns, named)


def _one_of(backbone: str | None, *fit: str) -> str:
    """The backbone, or the first of those that fit. Raises `OptionError` for another."""
    if backbone is not None and backbone not in fit:
        raise OptionError(f"--backbone {backbone!r}: for these data expected {' or '.join(fit)}")
    return backbone or fit[0]


def _digits(backbone: str) -> "LabelledInputs":
    from private_models.backbones import catalogue
    from private_models.hybrid.labelled_inputs import set_aside
    from workloads.datasets import mnist

    splits = mnist()
    train, test = ((list(part.images[:, 0]), part.labels) for part in (splits.train, splits.test))
    extractor = catalogue.short_named(backbone)
    return set_aside("MNIST", extractor, train, test, range(10), PUBLIC_ROWS)


def _cifar() -> "LabelledInputs":
    from PIL import Image

    from private_models.backbones import catalogue
    from private_models.hybrid.labelled_inputs import set_aside
    from workloads.cifar import CLASSES, cifar10

    splits, names = cifar10(), np.array(CLASSES)
    train, test = (
        (list(map(Image.fromarray, part.pixels)), names[part.labels])
        for part in (splits.train, splits.test)
    )
    return set_aside("CIFAR-10 (JPEG)", catalogue.efficientnet(), train, test, CLASSES, PUBLIC_ROWS)
