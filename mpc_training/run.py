"""What a training run is, who takes part in it and where, and what comes out."""

import hashlib
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mpc_training.connecting import Address, Identity
from mpc_training.errors import SettingsError
from mpc_training.fixed_point import Array
from mpc_training.network import Network
from mpc_training.party import HELPER, PARTIES
from mpc_training.schema import Schema
from mpc_training.sharing import Disclosure
from mpc_training.training import Recipe

PROTOCOLS = {
    2: "two parties and a dealer, replicated shares, semi-honest",
    3: "three parties, replicated shares, semi-honest, no dealer",
}
"""By the number of parties that bring data."""
_ANYTHING = Schema()


@dataclass(frozen=True)
class Run:
    """What all parties were told alike.

    seed: public; draws first weights and batches. steps: of all epochs, or fewer; None for all.
    checkpoint_every: steps; 0 for none but the check at the end. owners: how many parties bring
    data, the first ones; with two, the third is the dealer. schema: what everyone's records look
    like. Raises `SettingsError`.
    """

    network: Network
    recipe: Recipe
    disclosure: Disclosure
    seed: int
    steps: int | None = None
    checkpoint_every: int = 50
    owners: int = PARTIES
    schema: Schema = _ANYTHING

    def __post_init__(self) -> None:
        if self.owners not in PROTOCOLS:
            raise SettingsError(f"{self.owners} parties: expected 2 with a dealer, or 3 without")
        if not set(self.disclosure.model_to) <= set(range(self.owners)):
            raise SettingsError(
                f"model_to {sorted(self.disclosure.model_to)}: expected parties 0 to "
                f"{self.owners - 1}; a dealer gets nothing"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """JSON values that must be equal on all parties."""
        return {
            "protocol": PROTOCOLS[self.owners],
            "network": self.network.digest,
            "recipe": asdict(self.recipe),
            "opened": {
                "model_to": sorted(self.disclosure.model_to),
                "loss": self.disclosure.loss,
            },
            "seed": self.seed,
            "steps": self.steps,
            "checkpoint_every": self.checkpoint_every,
            "schema": self.schema.facts,
        }


@dataclass(frozen=True)
class Endpoint:
    """This party's place among all. A dealer's index is that of the last."""

    index: int
    addresses: Sequence[Address]
    identity: Identity
    listener: socket.socket
    timeout: float

    @property
    def certificates(self) -> str:
        """A digest of all parties' certificates, which all must have been told alike."""
        each = (hashlib.sha256(address.certificate).digest() for address in self.addresses)
        return hashlib.sha256(b"".join(each)).hexdigest()

    def deals(self, run: Run) -> bool:
        """Whether this is the dealer of a run."""
        return self.index == HELPER and run.owners < PARTIES


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

    weights: (network.size,) if this party was to get them. step_seconds, step_cpu_seconds,
    step_bytes, step_rounds: of each step made here, this process's. resumed_at: steps made before.
    records: of this party, after alignment.
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
