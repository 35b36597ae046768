"""The client's side of the HTTP service, against servers that misbehave."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from he_inference import Client, remote
from he_inference.errors import (
    Busy,
    HEError,
    MessageError,
    ModelFileError,
    Rejected,
    ServiceError,
    UnknownKey,
    Unreachable,
    WrongProgram,
)
from he_inference.lengths import lengths
from he_inference.remote import RemoteServer
from he_inference.signatures import AnySignature
from tests.small_model import KINDS, compiled, inputs

Handler = Callable[[httpx.Request], httpx.Response]
URL = "http://127.0.0.1:1"


def server(handler: Handler, signature: AnySignature | None = None) -> RemoteServer:
    """A remote server whose answers to all but the signature are the handler's."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/signature":
            return httpx.Response(200, content=(signature or compiled().signature).to_bytes())
        return handler(request)

    return RemoteServer(URL, transport=httpx.MockTransport(answer))


def refusing(status: int, error: object, message: object = "so it is") -> Handler:
    return lambda _: httpx.Response(status, json={"error": error, "message": message})


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(compiled().signature)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(remote, "sleep", made.append)
    return made


@pytest.mark.parametrize(
    ("status", "name", "expected"),
    [
        (400, "MessageError", MessageError),
        (404, "UnknownKey", UnknownKey),
        (404, "Rejected", Rejected),
        (409, "WrongProgram", WrongProgram),
        (413, "Rejected", Rejected),
        (415, "Rejected", Rejected),
        (418, "KeyboardInterrupt", Rejected),
        (400, ["MessageError"], Rejected),
        (500, "ServiceError", ServiceError),
        (504, "MessageError", ServiceError),
    ],
)
def test_refusals_become_errors(
    client: Client, status: int, name: object, expected: type[HEError]
) -> None:
    with server(refusing(status, name)) as it, pytest.raises(HEError, match="so it is") as caught:
        it.evaluate(client.encrypt(inputs(1)))
    assert type(caught.value) is expected


def test_refusals_are_made_harmless() -> None:
    hostile = "\x1b[31mred\r\nnew line \u202e" + "x" * 9999
    with (
        server(refusing(400, "MessageError", hostile)) as it,
        pytest.raises(MessageError) as caught,
    ):
        it.health()
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) == 500


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 60_000])
def test_refusals_that_are_not_json(body: bytes) -> None:
    with (
        server(lambda _: httpx.Response(403, content=body)) as it,
        pytest.raises(Rejected, match="status 403"),
    ):
        it.health()


def test_answers_too_long_are_given_up(client: Client) -> None:
    taken = 0

    def endless(_: httpx.Request) -> httpx.Response:
        def parts() -> Iterator[bytes]:
            nonlocal taken
            while True:
                taken += 1 << 16
                yield bytes(1 << 16)

        return httpx.Response(200, content=parts())

    limit = lengths(compiled().signature).answer(1)
    with server(endless) as it, pytest.raises(MessageError, match=str(limit)):
        it.evaluate(client.encrypt(inputs(1)))
    assert taken <= limit + (2 << 16)


def test_signature_is_bounded_and_checked() -> None:
    with (
        RemoteServer(
            URL, transport=httpx.MockTransport(lambda _: httpx.Response(200, content=b"{}"))
        ) as it,
        pytest.raises(ModelFileError),
    ):
        it.signature()


def test_answers_that_do_not_end(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    clock = iter(range(0, 100_000, 50))
    monkeypatch.setattr(remote, "monotonic", lambda: next(clock))
    drops = httpx.Response(200, content=(b"x" for _ in range(1000)))
    with server(lambda _: drops) as it, pytest.raises(Unreachable, match="did not finish"):
        it.evaluate(client.encrypt(inputs(1)))


def test_redirects_are_not_followed(client: Client) -> None:
    moved = httpx.Response(307, headers={"location": "http://192.0.2.1/"})
    with server(lambda _: moved) as it, pytest.raises(Rejected, match="redirects"):
        it.evaluate(client.encrypt(inputs(1)))


def test_compressed_answers_are_not_unpacked() -> None:
    packed = httpx.Response(200, headers={"content-encoding": "gzip"}, content=iter([b"x"]))
    with server(lambda _: packed) as it, pytest.raises(MessageError, match="not asked for"):
        it.health()


def test_full_queues_are_waited_for(pauses: list[float]) -> None:
    answers = iter(
        [
            httpx.Response(503, json={"error": "Busy"}, headers={"retry-after": "2"}),
            httpx.Response(503, content=b"Service Unavailable", headers={"retry-after": "99999"}),
            httpx.Response(503, headers={"retry-after": "1 fortnight"}),
            httpx.Response(200, json={"status": "ok"}),
        ]
    )
    with server(lambda _: next(answers)) as it:
        assert it.health() == {"status": "ok"}
    assert len(pauses) == 3
    for pause, wanted in zip(pauses, (2.0, 5.0, 1.0), strict=True):
        assert 0.8 * wanted <= pause <= 1.2 * wanted


def test_patience_with_full_queues_ends(pauses: list[float]) -> None:
    with server(refusing(503, "Busy", "full")) as it, pytest.raises(Busy, match="full"):
        it.health()
    assert len(pauses) == remote.MAX_ATTEMPTS - 1


@pytest.mark.parametrize("status", [400, 500, 504])
def test_nothing_else_is_tried_again(pauses: list[float], status: int) -> None:
    with server(refusing(status, "ServiceError")) as it, pytest.raises(HEError):
        it.health()
    assert pauses == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.ConnectError("refused"), "nothing answers"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "not trusted"),
        (httpx.ReadTimeout("slow"), "did not answer"),
        (httpx.RemoteProtocolError("gone"), "went away"),
        (httpx.WriteError("gone"), "went away"),
    ],
)
def test_silence_is_unreachable(error: httpx.HTTPError, words: str, client: Client) -> None:
    def silent(_: httpx.Request) -> httpx.Response:
        raise error

    with server(silent) as it, pytest.raises(Unreachable, match=words):
        it.evaluate(client.encrypt(inputs(1)))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (URL, "did not answer in HTTP: if it speaks TLS, try https://127.0.0.1:1$"),
        (URL.replace("http:", "https:"), "went away in the middle"),
    ],
)
@pytest.mark.parametrize("error", [httpx.RemoteProtocolError("gone"), httpx.ReadError("gone")])
def test_what_never_answered_may_speak_tls(error: httpx.HTTPError, url: str, words: str) -> None:
    def silent(_: httpx.Request) -> httpx.Response:
        raise error

    with (
        RemoteServer(url, transport=httpx.MockTransport(silent)) as it,
        pytest.raises(Unreachable, match=words),
    ):
        it.signature()


@pytest.mark.parametrize(
    "greeting", [b"", b"\x15\x03\x03\0\x02\x02\x0a", b"SSH-2.0-OpenSSH_9.2\r\n"]
)
def test_what_does_not_speak_http(greeting: bytes) -> None:
    """A TLS server tells so in an alert, or says nothing."""

    def greet(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        threads.submit(greet, listener)
        port = listener.getsockname()[1]
        with (
            RemoteServer(f"http://127.0.0.1:{port}", timeout=10.0) as it,
            pytest.raises(Unreachable, match=f"try https://127.0.0.1:{port}$"),
        ):
            it.health()


def test_plain_http_where_tls_was_expected() -> None:
    """The answer of a server that does not know what a TLS greeting is."""

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        threads.submit(refuse, listener)
        port = listener.getsockname()[1]
        with (
            RemoteServer(f"https://127.0.0.1:{port}", timeout=10.0) as it,
            pytest.raises(Unreachable, match="does not speak TLS"),
        ):
            it.health()


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        RemoteServer(f"http://127.0.0.1:{port}") as it,
        pytest.raises(Unreachable, match="nothing answers"),
    ):
        it.health()


def test_keys_must_arrive_as_they_were_sent(client: Client) -> None:
    other = httpx.Response(200, json={"key_id": "00" * 16})
    with server(lambda _: other) as it, pytest.raises(MessageError, match="other keys"):
        it.register(client.evaluation_keys())


def test_keys_of_another_length_are_for_another_program(client: Client) -> None:
    fetched: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        fetched.append(request.url.path)
        return httpx.Response(200, content=compiled().signature.to_bytes())

    with RemoteServer(URL, transport=httpx.MockTransport(answer)) as it:
        for _ in range(2):  # the signature is fetched anew each time: it may have changed
            with pytest.raises(WrongProgram, match="fetch the signature again"):
                it.register(client.evaluation_keys() + b"x")
    assert fetched == ["/v1/signature"] * 2


def test_another_program_makes_the_signature_be_fetched_again(client: Client) -> None:
    signatures = iter([compiled().signature, replace(compiled().signature, identity=bytes(16))])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/signature":
            return httpx.Response(200, content=next(signatures).to_bytes())
        return httpx.Response(409, json={"error": "WrongProgram", "message": "another"})

    with RemoteServer(URL, transport=httpx.MockTransport(answer)) as it:
        with pytest.raises(WrongProgram, match="another"):
            it.evaluate(client.encrypt(inputs(1)))
        assert it.signature().identity == bytes(16)


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:8443", "http://example.org", "http://localhost.example.org"]
)
def test_plain_http_to_other_machines_is_refused(url: str) -> None:
    with pytest.raises(ServiceError, match="insecure_plain_http"):
        RemoteServer(url)
    RemoteServer(url, insecure_plain_http=True).close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"])
def test_plain_http_to_this_machine(url: str) -> None:
    RemoteServer(url + "/").close()


@pytest.mark.parametrize("url", ["", "host", "ftp://host", "http://", "http://a:b", "file:///x"])
def test_what_is_not_an_address(url: str) -> None:
    with pytest.raises(ServiceError):
        RemoteServer(url)


def test_certificate_authority_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "nonsense.pem").write_text("nonsense")
    for path in (tmp_path / "nonsense.pem", tmp_path / "missing.pem"):
        with pytest.raises(ServiceError, match="certificate authority"):
            RemoteServer("https://example.org", certificate_authority=path)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_the_client_gave_out_is_sent(kind: str) -> None:
    client, signature = Client(compiled(kind).signature), compiled(kind).signature
    sent: list[httpx.Request] = []

    def note(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, content=json.dumps({"key_id": client.key_id}))

    with server(note, signature) as it:
        it.register(client.evaluation_keys())
        it.evaluate(query := client.encrypt(inputs(2)))
    assert [request.content for request in sent] == [client.evaluation_keys(), query]
    for request in sent:
        assert request.headers["content-type"] == remote.BINARY
        assert "cookie" not in request.headers
