"""Structured log lines, one JSON object each, on standard error. Never a payload."""

import logging
import sys
from typing import Any

import structlog


def logger() -> Any:
    """A logger that needs, and changes, no global configuration of logging."""
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.BoundLogger,
    )


class Relay(logging.Handler):
    """Turns what uvicorn reports into the same lines: the last line of each, no traceback."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._log = logger()

    def emit(self, record: logging.LogRecord) -> None:
        lines = record.getMessage().strip().splitlines() or [""]
        self._log.warning("http server", message=lines[-1][:300])


def relay_uvicorn() -> None:
    """Send uvicorn's own warnings through `Relay` and nowhere else, in this process."""
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.handlers = [Relay()]
    uvicorn.propagate = False
    uvicorn.setLevel(logging.WARNING)
