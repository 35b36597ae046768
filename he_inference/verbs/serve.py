"""`he-inference serve`: a program over HTTP."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

import he_inference
from he_inference.errors import InputError
from he_inference.verbs.options import ProgramFile, check_range

app = typer.Typer()


@app.command(epilog="Example: he-inference serve mnist.program --port 8080")
def serve(
    program: ProgramFile,
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

    check_range("--port", port, 1, 65535)
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
