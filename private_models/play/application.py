"""The page's server, which is the client of the model: keys and inputs stay in this process.

    GET  /            the page                  /page.css, /page.js
    GET  /desks       JSON: what can be asked, and what is promised
    POST /ask/N       an input for desk N       → JSON: answer, times, bytes, noise

Only this machine's browser is answered: the address holds a token that others do not know, the name
of the host must be this machine's (so that no foreign page reaches it by way of its own name), and
no other page may ask (`Origin`). Nothing of what is asked is kept or logged.
"""

import asyncio
import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from he_inference.errors import HEError
from private_models.errors import PrivacyError
from private_models.hybrid.client import Answer, Client
from private_models.play.uploads import MAX_BYTES, read_upload

TOKEN = "key"
HEADER = "x-key"
NOISE_BYTES = 96 * 96
"""Of a query, to look at."""
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_STATIC = {"/page.css": "text/css", "/page.js": "text/javascript"}


@dataclass
class Desk:
    """One bundle's client, and the name of its tab. One question at a time."""

    name: str
    client: Client
    lock: Lock = field(default_factory=Lock)

    def facts(self) -> dict[str, Any]:
        """What the page shows before anything is asked."""
        public = self.client.public
        statement = public.statement
        return {
            "name": self.name,
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

    def ask(self, body: bytes) -> dict[str, Any]:
        """Raises `PrivacyError` or `HEError`."""
        with self.lock:
            value, digit = read_upload(self.client.kind, body)
            answer = self.client.ask(value)
            return _shown(self.client, answer, digit)


def _shown(client: Client, answer: Answer, digit: Any) -> dict[str, Any]:
    return {
        "label": str(answer.label),
        "scores": answer.scores.tolist(),
        "milliseconds": answer.milliseconds,
        "features": len(answer.features),
        "bytes_up": len(answer.query),
        "bytes_down": len(answer.answer),
        "key_bytes": client.key_bytes,
        "noise": base64.b64encode(answer.query[-NOISE_BYTES:]).decode(),
        "digit": None if digit is None else (digit * 255).round().astype(int).ravel().tolist(),
    }


def application(desks: Sequence[Desk], token: str, hosts: Sequence[str]) -> ASGIApp:
    """desks: a tab each. token: what the address must hold. hosts: what may stand in `Host`."""

    async def page(request: Request) -> Response:
        given = request.query_params.get(TOKEN, "")
        if not hmac.compare_digest(given.encode(), token.encode()):
            return _refused(403, "this page needs the address that `private-models play` printed")
        return Response(_file("page.html"), media_type="text/html")

    async def static(request: Request) -> Response:
        path = request.url.path
        return Response(_file(path.removeprefix("/")), media_type=_STATIC[path])

    async def listed(request: Request) -> Response:
        return JSONResponse([desk.facts() for desk in desks])

    async def asked(request: Request) -> Response:
        place = request.path_params["place"]
        if place >= len(desks):
            return _refused(404, f"there is no desk {place}")
        body = await _body(request)
        if body is None:
            return _refused(413, f"at most {MAX_BYTES >> 20} MB are taken")
        try:
            return JSONResponse(await asyncio.to_thread(desks[place].ask, body))
        except (PrivacyError, HEError) as error:
            return _refused(400, " ".join(str(error).split()))

    routes = [
        Route("/", page),
        *(Route(path, static) for path in _STATIC),
        Route("/desks", listed),
        Route("/ask/{place:int}", asked, methods=["POST"]),
    ]
    return _Gate(Starlette(routes=routes), token, frozenset(hosts))


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


def _refused(status: int, line: str) -> Response:
    return JSONResponse({"error": line}, status)


class _Gate:
    """Lets nobody in but the page itself; puts the headers on everything."""

    def __init__(self, inner: ASGIApp, token: str, hosts: frozenset[str]) -> None:
        self._inner, self._token, self._hosts = inner, token.encode(), hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._inner)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if host not in self._hosts:
            return PlainTextResponse("another host's name: open the address as printed", 421)
        if origin is not None and origin != f"http://{host}":
            return PlainTextResponse("asked by another page", 403)
        given = request.headers.get(HEADER, "").encode()
        open_to_all = request.url.path == "/" or request.url.path in _STATIC
        if not open_to_all and not hmac.compare_digest(given, self._token):
            return _refused(
                403, "the page was opened without its token: use the address as printed"
            )
        return None
