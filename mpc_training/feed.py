"""How the parties' records come into shares, batch by batch: rows below each other, or columns side
by side."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mpc_training.batches import Batches
from mpc_training.errors import Disagreement
from mpc_training.fixed_point import ACTIVATION_BITS, GRADIENT_BITS
from mpc_training.holdings import MAX_VALUE, Holding
from mpc_training.network import Network
from mpc_training.party import Party
from mpc_training.sharing import Entry, share
from mpc_training.tensor import Tensor, join

_BOUND = 2 * MAX_VALUE
_LABEL_BOUND = 2.0
MAX_ALIGNED = 2**24
"""Records of which blinded ids, half a gigabyte a party, are held in memory."""
_MAX_SIDES = 4
Facts = Mapping[str, Any]


def described(holding: Holding | None) -> dict[str, Any]:
    """What the other parties are told of one's records; a dealer has none."""
    if holding is None:
        return {"kind": "none", "records": 0, "shape": [0], "labels": False}
    return {
        "kind": holding.kind,
        "records": holding.count,
        "shape": list(holding.shape),
        "labels": holding.labels is not None,
    }


class Feed:
    """Shares of each step's batch, each party's part from itself, in one round."""

    def __init__(
        self,
        network: Network,
        holding: Holding | None,
        facts: Mapping[int, Facts],
        batches: Batches,
    ) -> None:
        """facts: of each party that brings data, as `described`."""
        self.network, self.holding, self.facts, self.batches = network, holding, facts, batches
        self.by_rows = facts[0]["kind"] == "rows"

    def batch(self, party: Party, step: int) -> tuple[Tensor, Tensor]:
        """x (n, *input_shape) and one-hot y (n, classes)."""
        rows = self.batches.rows(step)
        if self.by_rows:
            owners = [i for i in sorted(self.facts) if len(rows[i])]
            features = [self._features(party, i, rows[i]) for i in owners]
            labels = [self._labels(party, i, rows[i]) for i in owners]
        else:
            owners = [i for i in sorted(self.facts) if self.facts[i]["shape"] != [0]]
            labelled = [i for i in sorted(self.facts) if self.facts[i]["labels"]]
            features = [self._features(party, i, rows[0]) for i in owners]
            labels = [self._labels(party, i, rows[0]) for i in labelled]
        shared = share(party, features + labels)
        x, y = shared[: len(features)], shared[len(features) :]
        whole = join(x, 0 if self.by_rows else 1)
        return whole.reshape(whole.shape[0], *self.network.input_shape), join(y)

    def _features(self, party: Party, owner: int, rows: Any) -> Entry:
        mine = self.holding is not None and owner == party.index
        values = self.holding.values(rows) if self.holding is not None and mine else None
        shape = (len(rows), *self.facts[owner]["shape"])
        return Entry(owner, shape, ACTIVATION_BITS, _BOUND, values)

    def _labels(self, party: Party, owner: int, rows: Any) -> Entry:
        classes = self.network.classes
        mine = self.holding is not None and owner == party.index
        values = self.holding.one_hot(rows, classes) if self.holding is not None and mine else None
        return Entry(owner, (len(rows), classes), GRADIENT_BITS, _LABEL_BOUND, values)


def check_fit(network: Network, told: Mapping[int, Any], owners: Sequence[int]) -> None:
    """Raises `Disagreement` unless these parties' data make up one table for this network."""
    faults = [
        f"party {party} does not describe its data"
        for party, facts in sorted(told.items())
        if not _sound(facts, party in owners)
    ]
    faults = faults or _misfits(network, {party: told[party] for party in owners})
    if faults:
        raise Disagreement(faults)


def _misfits(network: Network, told: Mapping[int, Any]) -> list[str]:
    kinds = {facts["kind"] for facts in told.values()}
    if len(kinds) > 1:
        return [f"some parties hold rows and some columns ({sorted(kinds)}): choose one"]
    size = math.prod(network.input_shape)
    if kinds == {"rows"}:
        return [
            f"party {party} has records of shape {facts['shape']}, the network takes "
            f"{list(network.input_shape)}"
            for party, facts in sorted(told.items())
            if math.prod(facts["shape"]) != size
        ]
    faults = [
        f"party {party} has {facts['records']} records: expected up to {MAX_ALIGNED} to align"
        for party, facts in sorted(told.items())
        if facts["records"] > MAX_ALIGNED
    ]
    columns = [facts["shape"] for _, facts in sorted(told.items())]
    labelled = [party for party, facts in sorted(told.items()) if facts["labels"]]
    if any(len(shape) != 1 for shape in columns) or sum(map(sum, columns)) != size:
        faults.append(f"columns {columns} do not add up to the network's {size} inputs")
    if len(labelled) != 1:
        faults.append(f"parties {labelled} have labels: expected exactly one of them")
    return faults


def _sound(facts: Any, owner: bool) -> bool:
    """Whether a description has the form of `described`."""
    if not isinstance(facts, dict) or not isinstance(facts.get("checkpoints"), dict):
        return False
    if not owner:
        return bool(facts.get("kind") == "none" and facts.get("records") == 0)
    return (
        facts.get("kind") in ("rows", "columns")
        and isinstance(facts.get("records"), int)
        and 0 < facts["records"] < 2**31
        and isinstance(facts.get("shape"), list)
        and len(facts["shape"]) <= _MAX_SIDES
        and all(isinstance(side, int) and 0 < side < 2**20 for side in facts["shape"])
        and isinstance(facts.get("labels"), bool)
    )
