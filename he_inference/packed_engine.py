"""The server's half of the packed layout: SEAL evaluates one query after the other."""

from collections.abc import Callable

from he_inference import wire
from he_inference.backend.seal import Evaluator, KeySet
from he_inference.program import Program


class PackedEngine:
    """What `Server` does with messages for this layout."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._evaluator = Evaluator(program)

    def keys(self, message: bytes) -> KeySet:
        """Evaluation keys, checked and loaded into SEAL. Raises `MessageError`."""
        signature = self._program.signature
        read = wire.read_keys(signature, message)
        return KeySet(self._program.parameters, signature.keys, read)

    def key_id(self, query: bytes) -> bytes:
        """Of the keys that a sound query names. Raises `MessageError`."""
        return wire.read_query(self._program.signature, query).key_id

    def evaluate(self, query: bytes, keys: Callable[[bytes], KeySet]) -> bytes:
        """A query message → an answer message. Raises `MessageError`, or what `keys` raises."""
        parsed = wire.read_query(self._program.signature, query)
        found = keys(parsed.key_id)
        answers = tuple(self._evaluator.evaluate(found, c) for c in parsed.ciphertexts)
        return wire.write_answer(self._program.signature, wire.Answer(parsed.ticket, answers))
