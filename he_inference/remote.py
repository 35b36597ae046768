"""The client's side of the HTTP service: a server that is somewhere else.

`RemoteServer` has the methods of `Server`, so that the same lines query either:

    client.decrypt(server.evaluate(client.encrypt(x)))

What comes back is foreign: it is read up to the length that it may have, and checked by `wire`.
Redirects are not followed, since a query meant for one address is none of another's business.
"""

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from random import uniform
from time import monotonic, sleep
from typing import Any, Self

import httpx

from he_inference import wire
from he_inference.addresses import is_loopback
from he_inference.errors import (
    Busy,
    HEError,
    MessageError,
    Rejected,
    ServiceError,
    UnknownKey,
    Unreachable,
    WrongProgram,
)
from he_inference.lengths import lengths
from he_inference.signature import MAX_BYTES as MAX_SIGNATURE_BYTES
from he_inference.signatures import AnySignature, read_signature

BINARY = "application/octet-stream"
DEFAULT_TIMEOUT = 90.0
MAX_ATTEMPTS = 4
_MAX_JSON_BYTES = 1 << 16
_MAX_LINE = 500
_PIECE_BYTES = 1 << 20
_FIRST_PAUSE_SECONDS = 0.25
_MAX_PAUSE_SECONDS = 5.0
_NAMES: dict[str, type[HEError]] = {
    kind.__name__: kind for kind in (MessageError, WrongProgram, UnknownKey, Busy, Rejected)
}


class RemoteServer:
    """A `Server` behind HTTP. Safe to close twice; not to be shared between threads.

    Guarantee: nothing is sent but what `Client` gave out as bytes, and never over plain HTTP to
    another machine unless `insecure_plain_http` is chosen.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        certificate_authority: str | Path | None = None,
        insecure_plain_http: bool = False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """url: scheme, host and port. timeout: seconds for each step, and for a whole answer.

        certificate_authority: PEM file to trust instead of the usual authorities. transport: for
        tests. Raises `ServiceError` for an address that cannot or should not be used.
        """
        self.url = url.rstrip("/")
        host = _checked_host(self.url, insecure_plain_http)
        self._timeout = timeout
        self._answered = False
        self._signature: AnySignature | None = None
        self._http = httpx.Client(
            base_url=self.url,
            timeout=timeout,
            verify=_authority(certificate_authority),
            transport=transport,
            follow_redirects=False,
            trust_env=not is_loopback(host),
            headers={"accept-encoding": "identity"},
        )

    def health(self) -> dict[str, Any]:
        """What the service says of itself: status, digest of its signature, workers, queue."""
        return self._json("GET", "/v1/health")

    def signature(self) -> AnySignature:
        """Fetch the signature, once. Raises `ModelFileError` or `ParameterError` for a bad one.

        Whoever answers decides what it says: compare `digest` with one got by another way where
        the connection is not protected by TLS.
        """
        if self._signature is None:
            data = self._exchange("GET", "/v1/signature", None, MAX_SIGNATURE_BYTES)
            self._signature = read_signature(data)
        return self._signature

    def register(self, evaluation_keys: bytes) -> str:
        """Send a client's evaluation keys; returns the id under which its queries name them.

        Raises `MessageError`, `WrongProgram` or a `ServiceError`.
        """
        self._check_keys(len(evaluation_keys))
        expected = wire.key_id(evaluation_keys).hex()
        found = self._json("POST", "/v1/keys", evaluation_keys).get("key_id")
        if found != expected:
            raise MessageError(
                f"the service named the keys {str(found)[:40]!r}, expected {expected}: it got "
                "other keys than were sent; use TLS"
            )
        return expected

    def _check_keys(self, found: int) -> None:
        """Keys for another program are often longer: say so before they are refused for that."""
        expected = lengths(self.signature()).keys
        if found != expected:
            self._signature = None
            raise WrongProgram(
                f"keys of {found} bytes, where the program at {self.url} takes {expected}: fetch "
                "the signature again and make new keys"
            )

    def evaluate(self, query: bytes) -> bytes:
        """Send a query message, return the answer message.

        Raises `UnknownKey` where the service holds no such keys (any more): register them and
        send the query again. Else `MessageError`, `WrongProgram` or a `ServiceError`; after
        `Unreachable` and `Busy` the query may be sent again as it is.
        """
        expected = lengths(self.signature())
        count = min(max(1, expected.queries_in(len(query))), expected.max_queries)
        return self._exchange("POST", "/v1/evaluate", query, expected.answer(count))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _json(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        data = self._exchange(method, path, body, _MAX_JSON_BYTES)
        value = _parsed(data)
        if value is None:
            raise MessageError(f"{self.url}{path} did not answer JSON: is it such a service?")
        return value

    def _exchange(self, method: str, path: str, body: bytes | None, limit: int) -> bytes:
        """One request and its answer of at most `limit` bytes; patient with a full queue only."""
        pause = _FIRST_PAUSE_SECONDS
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return self._attempt(method, path, body, limit)
            except _TryLater as later:
                sleep(min(max(pause, later.seconds), _MAX_PAUSE_SECONDS) * uniform(0.8, 1.2))
                pause *= 2
        return self._attempt(method, path, body, limit)

    def _attempt(self, method: str, path: str, body: bytes | None, limit: int) -> bytes:
        headers, content = {}, None
        if body is not None:
            headers = {"content-type": BINARY, "content-length": str(len(body))}
            content = _pieces(body)
        try:
            with self._http.stream(method, path, content=content, headers=headers) as response:
                self._answered = True
                self._check_form(response)
                if response.status_code != 200:
                    raise self._refusal(response, self._read(response, _MAX_JSON_BYTES))
                return self._read(response, limit)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _check_form(self, response: httpx.Response) -> None:
        if response.is_redirect:
            raise Rejected(f"{self.url} redirects, which is not followed: give the final address")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise MessageError(f"{self.url} answered in an encoding that was not asked for")

    def _read(self, response: httpx.Response, limit: int) -> bytes:
        """The body, given up as soon as it is too long or takes too long."""
        deadline = monotonic() + self._timeout
        data = bytearray()
        for part in response.iter_bytes():
            data += part
            if len(data) > limit:
                raise MessageError(f"{self.url} answered more than the {limit} bytes expected")
            if monotonic() > deadline:
                raise Unreachable(f"{self.url} did not finish its answer in {self._timeout:g} s")
        return bytes(data)

    def _refusal(self, response: httpx.Response, body: bytes) -> HEError:
        """The error that a service answered with, its text made harmless."""
        value = _parsed(body) or {}
        status = response.status_code
        line = _harmless(value.get("message", "")) or f"{self.url} answered with status {status}"
        if status in (409, 413):
            self._signature = None  # the program may be another one by now
        if status == 503:
            return _TryLater(line, response.headers.get("retry-after", ""))
        if status >= 500:
            return ServiceError(line)
        return _NAMES.get(str(value.get("error")), Rejected)(line)

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        if isinstance(error, httpx.TimeoutException):
            return Unreachable(f"{self.url} did not answer in {self._timeout:g} s: try again later")
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Unreachable(
                f"{self.url} has a certificate that is not trusted: name its certificate authority"
            )
        if "[SSL" in str(error):
            return Unreachable(f"{self.url} does not speak TLS as this side does: is it HTTP?")
        if isinstance(error, httpx.ConnectError):
            return Unreachable(f"nothing answers at {self.url}: is the service running there?")
        if self.url.startswith("http:") and not self._answered:
            secure = self.url.replace("http:", "https:", 1)
            return Unreachable(f"{self.url} did not answer in HTTP: if it speaks TLS, try {secure}")
        return Unreachable(
            f"{self.url} went away in the middle ({type(error).__name__}): try again"
        )


def _pieces(body: bytes) -> Iterator[bytes]:
    """Whole, httpcore would copy what is left of it after every write."""
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]


class _TryLater(Busy):
    """A full queue, with the seconds after which the service wants to be asked again."""

    def __init__(self, line: str, retry_after: str) -> None:
        super().__init__(line)
        self.seconds = float(retry_after) if retry_after.isdecimal() else 0.0


def _checked_host(url: str, insecure_plain_http: bool) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ServiceError(f"{url!r} is not an address: {error}") from None
    if parsed.userinfo:
        raise ServiceError("the address holds a user name or password: expected https://host:8443")
    plain = parsed.path in ("", "/") and not parsed.query and not parsed.fragment
    port_fits = parsed.port is None or 0 < parsed.port < 1 << 16
    if parsed.scheme not in ("http", "https") or not (parsed.host and plain and port_fits):
        raise ServiceError(f"{url!r}: expected an address like https://host:8443")
    if parsed.scheme == "http" and not is_loopback(parsed.host) and not insecure_plain_http:
        raise ServiceError(
            f"{url} is plain HTTP to another machine, where whoever is in between may replace "
            "keys and answers: use https, or choose insecure_plain_http explicitly"
        )
    return parsed.host


def _authority(path: str | Path | None) -> ssl.SSLContext | bool:
    if path is None:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise ServiceError(f"certificate authority {path} cannot be used: {error}") from None


def _parsed(data: bytes) -> dict[str, Any] | None:
    """A JSON object, or None."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _harmless(text: object) -> str:
    """Foreign text on one line, without what a terminal would act upon."""
    line = " ".join(str(text).split())
    return "".join(c for c in line if c.isprintable())[:_MAX_LINE]
