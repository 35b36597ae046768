"""Evaluates queries without any secret: bytes in, bytes out."""

from collections import OrderedDict
from pathlib import Path

from he_inference import wire
from he_inference.backend.seal import Evaluator, KeySet
from he_inference.checker import load_program
from he_inference.errors import UnknownKey
from he_inference.program import Program
from he_inference.signature import Signature

MAX_CLIENTS = 16
"""Sets of evaluation keys held at a time; the one unused for longest makes room."""


class Server:
    """Holds a program and clients' evaluation keys; never an input, never a secret key.

    Guarantee: it sees ciphertexts only, and learns nothing of a query as long as nothing that was
    decrypted (scores, labels, whether somebody retried) comes back to it or to anyone who colludes.
    A dishonest one may compute something else than the program. Not protected: the weights, against
    a client that looks at the raw answer (see SECURITY.md).
    """

    def __init__(self, program: Program | str | Path, *, max_clients: int = MAX_CLIENTS) -> None:
        self._program = program if isinstance(program, Program) else load_program(program)
        self._evaluator = Evaluator(self._program)
        self._max_clients = max_clients
        self._clients: OrderedDict[bytes, KeySet] = OrderedDict()

    def signature(self) -> Signature:
        """What clients need to know; public."""
        return self._program.signature

    def register(self, evaluation_keys: bytes) -> str:
        """Take a client's evaluation keys; returns the id under which its queries name them.

        Raises `MessageError` for anything but well-formed keys for this program.
        """
        keys = wire.read_keys(self._program.signature, evaluation_keys)
        name = wire.key_id(evaluation_keys)
        if name not in self._clients:
            self._clients[name] = KeySet(
                self._program.parameters, self._program.signature.keys, keys
            )
        self._clients.move_to_end(name)
        while len(self._clients) > self._max_clients:
            self._clients.popitem(last=False)
        return name.hex()

    def evaluate(self, query: bytes) -> bytes:
        """A query message → an answer message.

        Raises `MessageError` for bytes that are not a query for this program and `UnknownKey` for
        one whose keys were not registered, or were dropped since.
        """
        parsed = wire.read_query(self._program.signature, query)
        keys = self._clients.get(parsed.key_id)
        if keys is None:
            raise UnknownKey(
                f"no evaluation keys with id {parsed.key_id.hex()}: register them (again) first"
            )
        self._clients.move_to_end(parsed.key_id)
        answers = tuple(self._evaluator.evaluate(keys, c) for c in parsed.ciphertexts)
        return wire.write_answer(self._program.signature, wire.Answer(parsed.ticket, answers))
