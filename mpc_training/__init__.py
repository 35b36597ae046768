"""Train one model on data that nobody may pool, on secret shares among three parties.

    network = mpc_training.from_torch(nn.Sequential(…), input_shape)     # what is trained
    run     = mpc_training.Run(network, Recipe(…), Disclosure(…), seed)  # told alike to all parties
    holding = mpc_training.read_holding("rows", path, labels=…)          # this party's own records
    report  = mpc_training.take_part(run, holding, endpoint)             # mutual TLS, shares, steps
    module  = mpc_training.to_torch(network, report.weights)             # for those who get the
    model

Who learns what, against which adversary:

    party      holds                              learns
    each       its records, two of three          everyone's counts and shapes of records, the
               components of all else             network, the recipe, and what `Disclosure` opens:
                                                  the model if named, the mean loss if agreed; at
                                                  each checkpoint one bit, whether numbers blew up
    dealer     of two parties: components that    counts and shapes, the network, the recipe, that
               are random without the third       bit; it receives nothing else
    network    what passes                        sizes, times and addresses, through TLS 1.3

**Semi-honest, one of three; a dealer counts as one.** As long as each follows the protocol and no
two pool what they see, nobody learns more than the table says, whatever else it computes from it
(Araki et al. 2016; ABY3). The guarantee rests on AES-256, HKDF-SHA256, TLS 1.3, and for columns on
Diffie-Hellman. What the opened model says about the records is not hidden by any of this: for that,
train with differential privacy.

Not protected:

- **Two parties together**, or a party and the dealer, read everything.
- **A party that deviates** is not noticed. It can spoil the model, and where something that depends
  on its deviation is opened, learn from that. Its records can be anything: nothing proves that they
  are true.
- **Leaks by choice of data**: with columns, which of a party's records each other party has too
  (`alignment`).
- **What happens on a machine**: memory is not wiped, side channels are not considered.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpc_training.errors import MPCError as MPCError
    from mpc_training.holdings import Holding as Holding
    from mpc_training.holdings import read_holding as read_holding
    from mpc_training.model_file import read_model as read_model
    from mpc_training.network import Network as Network
    from mpc_training.run import Endpoint as Endpoint
    from mpc_training.run import Report as Report
    from mpc_training.run import Run as Run
    from mpc_training.session import take_part as take_part
    from mpc_training.sharing import Disclosure as Disclosure
    from mpc_training.torch_modules import from_torch as from_torch
    from mpc_training.torch_modules import to_torch as to_torch
    from mpc_training.training import Recipe as Recipe

_HOMES = {
    "Disclosure": "sharing",
    "Endpoint": "run",
    "Holding": "holdings",
    "MPCError": "errors",
    "Network": "network",
    "Recipe": "training",
    "Report": "run",
    "Run": "run",
    "from_torch": "torch_modules",
    "read_holding": "holdings",
    "read_model": "model_file",
    "take_part": "session",
    "to_torch": "torch_modules",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load what is asked for and nothing else: torch is heavy."""
    if name in _HOMES:
        value = getattr(import_module(f"mpc_training.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mpc_training' has no attribute {name!r}")
