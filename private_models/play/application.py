"""The page's server, which is the client of the model: keys and inputs stay in this process.

    GET  /            the page                  /page.css, /page.js, /page.svg
    GET  /desks       JSON: what can be asked, and what is promised
    POST /ask/N       an input for desk N       → JSON: answer, times, all bytes that travelled

`gate` lets this machine's browser in, and nobody else. Nothing of what is asked is kept or logged.
"""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from he_inference.errors import HEError
from private_models.errors import PrivacyError
from private_models.hybrid.client import Answer, Client
from private_models.play.gate import Gate, is_admitted, refused
from private_models.play.uploads import FILE, MAX_BYTES, STROKES, Digit, read_upload

_STATIC = {
    "/page.css": "text/css",
    "/page.js": "text/javascript",
    "/page.svg": "image/svg+xml",
}
_BODY_SECONDS = 30.0


@dataclass(frozen=True)
class Desk:
    """One bundle's client, the name of its tab, and where its server is, in words."""

    name: str
    client: Client
    place: str

    def facts(self) -> dict[str, Any]:
        """What the page shows before anything is asked."""
        public = self.client.public
        statement = public.statement
        return {
            "name": self.name,
            "place": self.place,
            "kind": self.client.kind,
            "backbone": self.client.backbone_name,
            "classes": [str(name) for name in self.client.classes],
            "features": public.single.input_shape[0],
            "promise": public.promise(),
            "epsilon": None if statement is None else statement.epsilon,
            "delta": None if statement is None else statement.delta,
            "is_private": statement is not None and statement.is_private,
            "response": public.single.response,
            "statement": None if statement is None else str(statement),
        }

    def ask(self, body: bytes, media: str) -> dict[str, Any]:
        """Raises `PrivacyError` or `HEError`."""
        value, digit = read_upload(self.client.kind, body, media)
        answer = self.client.ask(value)
        return _shown(self.client, answer, digit)


def _shown(client: Client, answer: Answer, digit: Digit | None) -> dict[str, Any]:
    """Arrays and messages are whole, in base64: float32, and bytes."""
    return {
        "label": str(answer.label),
        "scores": answer.scores.tolist(),
        "milliseconds": answer.milliseconds,
        "features": _base64(answer.features.astype("<f4").tobytes()),
        "query": _base64(answer.query),
        "answer": _base64(answer.answer),
        "key_bytes": client.key_bytes,
        "digit": None if digit is None else _base64(np.uint8((digit * 255).round()).tobytes()),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def application(desks: Sequence[Desk], token: str, host: str) -> ASGIApp:
    """desks: a tab each. token: what the address must hold. host: what must stand in `Host`."""
    page = _Page(desks, token)
    routes = [
        Route("/", page.shown),
        *(Route(path, page.static) for path in _STATIC),
        Route("/desks", page.listed),
        Route("/ask/{place:int}", page.asked, methods=["POST"]),
    ]
    return Gate(Starlette(routes=routes), token, host, open_paths=("/", *_STATIC))


class _Page:
    def __init__(self, desks: Sequence[Desk], token: str) -> None:
        self._desks, self._token = desks, token
        self._turn = asyncio.Lock()

    async def shown(self, request: Request) -> Response:
        if not is_admitted(request, self._token):
            return refused(403, "this page needs the address that `private-models play` printed")
        return Response(_file("page.html"), media_type="text/html")

    async def static(self, request: Request) -> Response:
        path = request.url.path
        return Response(_file(path.removeprefix("/")), media_type=_STATIC[path])

    async def listed(self, _: Request) -> Response:
        return JSONResponse([desk.facts() for desk in self._desks])

    async def asked(self, request: Request) -> Response:
        place, media = request.path_params["place"], request.headers.get("content-type", "")
        if place >= len(self._desks):
            return refused(404, f"there is no desk {place}")
        if media not in (FILE, STROKES):
            return refused(415, f"expected a body of {FILE} or {STROKES}: load the page again")
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _body(request)
        except TimeoutError:
            return refused(408, "the input did not arrive in time: try again")
        if body is None:
            return refused(413, f"at most {MAX_BYTES >> 20} MB are taken")
        async with self._turn:  # a backbone and its memory are used by one question at a time
            return await asyncio.to_thread(_answered, self._desks[place], body, media)


def _answered(desk: Desk, body: bytes, media: str) -> Response:
    try:
        return JSONResponse(desk.ask(body, media))
    except (PrivacyError, HEError) as error:
        return refused(400, " ".join(str(error).split()))
    except Exception as error:
        # What nobody foresaw is told by its kind: its words, or a log of it, might hold the input.
        return refused(500, f"the question failed: {type(error).__name__}")


def _file(name: str) -> bytes:
    return files("private_models.play").joinpath(name).read_bytes()


async def _body(request: Request) -> bytes | None:
    """None for one that is too long, of which no more is read."""
    parts, length = [], 0
    async for part in request.stream():
        parts.append(part)
        length += len(part)
        if length > MAX_BYTES:
            return None
    return b"".join(parts)
