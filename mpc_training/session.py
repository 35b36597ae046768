"""One party's part in a training run, from its own records to the model that was agreed on.

    connect ─▸ agree ─▸ (resume) ─▸ align ─▸ steps, checkpoints ─▸ reveal

Nothing is shared before all parties agreed on the network, the recipe, what will be opened, and the
shapes of everyone's data. What is opened: the trained weights, to the parties that `Disclosure`
names; at each checkpoint one bit, whether the numbers blew up; and if all agreed the mean loss of a
batch.
"""

import hashlib
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from mpc_training.agreement import Keys, agree
from mpc_training.alignment import align
from mpc_training.batches import Batches
from mpc_training.checkpoint import Checkpoints, State
from mpc_training.errors import BlowUp, DataError, Disagreement, MPCError
from mpc_training.fixed_point import ACTIVATION_BITS, GRADIENT_BITS, WEIGHT_BITS, Array
from mpc_training.holdings import MAX_VALUE, Holding
from mpc_training.network import Network
from mpc_training.party import PARTIES, Party
from mpc_training.replicated import Replicated
from mpc_training.sharing import Disclosure, Entry, reveal, share
from mpc_training.tensor import Tensor, join
from mpc_training.training import Recipe, Trainer
from mpc_training.transport import Address, Identity, TlsTransport, connect

MAX_ROLLBACKS = 3
_BOUND = 2 * MAX_VALUE
_LABEL_BOUND = 2.0
_LOSS_EVERY = 10


@dataclass(frozen=True)
class Run:
    """What all parties were told alike.

    seed: public; draws first weights and batches. steps: of all epochs, or fewer; None for all.
    checkpoint_every: steps; 0 for none but the check at the end.
    """

    network: Network
    recipe: Recipe
    disclosure: Disclosure
    seed: int
    steps: int | None = None
    checkpoint_every: int = 50

    @property
    def facts(self) -> dict[str, Any]:
        """JSON values that must be equal on all parties."""
        return {
            "protocol": "three parties, replicated, semi-honest",
            "network": self.network.digest,
            "recipe": asdict(self.recipe),
            "opened": {
                "model_to": sorted(self.disclosure.model_to),
                "loss": self.disclosure.loss,
            },
            "seed": self.seed,
            "steps": self.steps,
            "checkpoint_every": self.checkpoint_every,
        }


@dataclass(frozen=True)
class Endpoint:
    """This party's place among all."""

    index: int
    addresses: tuple[Address, ...]
    identity: Identity
    listener: socket.socket
    timeout: float


@dataclass(frozen=True)
class Progress:
    """After a step: how many of how many are done, the bytes this party sent, the loss if
    opened."""

    done: int
    total: int
    bytes_sent: int
    loss: float | None


@dataclass(frozen=True)
class Report:
    """What a run took on this party, from its first step to its last.

    weights: (network.size,) if this party was to get them. step_seconds, step_bytes, step_rounds:
    of each step made here. cpu_seconds: of this process, all steps. resumed_at: steps made before.
    """

    weights: Array | None
    steps: int
    resumed_at: int
    rollbacks: int
    step_seconds: tuple[float, ...]
    step_cpu_seconds: tuple[float, ...]
    step_bytes: tuple[int, ...]
    step_rounds: tuple[int, ...]
    loss: float | None
    records: int


def take_part(
    run: Run,
    holding: Holding,
    endpoint: Endpoint,
    *,
    checkpoints: Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Train with the others. Every failure, here or there, is one `MPCError` on every party."""
    if len(endpoint.addresses) != PARTIES:
        raise DataError(f"{len(endpoint.addresses)} parties: expected {PARTIES}")
    holding.check_classes(run.network.classes)
    store = None if checkpoints is None else open_checkpoints(checkpoints, run, holding)
    transport = connect(
        endpoint.index, endpoint.addresses, endpoint.identity, endpoint.listener, endpoint.timeout
    )
    try:
        return _Session(run, holding, transport, store, resume, progress).train()
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


def open_checkpoints(folder: Path, run: Run, holding: Holding) -> Checkpoints:
    """This party's checkpoints of this run on these records. Raises `CheckpointError`."""
    digest = hashlib.sha256(json.dumps(run.facts, sort_keys=True).encode()).hexdigest()
    return Checkpoints(folder, digest, holding.digest)


class _Session:
    def __init__(
        self,
        run: Run,
        holding: Holding,
        transport: TlsTransport,
        store: Checkpoints | None,
        resume: bool,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.run, self.holding, self.store, self.progress = run, holding, store, progress
        self.transport = transport
        self.state, keys, told = self._agree(resume)
        self.resumed_at = self.state.step if self.state else 0
        common = self.state.keys.common if self.state else keys.common
        everyone = {**told, transport.party: self._own({})}
        counts = [everyone[i]["records"] for i in range(PARTIES)]
        if holding.kind == "columns":
            others = {i: counts[i] for i in told}
            self.holding = holding.reordered(
                align(transport, common, list(holding.ids or ()), others)
            )
            counts = [self.holding.count]
        self.facts = {**told, transport.party: self._own({})}
        self.batches = Batches(tuple(counts), run.recipe.batch, run.seed)
        self.total = self.batches.steps * run.recipe.epochs
        if run.steps is not None:
            self.total = min(self.total, run.steps)
        self.first = run.network.first_weights(np.random.default_rng([run.seed]))
        if self.state is None:
            self._begin(keys, 0, 1.0)
        else:
            self._restore(self.state, self.state.attempt, self.state.learning_rate_factor)

    # ------------------------------------------------------------------ agreeing

    def _own(self, states: Mapping[int, str]) -> dict[str, Any]:
        holding = self.holding
        return {
            "kind": holding.kind,
            "records": holding.count,
            "shape": list(holding.shape),
            "labels": holding.labels is not None,
            "checkpoints": {str(step): name for step, name in states.items()},
        }

    def _agree(self, resume: bool) -> tuple[State | None, Keys, dict[int, Any]]:
        states = self.store.states() if resume and self.store else {}
        own = self._own(states)
        keys, told = agree(
            self.transport, {"run": {**self.run.facts, "resume": resume}, "own": own}
        )
        faults = _data_faults(self.run.network, {**told, self.transport.party: own})
        if faults:
            raise Disagreement(faults)
        shared = set(own["checkpoints"].items())
        for facts in told.values():
            shared &= set(facts["checkpoints"].items())
        if not resume or self.store is None:
            return None, keys, told
        if not shared:
            raise Disagreement(
                ["no checkpoint is common to all parties: start anew, without resuming"]
            )
        return self.store.read(max(int(step) for step, _ in shared)), keys, told

    # ------------------------------------------------------------------ state

    def _begin(self, keys: Keys, attempt: int, factor: float) -> None:
        self.keys, self.factor, self.step = keys, factor, 0
        self.party = Party(self.transport.party, self.transport, keys, attempt)
        self.arithmetic = Replicated(self.party)
        self.trainer = Trainer.start(self.arithmetic, self.run.network, self.first)

    def _restore(self, state: State, attempt: int, factor: float) -> None:
        self.keys, self.factor, self.step = state.keys, factor, state.step
        self.party = Party(self.transport.party, self.transport, state.keys, attempt)
        self.party.operation = state.operation
        self.arithmetic = Replicated(self.party)
        w0, w1, v0, v1 = state.arrays
        self.trainer = Trainer(self.arithmetic, self.run.network, Tensor((w0, w1), WEIGHT_BITS))
        self.trainer.velocity = Tensor((v0, v1), WEIGHT_BITS)

    def _snapshot(self) -> State:
        arrays = (*self.trainer.weights.parts, *self.trainer.velocity.parts)
        return State(
            self.step, self.party.attempt, self.party.operation, self.factor, self.keys, arrays
        )

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
            self.step += 1
            ended = perf_counter(), process_time(), traffic.bytes_sent, traffic.rounds
            spans.append(
                (ended[0] - begun[0], ended[1] - begun[1], ended[2] - begun[2], ended[3] - begun[3])
            )
            if run.disclosure.loss and (self.step % _LOSS_EVERY == 0 or self.step == self.total):
                opened = reveal(self.party, self.trainer.loss(y), range(PARTIES))
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
        weights = reveal(self.party, self.trainer.weights, run.disclosure.model_to)
        walls, cpus, sent, rounds = zip(*spans, strict=True) if spans else ((), (), (), ())
        return Report(
            weights, self.total, self.resumed_at, rollbacks, walls, cpus, sent, rounds, loss,
            self.holding.count,
        )  # fmt: skip

    def _at_checkpoint(self) -> bool:
        every = self.run.checkpoint_every
        return self.step == self.total or (every > 0 and self.step % every == 0)

    def _blown_up(self) -> bool:
        answer = self.arithmetic.number(self.arithmetic.choice(self.trainer.blown_up()))
        opened = reveal(self.party, answer[..., :1], range(PARTIES))
        return bool(opened is None or opened.any())

    def _roll_back(self, good: State, rollbacks: int) -> None:
        """Back to the last state that was fine, at half the learning rate and with other pads."""
        if rollbacks > MAX_ROLLBACKS:
            raise BlowUp(
                f"logits left ±4096 {rollbacks} times, last by step {self.step}, at "
                f"{self.factor:g} of the learning rate: choose a smaller one, or scale the data"
            )
        self._restore(good, self.party.attempt + 1, self.factor / 2)

    def _one_step(self) -> Tensor:
        recipe = self.run.recipe
        epoch = self.step // self.batches.steps
        x, y = self._batch(self.batches.rows(self.step))
        rate = recipe.learning_rate * recipe.decay**epoch * self.factor
        self.trainer.step(x, y, rate, recipe.momentum)
        return y

    def _batch(self, rows: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Shares of a batch, each party's part from itself, in one round."""
        if self.holding.kind == "rows":
            owners = [i for i in range(PARTIES) if len(rows[i])]
            features = [self._features(i, rows[i]) for i in owners]
            labels = [self._labels(i, rows[i]) for i in owners]
            axis = 0
        else:
            owners = [i for i in range(PARTIES) if self.facts[i]["shape"] != [0]]
            features = [self._features(i, rows[0]) for i in owners]
            labels = [self._labels(i, rows[0]) for i in range(PARTIES) if self.facts[i]["labels"]]
            axis = 1
        shared = share(self.party, features + labels)
        x, y = shared[: len(features)], shared[len(features) :]
        whole = join(x, axis)
        return whole.reshape(whole.shape[0], *self.run.network.input_shape), join(y)

    def _features(self, owner: int, rows: Any) -> Entry:
        values = self.holding.values(rows) if owner == self.party.index else None
        shape = (len(rows), *self.facts[owner]["shape"])
        return Entry(owner, shape, ACTIVATION_BITS, _BOUND, values)

    def _labels(self, owner: int, rows: Any) -> Entry:
        classes = self.run.network.classes
        mine = owner == self.party.index
        values = self.holding.one_hot(rows, classes) if mine else None
        return Entry(owner, (len(rows), classes), GRADIENT_BITS, _LABEL_BOUND, values)


def _data_faults(network: Network, told: Mapping[int, Any]) -> list[str]:
    """What keeps the parties' data from making up one table for this network."""
    faults = []
    for party, facts in sorted(told.items()):
        if not _sound(facts):
            faults.append(f"party {party} does not describe its data")
    if faults:
        return faults
    kinds = {facts["kind"] for facts in told.values()}
    if len(kinds) > 1:
        return [f"some parties hold rows and some columns ({sorted(kinds)}): choose one"]
    size = int(np.prod(network.input_shape))
    if kinds == {"rows"}:
        faults = [
            f"party {party} has records of shape {facts['shape']}, the network takes "
            f"{list(network.input_shape)}"
            for party, facts in sorted(told.items())
            if int(np.prod(facts["shape"])) != size
        ]
    else:
        columns = [facts["shape"] for _, facts in sorted(told.items())]
        labelled = [party for party, facts in sorted(told.items()) if facts["labels"]]
        if any(len(shape) != 1 for shape in columns) or sum(map(sum, columns)) != size:
            faults.append(f"columns {columns} do not add up to the network's {size} inputs")
        if len(labelled) != 1:
            faults.append(f"parties {labelled} have labels: expected exactly one of them")
    return faults


def _sound(facts: Any) -> bool:
    """Whether a description has the form of `_Session._own`."""
    return (
        isinstance(facts, dict)
        and facts.get("kind") in ("rows", "columns")
        and isinstance(facts.get("records"), int)
        and 0 < facts["records"] < 2**31
        and isinstance(facts.get("shape"), list)
        and all(isinstance(side, int) and 0 < side < 2**20 for side in facts["shape"])
        and isinstance(facts.get("labels"), bool)
        and isinstance(facts.get("checkpoints"), dict)
    )
