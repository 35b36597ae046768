"""`he_inference.compiler`: a program in the clear is the network; what it promises is so."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from he_inference import from_torch
from he_inference.backend import clear
from he_inference.checker import check
from he_inference.compiler import Compiled, compile
from he_inference.cost import (
    DEFAULT_PRICES,
    Prices,
    cost,
    download_bytes,
    key_bytes,
    server_ms,
    upload_bytes,
)
from he_inference.errors import CompileError, InputError
from he_inference.network import Network
from he_inference.nn import Polynomial, Square
from he_inference.nodes import Array, Input, Linear
from he_inference.noise import NoiseModel
from he_inference.parameters import MAX_LOG_MODULUS
from he_inference.program import OPERATIONS
from tests.conftest import EPS, Case, Party, cases, majorant, program_majorant, roundings


def linear(weight: Array, bias: Array | None = None) -> Network:
    outputs, inputs = weight.shape
    node = Linear((0,), weight, np.zeros(outputs) if bias is None else bias)
    return Network([Input(()), node], (inputs,), (-1.0, 1.0))


def assert_clear_is_the_network(compiled: Compiled, case: Case) -> None:
    """The two differ by the rounding of float64 sums: about 10⁻¹³ of the terms' size."""
    program = compiled.program
    error = np.abs(clear.evaluate(program, case.x) - compiled.network.evaluate(case.x))
    count = roundings(case.module) + 2 * len(program.instructions)
    size = majorant(case) + program_majorant(program, case.x)
    assert (error <= 2 * count * EPS * size).all()


@given(cases(max_degree=4, max_layers=3))
@settings(max_examples=25)
def test_a_program_in_the_clear_is_the_network(case: Case) -> None:
    try:
        compiled = compile(case.network, layout="packed", response="plain", precision=4)
    except CompileError as error:
        assert "does not depend on the query" in str(error)
        return
    check(compiled.program)
    assert_clear_is_the_network(compiled, case)
    # Precision: the noise on the caller's own queries, against the largest synthetic answer. The
    # promise is of the mean square over examples, so single answers get three times as much.
    errors = compiled.simulate(case.x, seed=9) - compiled.network.evaluate(case.x)
    promised = 2.0**-compiled.signature.precision_bits
    largest = compiled.signature.resolution / promised * 2  # within a factor of two of it
    assert np.abs(errors).max() <= 16 * promised * largest


def test_the_programs_of_the_fixtures(deep: Party, shallow: Party) -> None:
    for party in (deep, shallow):
        network = party.compiled.network
        found = clear.evaluate(party.program, party.x)
        size = program_majorant(party.program, party.x)
        limit = 4 * len(party.program.instructions) * EPS * size
        assert (np.abs(found - network.evaluate(party.x)) <= limit).all()
        assert (limit <= 1e-9 * np.abs(found).max()).all()


# ---------------------------------------------------------------------------- promises


@pytest.mark.parametrize("precision", [6, 12, 18])
def test_the_precision_asked_for_is_held(precision: float) -> None:
    """Measured over fresh seeds and queries, whole root mean square, 95 % of the bound or better.

    The precision found is that of one simulation of 16 queries. A mean square of 16·6 values, if
    they were normal, has a relative deviation of √(2/96); six of them are 0.6 bits.
    """
    torch.manual_seed(0)
    network = from_torch(
        nn.Sequential(nn.Linear(9, 12), Polynomial([0.3, 1.0, 0.5]), nn.Linear(12, 6)),
        np.random.default_rng(0).random((4, 9)),
    )
    compiled = compile(network, layout="packed", response="plain", precision=precision)
    assert compiled.signature.precision_bits >= precision
    x = np.random.default_rng(1).random((256, 9))
    expected = network.evaluate(x)
    errors = [compiled.simulate(x, seed=seed) - expected for seed in range(4)]
    found = -math.log2(np.sqrt(np.mean(np.square(errors))) / np.abs(expected).max())
    slack = 0.5 * math.log2(1 + 6 * math.sqrt(2 / 96)) + math.log2(
        np.abs(network.evaluate(compiled_examples(network))).max() / np.abs(expected).max()
    )
    assert found >= precision - max(slack, 0.0) - 0.5 * math.log2(1 + 1 / 16)


def compiled_examples(network: Network) -> Array:
    """Queries at the ends of the range: the largest answers that typical ones come near to."""
    low, high = network.input_range
    corners = np.random.default_rng(2).random((512, *network.input_shape)) < 0.5
    return np.where(corners, low, high)


def test_more_precision_takes_more_modulus() -> None:
    network = linear(np.random.default_rng(0).normal(size=(4, 8)))
    bits = [
        compile(network, layout="packed", response="plain", precision=p).parameters.log_modulus(99)
        for p in (2, 10, 18)
    ]
    assert bits == sorted(bits)


def test_answers_up_to_eight_times_the_examples_are_safe() -> None:
    """HEADROOM_BITS: the encoded answer stays below half the last prime."""
    network = linear(np.eye(3))
    examples = np.full((1, 3), 1 / 8)
    compiled = compile(network, layout="packed", response="plain", examples=examples)
    largest = 1.0 * compiled.signature.output_scale
    assert largest < compiled.parameters.data_primes[0] / 2
    assert np.allclose(
        compiled.simulate(np.ones((1, 3))), 1, atol=2 * compiled.signature.resolution
    )


def test_the_resolution_is_about_the_error(deep: Party, shallow: Party) -> None:
    for party in (deep, shallow):
        signature = party.program.signature
        assert math.log2(signature.resolution) % 1 == 0
        errors = [
            party.compiled.simulate(party.x, seed=seed) - party.compiled.network.evaluate(party.x)
            for seed in range(20)
        ]
        deviation = float(np.sqrt(np.mean(np.square(errors))))
        # ceil gives up to a factor of 2; the examples' magnitudes differ from these queries'.
        assert deviation / 2 <= signature.resolution <= 8 * deviation


def test_answers_lose_no_bits_that_matter(deep: Party, shallow: Party) -> None:
    """Cutting adds 1/16 of the error's variance at most, and one bit more of either would not do.

    The error it is measured by lies between one and two halves of the resolution.
    """
    for party in (deep, shallow):
        signature = party.program.signature
        model, (first, second) = NoiseModel(party.compiled.parameters), signature.cut_bits
        largest = (signature.resolution * signature.output_scale) ** 2
        assert model.cut((first, second)) <= largest / 16
        assert model.cut((first + 1, 0)) > largest / 4 / 32
        assert model.cut((0, second + 1)) > largest / 4 / 32


def test_simulation_is_repeatable_and_noisy(deep: Party) -> None:
    first, again, other = (deep.compiled.simulate(deep.x, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again) and not (first == other).any()
    with pytest.raises(InputError):
        deep.compiled.simulate(np.zeros((1, 2)))


def test_simulation_in_chunks_is_complete() -> None:
    compiled = compile(linear(np.eye(2)), layout="packed", response="plain")
    x = np.random.default_rng(0).uniform(-1, 1, (2 * clear.CHUNK + 1, 2))
    assert np.abs(clear.evaluate(compiled.program, x) - x).max() <= 8 * EPS
    assert compiled.simulate(x).shape == x.shape


# ---------------------------------------------------------------------------- choices


def test_the_smallest_ring_that_does() -> None:
    assert (
        compile(
            linear(np.eye(2)), layout="packed", response="plain", precision=4
        ).parameters.ring_degree
        == 4096
    )
    wide = linear(np.random.default_rng(0).normal(size=(2, 3000)) / 3000)
    assert (
        compile(wide, layout="packed", response="plain", precision=4).parameters.ring_degree == 8192
    )


def test_every_key_is_at_the_highest_level_where_it_is_used(deep: Party) -> None:
    program = deep.program
    for operation, planned in (
        ("rotate", dict(program.signature.keys.rotations)),
        ("relinearise", {0: program.signature.keys.relinearisation}),
    ):
        used: dict[int, int] = {}
        for i in program.instructions:
            if i.operation == operation:
                used[i.step] = max(used.get(i.step, 0), i.level)
        assert used == planned


def test_the_parameters_are_within_the_bound(deep: Party, shallow: Party) -> None:
    for party in (deep, shallow):
        p = party.compiled.parameters
        assert p.total_bits <= MAX_LOG_MODULUS[p.ring_degree]
        assert party.compiled.signature.security_bits == 128


def test_identities_differ(shallow: Party) -> None:
    """Two compilations of one network do not take each other's keys."""
    again = compile(shallow.compiled.network, layout="packed", response="plain")
    assert again.signature.identity != shallow.compiled.signature.identity
    same = replace(again.signature, identity=shallow.compiled.signature.identity)
    assert same.digest == shallow.compiled.signature.digest


@pytest.mark.slow
def test_a_deep_network_of_small_steps() -> None:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(4, 4), Square()]
    module = nn.Sequential(*layers, nn.Linear(4, 2)).eval()
    case = Case(module, np.random.default_rng(0).random((3, 4)).astype(np.float32).astype(float))
    compiled = compile(case.network, layout="packed", response="plain", precision=5)
    assert compiled.program.count("multiply") == 4
    assert_clear_is_the_network(compiled, case)


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "diagonal"}, "'diagonal' is unknown: use auto, coefficients, packed"),
        ({"optimise": "memory"}, "'memory' is unknown: use latency, bytes"),
        ({"precision": 0}, "expected 1 to 40"),
        ({"precision": 41}, "expected 1 to 40"),
        ({"precision": float("nan")}, "expected 1 to 40"),
    ],
)
def test_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        compile(linear(np.eye(2)), **options)  # type: ignore[arg-type]


def test_examples_are_checked() -> None:
    with pytest.raises(InputError, match=r"\(batch, 2\)"):
        compile(linear(np.eye(2)), layout="packed", response="plain", examples=np.zeros((1, 3)))


def test_too_much_precision_says_how_much_there_is() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 2), Square(), nn.Linear(2, 1))
    network = from_torch(module, np.random.default_rng(0).random((3, 2)))
    with pytest.raises(CompileError, match=r"(?s)does not fit at 40 bits.*N = 32768: .*bits"):
        compile(network, layout="packed", response="plain", precision=40)


def test_networks_that_ignore_the_query() -> None:
    with pytest.raises(CompileError, match="layer 1 does not depend on the query"):
        compile(linear(np.zeros((2, 2)), np.ones(2)), layout="packed", response="plain")


def test_networks_too_wide_for_every_ring() -> None:
    weight = np.zeros((1, 20_000))
    weight[0] = np.arange(1, 20_001) / 20_000
    with pytest.raises(CompileError, match=r"(?s)N = 4096: .*20000 values.*N = 32768: .*16384"):
        compile(linear(weight), layout="packed", response="plain")


# ---------------------------------------------------------------------------- cost and summary


def test_the_cost_counts_bytes_exactly(deep: Party) -> None:
    c, p = deep.compiled.cost, deep.compiled.parameters
    packed = [prime.bit_length() * p.ring_degree // 8 for prime in p.data_primes]
    special = p.special_prime.bit_length() * p.ring_degree // 8
    assert c.upload_bytes == upload_bytes(p) == sum(packed) + 64
    whole = p.data_primes[0].bit_length()
    assert c.download_bytes <= 2 * whole * p.ring_degree // 8
    assert c.download_bytes == download_bytes(deep.compiled.signature)
    levels = deep.compiled.signature.keys.levels
    assert c.key_bytes == sum(n * (sum(packed[:n]) + special + 64) for n in levels)
    assert c.key_bytes == key_bytes(deep.compiled.signature)


def test_the_estimate_prices_every_instruction(deep: Party) -> None:
    """Each one more costs more, and all of it follows the prices."""
    program = deep.program
    degree, instructions = program.parameters.ring_degree, program.instructions
    assert cost(program).server_ms == deep.compiled.cost.server_ms
    assert cost(program).server_ms == server_ms(instructions, degree)
    dropped = [i for i in instructions if i.operation == "drop"]  # no work at all
    kinds = {i.operation for i in instructions}
    assert set(OPERATIONS) >= kinds > {"rotate", "rescale", "add_plain"} and len(dropped) < 9
    estimates = [server_ms(instructions[:n], degree) for n in range(1, len(instructions) + 1)]
    assert estimates[0] > 0 and estimates[-1] == cost(program).server_ms
    doubled = Prices(**{name: 2 * price for name, price in asdict(DEFAULT_PRICES).items()})
    assert cost(program, doubled).server_ms == pytest.approx(2 * cost(program).server_ms)
    assert cost(program, doubled).client_ms == pytest.approx(2 * cost(program).client_ms)
    for name, price in asdict(DEFAULT_PRICES).items():
        dearer = replace(DEFAULT_PRICES, **{name: 2 * price})
        total = cost(program, dearer)
        assert total.server_ms + total.client_ms > cost(program).server_ms + cost(program).client_ms


def test_the_summary_names_what_matters(deep: Party) -> None:
    summary, p = deep.compiled.summary(), deep.compiled.parameters
    for text in (
        f"N = {p.ring_degree}",
        f"log2 q = {p.total_bits} of {MAX_LOG_MODULUS[p.ring_degree]}",
        "128-bit security",
        f"{deep.program.count('rotate')} rotations",
        f"{deep.compiled.cost.key_bytes / 1e6:.2f} MB",
        f"{deep.compiled.signature.precision_bits:.1f} bits",
    ):
        assert text in summary
