"""A log line per request: who, what, how long, how much; never a payload."""

from time import monotonic
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from he_inference.errors import HEError, ServiceError
from he_inference.serving.logs import logger
from he_inference.serving.refusals import refusal


class Journal:
    """Writes a line per request, and turns errors into refusals: no traceback leaves here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = _Entry(scope, receive, send)
        try:
            fault = await entry.follow(self._app)
        finally:
            entry.finish(self._log)
        if fault is not None:
            self._log.error("fault", error=type(fault).__name__)


class _Entry:
    """What is noted of one request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._begun = monotonic()
        self._status, self._bytes_in, self._bytes_out = 0, 0, 0

    async def follow(self, app: ASGIApp) -> Exception | None:
        """Let the application answer, or refuse in its stead; returns what was not foreseen."""
        try:
            await app(self._scope, self.receive, self.send)
        except ClientDisconnect:
            self._status = 499
        except HEError as error:
            await self._refuse(error)
        except Exception as error:
            await self._refuse(ServiceError("the service failed: its log says more"))
            return error
        return None

    async def _refuse(self, error: HEError) -> None:
        if not self._status:
            await refusal(error)(self._scope, self._receive, self.send)

    async def receive(self) -> Message:
        message = await self._receive()
        self._bytes_in += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        self._bytes_out += len(message.get("body", b""))
        await self._send(message)

    def finish(self, log: Any) -> None:
        peer = self._scope.get("client")
        log.info(
            "request",
            method=self._scope["method"][:16],
            path=self._scope["path"][:100],
            status=self._status,
            milliseconds=round(1000 * (monotonic() - self._begun), 1),
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            key_id=self._scope.get("state", {}).get("key_id", "")[:8],
            peer=peer[0] if peer else "",
        )
