"""Everything `he_inference` raises on purpose.

    HEError
    ├── ModelError            the network given cannot be used
    │   ├── UnsupportedModel      a torch module holds layers that have no encrypted form
    │   └── ModelFileError        a saved network, program or signature is not what it says
    ├── CompileError          the network is sound but does not fit the scheme
    ├── ParameterError        encryption parameters below 128-bit security, or inconsistent
    ├── InputError            an array of the wrong shape, type or range
    ├── MessageError          bytes from the other side are not a valid message
    │   ├── WrongProgram          made for another program or other parameters
    │   └── UnknownKey            evaluation keys that were never registered
    ├── AnswerOverflow        an answer was larger than the modulus has room for
    ├── EncryptionFailed      a process that encrypts could not, or went away
    ├── KeyFileError          a secret-key file that cannot be written or read
    └── ServiceError          the other side of the network
        ├── Unreachable           nothing answers there, or it went away
        ├── Rejected              it answered with a refusal
        └── Busy                  it answered: try again later

Every message says what was expected, what was found, and what to do.
"""

from collections.abc import Sequence


class HEError(Exception):
    """Root of the tree: catch this to catch everything that the package raises on purpose."""


class ModelError(HEError):
    """The network given cannot be used."""


class UnsupportedModel(ModelError):
    """A torch module holds layers that have no encrypted form; `faults` lists all of them."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        listing = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"the model cannot run under encryption:\n{listing}")


class ModelFileError(ModelError):
    """A saved network, program or signature is not what it says."""


class CompileError(HEError):
    """The network is sound but does not fit the scheme."""


class ParameterError(HEError):
    """Encryption parameters are below 128-bit security, or contradict each other."""


class InputError(HEError):
    """An array has the wrong shape, type or range."""


class MessageError(HEError):
    """Bytes from the other side are not a valid message."""


class WrongProgram(MessageError):
    """A message was made for another program or other parameters."""


class UnknownKey(MessageError):
    """A query names evaluation keys that were never registered."""


class AnswerOverflow(HEError):
    """An answer was larger than the modulus has room for."""

    @classmethod
    def of_query(cls) -> "AnswerOverflow":
        return cls(
            "the answer is larger than the modulus has room for: compile the network with "
            "examples that are as large as this query, or the answer was tampered with"
        )


class EncryptionFailed(HEError):
    """A process that encrypts could not, or went away."""


class KeyFileError(HEError):
    """A secret-key file cannot be written or read."""


class ServiceError(HEError):
    """The other side of the network failed."""


class Unreachable(ServiceError):
    """Nothing answers at the address, or it went away in the middle."""


class Rejected(ServiceError):
    """The server refused the request."""


class Busy(ServiceError):
    """The server's queue is full: try again later."""
