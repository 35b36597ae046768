"""Queries about a model that stays shared: right answers, and turns that nobody can take away."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpc_training import serving
from mpc_training.clear import Clear
from mpc_training.connecting import Address, Identity, call, listen
from mpc_training.errors import Disagreement, MPCError, PeerError, RangeError
from mpc_training.fixed_point import ACTIVATION_BITS, Array
from mpc_training.run import Endpoint
from mpc_training.serving import Answered, Door, query, serve
from mpc_training.session import open_checkpoints
from mpc_training.training import Trainer
from mpc_training.transport import TlsTransport
from mpc_training.wire import Kind, write_header
from tests.insecure_parties import in_threads
from tests.test_mpc_session import NETWORK, RUN, reports, rows, run
from tests.tls_parties import addresses_of, make_identities

SHORT = replace(RUN, steps=4)
Served = tuple[list[Path], Array]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    return make_identities(tmp_path_factory.mktemp("keys"), ["a", "b", "c", "client"])


@pytest.fixture(scope="module")
def trained(four: list[Identity], tmp_path_factory: pytest.TempPathFactory) -> Served:
    folders = [tmp_path_factory.mktemp(f"party-{index}") for index in range(3)]
    weights = reports(run(four[:3], rows(), SHORT, folders=folders))[0].weights
    assert weights is not None
    return folders, weights


def while_serving(four: list[Identity], folders: list[Path], queries: int, ask) -> list:  # type: ignore[no-untyped-def,type-arg]
    """Three parties serve `queries` queries while `ask(addresses)` runs; what each answered."""
    with ExitStack() as stack:
        inner = [stack.enter_context(listen("127.0.0.1", 0)) for _ in range(3)]
        outer = [stack.enter_context(listen("127.0.0.1", 0)) for _ in range(3)]
        addresses = addresses_of(four[:3], [taken.getsockname()[1] for taken in inner])
        doors = addresses_of(four[:3], [taken.getsockname()[1] for taken in outer])
        client = addresses_of(four[3:], [1])[0].certificate
        standing = threading.Barrier(4, timeout=30)
        answered: list[list[Answered]] = [[], [], []]

        def part(index: int) -> None:
            store = open_checkpoints(folders[index], SHORT, rows()[index])
            endpoint = Endpoint(index, tuple(addresses), four[index], inner[index], 20.0)
            serve(
                SHORT, store, endpoint, Door(outer[index], (client,)), queries=queries,
                ready=standing.wait, answered=answered[index].append,
            )  # fmt: skip

        def asking() -> None:
            standing.wait()
            ask(tuple(doors))

        in_threads([*(partial(part, index) for index in range(3)), asking])
        return answered


def test_answers_are_those_of_the_revealed_model(four: list[Identity], trained: Served) -> None:
    """One ulp of 2^−16 a layer, through weights below 4."""
    folders, weights = trained
    clear = Clear()
    trainer = Trainer.start(clear, NETWORK, weights)

    def ask(doors: tuple[Address, ...]) -> None:
        for count in (1, 7, 100):
            x = np.random.default_rng(count).normal(0, 1, (count, 6))
            logits, sent = query(doors, four[3], x, 10.0)
            expected = trainer.logits(clear.public(x, ACTIVATION_BITS)).parts[0]
            assert np.abs(logits - expected).max() < 2.0**-16 * (1 + 6 * 4 + 5 * 4)
            assert 3 * 16 * 6 * count < sent < 3 * 16 * 6 * count + 3000

    answered = while_serving(four, folders, 3, ask)
    for done in answered:
        assert [item.rows for item in done] == [1, 7, 100]
    # A round to open, three for the sign, one to choose by it, and two for the last layer.
    assert {item.rounds for item in answered[0]} == {1 + 3 + 1 + 2}


def test_strangers_and_those_who_go_away_lose_their_turn_alone(
    four: list[Identity], trained: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_TURN_SECONDS", 1.0)
    stranger = make_identities(tmp_path, ["client"])[0]
    x = np.ones((1, 6))

    def ask(doors: tuple[Address, ...]) -> None:
        with pytest.raises(PeerError):
            query(doors, stranger, x, 3.0)
        socket.create_connection((doors[0].host, doors[0].port)).close()
        call(serving.CLIENT, {0: doors[0]}, four[3], 3.0).close()  # comes to one, and goes
        with pytest.raises(RangeError):
            query(doors, four[3], x * 500, 3.0)
        assert query(doors, four[3], x, 10.0)[0].shape == (1, 3)

    assert [len(done) for done in while_serving(four, trained[0], 1, ask)] == [1, 1, 1]


def test_a_client_whose_shares_are_none_gets_no_answer(
    four: list[Identity], trained: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that one holder of a component alone is given would come back times the sum of two
    components of the weights, instead of three."""
    exchange = TlsTransport.exchange
    wrong: list[tuple[int, int]] = []

    def sent(transport: TlsTransport, send: Any, receive: Any) -> None:
        for party, place in wrong:
            if transport.party == serving.CLIENT and party in send:
                arrays = [array.copy() for array in send[party]]
                arrays[place][0, 0] += np.uint64(1 << 24)
                send = {**send, party: arrays}
        exchange(transport, send, receive)

    monkeypatch.setattr(TlsTransport, "exchange", sent)

    def ask(doors: tuple[Address, ...]) -> None:
        for party in range(3):
            for place in range(2):
                wrong[:] = [(party, place)]
                with pytest.raises(PeerError):
                    query(doors, four[3], np.ones((1, 6)), 5.0)
        wrong.clear()
        assert query(doors, four[3], np.ones((1, 6)), 10.0)[0].shape == (1, 3)

    assert [len(done) for done in while_serving(four, trained[0], 1, ask)] == [1, 1, 1]


def test_a_client_that_drips_bytes_is_cut_off(
    four: list[Identity], trained: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then is not silence."""
    monkeypatch.setattr(serving, "_TURN_SECONDS", 1.0)

    def ask(doors: tuple[Address, ...]) -> None:
        client = call(serving.CLIENT, {0: doors[0]}, four[3], 3.0)
        stream = client._links[0].stream
        stream.setblocking(True)
        with pytest.raises(OSError):
            for byte in write_header(Kind.HELLO, 0, 4) + b"\x00\x01\x00\x00":
                stream.send(bytes([byte]))
                time.sleep(0.2)
        client.close()
        assert query(doors, four[3], np.ones((1, 6)), 10.0)[0].shape == (1, 3)

    while_serving(four, trained[0], 1, ask)


def test_rows_of_another_shape(four: list[Identity], trained: Served) -> None:
    def ask(doors: tuple[Address, ...]) -> None:
        with pytest.raises(Disagreement, match="the network takes \\[6\\]"):
            query(doors, four[3], np.ones((1, 5)), 3.0)
        with pytest.raises(Disagreement, match="expected 1 to 4096"):
            query(doors, four[3], np.ones((0, 6)), 3.0)
        query(doors, four[3], np.ones((1, 6)), 10.0)

    while_serving(four, trained[0], 1, ask)


def test_nobody_serves(four: list[Identity]) -> None:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with pytest.raises(MPCError, match="party 0 does not answer"):
        query(tuple(addresses_of(four[:3], [port] * 3)), four[3], np.ones((1, 6)), 0.3)
