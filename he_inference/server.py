"""Evaluates queries without any secret: bytes in, bytes out."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from he_inference import wire
from he_inference.batch_program import BatchProgram
from he_inference.coefficient_program import CoefficientProgram
from he_inference.errors import ServiceError, UnknownKey
from he_inference.processors import CPU
from he_inference.programs import AnyProgram, load_program
from he_inference.signatures import AnySignature

if TYPE_CHECKING:
    from he_inference.precomputed import Precomputed

MAX_CLIENTS = 16
"""Sets of evaluation keys held at a time; the one unused for longest makes room."""


class _Engine(Protocol):
    """What a layout makes of messages."""

    def keys(self, message: bytes) -> Any:
        """Evaluation keys, checked and ready for use."""

    def key_id(self, query: bytes) -> bytes:
        """The id of the keys that a query names, once all of the query is found sound."""

    def evaluate(self, query: bytes, keys: Callable[[bytes], Any]) -> bytes:
        """A query message → an answer message; keys: finds those of an id."""


class Server:
    """Holds a program and clients' evaluation keys; never an input, never a secret key.

    Guarantee: it sees ciphertexts only, and learns nothing of a query as long as nothing that was
    decrypted (scores, labels, whether somebody retried) comes back to it or to anyone who colludes.
    A dishonest one may compute something else than the program. The weights are protected against
    a client that looks at the raw answers where the program answers privately (`flooding` has the
    statement), and not where it answers plainly (see SECURITY.md).
    """

    def __init__(
        self,
        program: AnyProgram | str | Path,
        *,
        max_clients: int = MAX_CLIENTS,
        threads: int | None = None,
        device: str = CPU,
        backend: str = "residues",
        precomputed: "Precomputed | None" = None,
    ) -> None:
        """threads: that evaluate one message; as many as there are processors for a batch, one for
        single queries, which two answer sooner at a little more cost in all.

        device: "cpu", or one of torch's on which batches are evaluated, "cuda". backend: of the
        packed layout, see `PackedEngine`. precomputed: what `precompute` made of this program.
        Raises `ServiceError` for what is not there, and for what the program's layout cannot use.
        """
        self._program = program if isinstance(program, AnyProgram) else load_program(program)
        self._engine = _engine(self._program, threads, device, backend, precomputed)
        self._max_clients = max_clients
        self._clients: OrderedDict[bytes, Any] = OrderedDict()

    def signature(self) -> AnySignature:
        """What clients need to know; public."""
        return self._program.signature

    def register(self, evaluation_keys: bytes) -> str:
        """Take a client's evaluation keys; returns the id under which its queries name them.

        Raises `MessageError` for anything but well-formed keys for this program.
        """
        name = wire.key_id(evaluation_keys)
        if name not in self._clients:
            self._clients[name] = self._engine.keys(evaluation_keys)
        self._clients.move_to_end(name)
        while len(self._clients) > self._max_clients:
            self._clients.popitem(last=False)
        return name.hex()

    def evaluate(self, query: bytes) -> bytes:
        """A query message → an answer message.

        Raises `MessageError` for bytes that are not a query for this program and `UnknownKey` for
        one whose keys were not registered, or were dropped since.
        """
        return self._engine.evaluate(query, self._keys)

    def key_id(self, query: bytes) -> bytes:
        """The keys that a sound query names. Raises `MessageError` for one that is not."""
        return self._engine.key_id(query)

    def _keys(self, key_id: bytes) -> Any:
        keys = self._clients.get(key_id)
        if keys is None:
            raise UnknownKey(
                f"no evaluation keys with id {key_id.hex()}: register them (again) first"
            )
        self._clients.move_to_end(key_id)
        return keys


def _engine(
    program: AnyProgram,
    threads: int | None,
    device: str,
    backend: str,
    precomputed: "Precomputed | None",
) -> _Engine:
    # Each layout loads its own.
    if precomputed is not None and not isinstance(program, CoefficientProgram):
        raise ServiceError("precomputed weights are for programs of the coefficient layout")
    if isinstance(program, BatchProgram):
        from he_inference.batch_engine import BatchEngine

        return BatchEngine(program, threads=threads, device=device)
    if device != CPU:
        raise ServiceError(f"device {device!r}: single queries are evaluated on {CPU!r} only")
    if isinstance(program, CoefficientProgram):
        try:
            from he_inference.coefficient_engine import CoefficientEngine
        except ModuleNotFoundError as error:
            raise ServiceError(
                f"evaluating needs {error.name}: pip install 'sottovoce[batch]'"
            ) from None
        return CoefficientEngine(program, threads=threads, precomputed=precomputed)
    from he_inference.packed_engine import PackedEngine

    return PackedEngine(program, threads=threads, backend=backend)
