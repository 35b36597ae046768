"""Frames between parties: the only reader of foreign bytes.

    frame   = header · payload
    header  = "SV" · version u8 · kind u8 · sequence u32 · length u64, little-endian, 16 bytes
    payload = raw little-endian arrays (DATA), JSON (HELLO), 64 or 96 bytes (KEYS), UTF-8 (ABORT)

Each side knows what must come next, its kind, number and exact length, before it comes; so a header
is compared, not obeyed, and nothing is ever allocated on a peer's word. A greeting and a farewell
have limits of their own. Integrity and confidentiality are TLS's.
"""

import json
import struct
from enum import IntEnum
from typing import Any

from mpc_training.errors import FrameError

MAGIC = b"SV"
VERSION = 1
_HEADER = struct.Struct("<2sBBIQ")
HEADER_BYTES = _HEADER.size
MAX_HELLO_BYTES = 2**16
MAX_REASON_BYTES = 400


class Kind(IntEnum):
    HELLO = 1
    KEYS = 2
    DATA = 3
    ABORT = 4


def write_header(kind: Kind, sequence: int, length: int) -> bytes:
    """The 16 bytes before a payload."""
    return _HEADER.pack(MAGIC, VERSION, kind, sequence & 0xFFFFFFFF, length)


def read_header(header: bytes | bytearray, kind: Kind, sequence: int, length: int) -> int | None:
    """None if this is the header expected, else the length of a farewell (ABORT).

    Raises `FrameError` for anything else.
    """
    magic, version, found, number, announced = _HEADER.unpack(header)
    if magic != MAGIC or version != VERSION:
        raise FrameError(
            f"expected a frame of version {VERSION}, found {bytes(header[:4]).hex()}: not a party "
            "of this release"
        )
    if found == Kind.ABORT and announced <= MAX_REASON_BYTES:
        return int(announced)
    if found != kind or number != sequence & 0xFFFFFFFF:
        raise FrameError(
            f"expected frame {sequence} of kind {kind.name}, found {number} of kind {found}: the "
            "parties are out of step; start all of them again from the same settings"
        )
    if announced != length:
        raise FrameError(
            f"expected a {kind.name} frame of {length} bytes, found {announced}: nothing was read; "
            "check that all parties run the same release on the same settings"
        )
    return None


def write_hello(facts: dict[str, Any]) -> bytes:
    """A greeting; raises `FrameError` if it is over the limit."""
    content = json.dumps(facts, sort_keys=True, allow_nan=False).encode()
    if len(content) > MAX_HELLO_BYTES:
        raise FrameError(f"a greeting of {len(content)} bytes: expected up to {MAX_HELLO_BYTES}")
    return content


def read_hello(content: bytes) -> dict[str, Any]:
    """The facts of a greeting. Raises `FrameError` for anything but a JSON object."""
    try:
        facts = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise FrameError("the greeting is not JSON: not a party of this release") from None
    if not isinstance(facts, dict):
        raise FrameError("the greeting is not a JSON object: not a party of this release")
    return facts


def read_reason(content: bytes) -> str:
    """A peer's last words, printable and on one line."""
    text = content.decode(errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
