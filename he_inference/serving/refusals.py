"""How errors are told to clients: a status, and JSON with the name of an error and a line."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from he_inference.errors import (
    Busy,
    HEError,
    MessageError,
    Rejected,
    ServiceError,
    UnknownKey,
    WrongProgram,
)
from he_inference.serving.worker import TimeLimit

_RETRY_SECONDS = "1"


class Refusal(Rejected):
    """A refusal for reasons of HTTP, with the status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_STATUSES: tuple[tuple[type[HEError], int], ...] = (
    (WrongProgram, 409),
    (UnknownKey, 404),
    (MessageError, 400),
    (Busy, 503),
    (TimeLimit, 504),
    (Rejected, 403),
)
_PUBLIC_NAMES = (WrongProgram, UnknownKey, MessageError, Busy, Rejected)


def refusal(error: HEError) -> JSONResponse:
    """An error as the client is told of it."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if isinstance(error, Refusal):
        status = error.status
    names = (kind.__name__ for kind in _PUBLIC_NAMES if isinstance(error, kind))
    name = next(names, ServiceError.__name__)
    headers = {"retry-after": _RETRY_SECONDS} if status == 503 else {}
    return JSONResponse({"error": name, "message": str(error)}, status, headers)


async def http_refusal(_: Request, error: Exception) -> Response:
    """Starlette's own refusals (no such path, no such method) in the same form."""
    if not isinstance(error, HTTPException):
        raise error
    body = {"error": "Rejected", "message": f"{error.detail}: see /v1/health for signs of life"}
    return JSONResponse(body, error.status_code, error.headers)
