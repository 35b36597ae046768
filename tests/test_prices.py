"""`he_inference.prices`: what the steps of a query add up to."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_inference.coefficient_signature import CoefficientSignature
from he_inference.cost import DEFAULT_PRICES, Prices
from he_inference.parameters import ParametersLiteral
from he_inference.prices import (
    REFERENCE_DEGREE,
    USUAL,
    CoefficientPrices,
    MachinePrices,
    relative,
    scaled,
)
from tests.test_coefficient_signature import PLAIN, PRIVATE

NAMES = [field.name for field in fields(CoefficientPrices)]
FREE = CoefficientPrices(**dict.fromkeys(NAMES, 0.0))


def of(signature: CoefficientSignature, features: int, outputs: int, group: int) -> Any:
    monomials = np.zeros((features, 2), np.int32)
    return replace(signature, monomials=monomials, outputs=outputs, group=group)


COUNTS = {
    # of 10000 features in blocks of 4096 / 2, and 5 outputs in answers of 2
    "ask": (1, 0), "encrypt": (5, 0), "decrypt": (0, 0), "decrypt_group": (3, 0),
    "serve": (0, 1), "read": (0, 5), "product": (0, 15), "answer": (0, 3), "hide": (0, 6),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_counted(name: str) -> None:
    """Client and server, for a program whose answers hold two outputs."""
    private, plain = of(PRIVATE, 10_000, 5, 2), of(PLAIN, 10_000, 5, 2)
    prices, (client, server) = replace(FREE, **{name: 1.0}), COUNTS[name]
    assert (prices.client_ms(private), prices.server_ms(private)) == (client, server)
    hidden = 0 if name == "hide" else server
    assert (prices.client_ms(plain), prices.server_ms(plain)) == (client, hidden)


def test_answers_of_one_output_are_decrypted_at_another_price() -> None:
    single = of(PRIVATE, 10_000, 5, 1)
    assert replace(FREE, decrypt=1.0).client_ms(single) == 5
    assert replace(FREE, decrypt_group=1.0).client_ms(single) == 0


def test_a_larger_ring_costs_more() -> None:
    """Twice the ring, 13/12 of the stages; what is paid for a query alone stays."""
    assert relative(REFERENCE_DEGREE) == 1 and relative(8192) == pytest.approx(26 / 12)
    wide = replace(of(PRIVATE, 4, 2, 2), parameters=ParametersLiteral(8192, (30, 42), 17).resolve())
    narrow = of(PRIVATE, 4, 2, 2)
    for name in ("encrypt", "decrypt_group", "read", "product", "answer", "hide"):
        prices = replace(FREE, **{name: 1.0})
        small = prices.client_ms(narrow) + prices.server_ms(narrow)
        assert prices.client_ms(wide) + prices.server_ms(wide) == pytest.approx(small * 26 / 12)
    for name in ("ask", "serve"):
        prices = replace(FREE, **{name: 1.0})
        assert prices.client_ms(wide) + prices.server_ms(wide) == 1


@given(st.lists(st.floats(0, 1e6), min_size=len(NAMES), max_size=len(NAMES)))
def test_prices_are_read_as_written(values: list[float]) -> None:
    prices = MachinePrices(CoefficientPrices(*values), Prices(slot=values[0]))
    assert MachinePrices.from_json(asdict(prices)) == prices


@pytest.mark.parametrize(
    ("part", "name"), [("coefficients", name) for name in NAMES] + [("packed", "row")]
)
@pytest.mark.parametrize("bad", [-1e-9, math.nan, math.inf, -math.inf, "x", None, [], 10**400])
def test_prices_that_are_none(part: str, name: str, bad: Any) -> None:
    whole = asdict(MachinePrices())
    with pytest.raises((ValueError, TypeError, OverflowError)):
        MachinePrices.from_json({**whole, part: {**whole[part], name: bad}})
    missing = {k: v for k, v in whole[part].items() if k != name}
    with pytest.raises(KeyError, match=name):
        MachinePrices.from_json({**whole, part: missing})


def test_the_usual_prices_are_sound() -> None:
    assert MachinePrices.from_json(asdict(MachinePrices())) == MachinePrices()
    assert all(value > 0 for value in asdict(USUAL).values())


def test_prices_of_a_slower_machine() -> None:
    """What the client pays grows by one factor, what the server pays by the other."""
    found, usual = asdict(scaled(DEFAULT_PRICES, 3.0, 2.0)), asdict(DEFAULT_PRICES)
    factors = {name: found[name] / usual[name] for name in usual}
    assert {name for name, factor in factors.items() if factor == 3.0} == {"encrypted", "slot"}
    assert set(factors.values()) == {2.0, 3.0}
