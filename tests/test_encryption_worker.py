"""`he_inference.encryption_worker`: ciphertexts of the key that was handed over, or an error."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from he_inference import encryption_worker, wire
from he_inference.backend import seeds
from he_inference.backend.seal import KeyHolder
from he_inference.encryption_worker import EncryptionFailed, EncryptionWorker, work
from he_inference.nodes import Array
from he_inference.parameters import ParametersLiteral

PARAMETERS = ParametersLiteral(4096, (30, 28), 20).resolve()
KEYS = KeyHolder(PARAMETERS)
SCALE = 2.0**30
VALUES = np.random.default_rng(0).uniform(-1, 1, 100)


@pytest.fixture(scope="module")
def worker() -> Iterator[EncryptionWorker]:
    made = EncryptionWorker(PARAMETERS, KEYS.secret, SCALE)
    yield made
    made.close()


def decrypted(ciphertext: bytes) -> Array:
    """Slots of a ciphertext as it stands in a message: a seed, then 30 and 28 bits a residue."""
    seed, rows = ciphertext[:64], ciphertext[64:]
    first = 30 * PARAMETERS.ring_degree // 8
    c0 = np.stack([wire.unpack(rows[:first], 30), wire.unpack(rows[first:], 28)])
    c1 = np.empty_like(c0)
    seeds.expand(seed, PARAMETERS.data_primes, c1)
    return KEYS.decrypt_product(np.stack([c0, c1]), SCALE)


def close(slots: Array) -> bool:
    """Fresh errors are below 21 in a coefficient, so below 21·N in a slot; rounding adds N/2."""
    bound = 22 * PARAMETERS.ring_degree / SCALE
    expected = np.append(VALUES, np.zeros(PARAMETERS.slots - len(VALUES)))
    return bool(np.abs(slots - expected).max() < bound)


def test_ciphertexts_of_the_key(worker: EncryptionWorker) -> None:
    first, second = worker.encrypt(VALUES), worker.encrypt(VALUES)
    assert close(decrypted(first)) and close(decrypted(second))
    assert first[:64] != second[:64]
    assert first[64:] != second[64:]


def test_what_seal_refuses_costs_one_plaintext(worker: EncryptionWorker) -> None:
    with pytest.raises(EncryptionFailed, match=r"SEAL cannot encrypt this: .*large"):
        worker.encrypt(np.full(4, 1e30))
    assert close(decrypted(worker.encrypt(VALUES)))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads Linux's /proc")
def test_the_secret_is_in_no_argument_and_no_variable(worker: EncryptionWorker) -> None:
    worker.encrypt(VALUES)
    process = Path("/proc") / str(worker._process.pid)
    arguments = (process / "cmdline").read_bytes().split(b"\0")
    assert arguments[1:-1] == [b"-P", b"-m", b"he_inference.encryption_worker"]
    variables = (process / "environ").read_bytes().split(b"\0")
    names = {variable.partition(b"=")[0].decode() for variable in variables if variable}
    assert names - set(os.environ) <= {"PYTHONPATH"}
    assert os.readlink(process / "fd" / "0").startswith("pipe:")


def test_a_process_ends_with_its_pipe() -> None:
    made = EncryptionWorker(PARAMETERS, KEYS.secret, SCALE)
    made.close()
    assert made._process.returncode == 0
    made.close()


def test_a_process_that_died() -> None:
    made = EncryptionWorker(PARAMETERS, KEYS.secret, SCALE)
    made._process.kill()
    made._process.wait()
    for _ in range(2):
        with pytest.raises(EncryptionFailed, match="went away: encrypt the batch again"):
            made.encrypt(VALUES)
    made.close()


def test_a_process_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption_worker, "_CLOSE_SECONDS", 0.05)
    made = EncryptionWorker(PARAMETERS, KEYS.secret, SCALE)
    made._process.send_signal(19)  # SIGSTOP
    made.close()
    assert made._process.returncode == -9


def test_no_such_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EncryptionFailed, match="could not be started"):
        EncryptionWorker(PARAMETERS, KEYS.secret, SCALE)


def test_a_script_without_a_guard(tmp_path: Path) -> None:
    """The caller's script is not run again, and need not stand where the package does."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, json, numpy as np\n"
        "from he_inference.backend.seal import KeyHolder\n"
        "from he_inference.encryption_worker import EncryptionWorker\n"
        "from he_inference.parameters import Parameters\n"
        "parameters = Parameters.from_json(json.loads(sys.argv[1]))\n"
        f"worker = EncryptionWorker(parameters, KeyHolder(parameters).secret, {SCALE})\n"
        "sys.stdout.write(str(len(worker.encrypt(np.zeros(3)))))\n"
        "worker.close()\n"
    )
    root = str(Path(encryption_worker.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(PARAMETERS.to_json())],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root},
        check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == str(64 + 58 * 4096 // 8)


# ---------------------------------------------------------------------------- the other end


def frames(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def answers(requests: bytes) -> bytes:
    back = io.BytesIO()
    work(io.BytesIO(requests), back)
    return back.getvalue()


def test_the_life_of_a_process() -> None:
    head = frames(
        json.dumps(PARAMETERS.to_json()).encode(),
        KEYS.secret.astype("<u8").tobytes(),
        struct.pack("<d", SCALE),
    )
    assert answers(b"") == answers(head) == answers(head + b"\x05") == b""
    back = answers(head + frames(VALUES.tobytes(), np.full(3, 1e30).tobytes(), VALUES.tobytes()))
    made = 8 + 64 + 58 * 4096 // 8
    assert struct.unpack_from("<Q", back) == (made,)
    assert back[8:16] == b"made...." and back[-made:][:8] == b"made...."
    assert back[8 + made + 8 :].startswith(b"refused.")
