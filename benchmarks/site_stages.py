"""Our engine in the shape of FHE-Benchmarking.org's MNIST workload: stages that share only files.

    python -m benchmarks.site_stages build ROOT      # before the harness: both programs
    python -m benchmarks.site_stages scripts FOLDER  # a script a stage, for its `submission/`
    python -m benchmarks.site_stages STAGE SIZE --root ROOT

A size is 0 single, 1 small, 2 medium, 3 large. The harness writes an image a line, 784 values, into
`datasets/NAME/intermediate/test_pixels.txt`, weighs `io/NAME/public_keys`, `ciphertexts_upload` and
`ciphertexts_download`, and reads labels from `io/NAME/encrypted_model_predictions.txt`. One image
goes through the packed layout, more through the batched one. The secret key lies in
`io/NAME/secret_key`, which no stage of the server opens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

import he_inference
from workloads.datasets import mnist_sample
from workloads.models import MNIST_CNN

SIZES = ("single", "small", "medium", "large")
SHAPE = (1, 28, 28)
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "single": {"layout": "packed", "response": "plain"},
    "many": {"layout": "batched"},
}
"""How the network is compiled for one image, and for many."""
_EXIT_USAGE = 2


@dataclass(frozen=True)
class Files:
    """Where the harness has a size's files, below its root."""

    root: Path
    size: int

    @property
    def io(self) -> Path:
        """What client and server exchange, and the secret key."""
        return self.root / "io" / SIZES[self.size]

    @property
    def pixels(self) -> Path:
        """The images, a line each."""
        return self.root / "datasets" / SIZES[self.size] / "intermediate" / "test_pixels.txt"

    @property
    def model(self) -> Path:
        """The compiled network without its suffix."""
        return self.root / "submission" / "build" / ("many" if self.size else "single")

    @property
    def predictions(self) -> Path:
        """A label a line, in the order of the images."""
        return self.io / "encrypted_model_predictions.txt"

    def folder(self, name: str) -> Path:
        """A folder below `io`, made if need be."""
        folder = self.io / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def messages(self, name: str) -> list[Path]:
        """The files of one direction, in order."""
        return sorted((self.io / name).glob("message-*.bin"))


def build(root: Path) -> None:
    """The model's owner compiles: programs are the server's, signatures are public."""
    network = he_inference.load_network(MNIST_CNN)
    for name, options in OPTIONS.items():
        model = root / "submission" / "build" / name
        model.parent.mkdir(parents=True, exist_ok=True)
        compiled = he_inference.compile(network, examples=mnist_sample().images, **options)
        compiled.program.save(model.with_suffix(".program"))
        model.with_suffix(".signature").write_bytes(compiled.signature.to_bytes())


def key_generation(files: Files) -> None:
    """The client's keys, from the public signature."""
    client = he_inference.Client(_signature(files))
    (files.folder("public_keys") / "evaluation.keys").write_bytes(client.evaluation_keys())
    client.save(files.folder("secret_key") / "client.secret")


def preprocess_input(files: Files) -> None:
    """Text to numbers."""
    images = np.loadtxt(files.pixels, dtype=np.float32, ndmin=2).reshape(-1, *SHAPE)
    np.save(files.folder("intermediate") / "images.npy", images)


def encode_encrypt_input(files: Files) -> None:
    """As many messages as the images need."""
    images = np.load(files.io / "intermediate" / "images.npy")
    folder = files.folder("ciphertexts_upload")
    with _client(files) as client:
        for number, start in enumerate(range(0, len(images), client.max_queries)):
            part = images[start : start + client.max_queries]
            (folder / f"message-{number:04}.bin").write_bytes(client.encrypt(part))


def encrypted_compute(files: Files) -> None:
    """The server: its program, the evaluation keys and the messages are all that it opens."""
    server = he_inference.Server(files.model.with_suffix(".program"))
    keys = (files.io / "public_keys" / "evaluation.keys").read_bytes()
    if keys:
        server.register(keys)
    folder = files.folder("ciphertexts_download")
    for path in files.messages("ciphertexts_upload"):
        (folder / path.name).write_bytes(server.evaluate(path.read_bytes()))


def decrypt_decode(files: Files) -> None:
    """Scores of all images, in their order."""
    with _client(files) as client:
        scores: list[npt.NDArray[Any]] = [
            client.decrypt(path.read_bytes()) for path in files.messages("ciphertexts_download")
        ]
    np.save(files.folder("intermediate") / "scores.npy", np.concatenate(scores))


def postprocess(files: Files) -> None:
    """Labels."""
    labels = np.load(files.io / "intermediate" / "scores.npy").argmax(axis=1)
    files.predictions.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


STAGES: Mapping[str, Callable[[Files], None]] = {
    "client_key_generation": key_generation,
    "client_preprocess_input": preprocess_input,
    "client_encode_encrypt_input": encode_encrypt_input,
    "server_encrypted_compute": encrypted_compute,
    "client_decrypt_decode": decrypt_decode,
    "client_postprocess": postprocess,
}
"""By the harness's names, in its order; `server_preprocess_model` has nothing left to do."""


def _signature(files: Files) -> Any:
    return he_inference.load_signature(files.model.with_suffix(".signature"))


def _client(files: Files) -> he_inference.Client:
    return he_inference.Client.load(files.io / "secret_key" / "client.secret", _signature(files))


def scripts(folder: Path) -> None:
    """A script a stage, which the harness calls with the size from its own root."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in (*STAGES, "server_preprocess_model"):
        (folder / f"{stage}.py").write_text(
            "import sys\n\nfrom benchmarks.site_stages import main\n\n"
            f'main(["{stage}", *sys.argv[1:]])\n',
            encoding="utf-8",
        )


def run(
    what: Annotated[str, typer.Argument(help="build, scripts, or a stage")],
    where: Annotated[str, typer.Argument(help="a folder, or a stage's size 0 to 3")] = "0",
    root: Annotated[Path, typer.Option(help="the harness's root")] = Path(),
) -> None:
    """Build, write scripts, or run one stage as the harness does."""
    if what in ("build", "scripts"):
        (build if what == "build" else scripts)(Path(where))
        return
    if what == "server_preprocess_model":
        return
    if what not in STAGES or where not in ("0", "1", "2", "3"):
        typer.echo(
            f"site_stages: expected one of {', '.join(STAGES)} and a size 0 to 3; "
            f"found {what!r} and {where!r}",
            err=True,
        )
        raise typer.Exit(_EXIT_USAGE)
    STAGES[what](Files(root, int(where)))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    app(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    main()
