"""Clients' evaluation keys on disk, so that every worker process can load them.

Evaluation keys are public: they decrypt nothing. The directory is private all the same, so that
nobody on the machine can replace one.
"""

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from he_inference.errors import Rejected, ServiceError
from he_inference.serving.settings import Settings


def key_path(directory: Path, key_id: str) -> Path:
    """Where a key set lies, given its id in hexadecimal."""
    return directory / f"{key_id}.keys"


class KeyStore:
    """Key messages in a directory of mode 0700, named by key id; safe to use from many threads.

    Guarantee: never more than `key_sets` sets and `key_storage_bytes` bytes. The set unused for
    longest is deleted first, whereupon its owner's queries raise `UnknownKey`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock, self._adding = Lock(), Lock()
        try:
            made = tempfile.mkdtemp(prefix="he-inference-", dir=settings.key_directory)
        except OSError as error:
            raise ServiceError(
                f"no directory for evaluation keys could be made: {error.strerror}; name a "
                "writable place as key_directory"
            ) from None
        self.directory = Path(made)

    def __len__(self) -> int:
        return len(self._sizes)

    def touch(self, key_id: str) -> bool:
        """Whether these keys are held; if so they are now the ones used last."""
        with self._lock:
            if key_id not in self._sizes:
                return False
            self._sizes.move_to_end(key_id)
            return True

    def add(self, key_id: str, message: bytes) -> None:
        """Keep a key message that was found valid. Raises `Rejected` where it cannot be kept."""
        if len(message) > self._settings.key_storage_bytes:
            raise Rejected(
                f"the keys take {len(message)} bytes: this service stores "
                f"{self._settings.key_storage_bytes} at most; ask its operator for more"
            )
        with self._adding:
            if self.touch(key_id):
                return
            self._write(key_id, message)
            with self._lock:
                self._sizes[key_id] = len(message)
                evicted = list(self._overflow())
            for name in evicted:
                key_path(self.directory, name).unlink(missing_ok=True)

    def _write(self, key_id: str, message: bytes) -> None:
        """All of it or nothing."""
        arriving = self.directory / "arriving"
        try:
            arriving.write_bytes(message)
            arriving.replace(key_path(self.directory, key_id))
        except OSError as error:
            arriving.unlink(missing_ok=True)
            raise ServiceError(f"the keys could not be stored: {error.strerror}") from None

    def _overflow(self) -> Iterator[str]:
        while (
            len(self._sizes) > self._settings.key_sets
            or sum(self._sizes.values()) > self._settings.key_storage_bytes
        ):
            yield self._sizes.popitem(last=False)[0]

    def remove(self) -> None:
        """Delete everything, the directory included."""
        shutil.rmtree(self.directory, ignore_errors=True)
