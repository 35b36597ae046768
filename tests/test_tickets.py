"""`he_inference.tickets`: only what was drawn with this key, for so many queries, passes."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from he_inference.errors import MessageError
from he_inference.tickets import Tickets
from he_inference.wire import TICKET_BYTES

SECRET = np.arange(12, dtype=np.uint64).reshape(3, 4)
TICKETS = Tickets(SECRET)


@given(st.integers(1, 2**32 - 1))
def test_its_own_tickets_pass(queries: int) -> None:
    ticket = TICKETS.draw(queries)
    assert len(ticket) == TICKET_BYTES
    TICKETS.check(ticket, queries)
    Tickets(SECRET.copy()).check(ticket, queries)


def test_no_two_are_alike() -> None:
    assert len({TICKETS.draw(1) for _ in range(100)}) == 100


@given(st.integers(0, 8 * TICKET_BYTES - 1))
def test_a_changed_ticket_is_refused(bit: int) -> None:
    ticket = bytearray(TICKETS.draw(7))
    ticket[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MessageError, match="does not answer a query of this key"):
        TICKETS.check(bytes(ticket), 7)


def test_another_number_or_key_is_refused() -> None:
    ticket = TICKETS.draw(7)
    for tickets, queries in ((TICKETS, 8), (Tickets(SECRET + np.uint64(1)), 7)):
        with pytest.raises(MessageError):
            tickets.check(ticket, queries)
    for cut in (b"", ticket[:-1], ticket + b"\0"):
        with pytest.raises(MessageError):
            TICKETS.check(cut, 7)
