"""Everything `mpc_training` raises on purpose.

    MPCError
    ├── UnsupportedNetwork    an nn.Sequential holds what cannot be trained on shares
    ├── SettingsError         options or a settings file that contradict themselves or the limits
    ├── DataError             a party's own records cannot be used; told to that party alone
    ├── RangeError            a value outside the interval in which fixed point is exact
    ├── BlowUp                training left the interval: numbers no longer mean anything
    ├── CertificateError      a key or certificate that cannot be made, read or used
    ├── CheckpointError       a checkpoint that cannot be written, read or resumed
    └── PeerError             the other side of a connection
        ├── Unreachable           nothing answers at its address
        ├── NotAuthentic          whoever answers holds another certificate
        ├── Disagreement          the parties were not started for the same run
        ├── FrameError            bytes that are not what the protocol has next
        ├── PeerStalled           connected, and silent for longer than the time-out
        └── PeerLeft              it closed the connection, or said why it stops

Every message says what was expected, what was found, and what to do.
"""

from collections.abc import Sequence


class MPCError(Exception):
    """Root of the tree: catch this to catch everything that the package raises on purpose."""


class UnsupportedNetwork(MPCError):
    """An nn.Sequential holds what cannot be trained on shares; `faults` lists all of it."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        listing = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"the network cannot be trained on shares:\n{listing}")


class SettingsError(MPCError):
    """Options or a settings file that contradict themselves or the limits."""


class DataError(MPCError):
    """A party's own records cannot be used; the message is for that party alone."""


class RangeError(MPCError):
    """A value outside the interval in which the fixed-point arithmetic is exact."""


class BlowUp(MPCError):
    """Training left the interval: the numbers no longer mean anything."""


class CertificateError(MPCError):
    """A key or certificate cannot be made, read or used."""


class CheckpointError(MPCError):
    """A checkpoint cannot be written, read or resumed."""


class PeerError(MPCError):
    """The other side of a connection failed."""


class Unreachable(PeerError):
    """Nothing answers at a party's address within the time-out."""


class NotAuthentic(PeerError):
    """Whoever answers at a party's address does not hold that party's certificate."""


class Disagreement(PeerError):
    """The parties were not started for the same run; `faults` lists every difference."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        listing = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"the parties disagree, and nothing was shared:\n{listing}")


class FrameError(PeerError):
    """Bytes that are not what the protocol has next."""


class PeerStalled(PeerError):
    """A party is connected, and was silent for longer than the time-out."""


class PeerLeft(PeerError):
    """A party closed the connection, or said why it stops."""
