"""The verbs of `private-models` that query heads under encryption: hybrid, bundle, ask."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image

from he_inference import terminal
from private_models import feature_files
from private_models.backbones import catalogue
from private_models.backbones.extraction import Backbone
from private_models.errors import InputError, OptionError
from private_models.head import load_head
from private_models.hybrid.building import build
from private_models.hybrid.client import STAGES, Client
from private_models.hybrid.trial import Rows, Wishes, trial
from private_models.inputs import read_inputs
from workloads.cifar import CLASSES, cifar10
from workloads.datasets import DatasetError, cache_folder, mnist

app = typer.Typer()

PUBLIC_ROWS = 10_000
_TEST_EVERY = 5
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Response = Annotated[str, typer.Option(help="private, or plain: quicker, and shows the head.")]
Device = Annotated[str, typer.Option(help="auto, cpu, or what torch knows.")]
Column = Annotated[str | None, typer.Option(help="Of a CSV file, that holds the texts.")]
LabelColumn = Annotated[str | None, typer.Option(help="Of the labels beside them.")]
BackboneName = Annotated[str | None, typer.Option(help=", ".join(catalogue.NAMES))]


@app.command(epilog="Example: private-models hybrid --data mnist --epsilon 1 --output bundle")
def hybrid(
    data: Annotated[
        str,
        typer.Option(help="mnist, cifar10, a folder of class folders (or of train and test), CSV."),
    ],
    epsilon: Annotated[float, typer.Option(help="Privacy budget, 0.001 to 100.")] = 1.0,
    delta: Annotated[float, typer.Option(help="Well below 1 / rows.")] = 1e-5,
    public: Annotated[
        Path | None, typer.Option(help="Public inputs of the same kind, to whiten by.")
    ] = None,
    backbone: BackboneName = None,
    column: Column = None,
    label_column: LabelColumn = None,
    classes: Annotated[
        str | None, typer.Option(help="Every label of a CSV file that may occur, with commas.")
    ] = None,
    queries: Annotated[int, typer.Option(help="Asked one by one, beside the batches.")] = 200,
    output: Annotated[Path | None, typer.Option(help="Folder for the bundle.")] = None,
    response: Response = "private",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fit a private head, serve it, query a test set encrypted: one table of all that costs.

    Features are kept in the platform's cache. Of mnist and cifar10, 10,000 training rows are taken
    as public. Every fifth row of a folder without train and test is kept for testing. Accuracies
    are measured on your rows and have no privacy themselves: they are for you.
    """
    checked = _response(response)
    with terminal.stages(as_json) as show:
        given = _given(data, public, backbone, column, label_column, classes)
        rows = _rows(given, device, show)
        wishes = Wishes(
            epsilon, delta, min(queries, len(rows.test_inputs)), output, checked, device
        )
        found = trial(rows, given.backbone, wishes, show)
    values = {**found.to_dict(), "output": None if output is None else str(output)}
    saved = "" if output is None else f"\n{'bundle':<16} {output}; clients get {output / 'public'}"
    terminal.report(values, f"{found}{saved}", as_json)


@app.command(epilog="Example: private-models bundle head.safetensors --public x.npy -o bundle")
def bundle(
    head: Annotated[Path, typer.Argument(help="Head that `fit` or `pate` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    backbone: Annotated[str, typer.Option(help=", ".join(catalogue.NAMES))] = catalogue.NAMES[0],
    public: Annotated[
        Path | None, typer.Option(help="Public features by the backbone: .npy, .csv.")
    ] = None,
    feature_norm: Annotated[
        float | None, typer.Option(help="Or the norm that rows were clipped to.")
    ] = None,
    pixels: Annotated[int, typer.Option(help="Side that pictures are resized to.")] = 128,
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


def _input(client: Client, given: str) -> object:
    if client.kind == "text":
        return given
    if client.kind == "vector":
        raise OptionError("this bundle's backbone is a module of your own: use hybrid.Client")
    try:
        with Image.open(given) as picture:
            return picture.convert("L" if client.kind == "digit" else "RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{given}: cannot be read as a picture: {str(error)[:120]}") from None


def _response(name: str) -> Literal["private", "plain"]:
    if name not in ("private", "plain"):
        raise OptionError(f"--response {name!r}: expected private or plain")
    return cast(Literal["private", "plain"], name)


@dataclass(frozen=True)
class _Given:
    """Inputs as a backbone takes them, and labels; public ones, where there are any."""

    name: str
    backbone: Backbone
    norm: float
    inputs: Sequence[object]
    labels: npt.NDArray[Any]
    test_inputs: Sequence[object]
    test_labels: npt.NDArray[Any]
    classes: Sequence[Any]
    public: Sequence[object] | None
    count: int | None


def _given(
    data: str,
    public: Path | None,
    backbone: str | None,
    column: str | None,
    label_column: str | None,
    classes: str | None,
) -> _Given:
    try:
        if data == "mnist":
            return _digits()
        if data == "cifar10":
            return _cifar()
    except DatasetError as error:
        raise InputError(str(error)) from None
    return _own(Path(data), public, backbone, column, label_column, classes)


def _digits() -> _Given:
    splits = mnist()
    pictures = list(splits.train.images[:, 0])
    return _set_aside(
        "MNIST", catalogue.oriented(), pictures, splits.train.labels,
        list(splits.test.images[:, 0]), splits.test.labels, range(10),
    )  # fmt: skip


def _cifar() -> _Given:
    splits, extractor = cifar10(), catalogue.efficientnet()
    train, test = (list(map(Image.fromarray, part.pixels)) for part in (splits.train, splits.test))
    names = np.array(CLASSES)
    return _set_aside(
        "CIFAR-10 (JPEG)", extractor, train, names[splits.train.labels],
        test, names[splits.test.labels], CLASSES,
    )  # fmt: skip


def _set_aside(
    name: str, backbone: Backbone, inputs: Sequence[object], labels: npt.NDArray[Any],
    test_inputs: Sequence[object], test_labels: npt.NDArray[Any], classes: Sequence[Any],
) -> _Given:  # fmt: skip
    """Every so many rows, 10,000 of them in all, are public."""
    step = max(2, len(inputs) // PUBLIC_ROWS)
    chosen = np.zeros(len(inputs), bool)
    chosen[::step] = True
    private = np.flatnonzero(~chosen)
    return _Given(
        name, backbone, catalogue.usual_norm(backbone.name),
        _picked(inputs, private), labels[private], test_inputs, test_labels, classes,
        _picked(inputs, np.flatnonzero(chosen)), len(private),
    )  # fmt: skip


def _picked(inputs: Sequence[object], places: npt.NDArray[np.intp]) -> list[object]:
    return [inputs[int(at)] for at in places]


def _own(
    path: Path, public: Path | None, backbone: str | None, column: str | None,
    label_column: str | None, classes: str | None,
) -> _Given:  # fmt: skip
    if not path.exists():
        raise InputError(f"{path} is not there: expected mnist, cifar10, a folder or a CSV file")
    if not path.is_dir() and classes is None:
        raise OptionError(
            "--classes: name every label that may occur, with commas: taken from the file, rare "
            "ones would be published"
        )
    texts = backbone == "minilm" or (backbone is None and _holds_texts(path))
    parts = [path / "train", path / "test"]
    split = all(part.is_dir() for part in parts)
    read = [_labelled(part, texts, column, label_column) for part in (parts if split else [path])]
    (inputs, names), (test_inputs, test_names) = read if split else _held_back(*read[0])
    extractor = (
        catalogue.minilm()
        if texts
        else catalogue.short_named(backbone or catalogue.NAMES[0], 128, 256)
    )
    others = None if public is None else read_inputs(public, texts, column, None)[0]
    named = np.unique(np.concatenate([names, test_names])).tolist()  # of folders: the user's own
    if classes is not None:
        named = [name.strip() for name in classes.split(",") if name.strip()]
    return _Given(
        path.name or str(path), extractor, catalogue.usual_norm(extractor.name), inputs, names,
        test_inputs, test_names, named, others, None,
    )  # fmt: skip


def _holds_texts(path: Path) -> bool:
    return path.suffix == ".csv" or (path.is_dir() and any(path.rglob("*.txt")))


def _labelled(
    path: Path, texts: bool, column: str | None, label_column: str | None
) -> tuple[Sequence[object], npt.NDArray[Any]]:
    inputs, names = read_inputs(path, texts, column, label_column)
    if names is None:
        raise InputError(f"{path}: no labels: expected a folder for each class, or --label-column")
    return inputs, np.array(names)


def _held_back(
    inputs: Sequence[object], names: npt.NDArray[Any]
) -> tuple[tuple[Sequence[object], npt.NDArray[Any]], tuple[Sequence[object], npt.NDArray[Any]]]:
    tested = np.arange(len(names)) % _TEST_EVERY == 0
    parts = [(_picked(inputs, np.flatnonzero(rows)), names[rows]) for rows in (~tested, tested)]
    return parts[0], parts[1]


def _rows(given: _Given, device: str, show: Any) -> Rows:
    """Features of everything, from the cache where it has them."""
    folder, place = cache_folder() / "features", None if device == "auto" else device

    def features(inputs: Sequence[object], what: str) -> npt.NDArray[np.float32]:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            show(f"features, {what}", done, len(inputs))

        return given.backbone.cached(inputs, folder, place, 16, advance)

    return Rows(
        given.name, features(given.inputs, "private rows"), given.labels, given.classes,
        features(given.test_inputs, "test rows"), given.test_labels, given.test_inputs[:1000],
        None if given.public is None else features(given.public, "public rows"),
        given.norm, given.count,
    )  # fmt: skip
