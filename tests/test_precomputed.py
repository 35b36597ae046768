"""`precomputed`: weights in the NTT domain, by numba, by torch, from a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import he_inference
from he_inference.backend.residues.inner_products import transformed
from he_inference.backend.residues.torch_transform import torch_transformed
from he_inference.coefficient_program import CoefficientProgram
from he_inference.errors import ModelFileError, ServiceError
from he_inference.parameters import ParametersLiteral


def head(outputs: int = 3, seed: int = 0) -> CoefficientProgram:
    torch.manual_seed(seed)
    module = torch.nn.Linear(40, outputs)
    x = torch.randn(50, 40)
    network = he_inference.from_torch(module, x)
    return he_inference.compile(network, layout="coefficients", examples=x.numpy()).program


@given(st.sampled_from([20, 31, 42, 48]), st.sampled_from([4096, 8192]), st.integers(0, 99))
def test_torch_agrees_bit_for_bit(bits: int, degree: int, seed: int) -> None:
    """With the transform that is tested against SEAL's."""
    prime = ParametersLiteral(8192, (bits,), 17).resolve().data_primes[0]
    rng = np.random.default_rng(seed)
    weights = rng.integers(-(prime // 2), prime // 2 + 1, (2, 2, degree))
    weights[0, 0, :4] = prime // 2, -(prime // 2), 0, -1
    assert np.array_equal(torch_transformed(weights, prime, "cpu"), transformed(weights, prime))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_agrees_bit_for_bit() -> None:
    prime = ParametersLiteral(8192, (42,), 17).resolve().data_primes[0]
    weights = np.random.default_rng(1).integers(-(prime // 2), prime // 2, (5, 7, 8192))
    assert np.array_equal(torch_transformed(weights, prime, "cuda"), transformed(weights, prime))


def test_a_server_answers_the_same_from_the_file(tmp_path: Path) -> None:
    program = head()
    he_inference.precompute(program).save(tmp_path / "weights")
    ready = he_inference.load_precomputed(tmp_path / "weights", program)
    assert isinstance(ready.weights.base, np.memmap)
    x = np.random.default_rng(2).normal(size=(4, 40)).clip(-3, 3)
    client = he_inference.Client(program.signature)
    answers = []
    for server in (
        he_inference.Server(program),
        he_inference.Server(program, precomputed=ready),
        he_inference.Server(program, precomputed=he_inference.precompute(program, "cpu")),
    ):
        server.register(client.evaluation_keys())
        answers.append(client.decrypt(server.evaluate(client.encrypt(x))))
    assert np.abs(answers[1] - answers[0]).max() <= 8 * program.signature.resolution
    assert np.abs(answers[2] - answers[0]).max() <= 8 * program.signature.resolution


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    program, other = head(), head(seed=1)
    he_inference.precompute(program).save(tmp_path / "weights")
    with pytest.raises(ServiceError, match="precompute them again"):
        he_inference.load_precomputed(tmp_path / "weights", other)
    with pytest.raises(ServiceError, match="precompute them again"):
        he_inference.Server(other, precomputed=he_inference.precompute(program))


def test_other_files_and_devices_are_refused(tmp_path: Path) -> None:
    program = head()
    program.save(tmp_path / "program")
    with pytest.raises(ModelFileError, match="precomputed-weights"):
        he_inference.load_precomputed(tmp_path / "program", program)
    (tmp_path / "noise").write_bytes(bytes(100))
    with pytest.raises(ModelFileError):
        he_inference.load_precomputed(tmp_path / "noise", program)
    with pytest.raises(ModelFileError):
        he_inference.load_precomputed(tmp_path / "nothing", program)
    with pytest.raises(ServiceError, match="cannot be used"):
        he_inference.precompute(program, "cuda:99")
    batch = he_inference.compile(
        he_inference.from_torch(torch.nn.Linear(4, 2), torch.randn(9, 4)), layout="batched"
    )
    with pytest.raises(ServiceError, match="coefficient layout"):
        he_inference.precompute(batch.program)
    with pytest.raises(ServiceError, match="coefficient layout"):
        he_inference.Server(batch.program, precomputed=he_inference.precompute(program))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    program = head()
    he_inference.precompute(program).save(tmp_path / "weights")
    content = (tmp_path / "weights").read_bytes()
    for length in (0, 7, 40, len(content) // 2, len(content) - 1):
        (tmp_path / "weights").write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            he_inference.load_precomputed(tmp_path / "weights", program)
