"""Checkpoints are encrypted, authenticated, bound to run and records, and never half written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mpc_training.agreement import Keys
from mpc_training.checkpoint import KEPT, Checkpoints, State, newest_common
from mpc_training.errors import CheckpointError

ARRAYS = tuple(np.arange(k, k + 50, dtype=np.uint64) for k in range(4))
KEYS = Keys({0: b"A" * 32, 2: b"B" * 32}, b"C" * 32)


def state(step: int = 7) -> State:
    return State(step, 1, 1234, 0.5, KEYS, ARRAYS, "order")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, "run", "data")
    store.write(state())
    found = Checkpoints(tmp_path, "run", "data").read(7)
    assert all(np.array_equal(a, b) for a, b in zip(found.arrays, ARRAYS, strict=True))
    assert (found.step, found.attempt, found.operation) == (7, 1, 1234)
    assert (found.learning_rate_factor, found.keys) == (0.5, KEYS)
    assert found.aligned == "order"
    assert list(store.states()) == [7]


def test_nothing_readable_is_on_the_disk_and_others_may_not_read_it(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "run-digest", "data-digest").write(state())
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        for plain in (b"AAAA", b"414141", b"run-digest", ARRAYS[0].tobytes()[:32]):
            assert plain not in content
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("at", [0, 6, 10, 14, 25, 30, 200, -1])
def test_a_changed_byte_is_noticed(tmp_path: Path, at: int) -> None:
    store = Checkpoints(tmp_path, "run", "data")
    store.write(state())
    path = tmp_path / "step-000000007.checkpoint"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|another key"):
        store.read(7)
    assert store.states() == {}


def test_a_checkpoint_cannot_pose_as_another(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, "run", "data")
    store.write(state())
    (tmp_path / "step-000000007.checkpoint").rename(tmp_path / "step-000000009.checkpoint")
    with pytest.raises(CheckpointError, match="another step"):
        store.read(9)


@pytest.mark.parametrize(
    ("run", "data", "said"), [("x", "data", "settings"), ("run", "x", "records")]
)
def test_other_runs_and_records_are_refused(tmp_path: Path, run: str, data: str, said: str) -> None:
    Checkpoints(tmp_path, "run", "data").write(state())
    other = Checkpoints(tmp_path, run, data)
    with pytest.raises(CheckpointError, match=f"other {said}"):
        other.read(7)
    assert other.states() == {}


def test_another_key_reads_nothing(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "run", "data").write(state())
    (tmp_path / "checkpoint.key").unlink()
    with pytest.raises(CheckpointError, match="another key"):
        Checkpoints(tmp_path, "run", "data").read(7)


def test_keys_that_others_may_read_or_that_are_none(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "run", "data")
    key = tmp_path / "checkpoint.key"
    os.chmod(key, 0o644)
    with pytest.raises(CheckpointError, match="chmod 600"):
        Checkpoints(tmp_path, "run", "data")
    os.chmod(key, 0o600)
    key.write_bytes(b"short")
    with pytest.raises(CheckpointError, match="is not a key"):
        Checkpoints(tmp_path, "run", "data")


def test_old_ones_go(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, "run", "data")
    for step in range(1, 8):
        store.write(state(step))
    assert sorted(store.states()) == list(range(8 - KEPT, 8))
    with pytest.raises(CheckpointError, match="cannot be read"):
        store.read(1)


def test_later_ones_of_a_session_before_go(tmp_path: Path) -> None:
    """They would push out the new session's."""
    Checkpoints(tmp_path, "run before", "data").write(state(90))
    store = Checkpoints(tmp_path, "run", "data")
    for step in range(1, 4):
        store.write(state(step))
    assert sorted(store.states()) == [1, 2, 3] and len(list(tmp_path.glob("step-*"))) == 3


def test_the_newest_common_step_whatever_others_say() -> None:
    named = {"2": "a", "4": "b", "6": "c"}
    assert newest_common(named, [{"2": "a", "4": "b", "6": "x"}, named]) == 4
    for said in (None, [], {}, {"6": ["c"]}, {"6": {"c": 1}}, {"8": "c"}):
        assert newest_common(named, [named, said]) is None


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        Checkpoints(tmp_path / "file" / "folder", "run", "data")
