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
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import he_inference
from he_inference import Client, service, wire
from he_inference.errors import Busy, ModelFileError, ServiceError, UnknownKey, Unreachable
from he_inference.lengths import lengths
from he_inference.processors import processors
from he_inference.remote import BINARY, RemoteServer
from he_inference.serving import listener
from he_inference.serving.journal import Journal
from he_inference.serving.key_store import KeyStore, key_path
from he_inference.serving.refusals import refusal
from he_inference.serving.settings import Settings
from he_inference.serving.worker import TimeLimit, WorkerDied
from he_inference.serving.workers import Workers
from tests.small_model import KINDS, compiled, inputs
from tests.test_cli import corner_network, corners, run

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

PATIENCE = 120.0
"""A worker compiles its kernels when it starts, perhaps beside others."""


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
    patience: float = PATIENCE
    kind: str = "private"

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        headers = {"content-type": BINARY} | {k.replace("_", "-"): v for k, v in headers.items()}
        return httpx.post(self.url + path, content=body, headers=headers, timeout=self.patience)

    def posts(self) -> list[tuple[str, int]]:
        """Path and status of all that was posted so far."""
        entries = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [(e["path"], e["status"]) for e in entries if e.get("method") == "POST"]

    def assert_serving(self) -> None:
        with RemoteServer(self.url) as remote:
            remote.register(self.client.evaluation_keys())
            x = inputs(1)
            answer = self.client.decrypt(remote.evaluate(self.client.encrypt(x)))
        assert self.right(x, answer)

    def right(self, x: Any, answer: Any) -> bool:
        """Whether these are the network's answers, within the tolerance of its program."""
        expected = compiled(self.kind).network.evaluate(x)
        return bool(np.allclose(answer, expected, rtol=0, atol=tolerance(self.kind)))


def tolerance(kind: str) -> float:
    """Six standard deviations of the error that the compiler promises, and half a step."""
    signature = compiled(kind).signature
    return 6.0 * signature.resolution + signature.resolution / 2


LIMITS = Settings(
    workers=1, queue=0, max_batch=2, key_sets=2, body_seconds=1.5, slowest_upload=1e6,
    request_seconds=PATIENCE, start_seconds=PATIENCE, stop_seconds=3,
)  # fmt: skip


@contextlib.contextmanager
def started(directory: Path, kind: str = "private") -> Iterator[Running]:
    (directory / "keys").mkdir()
    limits = replace(LIMITS, key_directory=directory / "keys")
    before = set(children(os.getpid()))
    program, log = compiled(kind).program, directory / "log"
    with service.running(program, limits, log=log, start_seconds=PATIENCE) as url:
        (process,) = set(children(os.getpid())) - before
        client = Client(compiled(kind).signature)
        yield Running(url, process, directory / "keys", log, client, kind=kind)
    assert gone(process)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("service")) as it:
        yield it


@pytest.fixture(scope="module", params=KINDS)
def each(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Services of every layout and response for single queries."""
    if request.param == "private":
        yield request.getfixturevalue("running")
    else:
        with started(tmp_path_factory.mktemp(request.param), request.param) as it:
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


def test_answers_are_those_of_the_network(each: Running) -> None:
    signature = compiled(each.kind).signature
    with RemoteServer(each.url) as remote:
        assert remote.signature().digest == signature.digest
        assert remote.register(each.client.evaluation_keys()) == each.client.key_id
        x = inputs(2)
        answer = each.client.decrypt(remote.evaluate(each.client.encrypt(x)))
    assert each.right(x, answer)
    stored = {path.stem for path in each.key_directory.glob("*/*.keys")}
    assert (each.client.key_id in stored) or not signature.needs_keys


def test_plain_sums_need_no_keys(each: Running) -> None:
    """A client of the plain coefficient layout is answered at once; others register first."""
    client, x = Client(compiled(each.kind).signature), inputs(1)
    response = each.post("/v1/evaluate", client.encrypt(x))
    if compiled(each.kind).signature.needs_keys:
        refused(response, 404, "UnknownKey", client.key_id, "register")
    else:
        assert each.right(x, client.decrypt(response.content))


def test_health_names_the_program(each: Running) -> None:
    health = httpx.get(each.url + "/v1/health").json()
    signature = compiled(each.kind).signature
    assert health["status"] == "ok"
    assert health["digest"] == signature.digest.hex()
    assert health["identity"] == signature.identity.hex()
    assert (health["workers"], health["waiting"], health["max_batch"]) == (1, 0, 2)


def test_signature_is_the_same_bytes(each: Running) -> None:
    expected = compiled(each.kind).signature.to_bytes()
    assert httpx.get(each.url + "/v1/signature").content == expected


def test_registering_twice_is_harmless(each: Running) -> None:
    with RemoteServer(each.url) as remote:
        first = remote.register(each.client.evaluation_keys())
        assert remote.register(each.client.evaluation_keys()) == first


# Refusals


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/evaluate"])
@pytest.mark.parametrize("body", [b"", b"x", b"nonsense" * 99])
def test_malformed(running: Running, path: str, body: bytes) -> None:
    refused(running.post(path, body), 400, "MessageError")


def test_keys_are_no_query(each: Running) -> None:
    query = each.client.encrypt(inputs(1))
    if len(query) > (most := lengths(compiled(each.kind).signature).keys):
        refused(each.post("/v1/keys", query), 413, "Rejected", str(most))
    else:
        refused(each.post("/v1/keys", query), 400, "MessageError", "EVALUATION_KEYS")


def test_wrong_program(each: Running) -> None:
    others = [replace(compiled(each.kind).signature, identity=bytes(16))]
    others += [compiled(kind).signature for kind in KINDS if kind != each.kind]
    for signature in others:
        other = Client(signature)
        for path, message in (
            ("/v1/keys", other.evaluation_keys()),
            ("/v1/evaluate", other.encrypt(inputs(1))),
        ):
            limit = lengths(compiled(each.kind).signature)
            most = limit.keys if path == "/v1/keys" else limit.query(2)
            if len(message) > most:
                refused(each.post(path, message), 413, "Rejected", str(most))
            else:
                refused(each.post(path, message), 409, "WrongProgram", "fetch the signature again")


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
    expected = lengths(compiled().signature)
    limit = expected.keys if path == "/v1/keys" else expected.query(2)
    with _headers_sent(running, path, limit + 1) as connection:
        response = connection.getresponse()
        assert response.status == 413
        assert json.loads(response.read())["error"] == "Rejected"


def test_the_limit_itself_is_not_too_large(running: Running) -> None:
    expected = lengths(compiled().signature)
    assert running.post("/v1/keys", bytes(expected.keys)).status_code == 400
    assert running.post("/v1/evaluate", bytes(expected.query(2))).status_code == 400


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/evaluate"])
def test_too_large_is_found_by_counting(running: Running, path: str) -> None:
    expected = lengths(compiled().signature)
    limit = expected.keys if path == "/v1/keys" else expected.query(2)
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
    assert done[-1]["bytes_in"] == lengths(compiled().signature).query(1)
    assert done[-1]["bytes_out"] == lengths(compiled().signature).answer(1)
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
    with service.running(compiled().program, limits, start_seconds=PATIENCE) as url:
        assert url.startswith("https://")
        with RemoteServer(url, certificate_authority=certificate) as remote:
            assert remote.health()["status"] == "ok"
        with RemoteServer(url) as remote, pytest.raises(Unreachable, match="not trusted"):
            remote.health()
        plain = url.replace("https:", "http:")
        with RemoteServer(plain) as remote, pytest.raises(Unreachable, match=f"try {url}$"):
            remote.health()


# Its parts


def test_workers_within_limits(tmp_path: Path) -> None:
    limits = replace(LIMITS, queue=1, request_seconds=1.5)
    longest = lengths(compiled().signature).answer(limits.max_batch)
    workers = Workers(compiled().program, tmp_path, limits, longest)
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


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_those_of_real_messages(kind: str) -> None:
    client, expected = Client(compiled(kind).signature), lengths(compiled(kind).signature)
    assert len(client.evaluation_keys()) == expected.keys
    query = client.encrypt(inputs(3))
    assert len(query) == expected.query(3)
    assert expected.queries_in(len(query)) == 3
    assert wire.claimed_key_id(query).hex() == client.key_id
    assert wire.key_id(client.evaluation_keys()) == wire.claimed_key_id(query)


# Batches

BATCH_LIMITS = Settings(
    queue=8, max_batch=2, key_sets=2, request_seconds=120.0, start_seconds=120.0, stop_seconds=3,
)  # fmt: skip
"""Patient: a worker compiles its kernels when it starts."""


@cache
def batch(response: str) -> he_inference.CompiledBatch:
    """Of 2 x 2 pixels, see `corners`."""
    compiled = he_inference.compile(
        corner_network(), layout="batched", response=response, precision=8.0
    )
    assert isinstance(compiled, he_inference.CompiledBatch)
    return compiled


class RunningBatches(Running):
    """A service of the batched layout."""

    @property
    def slots(self) -> int:
        return self.client.max_queries

    def assert_serving(self) -> None:
        if self.client.signature.needs_keys:
            assert self.post("/v1/keys", self.client.evaluation_keys()).status_code == 200
        self.assert_right(self.client)

    def assert_right(self, client: Client, count: int = 5, seed: int = 0) -> None:
        x, labels = small_corners(count, seed)
        response = self.post("/v1/evaluate", client.encrypt(x))
        assert response.status_code == 200, response.text
        assert client.decrypt(response.content).argmax(1).tolist() == labels


def small_corners(count: int, seed: int = 0) -> tuple[Any, list[int]]:
    pixels, labels = corners(count, seed)
    return pixels[:, None] / 255, labels


@contextlib.contextmanager
def started_batches(directory: Path, response: str) -> Iterator[RunningBatches]:
    (directory / "keys").mkdir()
    limits = replace(BATCH_LIMITS, key_directory=directory / "keys")
    log = directory / "log"
    before = set(children(os.getpid()))
    program = batch(response).program
    with service.running(program, limits, log=log, start_seconds=120.0) as url:
        (process,) = set(children(os.getpid())) - before
        client = Client(batch(response).signature, processes=0)
        yield RunningBatches(url, process, directory / "keys", log, client, patience=120.0)
    assert gone(process)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBatches]:
    with started_batches(tmp_path_factory.mktemp("batches"), "private") as it:
        yield it


@pytest.fixture(scope="module")
def plain_batches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBatches]:
    with started_batches(tmp_path_factory.mktemp("plain"), "plain") as it:
        yield it


def test_batches_are_as_long_as_there_are_slots(batches: RunningBatches) -> None:
    """Whatever `max_batch` says, which is for the other layout."""
    with RemoteServer(batches.url) as remote:
        health = remote.health()
        signature = remote.signature()
        assert remote.register(batches.client.evaluation_keys()) == batches.client.key_id
    assert isinstance(signature, he_inference.BatchSignature)
    assert signature.digest == batch("private").signature.digest
    assert (health["max_batch"], health["workers"]) == (4096, 1)
    batches.assert_right(batches.client, batches.slots)


def test_lengths_are_those_of_real_batches(batches: RunningBatches) -> None:
    for client in (batches.client, Client(batch("plain").signature, processes=0)):
        expected = lengths(client.signature)
        assert expected.max_queries == client.max_queries
        assert len(client.evaluation_keys()) == expected.keys
        for count in (1, client.max_queries):
            query = client.encrypt(small_corners(count)[0])
            assert len(query) == expected.query(count)
            assert expected.queries_in(len(query)) >= count
            assert wire.claimed_key_id(query).hex() == client.key_id


def test_keys_are_registered_once(batches: RunningBatches) -> None:
    client = Client(batch("private").signature, processes=0)
    assert batches.post("/v1/keys", client.evaluation_keys()).json() == {"key_id": client.key_id}
    for seed in range(3):
        batches.assert_right(client, seed=seed)
    stored = [path.stem for path in batches.key_directory.glob("*/*.keys")]
    assert stored.count(client.key_id) == 1
    assert batches.post("/v1/keys", client.evaluation_keys()).status_code == 200
    assert sorted(stored) == sorted(p.stem for p in batches.key_directory.glob("*/*.keys"))


def test_two_clients_at_once(batches: RunningBatches) -> None:
    """One worker takes their batches in turn, and neither gets the other's answers."""
    clients = [Client(batch("private").signature, processes=0) for _ in range(2)]

    def ask(number: int) -> None:
        client = clients[number]
        with RemoteServer(batches.url, timeout=batches.patience) as remote:
            remote.register(client.evaluation_keys())
            for count in (1, 300, batches.slots):
                x, labels = small_corners(count, seed=number)
                answer = client.decrypt(remote.evaluate(client.encrypt(x)))
                assert answer.argmax(1).tolist() == labels

    with ThreadPoolExecutor(2) as threads:
        for asked in [threads.submit(ask, number) for number in range(2)]:
            asked.result()


def test_plain_batches_need_no_keys(plain_batches: RunningBatches) -> None:
    it = plain_batches
    assert httpx.get(it.url + "/v1/health").json()["max_batch"] == 2048
    it.assert_right(it.client, it.slots)
    it.assert_right(Client(batch("plain").signature, processes=0))
    assert list(it.key_directory.glob("*/*.keys")) == []
    with RemoteServer(it.url) as remote:  # nor is it wrong to send those that there are
        assert remote.register(it.client.evaluation_keys()) == it.client.key_id
    damaged = bytearray(it.client.encrypt(small_corners(1)[0]))
    damaged[-20] ^= 1
    refused(it.post("/v1/evaluate", bytes(damaged)), 400, "MessageError")
    it.assert_serving()


def test_a_batch_of_unknown_keys(batches: RunningBatches) -> None:
    stranger = Client(batch("private").signature, processes=0)
    query = stranger.encrypt(small_corners(2)[0])
    refused(batches.post("/v1/evaluate", query), 404, "UnknownKey", stranger.key_id, "register")
    assert batches.post("/v1/keys", stranger.evaluation_keys()).status_code == 200
    assert batches.post("/v1/evaluate", query).status_code == 200


def test_query_registers_evicted_keys_again(
    batches: RunningBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others come between two batches of a user at the command line."""
    x, labels = corners(7)
    np.save(tmp_path / "x.npy", x)
    strangers = [Client(batch("private").signature, processes=0) for _ in range(2)]
    answered: list[bytes] = []

    class Crowded(RemoteServer):
        def evaluate(self, query: bytes) -> bytes:
            if len(answered) == 1 and strangers:
                while strangers:
                    self.register(strangers.pop().evaluation_keys())
            answered.append(super().evaluate(query))
            return answered[-1]

    monkeypatch.setattr(he_inference, "RemoteServer", Crowded)
    before = len(batches.posts())
    ran = run("query", batches.url, tmp_path / "x.npy", "--batch", "4", "--json")
    assert ran.json["labels"] == labels
    mine, others = ("/v1/keys", 200), [("/v1/keys", 200)] * 2
    served, lost = ("/v1/evaluate", 200), ("/v1/evaluate", 404)
    expected = [mine, served, *others, lost, mine, served]
    wait_until(lambda: len(batches.posts()) >= before + len(expected))
    assert batches.posts()[before:] == expected


@pytest.mark.parametrize("place", [0.0, 0.001, 0.3, 0.9, 1.0])
def test_a_damaged_batch_and_the_next_one(batches: RunningBatches, place: float) -> None:
    """The memory that both are read into is the same."""
    message = bytearray(batches.client.encrypt(small_corners(9)[0]))
    message[round(place * (len(message) - 1))] ^= 1
    refused(batches.post("/v1/evaluate", bytes(message)), 400, "MessageError")
    batches.assert_serving()
    keys = bytearray(batches.client.evaluation_keys())
    keys[round(place * (len(keys) - 1))] ^= 1
    refused(batches.post("/v1/keys", bytes(keys)), 400, "MessageError")


@pytest.mark.parametrize("kept", [0, 3, 60, 120, 100_000, -1])
def test_a_shortened_batch(batches: RunningBatches, kept: int) -> None:
    """Whole as far as HTTP can tell."""
    short = batches.client.encrypt(small_corners(9)[0])[:kept]
    refused(batches.post("/v1/evaluate", short), 400, "MessageError", "truncated")


def test_an_upload_that_breaks_off_in_the_middle_of_a_batch(batches: RunningBatches) -> None:
    query = batches.client.encrypt(small_corners(9)[0])
    for _ in range(3):
        with _headers_sent(batches, "/v1/evaluate", len(query)) as connection:
            connection.send(query[: len(query) // 2])
        batches.assert_serving()


def test_batches_for_another_program(batches: RunningBatches) -> None:
    other = Client(replace(batch("private").signature, identity=bytes(16)), processes=0)
    for path, message in (
        ("/v1/keys", other.evaluation_keys()),
        ("/v1/evaluate", other.encrypt(small_corners(1)[0])),
    ):
        refused(batches.post(path, message), 409, "WrongProgram", "fetch the signature again")
    packed = Client(compiled().signature).encrypt(inputs(1))
    refused(batches.post("/v1/evaluate", packed), 409, "WrongProgram", "fetch the signature again")


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/evaluate"])
def test_batches_that_are_too_long(batches: RunningBatches, path: str) -> None:
    expected = lengths(batch("private").signature)
    limit = expected.keys if path == "/v1/keys" else expected.query(1)
    with _headers_sent(batches, path, limit + 1) as connection:
        assert connection.getresponse().status == 413
    parts = iter([bytes(limit), b"x"])  # an iterator has no content-length
    refused(batches.post(path, parts), 413, "Rejected", str(limit))


def test_a_worker_that_dies_in_the_middle_of_a_batch(batches: RunningBatches) -> None:
    """Another one takes up the batch, with keys that it has never met."""
    batches.assert_serving()
    (worker,) = workers_of(batches.process)
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(batches.assert_right, batches.client, batches.slots)
        wait_until(lambda: httpx.get(batches.url + "/v1/health").json()["running"] == 1)
        os.kill(worker, signal.SIGKILL)
        answer.result()
    (other,) = workers_of(batches.process)
    assert other != worker
    batches.assert_serving()


def test_workers_where_nothing_is_said() -> None:
    """One for batches, each of which keeps every processor busy."""
    for program, usual in ((compiled().program, processors()), (batch("plain").program, 1)):
        assert Settings().for_program(program).workers == usual
        assert Settings(workers=3).for_program(program).workers == 3


def test_memory_must_hold_one_batch() -> None:
    longest = lengths(batch("private").signature).keys
    for program, needed in (
        (batch("private").program, longest),
        (batch("plain").program, lengths(batch("plain").signature).query(1)),
    ):
        service.create_app(program, replace(BATCH_LIMITS, upload_bytes=needed))
        with pytest.raises(ServiceError, match=f"upload_bytes={needed - 1}"):
            service.create_app(program, replace(BATCH_LIMITS, upload_bytes=needed - 1))
