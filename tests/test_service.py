"""The HTTP service, as its clients, its operator and its attackers meet it."""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from he_inference import Client, service, wire
from he_inference.errors import Busy, ModelFileError, ServiceError, UnknownKey, Unreachable
from he_inference.lengths import Lengths
from he_inference.remote import BINARY, RemoteServer
from he_inference.serving import listener
from he_inference.serving.journal import Journal
from he_inference.serving.key_store import KeyStore, key_path
from he_inference.serving.refusals import refusal
from he_inference.serving.settings import Settings
from he_inference.serving.worker import TimeLimit, WorkerDied
from he_inference.serving.workers import Workers
from tests.small_model import compiled, inputs

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

PATIENCE = 20.0


def children(parent: int) -> list[int]:
    """Processes whose parent this is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def command_line(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    return ""


def workers_of(process: int) -> list[int]:
    return [child for child in children(process) if "spawn_main" in command_line(child)]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists() or command_line(process) == ""


@dataclass
class Running:
    """A service, and what tests need to reach of it."""

    url: str
    process: int
    key_directory: Path
    log: Path
    client: Client

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        headers = {"content-type": BINARY} | {k.replace("_", "-"): v for k, v in headers.items()}
        return httpx.post(self.url + path, content=body, headers=headers, timeout=PATIENCE)

    def assert_serving(self) -> None:
        with RemoteServer(self.url) as remote:
            remote.register(self.client.evaluation_keys())
            x = inputs(1)
            answer = self.client.decrypt(remote.evaluate(self.client.encrypt(x)))
        assert np.allclose(answer, compiled().network.evaluate(x), atol=tolerance())


def tolerance() -> float:
    """Six standard deviations of the error that the compiler promises, and half a step."""
    signature = compiled().signature
    return 6.0 * signature.resolution + signature.resolution / 2


LIMITS = Settings(
    workers=1, queue=0, max_batch=2, key_sets=2, body_seconds=1.5, slowest_upload=1e6,
    request_seconds=30.0, stop_seconds=3,
)  # fmt: skip


@contextlib.contextmanager
def started(directory: Path) -> Iterator[Running]:
    (directory / "keys").mkdir()
    limits = replace(LIMITS, key_directory=directory / "keys")
    before = set(children(os.getpid()))
    with service.running(compiled().program, limits, log=directory / "log") as url:
        (process,) = set(children(os.getpid())) - before
        client = Client(compiled().signature)
        yield Running(url, process, directory / "keys", directory / "log", client)
    assert gone(process)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("service")) as it:
        yield it


def refused(response: httpx.Response, status: int, name: str, *words: str) -> None:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "message"}
    assert body["error"] == name
    for word in words:
        assert word in body["message"]
    assert "Traceback" not in response.text
    assert "\n" not in body["message"]


# What it is for


def test_answers_are_those_of_the_network(running: Running) -> None:
    with RemoteServer(running.url) as remote:
        assert remote.signature().digest == compiled().signature.digest
        assert remote.register(running.client.evaluation_keys()) == running.client.key_id
        x = inputs(2)
        answer = running.client.decrypt(remote.evaluate(running.client.encrypt(x)))
    assert np.allclose(answer, compiled().network.evaluate(x), atol=tolerance())


def test_health_names_the_program(running: Running) -> None:
    health = httpx.get(running.url + "/v1/health").json()
    signature = compiled().signature
    assert health["status"] == "ok"
    assert health["digest"] == signature.digest.hex()
    assert health["identity"] == signature.identity.hex()
    assert (health["workers"], health["waiting"], health["max_batch"]) == (1, 0, 2)


def test_signature_is_the_same_bytes(running: Running) -> None:
    assert httpx.get(running.url + "/v1/signature").content == compiled().signature.to_bytes()


def test_registering_twice_is_harmless(running: Running) -> None:
    with RemoteServer(running.url) as remote:
        first = remote.register(running.client.evaluation_keys())
        assert remote.register(running.client.evaluation_keys()) == first


# Refusals


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/evaluate"])
@pytest.mark.parametrize("body", [b"", b"x", b"nonsense" * 99])
def test_malformed(running: Running, path: str, body: bytes) -> None:
    refused(running.post(path, body), 400, "MessageError")


def test_keys_are_no_query(running: Running) -> None:
    query = running.client.encrypt(inputs(1))
    refused(running.post("/v1/keys", query), 400, "MessageError", "EVALUATION_KEYS")


def test_wrong_program(running: Running) -> None:
    other = Client(replace(compiled().signature, identity=bytes(16)))
    for path, message in (
        ("/v1/keys", other.evaluation_keys()),
        ("/v1/evaluate", other.encrypt(inputs(1))),
    ):
        refused(running.post(path, message), 409, "WrongProgram", "fetch the signature again")


def test_unknown_key(running: Running) -> None:
    query = Client(compiled().signature).encrypt(inputs(1))
    refused(running.post("/v1/evaluate", query), 404, "UnknownKey", "register")


def test_evicted_key_can_be_registered_again(running: Running) -> None:
    clients = [Client(compiled().signature) for _ in range(3)]
    for client in clients:
        assert running.post("/v1/keys", client.evaluation_keys()).status_code == 200
    first, query = clients[0], clients[0].encrypt(inputs(1))
    refused(running.post("/v1/evaluate", query), 404, "UnknownKey")
    assert len(list(running.key_directory.glob("*/*.keys"))) == 2
    assert running.post("/v1/keys", first.evaluation_keys()).status_code == 200
    assert running.post("/v1/evaluate", query).status_code == 200


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/evaluate"])
def test_too_large_is_refused_by_its_header_alone(running: Running, path: str) -> None:
    lengths = Lengths(compiled().signature)
    limit = lengths.keys if path == "/v1/keys" else lengths.query(2)
    with _headers_sent(running, path, limit + 1) as connection:
        response = connection.getresponse()
        assert response.status == 413
        assert json.loads(response.read())["error"] == "Rejected"


def test_the_limit_itself_is_not_too_large(running: Running) -> None:
    lengths = Lengths(compiled().signature)
    assert running.post("/v1/keys", bytes(lengths.keys)).status_code == 400
    assert running.post("/v1/evaluate", bytes(lengths.query(2))).status_code == 400


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/evaluate"])
def test_too_large_is_found_by_counting(running: Running, path: str) -> None:
    lengths = Lengths(compiled().signature)
    limit = lengths.keys if path == "/v1/keys" else lengths.query(2)
    parts = iter([bytes(limit), b"x"])  # an iterator has no content-length
    refused(running.post(path, parts), 413, "Rejected", str(limit))


def test_media_types(running: Running) -> None:
    query = running.client.encrypt(inputs(1))
    refused(running.post("/v1/evaluate", query, content_type="text/plain"), 415, "Rejected", BINARY)
    refused(running.post("/v1/evaluate", query, content_encoding="gzip"), 415, "Rejected")


def test_paths_and_methods(running: Running) -> None:
    refused(httpx.get(running.url + "/v2/health"), 404, "Rejected")
    refused(httpx.get(running.url + "/v1/evaluate"), 405, "Rejected")


def test_slow_bodies_are_given_up(running: Running) -> None:
    with _headers_sent(running, "/v1/evaluate", 1000) as connection:
        connection.send(b"x")
        response = connection.getresponse()
        assert response.status == 408
    running.assert_serving()


@contextlib.contextmanager
def _headers_sent(
    running: Running, path: str, announced: int
) -> Iterator[http.client.HTTPConnection]:
    url = httpx.URL(running.url)
    connection = http.client.HTTPConnection(url.host, url.port or 80, timeout=PATIENCE)
    connection.putrequest("POST", path)
    connection.putheader("content-type", BINARY)
    connection.putheader("content-length", str(announced))
    connection.endheaders()
    try:
        yield connection
    finally:
        connection.close()


def test_full_queue(running: Running) -> None:
    running.assert_serving()
    query = running.client.encrypt(inputs(1))
    (worker,) = workers_of(running.process)
    os.kill(worker, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(2) as threads:
            both = [threads.submit(running.post, "/v1/evaluate", query) for _ in range(2)]
            wait_until(lambda: any(one.done() for one in both))
            os.kill(worker, signal.SIGCONT)
            responses = sorted((one.result() for one in both), key=lambda r: r.status_code)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert responses[0].status_code == 200
    refused(responses[1], 503, "Busy", "try again")
    assert responses[1].headers["retry-after"].isdecimal()


def test_a_worker_that_dies_in_the_middle_costs_no_answer(running: Running) -> None:
    running.assert_serving()
    (worker,) = workers_of(running.process)
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        query = threads.submit(running.post, "/v1/evaluate", running.client.encrypt(inputs(1)))
        time.sleep(0.2)
        os.kill(worker, signal.SIGKILL)
        assert query.result().status_code == 200
    assert workers_of(running.process) != [worker]


def test_an_idle_worker_that_dies_is_replaced(running: Running) -> None:
    (worker,) = workers_of(running.process)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: workers_of(running.process) not in ([], [worker]))
    running.assert_serving()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_messages_are_refused(running: Running, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(["/v1/keys", "/v1/evaluate"]))
    message = bytearray(_messages(running)[path])
    at = data.draw(st.one_of(st.integers(0, 80), st.integers(0, len(message) - 1)))
    if data.draw(st.booleans()):
        del message[at:]
    else:
        message[at] ^= data.draw(st.integers(1, 255))
    response = running.post(path, bytes(message))
    assert response.status_code in (400, 404, 409)
    assert response.json()["error"] in ("MessageError", "UnknownKey", "WrongProgram")


def _messages(running: Running) -> dict[str, bytes]:
    query = running.client.encrypt(inputs(1))
    return {"/v1/keys": running.client.evaluation_keys(), "/v1/evaluate": query}


def test_still_serving_after_all_that(running: Running) -> None:
    running.assert_serving()


def test_log_lines_have_no_payload(running: Running) -> None:
    marker = "PAYLOADPAYLOAD"
    running.assert_serving()
    running.post("/v1/evaluate", marker.encode() * 9)
    httpx.get(running.url + f"/v1/health?{marker}", headers={"x-other": marker})
    wait_until(lambda: '"bytes_in": 126' in running.log.read_text())
    text = running.log.read_text()
    assert marker not in text
    assert "Traceback" not in text
    entries = [json.loads(line) for line in text.splitlines()]
    done = [e for e in entries if e.get("path") == "/v1/evaluate" and e["status"] == 200]
    expected = {
        "time", "event", "level", "method", "path", "status", "milliseconds", "bytes_in",
        "bytes_out", "key_id", "peer",
    }  # fmt: skip
    assert set(done[-1]) == expected
    assert done[-1]["key_id"] == running.client.key_id[:8]
    assert done[-1]["bytes_in"] == Lengths(compiled().signature).query(1)
    assert done[-1]["bytes_out"] == Lengths(compiled().signature).answer(1)
    assert done[-1]["peer"] == "127.0.0.1"


# Starting and stopping


def test_port_in_use(running: Running, tmp_path: Path) -> None:
    port = httpx.URL(running.url).port or 0
    with pytest.raises(ServiceError, match=rf"127\.0\.0\.1:{port}.*name another port"):
        service.serve(tmp_path / "not even looked at", "127.0.0.1", port, LIMITS)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_plain_http_to_other_machines_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="insecure_plain_http"):
        service.serve(tmp_path / "program", host, 0, LIMITS)
    replace(LIMITS, insecure_plain_http=True).check_host(host)


def test_settings_list_all_faults(tmp_path: Path) -> None:
    with pytest.raises(ServiceError) as caught:
        Settings(workers=0, queue=-1, max_batch=9999, certificate=tmp_path, body_seconds=0)
    for word in ("workers=0", "queue=-1", "max_batch=9999", "private_key", "body_seconds=0"):
        assert word in str(caught.value)


def test_memory_must_hold_one_message() -> None:
    with pytest.raises(ServiceError, match="upload_bytes=1000"):
        service.create_app(compiled().program, replace(LIMITS, upload_bytes=1000))


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"nonsense")
    with (
        pytest.raises(ServiceError, match="ended at once: ModelFileError"),
        service.running(tmp_path / "program", LIMITS),
    ):
        pass


@contextlib.contextmanager
def served(directory: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Running]]:
    """`serve` in a process of its own, stopped by whoever asked for it."""
    (directory / "keys").mkdir()
    compiled().program.save(directory / "program")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "import sys; from pathlib import Path; from he_inference import service\n"
        "limits = service.Settings(workers=2, stop_seconds=5, key_directory=Path(sys.argv[3]))\n"
        "service.serve(sys.argv[1], '127.0.0.1', int(sys.argv[2]), limits)"
    )
    arguments = [str(directory / "program"), str(port), str(directory / "keys")]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(url))
        client = Client(compiled().signature)
        yield process, Running(url, process.pid, directory / "keys", directory / "log", client)
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url + "/v1/health").status_code == 200
    return False


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopping(tmp_path: Path, end: signal.Signals) -> None:
    """Told to stop, it finishes the running query and leaves nothing; killed, clients are told."""
    with served(tmp_path) as (process, it):
        it.assert_serving()
        (private,) = it.key_directory.iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
        family = children(process.pid)
        workers = workers_of(process.pid)
        assert len(workers) == 2
        with ThreadPoolExecutor(1) as threads, RemoteServer(it.url) as remote:
            remote.signature()
            for worker in workers:
                os.kill(worker, signal.SIGSTOP)
            answer = threads.submit(remote.evaluate, it.client.encrypt(inputs(1)))
            wait_until(lambda: httpx.get(it.url + "/v1/health").json()["running"] == 1)
            process.send_signal(end)
            time.sleep(0.3)
            for worker in workers:
                os.kill(worker, signal.SIGCONT)
            if end == signal.SIGKILL:
                with pytest.raises(Unreachable, match="went away"):
                    answer.result()
            else:
                assert it.client.decrypt(answer.result()).shape == (1, 4)
                assert process.wait(PATIENCE) == 0
                assert list(it.key_directory.iterdir()) == []
        wait_until(lambda: all(gone(one) for one in family))


def test_tls(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificate with openssl")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    limits = replace(LIMITS, certificate=certificate, private_key=key)
    limits.check_host("0.0.0.0")
    with service.running(compiled().program, limits) as url:
        assert url.startswith("https://")
        with RemoteServer(url, certificate_authority=certificate) as remote:
            assert remote.health()["status"] == "ok"
        with RemoteServer(url) as remote, pytest.raises(Unreachable, match="not trusted"):
            remote.health()


# Its parts


def test_workers_within_limits(tmp_path: Path) -> None:
    limits = replace(LIMITS, queue=1, request_seconds=1.5)
    workers = Workers(compiled().program, tmp_path, limits)
    workers.start()
    try:
        client = Client(compiled().signature)
        process = _process_of(workers)
        os.kill(process, signal.SIGSTOP)
        late, later = (workers.submit("refuse", client.encrypt(inputs(1))) for _ in range(2))
        with pytest.raises(Busy):
            workers.submit("refuse", b"")
        for one in (late, later):
            with pytest.raises(TimeLimit):
                one.result(PATIENCE)
        wait_until(lambda: workers.alive == 1)
        assert _process_of(workers) != process
        with pytest.raises(UnknownKey):
            workers.submit("refuse", client.encrypt(inputs(1))).result(PATIENCE)
    finally:
        workers.stop()
    with pytest.raises(WorkerDied):
        workers.submit("refuse", b"")
    assert workers.alive == 0


def _process_of(workers: Workers) -> int:
    worker = workers._lanes[0].worker
    assert worker is not None
    assert worker.process.pid is not None
    return worker.process.pid


def test_time_limit_is_a_gateway_timeout() -> None:
    response = refusal(TimeLimit("too late"))
    assert response.status_code == 504
    assert json.loads(bytes(response.body)) == {"error": "ServiceError", "message": "too late"}
    assert refusal(WorkerDied("twice")).status_code == 500


@pytest.mark.parametrize(
    ("fault", "message"),
    [(ZeroDivisionError("SECRET"), "its log says more"), (ModelFileError("plain"), "plain")],
)
def test_faults_are_refused_without_their_traceback(
    fault: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def faulty(*_: object) -> None:
        raise fault

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Journal(faulty))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http_client:
            return await http_client.get("/v1/health")

    refused(asyncio.run(ask()), 500, "ServiceError", message)
    log = capsys.readouterr().err
    assert "SECRET" not in log
    assert ("ZeroDivisionError" in log) == isinstance(fault, ZeroDivisionError)


def test_key_store_keeps_within_its_bytes(tmp_path: Path) -> None:
    store = KeyStore(replace(LIMITS, key_sets=9, key_storage_bytes=25, key_directory=tmp_path))
    store.add("aa", bytes(10))
    store.add("bb", bytes(10))
    assert store.touch("aa")
    store.add("cc", bytes(10))
    assert [store.touch(name) for name in ("aa", "bb", "cc")] == [True, False, True]
    assert not key_path(store.directory, "bb").exists()
    with pytest.raises(ServiceError, match="26 bytes"):
        store.add("dd", bytes(26))
    store.remove()
    assert not store.directory.exists()


class _Wire:
    """A transport and a clock that only note what is asked of them."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def call_later(self, _: float, call: Callable[[], None]) -> None:
        self.look = call

    def close(self) -> None:
        self.asked.append("close")

    def abort(self) -> None:
        self.asked.append("abort")


class _Cycle:
    def __init__(self, response_complete: bool) -> None:
        self.response_complete = response_complete


def test_connections_without_requests_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, fake = listener.Connection.__new__(listener.Connection), _Wire()
    for name in ("loop", "transport"):
        monkeypatch.setattr(connection, name, fake, raising=False)
    fake.look = connection._look
    working, done = _Cycle(False), _Cycle(True)
    for cycle in (working, working, done, _Cycle(True), _Cycle(True)):  # always something new
        monkeypatch.setattr(connection, "cycle", cycle, raising=False)
        fake.look()
    assert fake.asked == []
    for _ in range(12):
        fake.look()
    assert fake.asked == ["close"] * 11 + ["abort"]


def test_connections_that_never_ask_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, fake = listener.Connection.__new__(listener.Connection), _Wire()
    for name, value in (("loop", fake), ("transport", fake), ("cycle", None)):
        monkeypatch.setattr(connection, name, value, raising=False)
    connection._look()
    assert fake.asked == ["close"]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("service", ["torch", "he_inference.client", "he_inference.remote"]),
        ("remote", ["torch", "tenseal", "starlette", "he_inference.server", "he_inference.client"]),
    ],
)
def test_each_side_loads_only_its_own(module: str, forbidden: list[str]) -> None:
    code = f"import sys, he_inference.{module}; print(*(set(sys.argv[1:]) & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code, *forbidden], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []


def test_lengths_are_those_of_real_messages() -> None:
    client, lengths = Client(compiled().signature), Lengths(compiled().signature)
    assert len(client.evaluation_keys()) == lengths.keys
    query = client.encrypt(inputs(3))
    assert len(query) == lengths.query(3)
    assert lengths.queries_in(len(query)) == 3
    assert wire.claimed_key_id(query).hex() == client.key_id
    assert wire.key_id(client.evaluation_keys()) == wire.claimed_key_id(query)
