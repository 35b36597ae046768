"""`he-inference`: one verb for each role in an encrypted query.

train ─▸ compile ─▸ keygen ─▸ encrypt ─▸ evaluate ─▸ decrypt    with files in between
                └─▸ serve  ◂─▸ query                            over HTTP
plan                                                            what `compile` can choose from
demo                                                            all of it, on this machine
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any

import numpy as np
import typer

import he_inference
from he_inference import terminal, user_files
from he_inference.errors import (
    HEError,
    InputError,
    MessageError,
    ModelFileError,
    UnknownKey,
    WrongProgram,
)
from he_inference.plan_table import plan_table
from he_inference.tensor_file import read_format
from workloads.datasets import DatasetError
from workloads.demo import Report, run_demo
from workloads.images import ImageStream, read_images
from workloads.pictures import terminal_digits

MAX_DIGITS = 300
"""As many as the sample holds that comes with the project."""
DEFAULT_BATCH = 16
"""Queries in a message of the packed layout, each of which takes as long as the first."""
MAX_BATCH = 1 << 14
"""Slots of the largest ring."""
MAX_LISTED = 5
_MAX_SEED = 2**32 - 1
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80\x02\x8a\x0a"
"""What torch.save begins with, now and formerly."""

app = typer.Typer(
    help="Ask a model without showing it your data.",
    epilog="Try it all at once: he-inference demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SignatureFile = Annotated[Path, typer.Argument(help="Signature that `compile` wrote.")]
SecretFile = Annotated[Path, typer.Argument(help="Secret key that `keygen` wrote.")]
Response = Annotated[
    str | None,
    typer.Option(
        help="private, unless said: answers show scores alone; plain: the weights too, to a client "
        "that looks."
    ),
]
Optimise = Annotated[
    str, typer.Option(help="For single answers: latency, bytes, keys, or balanced between them.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
Images = Annotated[
    list[Path], typer.Argument(help="Pictures (png, …), .npy arrays, IDX files, or folders.")
]


def signature_path(program: Path) -> Path:
    """Where `compile` puts the public part of a program."""
    return program.with_name(program.name + ".signature")


def _check_range(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{option} {value}: expected {low} to {high}")


@app.command(
    epilog="Example: he-inference train --architecture mnist-cnn --output mnist.safetensors"
)
def train(
    output: Output,
    architecture: Annotated[
        str,
        typer.Option(
            help="mnist-cnn, mnist-deep, mnist-quadratic, mnist-quadratic-wide, tutorial-cnn or "
            "cryptonets."
        ),
    ] = ("mnist-cnn"),
    epochs: Annotated[int | None, typer.Option(help="Default: what the recipe says.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal networks.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Folder with the MNIST files.")] = None,
    as_json: Json = False,
) -> None:
    """Train a network that survives encryption, on MNIST, most with another as teacher."""
    import torch

    from workloads.datasets import mnist
    from workloads.fitting import FittingError, fitting_progress
    from workloads.training import PLANS, TEACHER, train_mnist

    names = [name for name in PLANS if name != TEACHER]  # its ReLUs have no encrypted form
    if architecture not in names:
        raise InputError(f"--architecture {architecture!r}: expected one of {', '.join(names)}")
    _check_range("--seed", seed, 0, _MAX_SEED)
    user_files.check_output(output)
    torch.set_num_threads(1)  # steps are small: a second thread costs more than it brings
    splits = mnist(data)
    try:
        if as_json or not terminal.notes.is_terminal:
            module, result = train_mnist(architecture, epochs=epochs, seed=seed, data=splits)
        else:
            with fitting_progress() as progress:
                module, result = train_mnist(
                    architecture, epochs=epochs, seed=seed, data=splits, progress=progress
                )
    except FittingError as error:
        raise InputError(str(error)) from None
    he_inference.from_torch(module, splits.train.images[:64]).save(output.resolve())
    values = {
        "model": str(output),
        "architecture": architecture,
        "test_accuracy": result.test_accuracy,
        "teacher_accuracy": result.teacher_accuracy,
        "seconds": result.seconds,
    }
    text = f"{output}: {result.test_accuracy:.2%} of the test images, {result.seconds:.0f} s"
    terminal.report(values, text, as_json)


@app.command(
    name="compile",
    epilog="Example: he-inference compile mnist.safetensors --output mnist.program",
)
def compile_(
    model: Annotated[Path, typer.Argument(help="Network saved by `train` or Network.save.")],
    output: Output,
    layout: Annotated[
        str,
        typer.Option(
            help="coefficients or packed for single answers, auto for the better of the two, "
            "batched for thousands."
        ),
    ] = "auto",
    response: Response = None,
    optimise: Optimise = "balanced",
    precision: Annotated[float, typer.Option(help="Bits of the answers to hold.")] = 10.0,
    examples: Annotated[
        Path | None, typer.Option(help="Typical queries, to judge magnitudes by; not kept.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile a network for encryption: a program for the server, a signature for clients."""
    read = [model] if examples is None else [model, examples]
    user_files.check_output(output, *read)
    user_files.check_output(signature_path(output), *read)
    network = _network(model)
    typical = None if examples is None else read_images([examples], network.input_shape)
    with terminal.notes.status("choosing parameters …"):
        compiled = he_inference.compile(
            network,
            layout=layout,
            precision=precision,
            examples=typical,
            response=response,
            optimise=optimise,
        )
    compiled.program.save(output.resolve())
    user_files.write(signature_path(output), compiled.signature.to_bytes())
    values = {
        "program": str(output),
        "signature": str(signature_path(output)),
        **compiled.facts(),
    }
    files = f"{output} (for the server) and {signature_path(output)} (for clients)"
    terminal.report(values, f"{compiled.summary()}\nwritten       {files}", as_json)


@app.command(epilog="Example: he-inference plan mnist.safetensors --optimise bytes")
def plan(
    model: Annotated[Path, typer.Argument(help="Network saved by `train` or Network.save.")],
    response: Annotated[
        str | None, typer.Option(help="private or plain answers only; both are shown unless said.")
    ] = None,
    optimise: Optimise = "balanced",
    precision: Annotated[float, typer.Option(help="Bits of the answers to hold.")] = 10.0,
    examples: Annotated[
        Path | None, typer.Option(help="Typical queries, to judge magnitudes by; not kept.")
    ] = None,
    picture: Annotated[
        Path, typer.Option(help="Where to draw time against bytes: png, svg or pdf.")
    ] = Path("sottovoce-plan.png"),
    as_json: Json = False,
) -> None:
    """Show what single answers can cost: time, bytes and keys, and what `compile` would choose."""
    from he_inference.plan_picture import KINDS, draw_plan

    user_files.check_output(picture, model, *filter(None, [examples]))
    if picture.suffix not in KINDS:
        raise InputError(f"--picture {picture}: expected a name that ends in {', '.join(KINDS)}")
    network = _network(model)
    typical = None if examples is None else read_images([examples], network.input_shape)
    with terminal.notes.status("compiling for every layout …"):
        found = he_inference.plan(network, precision=precision, examples=typical, response=response)
    private = found.answering("private")  # compile takes nothing else without being told
    chosen = (private if private.points else found).chosen(optimise)
    draw_plan(found, chosen, f"{model.name}, {precision:g} bits", picture)
    if as_json:
        values = {
            "points": [
                {**p.facts(), "on_front": p in found.front, "chosen": p is chosen}
                for p in found.points
            ],
            "refusals": dict(found.refusals),
            "picture": str(picture),
        }
        terminal.report(values, "", as_json)
        return
    terminal.out.print(plan_table(found, chosen))
    for layout, reason in found.refusals.items():
        terminal.note(f"{layout}: {reason}")
    terminal.out.print(f"picture saved: {picture}", highlight=False, markup=False, soft_wrap=True)


def _network(path: Path) -> "he_inference.Network":
    """A saved network; who has a file of weights instead is told what to do."""
    try:
        return he_inference.load_network(path)
    except ModelFileError as error:
        if user_files.first_bytes(path, len(_ZIP)) in (_ZIP, _PICKLE):
            found = f"{path}: a file of torch.save"
        elif _holds_tensors_alone(path):
            found = str(error)
        else:
            raise
    raise InputError(
        f"{found}: in Python, build the module, load its weights, and call "
        "he_inference.from_torch(module, example).save(path) (see README)"
    )


def _holds_tensors_alone(path: Path) -> bool:
    """Whether it is a safetensors file of others: a state_dict, say."""
    try:
        return not read_format(path).startswith("sottovoce-")
    except ModelFileError:
        return False


@app.command(
    epilog="Example: he-inference keygen mnist.program.signature --secret my.key "
    "--evaluation my.evaluation"
)
def keygen(
    signature: SignatureFile,
    secret: Annotated[Path, typer.Option(help="New file for the secret key (mode 0600).")],
    evaluation: Annotated[Path, typer.Option(help="File for the keys that the server gets.")],
    as_json: Json = False,
) -> None:
    """Make keys: a secret one that stays here, evaluation keys for the server."""
    user_files.check_output(evaluation, secret, signature)
    if evaluation.exists():
        raise InputError(f"{evaluation} exists: keys are never overwritten; name another")
    client = he_inference.Client(he_inference.load_signature(signature))
    keys = client.evaluation_keys()
    client.save(secret)
    try:
        user_files.write(evaluation, keys)
    except InputError:
        secret.unlink()  # of no use alone, and in the way of the next attempt
        raise
    values = {"key_id": client.key_id, "key_bytes": len(keys), "secret": str(secret)}
    size = f"{len(keys) / 1e6:.2f} MB" if client.signature.needs_keys else "no keys in it"
    text = (
        f"key {client.key_id}\n{secret} stays on this machine; {evaluation} "
        f"({size}) goes to the server"
    )
    terminal.report(values, text, as_json)


@app.command(
    epilog="Example: he-inference encrypt mnist.program.signature my.key digit.png -o query.bin"
)
def encrypt(
    signature: SignatureFile,
    secret: SecretFile,
    images: Images,
    output: Output,
    as_json: Json = False,
) -> None:
    """Encrypt queries into one message."""
    user_files.check_output(output, signature, secret, *images)
    client = he_inference.Client.load(secret, he_inference.load_signature(signature))
    queries = read_images(images, client.signature.input_shape)
    with client, terminal.bar(as_json, "ciphertexts") as progress:
        task = progress.add_task("encrypting", total=None)
        message = client.encrypt(
            queries, lambda done, total: progress.update(task, completed=done, total=total)
        )
    user_files.write(output, message)
    values = {"queries": len(queries), "bytes": len(message)}
    count = "1 query" if len(queries) == 1 else f"{len(queries)} queries"
    terminal.report(values, f"{output}: {count}, {_size(len(message))}", as_json)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


@app.command(
    epilog="Example: he-inference evaluate mnist.program my.evaluation query.bin -o answer.bin"
)
def evaluate(
    program: Annotated[Path, typer.Argument(help="Program that `compile` wrote.")],
    evaluation: Annotated[Path, typer.Argument(help="Evaluation keys from `keygen`.")],
    query: Annotated[Path, typer.Argument(help="Message from `encrypt`.")],
    output: Output,
    as_json: Json = False,
) -> None:
    """Evaluate a message of queries without seeing them."""
    user_files.check_output(output, program, evaluation, query)
    keys, message = user_files.read(evaluation), user_files.read(query)
    if keys.startswith(user_files.SECRET_BEGINS):
        raise InputError(
            f"{evaluation} is a secret key, which no server should have: expected the file that "
            "keygen wrote as --evaluation"
        )
    server = he_inference.Server(program)
    with _named(evaluation):
        server.register(keys)
    started = process_time()
    with _named(query):
        answer = server.evaluate(message)
    milliseconds = 1e3 * (process_time() - started)
    user_files.write(output, answer)
    values = {"bytes": len(answer), "server_ms": milliseconds}
    terminal.report(values, f"{output}: {len(answer) / 1e3:.1f} kB, {milliseconds:.0f} ms", as_json)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong with a message, with the file that it is in."""
    try:
        yield
    except MessageError as error:
        raise type(error)(f"{path}: {error}") from None


@app.command(epilog="Example: he-inference decrypt mnist.program.signature my.key answer.bin")
def decrypt(
    signature: SignatureFile,
    secret: SecretFile,
    answer: Annotated[Path, typer.Argument(help="Message from `evaluate`.")],
    as_json: Json = False,
) -> None:
    """Decrypt an answer: a label and rounded scores for every query."""
    client = he_inference.Client.load(secret, he_inference.load_signature(signature))
    with _named(answer):
        scores = client.decrypt(user_files.read(answer))
    _report_scores(scores, [str(number) for number in range(len(scores))], {}, as_json)


def _report_scores(scores: Any, names: Sequence[str], more: dict[str, Any], as_json: bool) -> None:
    labels = [int(label) for label in np.argmax(scores, axis=1)]
    width = max(map(len, ("query", *names)))
    rows = [
        f"{name:>{width}}  {label:>5}  " + " ".join(f"{score:8.3f}" for score in row[:10])
        for name, label, row in zip(names, labels, scores, strict=True)
    ]
    text = "\n".join([f"{'query':>{width}}  label  scores", *rows])
    terminal.report({"labels": labels, "scores": scores.tolist(), **more}, text, as_json)


@app.command(epilog="Example: he-inference serve mnist.program --port 8080")
def serve(
    program: Annotated[Path, typer.Argument(help="Program that `compile` wrote.")],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at, 1 to 65535.")] = 8080,
    response: Annotated[
        str | None,
        typer.Option(help="plain: serve a program whose answers show its weights."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; one a core, or one for the batched layout.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda to evaluate batches on a GPU (needs torch).")
    ] = "cpu",
    max_batch: Annotated[
        int, typer.Option(help="Queries that one message may hold (packed layout).")
    ] = 256,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, for TLS.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="PEM file, for TLS.")] = None,
    insecure_plain_http: Annotated[
        bool, typer.Option(help="Serve other machines without TLS.")
    ] = False,
) -> None:
    """Serve a program over HTTP until told to stop; log lines go to stderr."""
    from he_inference import service

    _check_range("--port", port, 1, 65535)
    loaded = he_inference.load_program(program)
    _check_response(program, loaded, response)
    _check_device(device)
    chosen: dict[str, Any] = {} if workers is None else {"workers": workers}
    settings = service.Settings(
        device=device,
        max_batch=max_batch,
        certificate=certificate,
        private_key=private_key,
        insecure_plain_http=insecure_plain_http,
        **chosen,
    )
    service.serve(loaded, host, port, settings)


def _check_device(device: str) -> None:
    """Before a worker starts that would have to say so."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f"--device {device!r}: expected cpu or cuda")
    if device != "cpu":
        from he_inference.backend.residues.torch_evaluator import torch_device

        torch_device(device)


def _check_response(
    path: Path,
    program: "he_inference.Program | he_inference.BatchProgram | he_inference.CoefficientProgram",
    response: str | None,
) -> None:
    """Weights are shown to clients by an explicit choice only."""
    if response not in (None, "private", "plain"):
        raise InputError(f"--response {response!r}: expected private or plain")
    if isinstance(program, he_inference.Program):
        if response != "plain":
            raise InputError(
                f"{path} answers plainly, as all programs of the packed layout: compile it with "
                "--layout coefficients or batched, or serve it with --response plain"
            )
        return
    if program.signature.response == "plain" and response != "plain":
        raise InputError(
            f"{path} answers plainly, from which a client can learn its weights: compile it with "
            "--response private, or serve it with --response plain"
        )


@app.command(epilog="Example: he-inference query http://127.0.0.1:8080 digits/*.png")
def query(
    url: Annotated[str, typer.Argument(help="Where a service answers.")],
    images: Images,
    secret: Annotated[
        Path | None, typer.Option(help="Secret key to use; without it a new one, not kept.")
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(help="Signature to insist on, got by another way.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Queries in one message; 16, or all that fit in the batched layout."),
    ] = None,
    certificate_authority: Annotated[Path | None, typer.Option(help="PEM file to trust.")] = None,
    insecure_plain_http: Annotated[
        bool, typer.Option(help="Speak to another machine without TLS.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask a service: encrypt here, evaluate there, decrypt here."""
    if batch is not None:
        _check_range("--batch", batch, 1, MAX_BATCH)
    with he_inference.RemoteServer(
        url, certificate_authority=certificate_authority, insecure_plain_http=insecure_plain_http
    ) as server:
        agreed = _agreed_signature(server, signature)
        stream = ImageStream(images, agreed.input_shape)
        if stream.skipped and not as_json:
            terminal.note(f"skipped, as they are no pictures: {_listed(stream.skipped)}")
        if secret is None:
            client = he_inference.Client(agreed)
        else:
            client = he_inference.Client.load(secret, agreed)
        with client:
            size = _message_size(batch, client, server)
            for queries, _ in stream.batches(size):
                client.check(queries)  # all of them, before the server hears of any
            asked = _ask(server, client, stream.batches(size), len(stream), as_json)
    more = {
        "skipped": list(stream.skipped),
        "key_bytes": asked.key_bytes,
        "upload_bytes": asked.sent,
        "download_bytes": asked.received,
        "seconds": asked.seconds,
    }
    answered = sum(map(len, asked.scores))
    names = list(islice(stream.names(), answered + 1))
    if answered:
        more |= {"names": names[:answered], "queries_per_second": answered / asked.seconds}
        _report_scores(np.concatenate(asked.scores), names[:answered], more, as_json)
    if asked.failure is not None:
        if answered:
            terminal.complain(
                f"{answered} of {len(stream)} queries were answered, and stand above: ask again "
                f"from {names[answered]} on"
            )
        raise asked.failure
    if not as_json:
        terminal.note(
            f"{answered} queries in {asked.seconds:.1f} s, {answered / asked.seconds:.0f} a "
            f"second; {_size(asked.sent)} up, {_size(asked.received)} down{_hint(client, answered)}"
        )


def _hint(client: "he_inference.Client", answered: int) -> str:
    """Why a few queries were slow."""
    batched = isinstance(client.signature, he_inference.BatchSignature)
    if not batched or 2 * answered > client.max_queries:
        return ""
    return f" (a message costs the same with up to {client.max_queries})"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_LISTED])
    return shown if len(names) <= MAX_LISTED else f"{shown} and {len(names) - MAX_LISTED} more"


def _message_size(
    wanted: int | None, client: "he_inference.Client", server: "he_inference.RemoteServer"
) -> int:
    """Queries in a message: as wished for, as the layout has room for, as the service takes."""
    size = client.max_queries
    if wanted is None and not isinstance(client.signature, he_inference.BatchSignature):
        size = min(size, DEFAULT_BATCH)
    most = server.health().get("max_batch")
    if type(most) is int and most >= 1:  # what it says is foreign
        size = min(size, most)
    if wanted is not None and wanted > size:
        terminal.note(f"--batch {wanted}: a message takes {size} queries, so many are sent in each")
    return min(size, wanted or size)


@dataclass
class _Asked:
    """What came of a query."""

    key_bytes: int
    scores: list[Any]
    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    failure: BaseException | None = None
    """What ended it early: an error, or the user."""


def _ask(
    server: "he_inference.RemoteServer",
    client: "he_inference.Client",
    batches: Iterable[tuple[Any, list[str]]],
    total: int,
    as_json: bool,
) -> _Asked:
    """Register keys, then encrypt, evaluate and decrypt one message after the other."""
    with terminal.notes.status("making and registering evaluation keys …"):
        keys = client.evaluation_keys()
        if client.signature.needs_keys:
            server.register(keys)
    asked = _Asked(len(keys), [])
    started = perf_counter()
    with terminal.bar(as_json, "queries") as progress:
        task = progress.add_task("encrypted queries", total=total)
        for queries, _ in batches:
            before = sum(map(len, asked.scores))

            def show(done: int, of: int, start: int = before, size: int = len(queries)) -> None:
                # Encryption is about two thirds of the time that a message takes.
                progress.update(task, completed=start + 2 * size * done // (3 * of))

            try:
                message = client.encrypt(queries, show)
                try:
                    answer = server.evaluate(message)
                except UnknownKey:  # others' keys have pushed ours out since
                    server.register(keys)
                    answer = server.evaluate(message)
                asked.scores.append(client.decrypt(answer))
            except (HEError, KeyboardInterrupt) as error:
                asked.failure = error
                break
            asked.sent += len(message)
            asked.received += len(answer)
            progress.update(task, completed=before + len(queries))
    asked.seconds = perf_counter() - started
    return asked


def _agreed_signature(
    server: "he_inference.RemoteServer", expected: Path | None
) -> "he_inference.Signature | he_inference.BatchSignature | he_inference.CoefficientSignature":
    """The server's signature, compared with the one the user brought, if any."""
    found = server.signature()
    if expected is not None:
        wanted = he_inference.load_signature(expected)
        if wanted.digest != found.digest:
            raise WrongProgram(
                f"{server.url} serves signature {found.digest.hex()[:16]}…, expected "
                f"{wanted.digest.hex()[:16]}… as in {expected}: ask whoever runs it which is right"
            )
    return found


@app.command(epilog="Example: he-inference demo --queries 20 --picture digits.png")
def demo(
    queries: Annotated[int, typer.Option(help=f"Digits to classify, 1 to {MAX_DIGITS}.")] = 20,
    picture: Annotated[Path, typer.Option(help="Where to save the digits with their labels.")] = (
        Path("sottovoce-demo.png")
    ),
    as_json: Json = False,
) -> None:
    """Classify encrypted handwritten digits: a server on loopback, a client, and what it cost."""
    _check_range("--queries", queries, 1, MAX_DIGITS)
    user_files.check_output(picture)
    with terminal.bar(as_json, "digits") as progress:
        task = progress.add_task("compiling, starting a server", total=queries)

        def show(stage: str, done: int) -> None:
            progress.update(task, description=stage, completed=done)

        report = run_demo(queries, picture, show)
    if as_json:
        sys.stdout.write(terminal.json_text(report.values()) + "\n")
    else:
        _show_demo(report)


def _show_demo(report: Report) -> None:
    braille = terminal.out.encoding.startswith("utf")
    for line in terminal_digits(
        report.images, report.captions(), terminal.out.width, braille=braille
    ):
        terminal.out.print(line, highlight=False)
    terminal.out.print(report.table())
    terminal.out.print(
        f"picture saved: {report.picture}", highlight=False, markup=False, soft_wrap=True
    )


def main() -> None:
    """Run a verb; a user's mistake is one line on stderr and exit code 2."""
    terminal.main(app, "he-inference", "all", HEError, DatasetError, lists=True)


if __name__ == "__main__":
    main()
