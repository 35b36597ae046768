"""A party's share of the training state in a file of its own, encrypted under its own key.

    file = "SVCP1\\n" · step u64 · nonce (12) · AES-256-GCM ciphertext and tag

The step and the magic are authenticated with the content. The key is 32 bytes from the operating
system in a file of mode 0600 beside the checkpoints; it belongs to this party alone and is never
sent.

What is in it: the components of weights and velocity, the keys, how far they are used up, and in
which order records were aligned; so that a resumed run repeats, bit for bit, what it would have
done. Repeating with *other* data, settings or order would use the same pads twice, which gives data
away: so digests of all three are in it too, and `Checkpoints.read` refuses a state that was made
for other settings or data, and the session one for another order.
"""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mpc_training.agreement import Keys
from mpc_training.errors import CheckpointError
from mpc_training.randomness import KEY_BYTES, derive, new_key
from mpc_training.ring import Ring

_MAGIC = b"SVCP1\n"
_HEAD = struct.Struct("<6sQ")
_NONCE_BYTES = 12
_LENGTH = struct.Struct("<I")
_OTHERS = 0o077
KEPT = 3
"""Checkpoints that stay; older ones are deleted."""


@dataclass(frozen=True, repr=False)
class State:
    """step: how many steps are done. attempt: how often the run was rolled back. operation: draws
    that are used up. keys: as agreed. arrays: components of weights and velocity.
    aligned: digest of the records in their common order, where they were aligned by id."""

    step: int
    attempt: int
    operation: int
    learning_rate_factor: float
    keys: Keys
    arrays: tuple[Ring, ...]
    aligned: str


class Checkpoints:
    """The folder of one party's checkpoints of one run."""

    def __init__(self, folder: Path, run: str, data: str) -> None:
        """run, data: digests of the agreed settings and of this party's own records."""
        self.folder, self.run, self.data = folder, run, data
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be made: {error.strerror}") from None
        self._cipher = AESGCM(_own_key(folder / "checkpoint.key"))

    def states(self) -> dict[int, str]:
        """Steps at which a state of this run and these records can be read, and a public name of
        the session that wrote it, equal on all its parties."""
        found = {}
        for path in self.folder.glob("step-*.checkpoint"):
            with suppress(ValueError, CheckpointError):
                state = self.read(int(path.stem.removeprefix("step-")))
                found[state.step] = derive(state.keys.common, f"session {state.attempt}").hex()
        return found

    def write(self, state: State) -> None:
        """All or nothing, and on the disk when this returns. Raises `CheckpointError`."""
        facts = {
            "run": self.run,
            "data": self.data,
            "attempt": state.attempt,
            "operation": state.operation,
            "learning_rate_factor": state.learning_rate_factor,
            "pairs": {str(peer): key.hex() for peer, key in state.keys.pairs.items()},
            "common": state.keys.common.hex(),
            "own": state.keys.own.hex(),
            "aligned": state.aligned,
            "sizes": [array.size for array in state.arrays],
        }
        text = json.dumps(facts).encode()
        content = b"".join(
            [
                _LENGTH.pack(len(text)),
                text,
                *(array.astype("<u8").tobytes() for array in state.arrays),
            ]
        )
        head, nonce = _HEAD.pack(_MAGIC, state.step), os.urandom(_NONCE_BYTES)
        path = self._path(state.step)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(head + nonce + self._cipher.encrypt(nonce, content, head))
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise CheckpointError(f"{path} cannot be written: {error.strerror}") from None
        self._forget(state.step)

    def read(self, step: int) -> State:
        """The state after `step` steps. Raises `CheckpointError`."""
        path = self._path(step)
        try:
            whole = path.read_bytes()
            head, nonce = whole[: _HEAD.size], whole[_HEAD.size : _HEAD.size + _NONCE_BYTES]
            content = self._cipher.decrypt(nonce, whole[_HEAD.size + _NONCE_BYTES :], head)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        except (InvalidTag, ValueError):
            raise CheckpointError(
                f"{path} is damaged, or was written under another key: delete it, and resume from "
                "an earlier one"
            ) from None
        if head != _HEAD.pack(_MAGIC, step):
            raise CheckpointError(f"{path} holds another step than its name says: delete it")
        return self._parse(path, step, content)

    def _parse(self, path: Path, step: int, content: bytes) -> State:
        """Content is authentic here: this party wrote it."""
        start = _LENGTH.size + _LENGTH.unpack_from(content)[0]
        facts = json.loads(content[_LENGTH.size : start])
        if facts["run"] != self.run or facts["data"] != self.data:
            what = "settings" if facts["run"] != self.run else "records"
            raise CheckpointError(
                f"{path} was made with other {what}: resume with the same ones, or name another "
                "folder of checkpoints; the same pads must not serve two runs"
            )
        arrays = []
        for size in facts["sizes"]:
            arrays.append(np.frombuffer(content, "<u8", size, start))
            start += 8 * size
        pairs = {int(peer): bytes.fromhex(key) for peer, key in facts["pairs"].items()}
        return State(
            step,
            facts["attempt"],
            facts["operation"],
            facts["learning_rate_factor"],
            Keys(pairs, bytes.fromhex(facts["common"]), bytes.fromhex(facts["own"])),
            tuple(arrays),
            facts["aligned"],
        )

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.checkpoint"

    def _forget(self, newest: int) -> None:
        """All but the last of those up to the newest; later ones are of a session before it."""
        paths = sorted(self.folder.glob("step-*.checkpoint"))
        own = [path for path in paths if path <= self._path(newest)]
        for path in {*paths} - {*own[-KEPT:]}:
            with suppress(OSError):
                path.unlink()


def newest_common(named: Mapping[str, str], others: Iterable[Any]) -> int | None:
    """The last step that everyone names alike. named: of this party, by step; others: what each
    other one says, which may be anything."""
    told = list(others)
    steps = [
        int(step)
        for step, name in named.items()
        if all(isinstance(theirs, dict) and theirs.get(step) == name for theirs in told)
    ]
    return max(steps, default=None)


def _own_key(path: Path) -> bytes:
    """The key in this file, which is made if it is not there. Raises `CheckpointError`."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            key = new_key()
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        return key
    except FileExistsError:
        pass
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if os.name == "posix" and mode & _OTHERS:
        raise CheckpointError(f"{path} can be read by others: chmod 600 it")
    if len(key) != KEY_BYTES:
        raise CheckpointError(f"{path} is not a key: delete it with the checkpoints beside it")
    return key
