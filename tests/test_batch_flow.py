"""The batched layout from network to labels, and a server of it where SEAL is not installed."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

import he_inference
from he_inference.errors import CompileError, MessageError
from workloads.datasets import mnist_sample
from workloads.models import MNIST_CNN


@pytest.fixture(scope="module")
def compiled() -> he_inference.CompiledBatch:
    network = he_inference.load_network(MNIST_CNN)
    return he_inference.compile_batch(network, mnist_sample().images)


def test_encrypted_labels_are_those_in_the_clear(compiled: he_inference.CompiledBatch) -> None:
    images = mnist_sample().images
    server = compiled.server()
    with compiled.client() as client:
        query = b"".join(client.encrypt(images))
        answer = b"".join(server.evaluate(io.BytesIO(query)))
        scores = client.decrypt(io.BytesIO(answer))
    clear = compiled.network.evaluate(images)
    assert len(query) == compiled.signature.form.query_bytes
    assert len(answer) == compiled.signature.form.answer_bytes
    assert np.array_equal(scores.argmax(1), clear.argmax(1))
    # Six standard deviations of what simulation finds, and what rounding to the resolution adds.
    deviation = float(np.sqrt(np.mean((compiled.simulate(images) - clear) ** 2)))
    assert np.abs(scores - clear).max() < 6 * deviation + compiled.signature.resolution


def test_a_damaged_batch_is_refused_and_the_next_one_served(
    compiled: he_inference.CompiledBatch,
) -> None:
    images = mnist_sample().images[:2]
    server = compiled.server()
    with compiled.client(processes=0) as client:
        query = bytearray(b"".join(client.encrypt(images)))
        query[len(query) // 2] ^= 1
        with pytest.raises(MessageError):
            list(server.evaluate(io.BytesIO(bytes(query))))
        query[len(query) // 2] ^= 1
        answer = b"".join(server.evaluate(io.BytesIO(bytes(query))))
        labels = client.decrypt(io.BytesIO(answer)).argmax(1)
    assert np.array_equal(labels, mnist_sample().labels[:2])


def test_the_summary_is_for_people(compiled: he_inference.CompiledBatch) -> None:
    text = compiled.summary()
    for word in ("4096 queries", "128-bit security", "kB a query", "precision"):
        assert word in text


def test_the_server_needs_no_seal() -> None:
    code = (
        "import sys; sys.modules['tenseal'] = None\n"
        "import he_inference.batch_server\n"
        "print(sorted(m for m in sys.modules if m.startswith('tenseal')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['tenseal']"


def test_the_other_layout_is_named() -> None:
    network = he_inference.load_network(MNIST_CNN)
    with pytest.raises(CompileError, match="compile_batch"):
        he_inference.compile(network, layout="batched")
