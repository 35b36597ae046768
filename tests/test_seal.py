"""`he_inference.backend.seal`: one instruction at a time, against plain arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from he_inference.backend import clear
from he_inference.backend.seal import Evaluator, KeyHolder, KeySet, _context, galois_element
from he_inference.checker import check
from he_inference.errors import ParameterError
from he_inference.nodes import Array
from he_inference.noise import NoiseModel
from he_inference.parameters import Parameters, ParametersLiteral
from he_inference.program import Instruction, Program
from he_inference.signature import KeyPlan, Signature
from he_inference.wire import Seeded
from tests.conftest import laplace_tail

PARAMETERS = ParametersLiteral(8192, (55, 40, 40), 50).resolve()
SLOTS = PARAMETERS.slots
SCALE = 2.0**40
PLAN = KeyPlan(3, ((1, 2), (SLOTS - 1, 3)))
VALUES = np.random.default_rng(0).uniform(-1, 1, SLOTS)
WEIGHTS = np.random.default_rng(1).uniform(-1, 1, (2, SLOTS))
OUT = SCALE * SCALE / PARAMETERS.data_primes[2]

INPUT = Instruction("input", (), 3, SCALE)


def program(*instructions: Instruction, query: Instruction = INPUT) -> Program:
    """A program that answers with every slot; its last instruction is dropped to level 1."""
    made = [query, *instructions]
    while made[-1].level > 1:
        last = made[-1]
        made.append(replace(last, operation="drop", sources=(len(made) - 1,), level=last.level - 1,
                            step=0, vector=-1))  # fmt: skip
    signature = Signature(
        identity=bytes(16),
        parameters=PARAMETERS,
        input_shape=(SLOTS,),
        input_range=(-1.0, 1.0),
        input_scale=query.scale,
        gather=np.arange(SLOTS),
        output_slots=np.arange(SLOTS),
        output_scale=made[-1].scale,
        keys=PLAN,
        response_bits=(55, 55),
        precision_bits=10.0,
        resolution=1e-6,
    )
    result = Program(signature, tuple(made), WEIGHTS)
    check(result)
    return result


@pytest.fixture(scope="module")
def holder() -> KeyHolder:
    return KeyHolder(PARAMETERS)


@pytest.fixture(scope="module")
def keys(holder: KeyHolder) -> KeySet:
    return KeySet(PARAMETERS, PLAN, holder.evaluation_keys(PLAN))


@pytest.fixture(scope="module")
def query(holder: KeyHolder) -> Seeded:
    return holder.encrypt(VALUES, SCALE)


SQUARED = [
    Instruction("multiply", (0, 0), 3, SCALE**2, size=3),
    Instruction("relinearise", (1,), 3, SCALE**2),
    Instruction("rescale", (2,), 2, OUT),
]
PROGRAMS: dict[str, tuple[Instruction, ...]] = {
    "nothing": (),
    "drop": (Instruction("drop", (0,), 2, SCALE),),
    "rotate by one": (
        Instruction("drop", (0,), 2, SCALE),
        Instruction("rotate", (1,), 2, SCALE, step=1),
    ),
    "rotate back": (Instruction("rotate", (0,), 3, SCALE, step=SLOTS - 1),),
    "add to itself": (Instruction("add", (0, 0), 3, SCALE),),
    "add twice": (Instruction("add", (0, 0), 3, SCALE), Instruction("add", (1, 0), 3, SCALE)),
    "weights": (
        Instruction("multiply_plain", (0,), 3, SCALE**2, vector=0),
        Instruction("rescale", (1,), 2, OUT),
    ),
    "offset": (Instruction("add_plain", (0,), 3, SCALE, vector=1),),
    "offset lower down": (
        Instruction("drop", (0,), 2, SCALE),
        Instruction("add_plain", (1,), 2, SCALE, vector=1),
    ),
    "square": tuple(SQUARED),
    "product": (
        Instruction("add_plain", (0,), 3, SCALE, vector=1),
        Instruction("multiply", (0, 1), 3, SCALE**2, size=3),
        Instruction("relinearise", (2,), 3, SCALE**2),
        Instruction("rescale", (3,), 2, OUT),
    ),
    "square used again": (
        *SQUARED,
        Instruction("multiply", (3, 3), 2, OUT**2, size=3),
        Instruction("relinearise", (4,), 2, OUT**2),
        Instruction("rescale", (5,), 1, OUT**2 / PARAMETERS.data_primes[1]),
    ),
    "two of size three": (
        Instruction("multiply", (0, 0), 3, SCALE**2, size=3),
        Instruction("add", (1, 1), 3, SCALE**2, size=3),
        Instruction("relinearise", (2,), 3, SCALE**2),
        Instruction("rescale", (3,), 2, OUT),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_operations(name: str, holder: KeyHolder, keys: KeySet, query: Seeded) -> None:
    """SEAL agrees with the clear backend, slot by slot, within the noise that the model adds."""
    made = program(*PROGRAMS[name])
    found = holder.decrypt(Evaluator(made).evaluate(keys, query), made.signature.output_scale)
    expected = clear.evaluate(made, VALUES[None])[0]
    draws = [clear.simulate(made, VALUES[None], n, MODEL)[0] - expected for n in range(40)]
    # Per slot, from 40 draws: the estimate may be 1/√80 off, the worst of 4096 slots 5 times that.
    deviation = np.sqrt(np.mean(np.square(draws), axis=0)) * (1 + 5 / np.sqrt(80))
    limit = laplace_tail(1e-9, SLOTS)
    assert (np.abs(found - expected) <= limit * deviation).all()
    assert np.abs(expected).max() > 1000 * limit * deviation.max()  # the check has teeth


MODEL = NoiseModel(PARAMETERS, of_seal=True)
SECOND_MOMENTS: dict[str, Array] = {
    "nothing": np.full(SLOTS, MODEL.fresh),
    "rotate back": MODEL.fresh + MODEL.key_switch(3),
    # The square of a normal error e has the second moment 3·Var(e)².
    "relinearise": 3 * MODEL.fresh**2 + MODEL.key_switch(3),
    "rescale": np.full(SLOTS, MODEL.fresh / PARAMETERS.data_primes[2] ** 2 + MODEL.rounding),
}
SMALL = replace(INPUT, scale=2.0**20)  # so that its square fits the last prime
PROGRAMS_OF_ONE = {
    "nothing": program(),
    "rotate back": program(*PROGRAMS["rotate back"]),
    "relinearise": program(
        Instruction("multiply", (0, 0), 3, SMALL.scale**2, size=3),
        Instruction("relinearise", (1,), 3, SMALL.scale**2),
        query=SMALL,
    ),
    "rescale": program(Instruction("rescale", (0,), 2, SCALE / PARAMETERS.data_primes[2])),
}


@pytest.mark.parametrize("name", SECOND_MOMENTS)
def test_simulation_adds_what_the_model_says(name: str) -> None:
    """On a query of zeros nothing else is left: mean of e²/v over 40 draws of every slot.

    The least normal of the errors has a fourth moment of 105/9 of its squared second: six
    deviations of the mean.
    """
    made = PROGRAMS_OF_ONE[name]
    draws = np.concatenate(
        [clear.simulate(made, np.zeros((1, SLOTS)), s, MODEL) for s in range(40)]
    )
    means = (np.square(draws * made.signature.output_scale) / SECOND_MOMENTS[name]).mean(axis=0)
    assert abs(means.mean() - 1) < 6 * np.sqrt(105 / 9 / draws.size)
    assert means.max() < 5  # no slot is left out: 40 normal squares average 5 once in 10³⁰ times


def test_the_query_is_not_consumed(holder: KeyHolder, keys: KeySet, query: Seeded) -> None:
    """Evaluators work in place where they may; the same bytes must answer the same twice."""
    evaluator = Evaluator(program(*SQUARED))
    first, second = (evaluator.evaluate(keys, query) for _ in range(2))
    assert np.array_equal(first, second)


def test_weights_that_round_to_nothing_are_not_an_error(
    holder: KeyHolder, keys: KeySet, query: Seeded
) -> None:
    """SEAL refuses to multiply by zero; one unit of the scale stands in for it."""
    made = program(*PROGRAMS["weights"])
    tiny = replace(made, vectors=np.full_like(WEIGHTS, 2.0**-60))
    found = holder.decrypt(Evaluator(tiny).evaluate(keys, query), OUT)
    noise = NoiseModel(PARAMETERS)
    deviation = np.sqrt(noise.rounding) / OUT + np.abs(VALUES).max() / SCALE
    assert np.abs(found).max() < laplace_tail(1e-9, SLOTS) * deviation


def test_a_program_without_its_keys(holder: KeyHolder, query: Seeded) -> None:
    without = KeySet(PARAMETERS, KeyPlan(0, ()), [])
    with pytest.raises(ParameterError, match="asks for relinearise and has no key"):
        Evaluator(program(*SQUARED)).evaluate(without, query)


def test_seal_itself_refuses_what_is_insecure() -> None:
    """Should our own check ever fail, SEAL's still stands: this one is made without checking."""
    weak = object.__new__(Parameters)
    sound = ParametersLiteral(8192, (55, 55), 45).resolve()
    small = list(sound.primes)
    object.__setattr__(weak, "ring_degree", 4096)
    object.__setattr__(weak, "data_primes", tuple(small[:-1]))
    object.__setattr__(weak, "special_prime", small[-1])
    with pytest.raises(ParameterError, match="SEAL refuses"):
        _context(weak, 2)


def test_galois_elements_rotate_to_the_left(holder: KeyHolder) -> None:
    assert galois_element(0, 8192) == 1
    assert galois_element(1, 8192) == 3
    assert galois_element(-1, 8192) == galois_element(4095, 8192)
    assert galois_element(1, 8192) * galois_element(-1, 8192) % 16384 == 1


def test_a_secret_key_taken_back_decrypts(holder: KeyHolder) -> None:
    again = KeyHolder(PARAMETERS, holder.secret)
    assert again.secret is not holder.secret
    made = program()
    answer = Evaluator(made).evaluate(KeySet(PARAMETERS, PLAN, again.evaluation_keys(PLAN)),
                                      again.encrypt(VALUES, SCALE))  # fmt: skip
    found: Array = holder.decrypt(answer, SCALE)
    tail = laplace_tail(1e-9, SLOTS) * np.sqrt(NoiseModel(PARAMETERS).fresh) / SCALE
    assert np.abs(found - VALUES).max() < tail


def test_two_encryptions_of_one_input_share_nothing(holder: KeyHolder) -> None:
    one, two = (holder.encrypt(VALUES, SCALE) for _ in range(2))
    assert one.seed != two.seed
    # Uniform residues of 40 bits and more: 8192 · 3 of them agree somewhere once in 10⁷ times.
    assert not (one.residues == two.residues).any()
