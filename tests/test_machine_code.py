"""`he_inference.machine_code`: kernels are compiled once for each version of their sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
USE = """
import numpy as np
from he_inference.backend.residues import packing
packing.pack(np.arange(64, dtype=np.uint64), 7)
print(sum(packing._pack.stats.cache_hits.values()))
"""


def hits(folder: Path) -> int:
    """Functions that a fresh process finds compiled."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", USE],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_code_is_kept_by_the_version_of_all_sources(tmp_path: Path) -> None:
    assert hits(tmp_path) == 0
    assert hits(tmp_path) == 1
    (version,) = tmp_path.iterdir()
    version.rename(tmp_path / "0123456789abcdef")  # what other sources left there
    assert hits(tmp_path) == 0


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert hits(tmp_path / "file") == 0
    assert hits(tmp_path / "file") == 0
