"""`he_inference.server`: whose keys it uses, what it keeps, how it refuses."""

from __future__ import annotations

import ast
import inspect
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from he_inference import Client, Server, batch_engine, packed_engine, server, wire
from he_inference.errors import (
    AnswerOverflow,
    MessageError,
    ModelFileError,
    UnknownKey,
    WrongProgram,
)
from tests.conftest import Party, laplace_tail


@pytest.fixture
def party(shallow: Party) -> Party:
    """The shared network with a server of the test's own, to which nobody has registered."""
    return replace(shallow, server=Server(shallow.program, max_clients=2))


def clients(party: Party, count: int) -> list[Client]:
    return [Client(party.compiled.signature) for _ in range(count)]


def works(party: Party, client: Client) -> bool:
    expected = party.compiled.network.evaluate(party.x)
    found = client.decrypt(party.server.evaluate(client.encrypt(party.x)))
    # The resolution is at least the root mean square error over all outputs, so one output's
    # deviation is at most √outputs of it; half a step more for the rounding.
    tail = laplace_tail(1e-9, found.size) * np.sqrt(found.shape[1]) + 1 / 2
    return bool(np.abs(found - expected).max() < tail * party.compiled.signature.resolution)


def test_nobody_is_known_at_first(party: Party) -> None:
    with pytest.raises(UnknownKey, match=f"id {party.client.key_id}: register them"):
        party.server.evaluate(party.client.encrypt(party.x))


def test_registering_returns_the_id_that_queries_name(party: Party) -> None:
    name = party.server.register(party.client.evaluation_keys())
    assert name == party.client.key_id
    query = wire.read_query(party.compiled.signature, party.client.encrypt(party.x))
    assert query.key_id.hex() == name
    assert works(party, party.client)


def test_several_queries_in_one_message_come_back_in_order(party: Party) -> None:
    party.server.register(party.client.evaluation_keys())
    x = np.random.default_rng(0).random((7, 4))
    together = party.client.decrypt(party.server.evaluate(party.client.encrypt(x)))
    expected = party.compiled.network.evaluate(x)
    assert together.shape == expected.shape
    nearest = np.abs(together[:, None] - expected[None]).max(-1).argmin(1)
    assert nearest.tolist() == list(range(7))


def test_the_one_unused_for_longest_makes_room(party: Party) -> None:
    first, second, third = clients(party, 3)
    party.server.register(first.evaluation_keys())
    party.server.register(second.evaluation_keys())
    assert works(party, first)  # so the second is now the one unused for longest
    party.server.register(third.evaluation_keys())
    assert works(party, first) and works(party, third)
    with pytest.raises(UnknownKey):
        party.server.evaluate(second.encrypt(party.x))
    party.server.register(second.evaluation_keys())
    assert works(party, second)


def test_registering_again_is_a_use_and_takes_no_room(party: Party) -> None:
    first, second, third = clients(party, 3)
    for client in (first, second, first, first, third):
        party.server.register(client.evaluation_keys())
    assert works(party, first) and works(party, third)
    with pytest.raises(UnknownKey):
        party.server.evaluate(second.encrypt(party.x))


def test_anothers_ciphertext_under_my_keys_is_noise(party: Party) -> None:
    """No crash, nothing learnt. I am told that the answer is not mine, the other that it is noise:
    coefficients are uniform, slots have a deviation of q·√(N/24) or 18 moduli, and that all of 4096
    stay below half a modulus has a probability of 10⁻⁶⁰⁰⁰."""
    mine, other = clients(party, 2)
    party.server.register(mine.evaluation_keys())
    party.server.register(other.evaluation_keys())
    signature = party.compiled.signature
    stolen = wire.read_query(signature, other.encrypt(party.x))
    forged = replace(stolen, key_id=bytes.fromhex(mine.key_id))
    answer = party.server.evaluate(wire.write_query(signature, forged))
    with pytest.raises(MessageError, match="does not answer a query of this key"):
        mine.decrypt(answer)
    with pytest.raises(AnswerOverflow):
        other.decrypt(answer)
    assert works(party, mine)


def test_hostile_messages_change_nothing(party: Party, deep: Party) -> None:
    keys = party.client.evaluation_keys()
    party.server.register(keys)
    query = party.client.encrypt(party.x)
    for hostile in (b"", query[:-1], query[:500] + b"??" + query[502:], keys):
        with pytest.raises(MessageError):
            party.server.evaluate(hostile)
    for hostile in (b"", keys[:-1], keys[:500] + b"??" + keys[502:], query):
        with pytest.raises(MessageError):
            party.server.register(hostile)
    with pytest.raises(WrongProgram):
        party.server.evaluate(deep.client.encrypt(deep.x))
    with pytest.raises(WrongProgram):
        party.server.register(deep.client.evaluation_keys())
    assert works(party, party.client)


def test_a_server_from_a_file(party: Party, tmp_path: Path) -> None:
    party.program.save(tmp_path / "p")
    for path in (tmp_path / "p", str(tmp_path / "p")):
        loaded = Server(path)
        assert loaded.signature().digest == party.program.signature.digest
        loaded.register(party.client.evaluation_keys())
        assert works(replace(party, server=loaded), party.client)
    with pytest.raises(ModelFileError):
        Server(tmp_path / "missing")


def test_queries_leave_nothing_behind(party: Party) -> None:
    """Memory after a hundred queries is that after ten: less than a tenth of a ciphertext each."""
    party.server.register(party.client.evaluation_keys())
    query = party.client.encrypt(party.x[:1])
    for _ in range(10):
        party.server.evaluate(query)
    tracemalloc.start()
    try:
        for _ in range(40):
            party.server.evaluate(query)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 40 * party.compiled.cost.upload_bytes / 10


@pytest.mark.parametrize("module", [server, packed_engine, batch_engine])
def test_it_has_no_name_for_a_secret(module: ModuleType) -> None:
    """Neither the module nor a server has anything that decrypts or that holds a secret key."""
    tree = ast.parse(inspect.getsource(module))
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert not {name for name in names if "secret" in name.lower() or "decrypt" in name.lower()}
    assert "KeyHolder" not in names
