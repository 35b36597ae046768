"""The verbs with files in between, for each role on its own: keygen, encrypt, evaluate, decrypt."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Annotated

import typer

import he_inference
from he_inference import terminal, user_files
from he_inference.errors import InputError, MessageError
from he_inference.verbs.answers import report_scores, size_text
from he_inference.verbs.options import (
    Images,
    Json,
    Output,
    ProgramFile,
    SecretFile,
    SignatureFile,
)
from workloads.images import read_images

app = typer.Typer()


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
    terminal.report(values, f"{output}: {count}, {size_text(len(message))}", as_json)


@app.command(
    epilog="Example: he-inference evaluate mnist.program my.evaluation query.bin -o answer.bin"
)
def evaluate(
    program: ProgramFile,
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
    report_scores(scores, [str(number) for number in range(len(scores))], {}, as_json)
