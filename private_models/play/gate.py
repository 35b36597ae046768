"""Who may speak to the page's server: the browser that was given its address, and nobody else.

A server on loopback is reached by every page that a browser has open, and by every user of the
machine. Against them:

    a foreign name that resolves to 127.0.0.1     the Host header must be our address
    a request sent by a foreign page              Origin, Sec-Fetch-Site; a header of our own
    another user, or a program that finds a port  a token, 192 bits from the operating system
    a script that found its way into the page     nothing may load but our own files
    a page that frames this one                   none may

Refused before a byte of a body is read.
"""

import hmac
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN = "key"
"""In the address of the page."""
HEADER = "x-key"
"""Of the page's requests: a header that a foreign page may not send without being asked."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
"""Of every response, refusals too. Not stored: answers stay off the disk."""
_OWN = ("same-origin", "none")


def refused(status: int, line: str) -> Response:
    """One line, for the page to show."""
    return JSONResponse({"error": line}, status)


def is_admitted(request: Request, token: str) -> bool:
    """Whether an address holds the token."""
    given = request.query_params.get(TOKEN, "")
    return hmac.compare_digest(given.encode(), token.encode())


class Gate:
    """ASGI middleware: refuses, and puts the headers on everything."""

    def __init__(self, inner: ASGIApp, token: str, host: str, open_paths: Sequence[str]) -> None:
        """host: 127.0.0.1:port; not `localhost`, which may be ::1 too, where others may listen.
        open_paths: need no token in a header; none of them tells anything."""
        self._inner, self._token, self._host = inner, token.encode(), host
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":  # no WebSocket is spoken here
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._inner)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        headers = request.headers
        if headers.getlist("host") != [self._host]:
            return refused(421, "another host's name: open the address as printed")
        if any(origin != f"http://{self._host}" for origin in headers.getlist("origin")):
            return refused(403, "asked by another page")
        opened = request.method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in _OWN and not opened:
            return refused(403, "asked by another page")
        given = headers.get(HEADER, "").encode()
        if request.url.path not in self._open and not hmac.compare_digest(given, self._token):
            return refused(403, "opened without its token: use the address as printed")
        return None
