"""Secret-shared inference: three parties answer queries about a model that none of them knows.

    client ──(sᵢ, sᵢ₊₁)──▸ party i ──forward pass on shares──▸ component i of the logits ──▸ client

The scenario of SecureML, MiniONN and ABY3: the model stays shared as training left it (its last
checkpoint), the query is shared by the client, and only the client puts the answer together.

Who learns what, against one semi-honest party of the three, which does not collude with others or
with the client: the parties learn which client asked, when, and how many rows; the client learns
the logits, from which a model can be approximated with enough queries. Clients are known by
certificate.

One query is answered at a time. Party 0 accepts a client and tells the others, who then expect it;
a client that does not come to all three, takes too long, or sends something else, loses its turn
and stops nobody. So does one whose shares are none: the two holders of each component compare it,
as otherwise sums of components of the weights would come out. What it shares may be any element of
the ring.
"""

import hmac
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpc_training.agreement import agree
from mpc_training.checkpoint import Checkpoints, State, newest_common
from mpc_training.connecting import Address, Identity, answer, call, connect
from mpc_training.errors import CheckpointError, Disagreement, MPCError, Unreachable
from mpc_training.fixed_point import ACTIVATION_BITS, WEIGHT_BITS, Array, decode, encode
from mpc_training.holdings import MAX_VALUE
from mpc_training.layers import forward, settled
from mpc_training.party import PARTIES, Party
from mpc_training.randomness import Generator, derive, new_key
from mpc_training.replicated import Replicated
from mpc_training.ring import Ring
from mpc_training.run import Endpoint, Run
from mpc_training.tensor import Tensor
from mpc_training.transport import TlsTransport
from mpc_training.wire import read_hello, write_hello

CLIENT = PARTIES
"""The client's place beside the parties."""
MAX_ROWS = 4096
PROTOCOL = 1
_TURN_SECONDS = 10.0
_FOREVER = 10 * 365 * 86400.0


@dataclass(frozen=True)
class Door:
    """Where one party answers clients, and whom: certificates (DER)."""

    listener: socket.socket
    clients: tuple[bytes, ...]


@dataclass(frozen=True)
class Answered:
    """One query: its rows, and what it cost this party."""

    rows: int
    bytes_sent: int
    rounds: int


def serve(
    run: Run,
    checkpoints: Checkpoints,
    endpoint: Endpoint,
    door: Door,
    *,
    queries: int | None = None,
    ready: Callable[[], None] = lambda: None,
    answered: Callable[[Answered], None] = lambda _: None,
) -> None:
    """Answer `queries` queries, or for ever. Raises `MPCError` when another party fails."""
    transport = connect(
        endpoint.index, endpoint.addresses, endpoint.identity, endpoint.listener, endpoint.timeout
    )
    try:
        server = _Server(run, checkpoints, transport, endpoint, door)
        ready()
        count = 0
        while queries is None or count < queries:
            done = server.turn()
            if done is not None:
                count += 1
                answered(done)
    except MPCError as error:
        transport.stop(str(error).splitlines()[0])
        raise
    finally:
        transport.close()


class _Server:
    def __init__(
        self,
        run: Run,
        checkpoints: Checkpoints,
        transport: TlsTransport,
        endpoint: Endpoint,
        door: Door,
    ) -> None:
        states = checkpoints.states()
        named = {str(step): name for step, name in states.items()}
        agreed = {**run.facts, "certificates": endpoint.certificates, "serving": True}
        keys, told = agree(transport, {"run": agreed, "own": named})
        step = newest_common(named, told.values())
        if step is None:
            raise Disagreement(["no checkpoint is common to all parties: train first"])
        state: State = checkpoints.read(step)
        if len(state.arrays) != 4 or state.arrays[0].size != run.network.size:
            raise CheckpointError("the checkpoint is of another network: train again")
        self.network, self.transport = run.network, transport
        self.identity, self.door = endpoint.identity, door
        self.patience = min(_TURN_SECONDS, transport.timeout / 4)  # three in a row are waited for
        self.party = Party(transport.party, transport, keys)
        self.arithmetic = Replicated(self.party)
        self.weights = Tensor((state.arrays[0], state.arrays[1]), WEIGHT_BITS)

    def turn(self) -> Answered | None:
        """One client's turn; None if it lost it."""
        client: TlsTransport | None = None
        try:
            client = self._next_client()
            heard = self._greeted(client)
            if not self._all_ready(heard):
                return None
            rows = int(heard[0])
            return None if client is None else self._answer(client, rows)
        finally:
            if client is not None:
                client.close()

    def _next_client(self) -> TlsTransport | None:
        """Party 0 waits for one and tells the others; they wait for it a while."""
        here, others = self.transport.party, sorted(self.transport.peers)
        note = np.zeros(1, np.uint64)
        if here != 0:
            self.transport.wait(0)
            self.transport.exchange({}, {0: [note]})
        try:
            client = answer(
                here, CLIENT, self.door.clients, self.identity, self.door.listener,
                self.patience, patience=_FOREVER if here == 0 else self.patience,
            )  # fmt: skip
        except Unreachable:
            client = None
        if here == 0:
            self.transport.exchange({peer: [note] for peer in others}, {})
        return client

    def _greeted(self, client: TlsTransport | None) -> Ring:
        """Rows and nonce of a client's greeting; zeros if it is none."""
        nothing = np.zeros(3, np.uint64)
        if client is None:
            return nothing
        facts = {
            "protocol": PROTOCOL,
            "network": self.network.digest,
            "input_shape": list(self.network.input_shape),
            "classes": self.network.classes,
        }
        client.limit(self.patience)
        try:
            asked = read_hello(client.greet({CLIENT: write_hello(facts)})[CLIENT])
            rows, nonce = asked["rows"], bytes.fromhex(asked["nonce"])
        except (MPCError, KeyError, TypeError, ValueError):
            return nothing
        if not isinstance(rows, int) or not 1 <= rows <= MAX_ROWS or len(nonce) != 16:
            return nothing
        return np.concatenate((np.array([rows], np.uint64), np.frombuffer(nonce, "<u8")))

    def _all_ready(self, heard: Ring) -> bool:
        """Whether all parties have the same client with the same query before them."""
        told = self._told(heard)
        return bool(heard[0]) and all(np.array_equal(heard, found) for found in told)

    def _shared(self, came: bool, parts: tuple[Ring, Ring]) -> bool:
        """Whether rows came to all parties, and both holders of each component have the same.

        All see both holders' HMAC-SHA256 under the key of the pair, which tells nothing of a
        component to the party that lacks it.
        """
        here, number = self.party.index, self.party.begin().to_bytes(8, "little")
        peers = ((here - 1) % PARTIES, (here + 1) % PARTIES)
        tags = [
            hmac.digest(
                derive(self.party.keys.pairs[peer], "rows"), number + part.tobytes(), "sha256"
            )
            for peer, part in zip(peers, parts, strict=True)
        ]
        told = self._told(np.frombuffer(int(came).to_bytes(8, "little") + b"".join(tags), "<u8"))
        return all(
            one[0] and np.array_equal(one[5:], told[(index + 1) % PARTIES][1:5])
            for index, one in enumerate(told)
        )

    def _told(self, ours: Ring) -> list[Ring]:
        """What each party says, this one among them; all say equally much."""
        told: list[Ring] = [np.empty_like(ours) for _ in range(PARTIES)]
        told[self.party.index] = ours
        others = sorted(self.transport.peers)
        self.transport.exchange(
            {peer: [ours] for peer in others}, {peer: [told[peer]] for peer in others}
        )
        return told

    def _answer(self, client: TlsTransport, rows: int) -> Answered | None:
        shape = (rows, *self.network.input_shape)
        parts: tuple[Ring, Ring] = (np.zeros(shape, np.uint64), np.zeros(shape, np.uint64))
        client.limit(self.transport.timeout / 2)
        try:
            client.exchange({}, {CLIENT: list(parts)})
            came = True
        except MPCError:
            came = False
        if not self._shared(came, parts):
            return None
        traffic = self.transport.traffic
        before = traffic.bytes_sent, traffic.rounds
        x = Tensor(parts, ACTIVATION_BITS)
        done = forward(self.arithmetic, self.network, self.weights, x)
        logits = settled(self.arithmetic, done.answer, ACTIVATION_BITS)
        client.limit(self.patience)
        try:
            client.exchange({CLIENT: [np.ascontiguousarray(logits.parts[0])]}, {})
        except MPCError:
            return None  # it went away; the others find that out themselves
        sent = traffic.bytes_sent - before[0] + client.traffic.bytes_sent
        return Answered(rows, sent, traffic.rounds - before[1])


def query(
    addresses: tuple[Address, ...], identity: Identity, rows: Array, timeout: float
) -> tuple[Array, int]:
    """Ask three parties about rows (n, …): logits (n, classes), and the bytes that the client sent.

    Guarantee: one semi-honest party learns n and nothing of the rows. Raises `RangeError` for
    values of 128 or more, `Disagreement` where the parties serve other networks, `PeerError`.
    """
    if not 1 <= len(rows) <= MAX_ROWS:
        raise Disagreement([f"{len(rows)} rows: expected 1 to {MAX_ROWS}"])
    encoded = encode(rows, ACTIVATION_BITS, 2 * MAX_VALUE)
    hello = write_hello({"protocol": PROTOCOL, "rows": len(rows), "nonce": new_key()[:16].hex()})
    links: list[TlsTransport] = []
    try:
        facts = []
        for index, address in enumerate(addresses):  # party 0 first: it decides whose turn it is
            links.append(call(CLIENT, {index: address}, identity, timeout))
            facts.append(read_hello(links[-1].greet({index: hello})[index]))
        return _asked(links, facts, encoded)
    finally:
        for link in links:
            link.close()


def _asked(
    links: list[TlsTransport], facts: list[dict[str, Any]], encoded: Ring
) -> tuple[Array, int]:
    if any(other != facts[0] for other in facts):
        raise Disagreement(["the parties serve different networks: ask those who run them"])
    shape, classes = facts[0].get("input_shape"), facts[0].get("classes")
    if not _sound(shape, classes) or encoded[0].size != int(np.prod(shape or [])):
        raise Disagreement([f"a row of shape {encoded.shape[1:]}: the network takes {shape}"])
    x = encoded.reshape(len(encoded), *(shape or []))
    pads = Generator(new_key())
    s0, s2 = (pads.words(0, lane, x.shape) for lane in (0, 1))
    components = (s0, x - s0 - s2, s2)  # a dealer, in the last place, gets pads alone
    for index, link in enumerate(links):
        link.exchange({index: [components[index], components[(index + 1) % PARTIES]]}, {})
    answers: list[Ring] = [np.empty((len(x), int(classes or 0)), np.uint64) for _ in links]
    for index, link in enumerate(links):
        link.exchange({}, {index: [answers[index]]})
    total = answers[0] + answers[1] + answers[2]
    return decode(total, ACTIVATION_BITS), sum(link.traffic.bytes_sent for link in links)


def _sound(shape: Any, classes: Any) -> bool:
    """Whether a party's description of its network can be believed as far as sizes go."""
    return (
        isinstance(shape, list)
        and 0 < len(shape) <= 3
        and all(isinstance(side, int) and 0 < side < 2**16 for side in shape)
        and isinstance(classes, int)
        and 2 <= classes < 2**16
    )
