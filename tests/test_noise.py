"""`he_inference.noise`: the model against noise that SEAL makes.

Every check accepts the model and rejects the same model with half and with four times its variance;
where the sample allows it, alternatives much nearer than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal
from scipy.stats import chi2

from he_inference import wire
from he_inference.backend import seal as backend
from he_inference.backend.seal import KeyHolder, galois_element
from he_inference.nodes import Array
from he_inference.noise import NoiseModel, rounded, slot_exponents
from he_inference.parameters import Parameters, ParametersLiteral
from tests.conftest import EPS, Party

P_VALUE = 1e-9
WRONG = (1 / 2, 4)

PARAMETERS = ParametersLiteral(4096, (35, 35), 36).resolve()
MODEL = NoiseModel(PARAMETERS, of_seal=True)
DEGREE, SLOTS = PARAMETERS.ring_degree, PARAMETERS.slots


def accepts(errors: Array, variance: Array | float) -> bool:
    """Independent normal errors: Σ e²/v is chi-squared."""
    total = float((np.square(errors) / variance).sum())
    return bool(chi2.ppf(P_VALUE, errors.size) < total < chi2.isf(P_VALUE, errors.size))


def accepts_on_average(errors: Array, variance: Array | float) -> bool:
    """Errors (repetitions, slots) of one secret, which makes some slots noisier than others.

    The variance in slot j is proportional to |s(ζ_j)|², an exponential variable of mean h; so e²/v
    has variance at most 5, of which 1 is the slot's and does not fall with repetitions. h itself is
    binomial, with relative variance 1/(2N). Six standard deviations of the mean.
    """
    mean = float((np.square(errors) / variance).mean())
    deviation = np.sqrt(1 / SLOTS + 5 / errors.size + 1 / (2 * DEGREE))
    return bool(abs(mean - 1) < 6 * deviation)


def check(accepted: Callable[..., bool], errors: Array, variance: Array | float) -> None:
    assert accepted(errors, variance)
    for factor in WRONG:
        assert not accepted(errors, np.asarray(variance) * factor)


class Bench:
    """SEAL with a secret, at every level."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.holder = KeyHolder(parameters)
        self.rng = np.random.default_rng(3)

    def fresh(self, scale: float, level: int) -> tuple[Any, Array]:
        """A ciphertext at a level, and the values it was made from."""
        top = len(self.parameters.data_primes)
        values = self.rng.uniform(-1, 1, self.parameters.slots)
        seeded = self.holder.encrypt(values, scale)
        name = backend._parms_ids(self.parameters)[-1]
        data = backend.seal_format.ciphertext(
            name, seeded.residues[None], scale, ntt=True, seed=seeded.seed
        )
        cipher = backend._loaded(seal.Ciphertext(), backend._context(self.parameters, top), data)
        for _ in range(top - level):
            self.holder._evaluator.mod_switch_to_next_inplace(cipher)
        return cipher, values

    def decrypted(self, cipher: Any) -> Array:
        """In units of the encoded value."""
        plain = seal.Plaintext()
        self.holder._decryptor.decrypt(cipher, plain)
        return np.array(self.holder._encoder.decode_double(plain)) * cipher.scale

    def evaluator(self, level: int) -> Any:
        return seal.Evaluator(backend._context(self.parameters, level))

    def rotation_keys(self, level: int, steps: Iterable[int]) -> Any:
        elements = [galois_element(step, self.parameters.ring_degree) for step in steps]
        made = self.holder._generator(level).create_galois_keys(elements)
        context = backend._context(self.parameters, level)
        return backend._loaded(seal.GaloisKeys(), context, backend._saved(made))

    def relinearisation_keys(self, level: int) -> Any:
        made = self.holder._generator(level).create_relin_keys()
        context = backend._context(self.parameters, level)
        return backend._loaded(seal.RelinKeys(), context, backend._saved(made))


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(PARAMETERS)


def test_fresh(bench: Bench) -> None:
    scale = 2.0**30
    errors = []
    for _ in range(20):
        cipher, values = bench.fresh(scale, 2)
        errors.append(bench.decrypted(cipher) - values * scale)
    check(accepts, np.array(errors), MODEL.fresh)
    assert not accepts(np.array(errors), MODEL.fresh * 1.1)
    assert not accepts(np.array(errors), MODEL.fresh / 1.1)


def test_encoding() -> None:
    rng = np.random.default_rng(0)
    vectors, scale = rng.normal(size=(20, SLOTS)), 2.0**20
    errors = (rounded(vectors, np.full(20, scale), DEGREE) - vectors) * scale
    check(accepts, errors, MODEL.encoding)
    assert not accepts(errors, MODEL.encoding * 1.1)
    assert not accepts(errors, MODEL.encoding / 1.1)


def test_rescaling(bench: Bench) -> None:
    errors = []
    for _ in range(20):
        cipher, _ = bench.fresh(2.0**60, 2)
        before = bench.decrypted(cipher)
        bench.evaluator(2).rescale_to_next_inplace(cipher)
        errors.append(bench.decrypted(cipher) - before / PARAMETERS.data_primes[1])
    check(accepts_on_average, np.array(errors), MODEL.rounding)
    assert not accepts_on_average(np.array(errors), MODEL.rounding * 1.25)
    assert not accepts_on_average(np.array(errors), MODEL.rounding / 1.25)


@pytest.fixture(scope="module", params=[1, 2], ids=["level 1", "level 2"])
def rotations(request: pytest.FixtureRequest, bench: Bench) -> tuple[int, Array]:
    """A level, and the noise of 200 rotations, each with a key of its own: (200, slots)."""
    level, errors = request.param, []
    steps = range(1, 201)
    keys = bench.rotation_keys(level, steps)
    evaluator, turned = bench.evaluator(level), seal.Ciphertext()
    for step in steps:
        cipher, _ = bench.fresh(2.0**30, level)
        evaluator.rotate_vector(cipher, step, keys, turned)
        errors.append(bench.decrypted(turned) - np.roll(bench.decrypted(cipher), -step))
    return level, np.array(errors)


def test_rotation(rotations: tuple[int, Array]) -> None:
    level, errors = rotations
    check(accepts_on_average, errors, MODEL.key_switch(level))
    assert not accepts_on_average(errors, MODEL.key_switch(level) * 1.25)
    assert not accepts_on_average(errors, MODEL.key_switch(level) / 1.25)


def test_the_noisy_slots_are_predicted(rotations: tuple[int, Array]) -> None:
    """Where the digits' mean shows: there the noise is normal, as it is the key's own error."""
    level, errors = rotations
    variance = MODEL.key_switch(level)
    noisiest = np.argsort(variance)[-6:]
    assert {0, 1, 2} <= set(noisiest.tolist())
    check(accepts, errors[:, noisiest], variance[noisiest])
    for slot in noisiest:
        assert not accepts(errors[:, [slot]], float(np.median(variance)))


def test_relinearisation(bench: Bench) -> None:
    errors = []
    for _ in range(40):
        keys = bench.relinearisation_keys(2)
        cipher, _ = bench.fresh(2.0**25, 2)
        bench.evaluator(2).square_inplace(cipher)
        before = bench.decrypted(cipher)
        bench.evaluator(2).relinearize_inplace(cipher, keys)
        errors.append(bench.decrypted(cipher) - before)
    check(accepts_on_average, np.array(errors), MODEL.key_switch(2))


def test_key_switching_at_a_larger_ring() -> None:
    """Three primes larger than the special one: the digits' share is most of the noise."""
    parameters = ParametersLiteral(8192, (50, 50, 50), 40).resolve()
    bench, model = Bench(parameters), NoiseModel(parameters, of_seal=True)
    variance = model.key_switch(3)
    assert variance.min() > 2.0**19 * model.rounding
    steps = range(1, 31)
    keys = bench.rotation_keys(3, steps)
    errors, turned = [], seal.Ciphertext()
    for step in steps:
        cipher, _ = bench.fresh(2.0**60, 3)
        bench.evaluator(3).rotate_vector(cipher, step, keys, turned)
        errors.append(bench.decrypted(turned) - np.roll(bench.decrypted(cipher), -step))
    check(accepts, np.array(errors), variance)


@pytest.mark.parametrize("cut", [(14, 0), (0, 8), (14, 8)])
def test_cutting_answers(shallow: Party, cut: tuple[int, int]) -> None:
    """Messages to and fro with and without the low bits."""
    signature = shallow.compiled.signature
    model, prime = NoiseModel(signature.parameters), signature.parameters.data_primes[0]
    whole = prime.bit_length()
    kept = replace(signature, response_bits=(whole - cut[0], whole - cut[1]))
    assert kept.cut_bits == cut
    degree, slots = signature.parameters.ring_degree, signature.parameters.slots
    holder, errors = KeyHolder(signature.parameters), []
    for _ in range(20):
        # A ciphertext whose coefficients are uniform but that decrypts to something small.
        data = holder.encrypt(np.zeros(slots), 2.0**30)
        before = answer_of(holder, signature.parameters, data)
        message = wire.write_answer(kept, wire.Answer(bytes(wire.TICKET_BYTES), (before,)))
        (after,) = wire.read_answer(kept, message).polynomials
        errors.append(holder.decrypt(after, 1.0) - holder.decrypt(before, 1.0))
    variance = model.cut(cut)
    mean = float(np.square(errors).mean()) / variance
    deviation = np.sqrt(1 / slots + 5 / np.size(errors) + 1 / (2 * degree))
    for factor, accepted in ((1, True), *((f, False) for f in WRONG)):
        assert bool(abs(mean / factor - 1) < 6 * deviation) == accepted


def answer_of(holder: KeyHolder, parameters: Parameters, seeded: wire.Seeded) -> wire.Residues:
    """A fresh ciphertext at level 1, as coefficients."""
    top = len(parameters.data_primes)
    names, context = backend._parms_ids(parameters), backend._context(parameters, top)
    data = backend.seal_format.ciphertext(
        names[-1], seeded.residues[None], 1.0, ntt=True, seed=seeded.seed
    )
    cipher = backend._loaded(seal.Ciphertext(), context, data)
    for _ in range(top - 1):
        holder._evaluator.mod_switch_to_next_inplace(cipher)
    holder._evaluator.transform_from_ntt_inplace(cipher)
    return backend.seal_format.read_ciphertext(backend._saved(cipher))[:, 0]


# ---------------------------------------------------------------------------- encoder


@pytest.mark.parametrize("scale", [2.0**8, 2.0**20, 12345.678, 2.0**34])
def test_rounded_is_what_the_encoder_does(scale: float) -> None:
    """Decode(encode(v)) in SEAL and by a Fourier transform of our own.

    Both transforms of length 2N err by at most ε·log2(2N) times the norm of their input. A single
    coefficient rounded otherwise would show as an error of 1/scale, far above.
    """
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(4, SLOTS))
    vectors[1, 1:] = 0  # one slot
    vectors[2] = 0.3  # one coefficient
    context = backend._context(PARAMETERS, 2)
    encoder, plain, found = seal.CKKSEncoder(context), seal.Plaintext(), []
    for vector in vectors:
        encoder.encode(vector.tolist(), scale, plain)
        found.append(encoder.decode_double(plain))
    ours = rounded(vectors, np.full(4, scale), DEGREE)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    tolerance = 4 * EPS * np.log2(2 * DEGREE) * norms
    assert (tolerance < 0.01 / scale).all()
    assert (np.abs(np.array(found) - ours) <= tolerance).all()


def test_slots_are_where_seal_has_them() -> None:
    """X ↦ ζ_j: the exponents are the odd numbers, one of each conjugate pair."""
    exponents = slot_exponents(16)
    assert exponents.tolist() == [pow(3, j, 32) for j in range(8)]
    assert sorted([*exponents, *(32 - exponents)]) == list(range(1, 32, 2))
