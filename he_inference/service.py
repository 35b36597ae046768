"""The HTTP service around `Server`.

    GET  /v1/health     JSON: status, program, workers, requests waiting
    GET  /v1/signature  the signature's bytes (JSON)
    POST /v1/keys       evaluation keys        → JSON {"key_id": …}
    POST /v1/evaluate   a query message        → an answer message

Bodies are `application/octet-stream`. A refusal is JSON {"error": name, "message": line} with
400 malformed, 404 unknown key, 408 too slow, 409 another program, 413 too large, 415 another media
type, 503 queue full (with Retry-After), 504 time limit exceeded, 500 for a worker that died twice.

Who learns what: the operator sees ciphertexts, evaluation keys, who asks, when and how much;
never a query or an answer. Logs hold no payload. Anyone who can reach the service may register
keys and ask: put a proxy that authenticates in front where that matters.

`Settings` holds limits and TLS; the parts are in `serving`.
"""

import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from socket import socket
from threading import Thread
from time import monotonic, sleep
from typing import IO, Any

import uvicorn
from starlette.applications import Starlette

from he_inference.errors import ServiceError
from he_inference.programs import AnyProgram, load_program
from he_inference.serving.application import Application, starlette
from he_inference.serving.listener import configuration, listen, signals_absorbed
from he_inference.serving.logs import relay_uvicorn
from he_inference.serving.settings import Settings

__all__ = ["Settings", "create_app", "running", "serve"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
_LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.05
_KILL_SECONDS = 5.0


def create_app(program: AnyProgram | str | Path, settings: Settings | None = None) -> Starlette:
    """The service as an ASGI application, for any server that runs its lifespan.

    Worker processes are started by the lifespan. They are spawned, so a script that runs this
    must guard its entry with `if __name__ == "__main__"`. Raises `ModelFileError` for a file that
    is not a program, `ServiceError` for settings that cannot work for it.
    """
    return starlette(_application(program, settings or Settings()))


def _application(program: AnyProgram | str | Path, settings: Settings) -> Application:
    loaded = program if isinstance(program, AnyProgram) else load_program(program)
    return Application(loaded, settings)


def serve(
    program: AnyProgram | str | Path,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    settings: Settings | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish running requests, stop workers, delete keys.

    Raises `ServiceError` where the address is taken, where plain HTTP would be served to other
    machines without `insecure_plain_http`, or where the workers do not start; `ModelFileError`
    for a file that is not a program.
    """
    settings = settings or Settings()
    settings.check_host(host)
    with listen(host, port) as listener:
        _serve(_application(program, settings), settings, listener)


def _serve(application: Application, settings: Settings, listener: socket) -> None:
    relay_uvicorn()
    server = uvicorn.Server(_configuration(application, settings))
    with signals_absorbed(server):
        try:
            server.run(sockets=[listener])
        except SystemExit:  # uvicorn's word for a lifespan that failed
            if application.failure is None:
                raise
            raise application.failure from None
        finally:
            application.stop()


def _configuration(application: Application, settings: Settings) -> uvicorn.Config:
    config = configuration(starlette(application), settings)
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise ServiceError(
            f"certificate {settings.certificate} and private key {settings.private_key} cannot be "
            f"used: {error}"
        ) from None
    return config


@contextmanager
def running(
    program: AnyProgram | str | Path,
    settings: Settings | None = None,
    *,
    start_seconds: float = 60.0,
    log: str | Path | None = None,
) -> Iterator[str]:
    """Run a service in a process of its own, on a free port of 127.0.0.1; yields its URL.

    log: file that gets the log lines. The service is stopped when the context is left, and stops
    by itself should this process die. Raises `ServiceError` if it is not healthy in
    `start_seconds`, with the last line of its log.
    """
    settings = settings or Settings()
    with tempfile.TemporaryDirectory(prefix="he-inference-run-") as directory:
        path = Path(log) if log is not None else Path(directory) / "log"
        saved = _saved(program, Path(directory))
        with listen(_LOOPBACK, 0) as listener, path.open("ab") as file:
            port = listener.getsockname()[1]
            process = _start(saved, settings, listener, file)
        try:
            _await_health(process, port, settings, monotonic() + start_seconds, path)
            yield f"{'https' if settings.certificate else 'http'}://{_LOOPBACK}:{port}"
        finally:
            _stop(process, settings.stop_seconds + _KILL_SECONDS)


def _saved(program: AnyProgram | str | Path, directory: Path) -> Path:
    if not isinstance(program, AnyProgram):
        return Path(program)
    program.save(directory / "program")
    return directory / "program"


def _start(
    program: Path, settings: Settings, listener: socket, log: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """Start `background` in a fresh interpreter that inherits the listening socket."""
    package = str(Path(__file__).resolve().parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    order = {"program": str(program), "listener": listener.fileno(), "settings": asdict(settings)}
    process = subprocess.Popen(
        [sys.executable, "-c", "from he_inference.service import background; background()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=log,
        pass_fds=[listener.fileno()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if process.stdin is not None:
        with suppress(OSError):  # it died at once: waiting for its health finds out why
            process.stdin.write(json.dumps(order, default=str).encode() + b"\n")
            process.stdin.flush()
    return process


def background() -> None:
    """What `running` starts: orders come as a line on standard input, whose end means stop."""
    order: Mapping[str, Any] = json.loads(sys.stdin.readline())
    fields = dict(order["settings"])
    for name in ("key_directory", "certificate", "private_key"):
        fields[name] = Path(fields[name]) if fields[name] is not None else None
    Thread(target=_stop_with_parent, daemon=True).start()
    try:
        settings = Settings(**fields)
        with socket(fileno=order["listener"]) as listener:
            _serve(_application(order["program"], settings), settings, listener)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _stop_with_parent() -> None:
    """Wait for the end of standard input, which comes when the parent closes it or dies."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _await_health(
    process: "subprocess.Popen[bytes]", port: int, settings: Settings, deadline: float, log: Path
) -> None:
    while not _healthy(port, settings):
        if process.poll() is None and monotonic() < deadline:
            sleep(_POLL_SECONDS)
            continue
        lines = log.read_text(errors="replace").strip().splitlines() or ["its log is empty"]
        problem = (
            "ended at once" if process.poll() is not None else "did not become healthy in time"
        )
        raise ServiceError(f"the service {problem}: {lines[-1][:500]}")


def _healthy(port: int, settings: Settings) -> bool:
    connection = HTTPConnection(_LOOPBACK, port, timeout=_KILL_SECONDS)
    if settings.certificate is not None:
        context = ssl.create_default_context(cafile=settings.certificate)
        context.check_hostname = False  # it may be made for another name of this machine
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        connection = HTTPSConnection(_LOOPBACK, port, timeout=_KILL_SECONDS, context=context)
    try:
        connection.request("GET", "/v1/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Tell it to stop, and end it where it does not."""
    with process:  # closes its standard input
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
