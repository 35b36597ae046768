"""`he-inference query`: pictures asked of a service, a message after the other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

import he_inference
from he_inference import terminal
from he_inference.errors import HEError, UnknownKey, WrongProgram
from he_inference.verbs.answers import report_scores, size_text
from he_inference.verbs.options import Images, Json, check_range
from workloads.images import ImageStream

DEFAULT_BATCH = 16
"""Queries in a message of the packed layout, each of which takes as long as the first."""
MAX_BATCH = 1 << 14
"""Slots of the largest ring."""
MAX_LISTED = 5

app = typer.Typer()


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
        check_range("--batch", batch, 1, MAX_BATCH)
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
    names = list(islice(stream.names(), asked.answered + 1))
    if asked.answered:
        facts = (
            {"skipped": list(stream.skipped)} | asked.facts() | {"names": names[: asked.answered]}
        )
        report_scores(np.concatenate(asked.scores), names[: asked.answered], facts, as_json)
    if asked.failure is not None:
        if asked.answered:
            terminal.complain(
                f"{asked.answered} of {len(stream)} queries were answered, and stand above: ask "
                f"again from {names[asked.answered]} on"
            )
        raise asked.failure
    if not as_json:
        terminal.note(asked.summary() + _hint(client, asked.answered))


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

    @property
    def answered(self) -> int:
        return sum(map(len, self.scores))

    def facts(self) -> dict[str, Any]:
        """For a program to read."""
        return {
            "key_bytes": self.key_bytes,
            "upload_bytes": self.sent,
            "download_bytes": self.received,
            "seconds": self.seconds,
            "queries_per_second": self.answered / self.seconds,
        }

    def summary(self) -> str:
        return (
            f"{self.answered} queries in {self.seconds:.1f} s, "
            f"{self.answered / self.seconds:.0f} a second; "
            f"{size_text(self.sent)} up, {size_text(self.received)} down"
        )


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
            before = asked.answered

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


def _hint(client: "he_inference.Client", answered: int) -> str:
    """Why a few queries were slow."""
    batched = isinstance(client.signature, he_inference.BatchSignature)
    if not batched or 2 * answered > client.max_queries:
        return ""
    return f" (a message costs the same with up to {client.max_queries})"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_LISTED])
    return shown if len(names) <= MAX_LISTED else f"{shown} and {len(names) - MAX_LISTED} more"
