"""Connections between parties: mutual TLS 1.3, one a pair.

A party is known by its certificate and by nothing else: the connection is refused unless the other
side proves to hold the private key of exactly the certificate that the settings give for it
(pinned; no authority and no host name is believed). There is no option for less: no older TLS, no
plain text.
"""

import errno
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from mpc_training.errors import CertificateError, NotAuthentic, Unreachable
from mpc_training.transport import TlsTransport

_RETRY_SECONDS = 0.05
_IDLE_SECONDS = 3600.0
_HANDSHAKE_SECONDS = 5.0
_BACKLOG = 8


@dataclass(frozen=True)
class Address:
    """Where a party listens, and the certificate (DER) by which it is known."""

    host: str
    port: int
    certificate: bytes


@dataclass(frozen=True)
class Identity:
    """Files of this party's certificate and private key (PEM)."""

    certificate: Path
    private_key: Path


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `Unreachable`."""
    try:
        return socket.create_server((host, port), backlog=_BACKLOG, reuse_port=False)
    except OSError as error:
        raise Unreachable(
            f"cannot listen on {host}:{port} ({error.strerror or error}): name a free port"
        ) from None


def connect(
    party: int,
    addresses: Sequence[Address],
    identity: Identity,
    listener: socket.socket,
    timeout: float,
) -> TlsTransport:
    """Connect with every other party: to those before this one, from those after it.

    party: index into `addresses`. timeout: seconds for all to appear, and later for a silent peer.
    Raises `Unreachable`, `NotAuthentic`, `CertificateError`.
    """
    deadline = monotonic() + timeout
    links: dict[int, ssl.SSLSocket] = {}
    try:
        for peer in range(party):
            links[peer] = _call(peer, addresses[peer], identity, deadline)
        expected = {addresses[peer].certificate: peer for peer in range(party + 1, len(addresses))}
        if expected:
            _answer(expected, identity, listener, deadline, links)
    except BaseException:
        for stream in links.values():
            stream.close()
        raise
    return TlsTransport(party, links, timeout)


def call(
    party: int, addresses: Mapping[int, Address], identity: Identity, timeout: float
) -> TlsTransport:
    """Connect, as `party`, with those that are listening already. Raises as `connect` does."""
    deadline = monotonic() + timeout
    links: dict[int, ssl.SSLSocket] = {}
    try:
        for peer, address in addresses.items():
            links[peer] = _call(peer, address, identity, deadline)
    except BaseException:
        for stream in links.values():
            stream.close()
        raise
    return TlsTransport(party, links, timeout)


def answer(
    party: int,
    caller: int,
    known: Sequence[bytes],
    identity: Identity,
    listener: socket.socket,
    timeout: float,
    *,
    patience: float,
) -> TlsTransport:
    """Wait `patience` seconds for a caller with one of the certificates `known` (DER), which
    becomes the peer `caller`. Strangers are refused. Raises `Unreachable` if nobody came."""
    settings = context(ssl.PROTOCOL_TLS_SERVER, identity, known)
    deadline = monotonic() + patience
    while True:
        left = deadline - monotonic()
        if left <= 0:  # however many strangers keep coming
            raise Unreachable(f"nobody called within {patience:g} s")
        listener.settimeout(min(left, _IDLE_SECONDS))
        try:
            plain, _ = listener.accept()
        except TimeoutError:
            continue
        except OSError as error:
            raise Unreachable(f"the listening socket failed ({error.strerror})") from None
        try:
            shaken = min(deadline, monotonic() + timeout)
            stream = _shake(settings, plain, server_side=True, deadline=shaken)
        except OSError:
            plain.close()
            continue
        if stream.getpeercert(binary_form=True) in known:
            return TlsTransport(party, {caller: stream}, timeout)
        stream.close()


def context(side: int, identity: Identity, trusted: Sequence[bytes]) -> ssl.SSLContext:
    """TLS 1.3 alone, both sides with certificates, and of those only `trusted` (DER) ones."""
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # the certificate itself is compared, which says more than its name
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a pinned certificate needs no authority
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if side == ssl.PROTOCOL_TLS_SERVER:
        made.num_tickets = 0  # no session is ever resumed
    try:
        made.load_cert_chain(identity.certificate, identity.private_key)
        made.load_verify_locations(cadata=b"".join(trusted))
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            f"{identity.certificate} and {identity.private_key} cannot be used "
            f"({error.strerror or error}): make them with `mpc-training keys`"
        ) from None
    return made


def _call(peer: int, address: Address, identity: Identity, deadline: float) -> ssl.SSLSocket:
    """Connect to a party that may not have started yet."""
    settings = context(ssl.PROTOCOL_TLS_CLIENT, identity, [address.certificate])
    while True:
        try:
            plain = socket.create_connection((address.host, address.port), _left(deadline))
            try:
                stream = _shake(settings, plain, server_side=False, deadline=deadline)
                break
            except TimeoutError:  # busy with others, strangers perhaps
                plain.close()
                raise
            except OSError as error:
                plain.close()
                raise NotAuthentic(
                    f"whoever answers at {address.host}:{address.port} is not party {peer} "
                    f"({_why(error)}): compare its certificate with the one in the settings"
                ) from None
        except OSError as error:
            if monotonic() + _RETRY_SECONDS >= deadline or error.errno == errno.EACCES:
                raise Unreachable(
                    f"party {peer} does not answer at {address.host}:{address.port} "
                    f"({error.strerror or error}): start it, or correct its address"
                ) from None
            sleep(_RETRY_SECONDS)
    if stream.getpeercert(binary_form=True) != address.certificate:
        stream.close()
        raise NotAuthentic(
            f"whoever answers at {address.host}:{address.port} has another certificate than party "
            f"{peer}: compare it with the one in the settings"
        )
    return stream


def _answer(
    expected: dict[bytes, int],
    identity: Identity,
    listener: socket.socket,
    deadline: float,
    links: dict[int, ssl.SSLSocket],
) -> None:
    """Accept those expected; strangers are refused and do not stop the others."""
    settings = context(ssl.PROTOCOL_TLS_SERVER, identity, list(expected))
    refused: list[str] = []
    while expected:
        try:
            listener.settimeout(_left(deadline))
            plain, _ = listener.accept()
        except OSError:
            names = ", ".join(map(str, sorted(expected.values())))
            if refused:
                raise NotAuthentic(
                    f"party {names} did not connect, and {len(refused)} connections were refused "
                    f"({refused[-1]}): compare its certificate with the one in the settings"
                ) from None
            raise Unreachable(
                f"party {names} did not connect in time: start it, or correct this party's address "
                "in its settings"
            ) from None
        try:
            stream = _shake(settings, plain, server_side=True, deadline=deadline)
        except OSError as error:
            plain.close()
            refused.append(_why(error))
            continue
        peer = expected.pop(stream.getpeercert(binary_form=True) or b"", None)
        if peer is None:
            stream.close()
            refused.append("a certificate that is connected already")
            continue
        links[peer] = stream


def _left(deadline: float) -> float:
    """Seconds, more than 0. Raises `TimeoutError` where there are none."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError("it took too long")
    return left


def _shake(
    settings: ssl.SSLContext, plain: socket.socket, *, server_side: bool, deadline: float
) -> ssl.SSLSocket:
    plain.settimeout(max(min(_HANDSHAKE_SECONDS, deadline - monotonic()), 0.01))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return settings.wrap_socket(plain, server_side=server_side)


def _why(error: OSError) -> str:
    return str(getattr(error, "verify_message", "") or getattr(error, "reason", "") or error)
