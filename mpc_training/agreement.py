"""Before anything is shared: who is there, for which run, and with which keys.

Over each authenticated connection, in two rounds:

    HELLO   protocol version, sender, receiver, a fresh 32-byte nonce, and the facts of the run:
            protocol, network digest, settings, each party's kind and shape of data
    KEYS    HMAC-SHA256 under the receiver's nonce of both greetings, and 32 fresh bytes for each of
            two keys: that of the pair, and that of all parties

A greeting that was recorded elsewhere fails: it names another nonce, and the answer that proves to
have read ours cannot be in the recording. All differences are found together, on every side.

Guarantee: after `agree` returns, all parties were given equal facts, and hold pairwise keys that
nobody outside the pair knows, as far as TLS 1.3 holds and one of the two draws well. Each
contributes from its operating system, and nothing depends on the certificates' keys, so who steals
those later reads nothing of what was recorded (TLS 1.3 agrees on fresh keys in each connection).
"""

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpc_training.errors import Disagreement, FrameError
from mpc_training.randomness import KEY_BYTES, agreed_key, new_key
from mpc_training.transport import TlsTransport
from mpc_training.wire import Kind, read_hello, write_hello

PROTOCOL = 3
"""Raised with every change of what parties send each other."""
_PROOF_BYTES = 32
_MAX_SHOWN = 80


@dataclass(frozen=True, repr=False)
class Keys:
    """What a party shares with each other one, with all, and with nobody; 32 bytes each.

    own: nobody else's, fresh from the operating system.
    """

    pairs: Mapping[int, bytes]
    common: bytes
    own: bytes = field(default_factory=new_key)


def agree(transport: TlsTransport, facts: Mapping[str, Any]) -> tuple[Keys, dict[int, Any]]:
    """Compare `facts["run"]` with all parties and agree on keys.

    facts: JSON values; `run` must be equal everywhere; `own` is told to the others and returned by
    party. Raises `Disagreement` with every difference, `FrameError` for a greeting that is none.
    """
    party = transport.party
    peers = sorted(transport.peers)
    greetings = {
        peer: write_hello(
            {"protocol": PROTOCOL, "from": party, "to": peer, "nonce": new_key().hex(), **facts}
        )
        for peer in peers
    }
    answers = transport.greet({peer: greetings[peer] for peer in peers})
    heard = {peer: read_hello(answers[peer]) for peer in peers}
    _compare(party, facts, heard)
    offered = new_key()
    contributions = {peer: new_key() for peer in peers}
    sent = {
        peer: memoryview(
            _proof(heard[peer]["nonce"], greetings[peer], answers[peer])
            + contributions[peer]
            + offered
        )
        for peer in peers
    }
    received = {peer: bytearray(_PROOF_BYTES + 2 * KEY_BYTES) for peer in peers}
    transport.frames(
        Kind.KEYS,
        {peer: [content] for peer, content in sent.items()},
        {peer: [memoryview(content)] for peer, content in received.items()},
    )
    pairs, commons = {}, {party: offered}
    for peer in peers:
        content = bytes(received[peer])
        nonce = json.loads(greetings[peer])["nonce"]
        if not hmac.compare_digest(
            content[:_PROOF_BYTES], _proof(nonce, answers[peer], greetings[peer])
        ):
            raise FrameError(
                f"party {peer} did not answer this run's greeting: it repeats another's; start all "
                "parties again"
            )
        theirs = content[_PROOF_BYTES : _PROOF_BYTES + KEY_BYTES]
        ordered = [contributions[peer], theirs] if party < peer else [theirs, contributions[peer]]
        pairs[peer] = agreed_key(ordered, f"pair {min(party, peer)} {max(party, peer)}")
        commons[peer] = content[-KEY_BYTES:]
    common = agreed_key([commons[index] for index in sorted(commons)], "all parties")
    return Keys(pairs, common), {peer: heard[peer].get("own") for peer in peers}


def _proof(nonce: str, greeting: bytes, answer: bytes) -> bytes:
    """That its maker has read `answer`, whose nonce this is, after sending `greeting`."""
    message = len(greeting).to_bytes(8, "little") + greeting + answer
    return hmac.digest(bytes.fromhex(nonce), message, "sha256")


def _compare(party: int, facts: Mapping[str, Any], heard: Mapping[int, dict[str, Any]]) -> None:
    faults = []
    for peer, theirs in heard.items():
        if theirs.get("protocol") != PROTOCOL:
            found = _shown(theirs.get("protocol"))
            faults.append(f"party {peer} speaks protocol version {found}, this one {PROTOCOL}")
        if (theirs.get("from"), theirs.get("to")) != (peer, party):
            said = f"{_shown(theirs.get('from'))} to {_shown(theirs.get('to'))}"
            faults.append(f"party {peer} greets as {said}, expected {peer} to {party}")
        nonce = theirs.get("nonce")
        if not (
            isinstance(nonce, str) and len(nonce) == 64 and set(nonce) <= set("0123456789abcdef")
        ):
            faults.append(f"party {peer} sends no nonce of 32 bytes")
        faults.extend(_differences(peer, facts["run"], theirs.get("run")))
    if faults:
        raise Disagreement(faults)


def _differences(peer: int, ours: Mapping[str, Any], theirs: Any) -> list[str]:
    if not isinstance(theirs, dict):
        return [f"party {peer} does not say for which run it was started"]
    ours = json.loads(json.dumps(ours))
    return [
        f"{_shown(name)}: {_shown(ours.get(name))} here, {_shown(theirs.get(name))} at party {peer}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def _shown(value: Any) -> str:
    """A foreign value, short and printable."""
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
