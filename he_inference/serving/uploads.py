"""Bodies of requests, within limits of length, memory and time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from starlette.requests import Request

from he_inference.errors import Busy
from he_inference.serving.refusals import Refusal
from he_inference.serving.settings import Settings

BINARY = "application/octet-stream"


class Uploads:
    """All bodies being held in memory; used by one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held_bytes = 0

    @asynccontextmanager
    async def receive(self, request: Request, limit: int, what: str) -> AsyncIterator[bytes]:
        """A body of at most `limit` bytes, which counts as held until the context is left.

        Raises `Refusal` for another media type (415), too many bytes (413) or too few a second
        (408), and `Busy` where all bodies together take too much memory.
        """
        _check_headers(request, limit, what)
        held = 0
        parts: list[bytes] = []
        try:
            async with aclosing(self._parts(request)) as stream:
                async for part in stream:
                    held += len(part)
                    self._held_bytes += len(part)
                    self._check(held, limit, what)
                    parts.append(part)
            yield b"".join(parts)
        finally:
            self._held_bytes -= held

    def _check(self, held: int, limit: int, what: str) -> None:
        if held > limit:
            raise _too_large(held, limit, what)
        if self._held_bytes > self._settings.upload_bytes:
            raise Busy("too many uploads at a time: try again in a few seconds")

    async def _parts(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The parts of a body, as long as they come at a reasonable rate."""
        begun, received = asyncio.get_running_loop().time(), 0
        async with aclosing(request.stream()) as stream:
            while True:
                allowed = self._settings.body_seconds + received / self._settings.slowest_upload
                try:
                    async with asyncio.timeout_at(begun + allowed):
                        part = await anext(stream, None)
                except TimeoutError:
                    raise Refusal(
                        408, f"the body did not arrive within {allowed:.0f} s: send it faster"
                    ) from None
                if part is None:
                    return
                received += len(part)
                yield part


def _check_headers(request: Request, limit: int, what: str) -> None:
    """Raise `Refusal` before a byte of the body is read, where its headers are reason enough."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != BINARY:
        raise Refusal(415, f"expected content-type {BINARY}, found {media[:60]!r}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "expected no content-encoding: messages do not compress")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(int(announced), limit, what)


def _too_large(found: int, limit: int, what: str) -> Refusal:
    return Refusal(
        413,
        f"the body is too large: expected at most {limit} bytes for {what}, found {found} or more; "
        "send fewer at a time, or fetch the signature again if it may have changed",
    )
