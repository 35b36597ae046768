"""Nothing is shared before all agree, and a greeting cannot be repeated."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mpc_training import agreement
from mpc_training.agreement import Keys, agree
from mpc_training.connecting import Identity
from mpc_training.errors import Disagreement, FrameError, PeerLeft, PeerStalled
from mpc_training.transport import TlsTransport
from mpc_training.wire import read_hello, read_reason, write_hello
from tests.tls_parties import connected, make_identities, wired


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    return make_identities(tmp_path_factory.mktemp("keys"), ["a", "b", "c"])


FACTS = {"run": {"network": "abc", "batch": 128}, "own": {"records": 5}}


def test_all_get_the_same_keys_by_pair_and_new_ones_each_time(three: list[Identity]) -> None:
    def task(transport: TlsTransport) -> tuple[Keys, dict[int, Any]]:
        return agree(transport, {**FACTS, "own": transport.party})

    runs = [connected(three, task) for _ in range(2)]
    for run in runs:
        for i, (keys, told) in enumerate(run):
            assert told == {j: j for j in range(3) if j != i}
            assert all(keys.pairs[j] == run[j][0].pairs[i] for j in keys.pairs)
            assert keys.common == run[0][0].common
    distinct = {
        key for run in runs for keys, _ in run for key in (*keys.pairs.values(), keys.common)
    }
    assert len(distinct) == 2 * (3 + 1) and all(len(key) == 32 for key in distinct)


def test_keys_do_not_show_themselves() -> None:
    assert "SECRET" not in repr(Keys({0: b"SECRET"}, b"SECRET", b"SECRET"))


def test_every_difference_is_said_on_every_side(three: list[Identity]) -> None:
    def task(transport: TlsTransport) -> str:
        run = {"network": "abc", "batch": 128, "seed": 1}
        if transport.party == 2:
            run = {"network": "xyz", "batch": 64, "seed": 1}
        with pytest.raises(Disagreement) as caught:
            agree(transport, {"run": run, "own": None})
        return str(caught.value)

    said = connected(three, task)
    assert all("nothing was shared" in text for text in said)
    assert '"batch": 128 here, 64 at party 2' in said[0] and '"network": "abc" here' in said[1]
    assert said[2].count("\n") == 4


def test_an_older_protocol_is_refused(
    three: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = agreement.write_hello

    def older(facts: dict[str, Any]) -> bytes:
        return real({**facts, "protocol": 1 if facts["from"] else 3})

    monkeypatch.setattr(agreement, "write_hello", older)

    def task(transport: TlsTransport) -> None:
        if transport.party == 0:
            with pytest.raises(Disagreement, match="speaks protocol version 1, this one 3"):
                agree(transport, FACTS)
        else:
            with pytest.raises(PeerLeft):
                agree(transport, FACTS)

    connected(three[:2], task)


def test_a_replayed_greeting_is_refused(three: list[Identity]) -> None:
    """Party 1 has recorded everything of a run and says it again, word by word."""
    recorded: list[bytes] = []

    def record(transport: TlsTransport) -> None:
        if transport.party == 1:
            real = transport.frames

            def frames(kind: Any, send: Any, receive: Any) -> None:
                recorded.extend(bytes(view) for views in send.values() for view in views)
                real(kind, send, receive)

            transport.frames = frames  # type: ignore[method-assign]
        agree(transport, FACTS)

    connected(three[:2], record)
    assert len(recorded) == 3  # length, greeting, proof with contributions

    def replay(transport: TlsTransport) -> None:
        if transport.party == 0:
            with pytest.raises(FrameError, match="repeats another's"):
                agree(transport, FACTS)
        else:
            transport.greet({0: recorded[1]})
            heard = bytearray(len(recorded[2]))
            transport.frames(
                agreement.Kind.KEYS, {0: [memoryview(recorded[2])]}, {0: [memoryview(heard)]}
            )

    connected(three[:2], replay)


def test_no_key_is_on_the_wire(three: list[Identity]) -> None:
    """Nor what keys are made of, which two frames of KEYS carry inside TLS."""
    said: list[bytes] = []

    def task(transport: TlsTransport) -> Keys:
        real = transport.frames

        def frames(kind: Any, send: Any, receive: Any) -> None:
            if kind is agreement.Kind.KEYS:
                said.extend(bytes(view) for views in send.values() for view in views)
            real(kind, send, receive)

        transport.frames = frames  # type: ignore[method-assign]
        return agree(transport, FACTS)[0]

    (keys, _), wire = wired(three[:2], task)
    pieces = [content[start : start + 32] for content in said for start in (0, 32, 64)]
    assert len(set(pieces)) == 6 and all(len(piece) == 32 for piece in pieces)
    for piece in (*pieces, keys.pairs[1], keys.common, keys.own):
        assert piece not in wire.recorded
    assert b"records" not in wire.recorded and len(wire.recorded) > 1000


@pytest.mark.parametrize(
    "greeting",
    [b"", b"[]", b"\xff", b"[" * 60000, json.dumps({"protocol": 2, "nonce": 3}).encode()],
)
def test_a_greeting_that_is_none(three: list[Identity], greeting: bytes) -> None:
    def task(transport: TlsTransport) -> None:
        if transport.party == 0:
            with pytest.raises((FrameError, Disagreement)):
                agree(transport, FACTS)
        else:
            transport.greet({0: greeting})

    connected(three[:2], task)


def test_a_party_that_only_connects(three: list[Identity]) -> None:
    def task(transport: TlsTransport) -> None:
        if transport.party == 0:
            with pytest.raises((PeerStalled, PeerLeft)):
                agree(transport, FACTS)

    connected(three[:2], task, timeout=0.5)


def test_greetings_have_a_limit() -> None:
    with pytest.raises(FrameError, match="expected up to 65536"):
        write_hello({"x": "y" * 70000})
    assert read_hello(write_hello({"x": 1})) == {"x": 1}
    assert read_reason(b"a\x00b\xff\n c") == "a b� c"
