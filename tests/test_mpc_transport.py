"""Mutual TLS 1.3, limits, time-outs and counters, each with what must not get through."""

from __future__ import annotations

import socket
import ssl
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpc_training import connecting
from mpc_training.connecting import Address, Identity, answer, connect, context, listen
from mpc_training.errors import (
    CertificateError,
    FrameError,
    MPCError,
    NotAuthentic,
    PeerLeft,
    PeerStalled,
    Unreachable,
)
from mpc_training.link import RECORD_BYTES, RECORD_OVERHEAD
from mpc_training.transport import TlsTransport
from mpc_training.wire import Kind, write_header
from tests.insecure_parties import in_threads
from tests.tls_parties import addresses_of, connected, make_identities, wired

Pair = list[Identity]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_identities(tmp_path_factory.mktemp("keys"), ["a", "b", "c"])


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return make_identities(tmp_path_factory.mktemp("other"), ["a"])[0]


def swap(transport: TlsTransport, count: int = 1000) -> np.ndarray[Any, Any]:
    """Two parties send each other their index, `count` times."""
    other = 1 - transport.party
    received = np.empty(count, np.uint64)
    mine = np.full(count, transport.party, np.uint64)
    transport.exchange({other: [mine]}, {other: [received]})
    return received


# ---------------------------------------------------------------------------- what gets through


@pytest.mark.parametrize("count", [0, 1, 1000, 8192, 3_000_000])
def test_arrays_arrive_whatever_their_size(three: Pair, count: int) -> None:
    """24 MB each way at once, which no socket holds: neither side may wait for the other."""

    def task(transport: TlsTransport) -> bool:
        received = swap(transport, count)
        return bool((received == 1 - transport.party).all())

    assert connected(three[:2], task) == [True, True]


def test_three_parties_in_a_ring(three: Pair) -> None:
    def task(transport: TlsTransport) -> int:
        total, received = transport.party, np.array([transport.party], np.uint64)
        for _ in range(50):
            sent = received.copy()
            transport.exchange(
                {(transport.party + 1) % 3: [sent]}, {(transport.party - 1) % 3: [received]}
            )
            total += int(received[0])
        return total

    assert connected(three, task) == [51, 51, 51]


def test_it_is_tls_1_3_with_both_certificates(three: Pair) -> None:
    def task(transport: TlsTransport) -> tuple[Any, bool]:
        stream = transport._links[1 - transport.party].stream
        return stream.version(), bool(stream.getpeercert(binary_form=True))

    assert connected(three[:2], task) == [("TLSv1.3", True)] * 2
    for side in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        made = context(side, three[0], [addresses_of(three[:1], [1])[0].certificate])
        assert made.minimum_version is ssl.TLSVersion.TLSv1_3
        assert made.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("count", [1, 5000, 100_000])
def test_bytes_are_those_on_the_wire(three: Pair, count: int) -> None:
    """The counters against a recording of the wire: the handshake apart, equal to the byte."""

    def quiet(transport: TlsTransport) -> int:
        swap(transport, 1)
        return transport.traffic.bytes_sent

    def task(transport: TlsTransport) -> int:
        swap(transport, 1)
        for _ in range(3):
            swap(transport, count)
        return transport.traffic.bytes_sent

    few, short = wired(three[:2], quiet)
    many, long = wired(three[:2], task)
    # Handshakes differ by the few bytes that an ECDSA signature varies in: two in each direction.
    difference = len(long.recorded) - len(short.recorded) - (sum(many) - sum(few))
    assert abs(difference) <= 3 * 4 + 2 * RECORD_OVERHEAD
    assert sum(many) - sum(few) >= 2 * 3 * (8 * count + 16)


def test_nothing_readable_is_on_the_wire(three: Pair) -> None:
    secret = np.frombuffer(b"a patient's name and record no. " * 256, np.uint64)

    def task(transport: TlsTransport) -> None:
        received = np.empty_like(secret)
        other = 1 - transport.party
        transport.exchange({other: [secret]}, {other: [received]})
        assert (received == secret).all()

    _, wire = wired(three[:2], task)
    assert len(wire.recorded) > 2 * secret.nbytes
    assert b"patient" not in wire.recorded and b"SV\x01" not in wire.recorded


# ---------------------------------------------------------------------------- what does not


@pytest.mark.skipif(sys.platform != "linux", reason="these options are Linux's")
def test_the_operating_system_looks_whether_a_peer_is_there(three: Pair) -> None:
    def task(transport: TlsTransport) -> tuple[int, int]:
        stream = transport._links[1 - transport.party].stream
        return (
            stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        )

    assert connected(three[:2], task, timeout=7.5) == [(1, 7500)] * 2


def test_idle_strangers_do_not_stop_a_run(three: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no certificate can hold a connection open, for a while, and no more."""
    monkeypatch.setattr(connecting, "_HANDSHAKE_SECONDS", 0.4)
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen("127.0.0.1", 0)) for _ in three]
        addresses = addresses_of(three, [taken.getsockname()[1] for taken in listeners])
        for _ in range(3):
            stack.enter_context(socket.create_connection(listeners[0].getsockname()))

        def part(index: int) -> frozenset[int]:
            made = connect(index, addresses, three[index], listeners[index], 15.0)
            made.close()
            return made.peers

        found = in_threads([partial(part, index) for index in range(3)])
    assert found == [{1, 2}, {0, 2}, {0, 1}]


def test_waiting_for_a_caller_ends_however_many_strangers_come(three: Pair) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(listen("127.0.0.1", 0))
        for _ in range(6):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        known = [addresses_of(three[1:2], [1])[0].certificate]
        begun = time.monotonic()
        with pytest.raises(Unreachable, match="nobody called within 1 s"):
            answer(0, 3, known, three[0], listener, 0.7, patience=1.0)
        assert time.monotonic() - begun < 2.0


def refused(three: Pair, first: Pair, second: Pair) -> list[MPCError]:
    """The errors of two parties; each is one of `first`, and trusts `second`."""
    with listen("127.0.0.1", 0) as listener, listen("127.0.0.1", 0) as unused:
        port = listener.getsockname()[1]

        def part(index: int) -> MPCError:
            addresses = addresses_of(second, [port, port])
            with pytest.raises(MPCError) as caught:
                made = connect(index, addresses, first[index], (listener, unused)[index], 1.5)
                try:
                    swap(made)
                finally:
                    made.close()
            return caught.value

        return in_threads([lambda: part(0), lambda: part(1)])


def test_a_called_party_with_another_certificate_is_refused(
    three: Pair, stranger: Identity
) -> None:
    errors = refused(three, [stranger, three[1]], three[:2])
    assert isinstance(errors[1], NotAuthentic) and "compare its certificate" in str(errors[1])


def test_a_calling_party_with_another_certificate_is_refused(
    three: Pair, stranger: Identity
) -> None:
    errors = refused(three, [three[0], stranger], three[:2])
    assert isinstance(errors[0], NotAuthentic)
    assert "1 connections were refused" in str(errors[0])


def test_one_party_cannot_pose_as_another(three: Pair) -> None:
    """c holds a certificate that a knows, but not that of the party expected."""
    errors = refused(three, [three[0], three[2]], three[:2])
    assert isinstance(errors[0], NotAuthentic)


@pytest.mark.parametrize("at", [10, 2_000, 20_000, 60_000])
def test_a_flipped_byte_ends_it(three: Pair, at: int) -> None:
    def flip(before: int, piece: bytes) -> bytes:
        if before <= at < before + len(piece):
            changed = bytearray(piece)
            changed[at - before] ^= 1
            return bytes(changed)
        return piece

    def task(transport: TlsTransport) -> None:
        for _ in range(5):
            received = swap(transport, 2000)
            assert (received == 1 - transport.party).all(), "changed data got through"

    with pytest.raises((PeerLeft, NotAuthentic, Unreachable)):
        wired(three[:2], task, change=flip, timeout=3.0)


def test_plain_text_is_refused(three: Pair) -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(NotAuthentic, match="1 connections were refused"):
                connect(0, addresses_of(three[:2], [port, port]), three[0], listener, 1.0)


def test_nobody_there(three: Pair) -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(Unreachable, match="party 1 did not connect in time"):
            connect(0, addresses_of(three[:2], [port, port]), three[0], listener, 0.3)
    with listen("127.0.0.1", 0) as free, pytest.raises(Unreachable, match="does not answer"):
        connect(1, addresses_of(three[:2], [port, port]), three[1], free, 0.3)


def test_a_silent_stranger_does_not_hang_it(three: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_HANDSHAKE_SECONDS", 0.3)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            begun = time.monotonic()
            with pytest.raises(NotAuthentic):
                connect(0, addresses_of(three[:2], [port, port]), three[0], listener, 1.0)
            assert time.monotonic() - begun < 5


def test_a_party_that_stalls_is_named(three: Pair) -> None:
    def task(transport: TlsTransport) -> None:
        if transport.party == 1:
            time.sleep(2.0)
        else:
            begun = time.monotonic()
            with pytest.raises(PeerStalled, match=r"nothing moved for 0.5 s: party 1 is connected"):
                swap(transport)
            assert 0.4 < time.monotonic() - begun < 1.9

    connected(three[:2], task, timeout=0.5)


def test_a_party_that_stops_says_why(three: Pair) -> None:
    def task(transport: TlsTransport) -> None:
        if transport.party == 1:
            transport.stop("its disk is\x1b[31m full\nreally")
        else:
            with pytest.raises(PeerLeft, match=r"party 1 stopped: its disk is \[31m full really"):
                swap(transport)

    connected(three[:2], task)


def test_a_party_that_vanishes_is_noticed(three: Pair) -> None:
    def task(transport: TlsTransport) -> None:
        if transport.party == 1:
            transport.close()
        else:
            with pytest.raises(PeerLeft, match="party 1"):
                swap(transport)

    connected(three[:2], task)


BAD_HEADERS = {
    "oversized": write_header(Kind.DATA, 0, 2**60),
    "too short": write_header(Kind.DATA, 0, 8),
    "another number": write_header(Kind.DATA, 7, 8000),
    "another kind": write_header(Kind.HELLO, 0, 8000),
    "another protocol": b"HTTP/1.1 200 OK\r",
    "a long farewell": write_header(Kind.ABORT, 0, 2**40),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_are_compared_and_not_obeyed(three: Pair, name: str) -> None:
    """Whatever is announced, nothing but the buffer that was waiting is ever filled."""

    def task(transport: TlsTransport) -> None:
        if transport.party == 1:
            transport._links[0].stream.setblocking(True)
            transport._links[0].stream.sendall(BAD_HEADERS[name])
            time.sleep(0.3)
        else:
            received = np.zeros(1000, np.uint64)
            with pytest.raises(FrameError, match="party 1: expected"):
                transport.exchange({}, {1: [received]})
            assert not received.any()

    connected(three[:2], task)


def test_keys_that_cannot_be_used(three: Pair, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(CertificateError, match="mpc-training keys"):
        context(ssl.PROTOCOL_TLS_CLIENT, Identity(tmp_path / "x.pem", tmp_path / "x.pem"), [])


def test_a_taken_port(three: Pair) -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(Unreachable, match="cannot listen"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_records_are_counted_by_their_formula() -> None:
    assert (RECORD_BYTES, RECORD_OVERHEAD) == (2**14, 5 + 1 + 16)
    assert Address("h", 1, b"") == Address("h", 1, b"")
