"""One party's part in a training run, from its own records to the model that was agreed on.

    connect ─▸ agree ─▸ (resume) ─▸ align ─▸ steps, checkpoints ─▸ reveal

Nothing is shared before all parties agreed on the network, the recipe, what will be opened, and the
shapes of everyone's data. What is opened: the trained weights, to the parties that `Disclosure`
names; at each checkpoint one bit, whether the numbers blew up; and if all agreed the mean loss of a
batch.

The last party, or the dealer in its place, receives nothing during a step and runs ahead of the
others; so that it notices within the time-out when they fail, and is never further ahead than two
steps, they acknowledge each step to it with an empty message.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from mpc_training.agreement import PROTOCOL, Keys, agree
from mpc_training.alignment import align
from mpc_training.batches import Batches
from mpc_training.checkpoint import Checkpoints, State, newest_common
from mpc_training.connecting import connect
from mpc_training.errors import (
    BlowUp,
    CheckpointError,
    DataError,
    Disagreement,
    FrameError,
    MPCError,
)
from mpc_training.feed import Feed, check_fit, described
from mpc_training.fixed_point import WEIGHT_BITS, Array
from mpc_training.holdings import Holding
from mpc_training.party import HELPER, PARTIES, Party
from mpc_training.replicated import Replicated
from mpc_training.run import Endpoint, Progress, Report, Run
from mpc_training.sharing import reveal
from mpc_training.tensor import Tensor
from mpc_training.training import Trainer
from mpc_training.transport import TlsTransport

MAX_ROLLBACKS = 3
_LOSS_EVERY = 10
_AHEAD = 1


def take_part(
    run: Run,
    holding: Holding | None,
    endpoint: Endpoint,
    *,
    checkpoints: Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Train with the others; a dealer has no holding. Every failure, here or there, is one
    `MPCError` on every party."""
    if len(endpoint.addresses) != PARTIES:
        raise DataError(f"{len(endpoint.addresses)} addresses: expected {PARTIES}")
    if (holding is None) != endpoint.deals(run):
        raise DataError("expected records from every party but a dealer, and none from that")
    if holding is not None:
        holding.check_classes(run.network.classes)
        run.schema.check(holding)
    store = None if checkpoints is None else open_checkpoints(checkpoints, run, holding)
    transport = connect(
        endpoint.index, endpoint.addresses, endpoint.identity, endpoint.listener, endpoint.timeout
    )
    try:
        return _Session(run, holding, transport, store, endpoint, resume, progress).train()
    except MPCError as error:
        transport.stop(_told(error))
        raise
    except BaseException:
        transport.stop("it was interrupted, or failed unexpectedly")
        raise
    finally:
        transport.close()


def _told(error: MPCError) -> str:
    """What others may hear of an error: nothing of this party's records."""
    if isinstance(error, DataError):
        return "its records cannot be used; it was told why"
    return str(error).splitlines()[0]


def open_checkpoints(folder: Path, run: Run, holding: Holding | None) -> Checkpoints:
    """This party's checkpoints of this run on these records. Raises `CheckpointError`."""
    # With another release the same pads could serve other messages.
    facts = {"version": PROTOCOL, **run.facts}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Checkpoints(folder, digest, "dealer" if holding is None else holding.digest)


class _Session:
    def __init__(
        self,
        run: Run,
        holding: Holding | None,
        transport: TlsTransport,
        store: Checkpoints | None,
        endpoint: Endpoint,
        resume: bool,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.run, self.store, self.progress = run, store, progress
        self.transport = transport
        self.unacknowledged, self.aligned = 0, ""
        state, keys, facts = self._agree(holding, endpoint, resume)
        self.keys = state.keys if state else keys
        self.resumed_at = state.step if state else 0
        self.feed = self._open_feed(holding, facts)
        self.total = self.feed.batches.steps * run.recipe.epochs
        if run.steps is not None:
            self.total = min(self.total, run.steps)
        if state is None:
            self._begin()
        else:
            self._restore(state, state.attempt, state.learning_rate_factor)

    # ------------------------------------------------------------------ agreeing

    def _agree(
        self, holding: Holding | None, endpoint: Endpoint, resume: bool
    ) -> tuple[State | None, Keys, dict[int, Any]]:
        """The state to go on from, keys, and what is known of each owner's records."""
        states = self.store.states() if resume and self.store else {}
        named = {str(step): name for step, name in states.items()}
        own = {**described(holding), "checkpoints": named}
        agreed = {**self.run.facts, "certificates": endpoint.certificates, "resume": resume}
        keys, told = agree(self.transport, {"run": agreed, "own": own})
        told = {**told, self.transport.party: own}
        owners = range(self.run.owners)
        check_fit(self.run.network, told, owners)
        found = {owner: told[owner] for owner in owners}
        if not resume or self.store is None:
            return None, keys, found
        step = newest_common(named, (theirs["checkpoints"] for theirs in told.values()))
        if step is None:
            raise Disagreement(
                ["no checkpoint is common to all parties: start anew, without resuming"]
            )
        return self.store.read(step), keys, found

    def _open_feed(self, holding: Holding | None, facts: dict[int, Any]) -> Feed:
        counts = tuple(facts[owner]["records"] for owner in sorted(facts))
        if facts[0]["kind"] == "columns":
            holding, count = self._aligned(holding, facts)
            counts = (count,)
        run = self.run
        batches = Batches(counts, run.recipe.batch, run.seed)
        self.records = 0 if holding is None else holding.count
        return Feed(run.network, holding, facts, batches)

    def _aligned(
        self, holding: Holding | None, facts: Mapping[int, Any]
    ) -> tuple[Holding | None, int]:
        """Records that all owners have, and their number, which a dealer is told."""
        note = np.zeros(1, np.uint64)
        if holding is None:
            self.transport.wait(0)  # as long as they align, which it has no part in
            self.transport.exchange({}, {0: [note]})
            if not 0 < note[0] <= min(facts[owner]["records"] for owner in facts):
                raise FrameError(f"party 0 says that {note[0]} records are common: it cannot be")
            return None, int(note[0])
        here = self.transport.party
        others = {owner: facts[owner]["records"] for owner in facts if owner != here}
        ids = list(holding.ids or ())
        holding = holding.reordered(align(self.transport, ids, others, self.keys.own))
        self.aligned = hashlib.sha256(json.dumps(holding.ids).encode()).hexdigest()
        if here == 0 and HELPER not in facts:
            note[0] = holding.count
            self.transport.exchange({HELPER: [note]}, {})
        return holding, holding.count

    # ------------------------------------------------------------------ state

    def _begin(self) -> None:
        self.factor, self.step = 1.0, 0
        self.party = Party(self.transport.party, self.transport, self.keys)
        self.arithmetic = Replicated(self.party)
        first = self.run.network.first_weights(np.random.default_rng([self.run.seed]))
        self.trainer = Trainer.start(self.arithmetic, self.run.network, first)

    def _restore(self, state: State, attempt: int, factor: float) -> None:
        if state.aligned != self.aligned:
            raise CheckpointError(
                "the records were aligned in another order than that of the checkpoint, whose pads "
                "must not serve others: start anew, without resuming"
            )
        self.factor, self.step = factor, state.step
        self.party = Party(self.transport.party, self.transport, self.keys, attempt)
        self.party.operation = state.operation
        self.arithmetic = Replicated(self.party)
        w0, w1, v0, v1 = state.arrays
        self.trainer = Trainer(self.arithmetic, self.run.network, Tensor((w0, w1), WEIGHT_BITS))
        self.trainer.velocity = Tensor((v0, v1), WEIGHT_BITS)

    def _snapshot(self) -> State:
        arrays = (*self.trainer.weights.parts, *self.trainer.velocity.parts)
        return State(
            self.step, self.party.attempt, self.party.operation, self.factor, self.keys, arrays,
            self.aligned,
        )  # fmt: skip

    # ------------------------------------------------------------------ training

    def train(self) -> Report:
        run, traffic = self.run, self.transport.traffic
        spans: list[tuple[float, float, int, int]] = []
        loss: float | None = None
        rollbacks = 0
        good = self._snapshot()
        while self.step < self.total:
            begun = perf_counter(), process_time(), traffic.bytes_sent, traffic.rounds
            y = self._one_step()
            ended = perf_counter(), process_time(), traffic.bytes_sent, traffic.rounds
            spans.append(
                (ended[0] - begun[0], ended[1] - begun[1], ended[2] - begun[2], ended[3] - begun[3])
            )
            if run.disclosure.loss and (self.step % _LOSS_EVERY == 0 or self.step == self.total):
                opened = self._opened(self.trainer.loss(y), range(run.owners))
                loss = None if opened is None else float(opened[0])
            if self._at_checkpoint():
                if self._blown_up():
                    rollbacks += 1
                    self._roll_back(good, rollbacks)
                    continue
                good = self._snapshot()
                if self.store is not None:
                    self.store.write(good)
            if self.progress is not None:
                self.progress(Progress(self.step, self.total, traffic.bytes_sent, loss))
        weights = self._opened(self.trainer.weights, run.disclosure.model_to)
        walls, cpus, sent, rounds = zip(*spans, strict=True) if spans else ((), (), (), ())
        return Report(
            weights, self.total, self.resumed_at, rollbacks, walls, cpus, sent, rounds, loss,
            self.records,
        )  # fmt: skip

    def _one_step(self) -> Tensor:
        x, y = self.feed.batch(self.party, self.step)
        rate = self.run.recipe.rate(self.step, self.feed.batches.steps) * self.factor
        self.trainer.step(x, y, rate, self.run.recipe.momentum)
        self.step += 1
        if self.party.helps:
            self.unacknowledged += 1
            self._wait_for_others(_AHEAD)
        else:
            self.transport.exchange({HELPER: []}, {})
        return y

    def _wait_for_others(self, ahead: int) -> None:
        """Until the others have told this helper that they are at most `ahead` steps behind."""
        while self.unacknowledged > ahead:
            self.transport.exchange({}, {0: [], 1: []})
            self.unacknowledged -= 1

    def _opened(self, x: Tensor, to: Collection[int]) -> Array | None:
        """What is opened to the helper comes after the acknowledgements of all steps."""
        self._wait_for_others(0)
        return reveal(self.party, x, to)

    def _at_checkpoint(self) -> bool:
        every = self.run.checkpoint_every
        return self.step == self.total or (every > 0 and self.step % every == 0)

    def _blown_up(self) -> bool:
        """Whether any logit of the last batch is out of range. Of the eight bits that say so, of
        an eighth of the logits each, only their conjunction is opened."""
        a = self.arithmetic
        fine = a.number(a.choice(a.invert(self.trainer.blown_up())))
        for half in (4, 2, 1):
            fine = a.multiply(fine[..., :half], fine[..., half : 2 * half], 0)
        opened = self._opened(fine, range(PARTIES))
        return bool(opened is None or not opened.all())

    def _roll_back(self, good: State, rollbacks: int) -> None:
        """Back to the last state that was fine, at half the learning rate and with other pads."""
        if rollbacks > MAX_ROLLBACKS:
            raise BlowUp(
                f"logits left ±4096 {rollbacks} times, last by step {self.step}, at "
                f"{self.factor:g} of the learning rate: choose a smaller one, or scale the data"
            )
        self._restore(good, self.party.attempt + 1, self.factor / 2)
