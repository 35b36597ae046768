"""Whole runs of three parties over TLS: rows, columns, who gets the model, faults and resuming."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpc_training import feed, sharing
from mpc_training import session as session_module
from mpc_training.batches import Batches
from mpc_training.clear import Clear
from mpc_training.connecting import Identity, listen
from mpc_training.errors import (
    BlowUp,
    CheckpointError,
    DataError,
    Disagreement,
    MPCError,
    PeerLeft,
    SettingsError,
)
from mpc_training.fixed_point import ACTIVATION_BITS, GRADIENT_BITS, Array
from mpc_training.holdings import Holding
from mpc_training.network import Linear, Network, Relu
from mpc_training.party import Party
from mpc_training.replicated import Replicated
from mpc_training.run import Endpoint, Progress, Report, Run
from mpc_training.session import take_part
from mpc_training.sharing import Disclosure, Entry
from mpc_training.softmax import Outcome
from mpc_training.tensor import Tensor
from mpc_training.training import Recipe, Trainer
from mpc_training.transport import TlsTransport
from tests.insecure_parties import in_threads, together
from tests.tls_parties import addresses_of, make_identities

NETWORK = Network((Linear(6, 5), Relu(), Linear(5, 3)), (6,))
RUN = Run(NETWORK, Recipe(0.25, 0.75, 32, 2), Disclosure(), seed=5, checkpoint_every=2)
Watch = Callable[[int, Progress], None]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    return make_identities(tmp_path_factory.mktemp("keys"), ["a", "b", "c"])


def table(count: int, seed: int) -> tuple[Array, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(0, 1, (count, 6)) * 64) / 64
    return x, (x[:, 0] > 0.3).astype(np.int64) + (x[:, 1] > 0)


def rows() -> list[Holding]:
    return [Holding("rows", *table(count, seed)) for seed, count in enumerate((70, 41, 83))]


def rows_of_two() -> list[Holding | None]:
    """And no records of the dealer's."""
    return [*rows()[:2], None]


def run(
    three: list[Identity],
    holdings: Sequence[Holding | None],
    runs: Run | Sequence[Run] = RUN,
    *,
    folders: Sequence[Path] | None = None,
    resume: bool = False,
    watch: Watch | None = None,
    timeout: float = 20.0,
) -> list[Report | MPCError]:
    """The report or error of each party."""
    told = [runs] * 3 if isinstance(runs, Run) else list(runs)
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen("127.0.0.1", 0)) for _ in three]
        addresses = addresses_of(three, [taken.getsockname()[1] for taken in listeners])

        def part(index: int) -> Report | MPCError:
            endpoint = Endpoint(index, tuple(addresses), three[index], listeners[index], timeout)
            try:
                return take_part(
                    told[index], holdings[index], endpoint,
                    checkpoints=folders[index] if folders else None, resume=resume,
                    progress=None if watch is None else lambda p: watch(index, p),
                )  # fmt: skip
            except MPCError as error:
                return error

        return in_threads([partial(part, index) for index in range(3)])


def reports(results: list[Report | MPCError]) -> list[Report]:
    for result in results:
        if isinstance(result, MPCError):
            raise result
    return [result for result in results if isinstance(result, Report)]


def errors(results: list[Report | MPCError]) -> list[MPCError]:
    assert all(isinstance(result, MPCError) for result in results), results
    return [result for result in results if isinstance(result, MPCError)]


def in_the_clear(pieces: list[tuple[Array, np.ndarray]], run: Run = RUN) -> Array:
    clear, recipe = Clear(), run.recipe
    first = run.network.first_weights(np.random.default_rng([run.seed]))
    trainer = Trainer.start(clear, run.network, first)
    batches = Batches(tuple(len(x) for x, _ in pieces), recipe.batch, run.seed)
    for step in range(batches.steps * recipe.epochs):
        chosen = list(zip(pieces, batches.rows(step), strict=True))
        x = np.concatenate([x[rows] for (x, _), rows in chosen])
        y = np.concatenate([np.eye(3)[y[rows]] for (_, y), rows in chosen])
        trainer.step(
            clear.public(x, ACTIVATION_BITS), clear.public(y, GRADIENT_BITS),
            recipe.learning_rate, recipe.momentum,
        )  # fmt: skip
    return np.asarray(trainer.weights.parts[0])


TWO = replace(RUN, owners=2, disclosure=Disclosure((0, 1)))
TOLERANCE = 2e-3
"""12 steps: 2^−16 a layer and step, times rate and sum of momenta, and now and then a unit at its
kink that opens on one side only, which moves weights by η/n·|x||δ| ≤ 0.25/32·0.1."""


# ---------------------------------------------------------------------------- what comes out


def test_rows_of_three_parties_train_the_pooled_model(three: list[Identity]) -> None:
    results = reports(run(three, rows(), replace(RUN, disclosure=Disclosure(loss=True))))
    pooled = in_the_clear([table(count, seed) for seed, count in enumerate((70, 41, 83))])
    for report in results:
        assert report.weights is not None and np.array_equal(report.weights, results[0].weights)
        assert np.abs(report.weights - pooled).max() < TOLERANCE
        assert report.steps == len(report.step_bytes) == 12 and report.rollbacks == 0
        assert report.loss is not None and 0 < report.loss < 1.2
    assert [report.records for report in results] == [70, 41, 83]


def test_two_parties_and_a_dealer_train_the_pooled_model(
    three: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all that the dealer receives after the greetings is one bit's share for each checkpoint:
    the two parties' acknowledgements are empty."""
    received: list[int] = []
    exchange = TlsTransport.exchange

    def recorded(transport: TlsTransport, send: Any, receive: Any) -> None:
        if transport.party == 2:
            received.extend(array.nbytes for arrays in receive.values() for array in arrays)
        exchange(transport, send, receive)

    monkeypatch.setattr(TlsTransport, "exchange", recorded)
    opened = Disclosure((0, 1), loss=True)
    results = reports(run(three, rows_of_two(), replace(TWO, disclosure=opened)))
    pooled = in_the_clear([table(count, seed) for seed, count in enumerate((70, 41))])
    for report in results[:2]:
        assert report.weights is not None
        assert np.abs(report.weights - pooled).max() < TOLERANCE
        assert report.loss is not None
    assert results[2].weights is None and results[2].loss is None and results[2].records == 0
    assert results[2].steps == 6 and received == [8] * 3


def test_a_dealer_has_no_data_and_gets_no_model(three: list[Identity]) -> None:
    with pytest.raises(SettingsError, match="a dealer gets nothing"):
        replace(RUN, owners=2)
    with pytest.raises(SettingsError, match="expected 2 with a dealer, or 3 without"):
        replace(RUN, owners=4)
    for holdings, told in ((rows(), TWO), (rows_of_two(), RUN)):
        found = errors(run(three, holdings, told, timeout=0.5))
        assert isinstance(found[2], DataError)


def test_the_model_goes_to_those_named_alone(three: list[Identity]) -> None:
    for model_to in ((1,), ()):
        chosen = replace(RUN, disclosure=Disclosure(model_to), steps=1)
        got = [report.weights is not None for report in reports(run(three, rows(), chosen))]
        assert got == [index in model_to for index in range(3)]


@pytest.mark.parametrize("owners", [3, 2])
def test_columns_are_joined_by_id(three: list[Identity], owners: int) -> None:
    """Each party knows other columns of overlapping records, in an order of its own."""
    x, y = table(120, 0)
    names = [f"record {k}" for k in range(120)]
    rng = np.random.default_rng(1)
    parts = []
    shares = (slice(0, 1), slice(1, 4), slice(4, 6)) if owners == 3 else (slice(0, 2), slice(2, 6))
    for owner, columns in enumerate(shares):
        have = rng.permutation(np.arange(owner * 5, 110 + owner * 5))
        labels = y[have] if owner == 1 else None
        parts.append(
            Holding("columns", x[have][:, columns], labels, ids=tuple(names[k] for k in have))
        )
    told = RUN if owners == 3 else TWO
    chosen = replace(told, recipe=Recipe(0.5, 0.75, 32, 8), checkpoint_every=0)
    results = reports(run(three, [*parts, None][:3], chosen))
    common = 100 if owners == 3 else 105
    assert [report.records for report in results[:owners]] == [common] * owners
    weights = results[0].weights
    assert weights is not None
    clear = Clear()
    trainer = Trainer.start(clear, NETWORK, weights)
    right = trainer.logits(clear.public(x, ACTIVATION_BITS)).parts[0].argmax(1) == y
    # Mixed-up rows or columns would learn nothing: always the largest class is right in half.
    assert right.mean() > 0.7 > np.bincount(y).max() / len(y) + 0.1


# ---------------------------------------------------------------------------- before sharing


def test_parties_that_were_told_different_things(three: list[Identity]) -> None:
    told = [RUN, replace(RUN, seed=6), replace(RUN, recipe=Recipe(0.5, 0.75, 32, 2))]
    found = errors(run(three, rows(), told))
    assert all(isinstance(error, (Disagreement, PeerLeft)) for error in found)
    assert any('"seed": 5 here, 6 at party 1' in str(error) for error in found)


def test_certificates_that_differ(three: list[Identity]) -> None:
    """Of a third party, which the other two were told differently about."""
    addresses = addresses_of(three, [1, 2, 3])
    with listen("127.0.0.1", 0) as listener:
        told = {
            Endpoint(0, chosen, three[0], listener, 1.0).certificates
            for chosen in (addresses, [*addresses[:2], addresses[0]], addresses[::-1])
        }
    assert len(told) == 3


def wrong(change: str) -> list[Holding]:
    x, y = table(60, 3)
    ids = tuple(map(str, range(60)))
    good = rows()
    columns = [
        Holding("columns", x[:, k : k + 2], y if k == 0 else None, ids=ids) for k in (0, 2, 4)
    ]
    return {
        "another width": [*good[:2], Holding("rows", x[:, :5], y)],
        "rows and columns": [*good[:2], columns[0]],
        "labels twice": [columns[0], columns[0], columns[2]],
        "too few columns": [columns[0], columns[1], Holding("columns", x[:, :1], None, ids=ids)],
    }[change]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("another width", "has records of shape \\[5\\], the network takes \\[6\\]"),
        ("rows and columns", "choose one"),
        ("labels twice", "expected exactly one of them"),
        ("too few columns", "do not add up"),
    ],
)
def test_data_that_do_not_fit_together(three: list[Identity], change: str, said: str) -> None:
    found = errors(run(three, wrong(change)))
    assert any(isinstance(error, Disagreement) for error in found)
    for error in found:
        if isinstance(error, Disagreement):
            with pytest.raises(Disagreement, match=said):
                raise error


def test_a_shape_that_is_none() -> None:
    """Sides whose product is a network's size modulo 2^64, and too many of them."""
    facts = {"kind": "rows", "records": 5, "labels": True, "checkpoints": {}}
    for shape, said in (
        ([2**16, 2**16, 2**16, 2**16], "the network takes"),
        ([6, 1, 1, 1, 1], "does not describe its data"),
    ):
        told = {party: {**facts, "shape": shape} for party in range(3)}
        with pytest.raises(Disagreement, match=said):
            feed.check_fit(NETWORK, told, range(3))


def test_no_common_record(three: list[Identity]) -> None:
    x, y = table(20, 0)
    parts = [
        Holding("columns", x[:, 2 * k : 2 * k + 2], y if k == 0 else None,
                ids=tuple(f"{k} {j}" for j in range(20)))
        for k in range(3)
    ]  # fmt: skip
    assert any("no record id is common" in str(error) for error in errors(run(three, parts)))


def test_too_many_classes_is_said_before_connecting(three: list[Identity]) -> None:
    x, y = table(20, 0)
    bad = [*rows()[:2], Holding("rows", x, y + 3)]
    found = errors(run(three, bad, timeout=1.0))
    assert isinstance(found[2], DataError) and "labels go up to 5" in str(found[2])
    assert not any("labels" in str(error) for error in found[:2])


# ---------------------------------------------------------------------------- faults


class Killed(MPCError):
    """Stands for a process that dies."""


def killer(at: int, party: int) -> Watch:
    def watch(index: int, progress: Progress) -> None:
        if index == party and progress.done == at:
            raise Killed("no more")

    return watch


def copies(folders: Sequence[Path], name: str) -> list[Path]:
    made = [folder.with_name(f"{folder.name}-{name}") for folder in folders]
    for old, new in zip(folders, made, strict=True):
        shutil.copytree(old, new)
    return made


@pytest.mark.parametrize("owners", [3, 2])
def test_a_killed_run_resumes_to_the_same_bits(
    three: list[Identity], tmp_path: Path, owners: int
) -> None:
    """Killed at step 5, resumed from 4: once without trouble; once killed again at 9, resumed from
    8, where one party has lost its last checkpoint. Both end in the same weights, bit for bit."""
    folders = [tmp_path / str(index) for index in range(3)]
    told = RUN if owners == 3 else replace(TWO, recipe=Recipe(0.25, 0.75, 32, 4))
    holdings: list[Holding | None] = [*rows()] if owners == 3 else rows_of_two()
    found = errors(run(three, holdings, told, folders=folders, watch=killer(5, 1)))
    assert isinstance(found[1], Killed)
    for index in (0, 2):
        assert isinstance(found[index], PeerLeft)
        assert "\n" not in str(found[index])
    again = copies(folders, "again")
    smooth = reports(run(three, holdings, told, folders=folders, resume=True))
    assert [report.resumed_at for report in smooth] == [4] * 3
    errors(run(three, holdings, told, folders=again, resume=True, watch=killer(9, 2)))
    (again[0] / "step-000000008.checkpoint").unlink()
    rough = reports(run(three, holdings, told, folders=again, resume=True))
    assert [report.resumed_at for report in rough] == [6] * 3
    for a, b in list(zip(smooth, rough, strict=True))[:owners]:
        assert a.weights is not None and b.weights is not None
        assert a.weights.tobytes() == b.weights.tobytes()
    other = reports(run(three, holdings, told))[0].weights
    assert other is not None and smooth[0].weights is not None
    assert other.tobytes() != smooth[0].weights.tobytes()  # a new run draws anew


def columns() -> list[Holding]:
    """The same records on each party, in orders of their own."""
    x, y = table(100, 1)
    made = []
    for owner in range(3):
        have = np.random.default_rng(owner).permutation(100)
        labels = y[have] if owner == 0 else None
        part = x[have, 2 * owner : 2 * owner + 2]
        made.append(Holding("columns", part, labels, ids=tuple(f"r{k}" for k in have)))
    return made


Shared = dict[tuple[int, int, int], bytes]


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> Shared:
    """What each party holds of each entry after it was shared, by party, operation and place."""
    found: Shared = {}

    def spied(party: Party, entries: Sequence[Entry]) -> list[Tensor]:
        made = sharing.share(party, entries)
        for lane, one in enumerate(made):
            content = b"".join(part.tobytes() for part in one.parts)
            found[party.index, party.operation, lane] = content
        return made

    monkeypatch.setattr(feed, "share", spied)
    return found


def test_a_resumed_run_on_columns_uses_each_pad_for_the_same_record(
    three: list[Identity], tmp_path: Path, shares: Shared
) -> None:
    """In another order the difference of two messages would be that of two records."""
    folders = [tmp_path / str(index) for index in range(3)]
    errors(run(three, columns(), RUN, folders=folders, watch=killer(5, 1)))
    first = dict(shares)
    shares.clear()
    again = copies(folders, "again")
    smooth = reports(run(three, columns(), RUN, folders=folders, resume=True))
    repeated = first.keys() & shares.keys()
    assert {index for index, _, _ in repeated} == {0, 1, 2} and len(repeated) >= 3 * 4
    assert all(first[place] == shares[place] for place in repeated)
    rough = reports(run(three, columns(), RUN, folders=again, resume=True))
    for a, b in zip(smooth, rough, strict=True):
        assert a.weights is not None and b.weights is not None and a.resumed_at == 4
        assert a.weights.tobytes() == b.weights.tobytes()


def test_records_in_another_order_than_the_checkpoint_s_are_refused(
    three: list[Identity], tmp_path: Path, shares: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second lock, should alignment ever give another order: nothing is shared."""
    folders = [tmp_path / str(index) for index in range(3)]
    errors(run(three, columns(), RUN, folders=folders, watch=killer(3, 1)))
    shares.clear()
    real = session_module.align
    monkeypatch.setattr(session_module, "align", lambda *given: real(*given)[::-1])
    found = errors(run(three, columns(), RUN, folders=folders, resume=True))
    assert any(isinstance(error, CheckpointError) for error in found)
    assert any("aligned in another order" in str(error) for error in found)
    assert not shares


def test_resuming_needs_the_same_records_and_settings(
    three: list[Identity], tmp_path: Path
) -> None:
    """The same pads on other data would give the difference away."""
    folders = [tmp_path / str(index) for index in range(3)]
    reports(run(three, rows(), replace(RUN, steps=2), folders=folders))
    changed = rows()
    x, y = table(70, 77)
    changed[0] = Holding("rows", x, y)
    for holdings, told in ((changed, replace(RUN, steps=2)), (rows(), RUN)):
        found = errors(run(three, holdings, told, folders=folders, resume=True))
        assert any("no checkpoint is common" in str(error) for error in found)


def test_checkpoints_of_different_sessions_are_not_mixed(
    three: list[Identity], tmp_path: Path
) -> None:
    folders = [tmp_path / str(index) for index in range(3)]
    chosen = replace(RUN, steps=4)
    reports(run(three, rows(), chosen, folders=folders))
    old = copies(folders, "old")
    reports(run(three, rows(), chosen, folders=folders))
    mixed = [folders[0], old[1], folders[2]]
    found = errors(run(three, rows(), chosen, folders=mixed, resume=True))
    assert any("no checkpoint is common" in str(error) for error in found)


@pytest.mark.parametrize("classes", [2, 3, 4, 8, 10, 16])
def test_a_blow_up_in_any_column_is_noticed(classes: int) -> None:
    """Each bit tells of an eighth of the logits: of every eighth class, where 8 divides classes."""
    network = Network((Linear(1, classes),), (1,))

    def part(party: Party) -> list[bool]:
        session = object.__new__(session_module._Session)
        session.party, session.unacknowledged = party, 0
        session.arithmetic = Replicated(party)
        session.trainer = Trainer.start(session.arithmetic, network, np.zeros(network.size))
        found = []
        for column in range(-1, classes):
            logits = np.zeros((16, classes))
            if column >= 0:
                logits[5, column] = -8000.0
            x = session.arithmetic.public(logits, ACTIVATION_BITS)
            session.trainer.outcome = Outcome(x, x, x, x)
            found.append(session._blown_up())
        return found

    assert together(part) == [[False, *[True] * classes]] * 3


@pytest.mark.parametrize("careless", [False, True])
def test_a_rollback_uses_no_pad_again(
    three: list[Identity], monkeypatch: pytest.MonkeyPatch, careless: bool
) -> None:
    """The same two steps are made twice, the second time at another rate: no message repeats. With
    the pads of the first attempt, messages do."""
    judged: set[int] = set()

    def once(session: session_module._Session) -> bool:
        first = session.party.index not in judged
        judged.add(session.party.index)
        return first

    received: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
    exchange = TlsTransport.exchange

    def recorded(transport: TlsTransport, send: Any, receive: Any) -> None:
        exchange(transport, send, receive)
        for arrays in receive.values():
            received[transport.party] += [a.tobytes() for a in arrays if a.nbytes >= 64]

    monkeypatch.setattr(session_module._Session, "_blown_up", once)
    monkeypatch.setattr(TlsTransport, "exchange", recorded)
    if careless:
        monkeypatch.setattr(
            session_module, "Party", lambda i, t, keys, attempt=0: Party(i, t, keys)
        )
    chosen = replace(RUN, steps=2, disclosure=Disclosure(()))
    assert [report.rollbacks for report in reports(run(three, rows(), chosen))] == [1] * 3
    for party in (0, 1):
        assert len(received[party]) > 20
        assert (len(set(received[party])) < len(received[party])) == careless


def test_a_blow_up_is_rolled_back_or_said(
    three: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is told once that numbers blew up, and then always."""
    wild = replace(RUN, recipe=Recipe(8.0, 0.75, 32, 2))
    big = [Holding("rows", holding.values(slice(None)) * 12, holding.labels) for holding in rows()]
    found = run(three, big, wild)
    assert all(isinstance(r, BlowUp) or (isinstance(r, Report) and r.rollbacks) for r in found)
    limit = session_module.MAX_ROLLBACKS
    monkeypatch.setattr(session_module, "MAX_ROLLBACKS", 0)
    failed = errors(run(three, big, wild))
    assert any("choose a smaller one, or scale the data" in str(error) for error in failed)
    assert limit == 3
