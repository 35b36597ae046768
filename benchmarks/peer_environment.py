"""A virtual environment for each peer: made on first use from the pinned file beside its script."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PEERS_FOLDER = Path(__file__).resolve().parent / "peers"
ENVIRONMENTS_FOLDER = Path(__file__).resolve().parent / ".venvs"
INSTALL_SECONDS = 1800
_SHOWN_CHARACTERS = 400


class InstallError(Exception):
    """A peer that cannot be installed here; the message ends in what pip said."""


def peer_python(peer: str) -> Path:
    """The interpreter of the environment in which `benchmarks/peers/{peer}.py` runs.

    The environment is cached under the digest of its requirements and of the Python version, and
    takes its name only once everything is installed.

    Raises:
        InstallError: it could not be made.
    """
    requirements = PEERS_FOLDER / f"{peer}.txt"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(requirements.read_bytes() + version.encode()).hexdigest()[:12]
    environment = ENVIRONMENTS_FOLDER / f"{peer}-{digest}"
    if not environment.is_dir():
        _install(requirements, environment)
    return _interpreter(environment)


def _install(requirements: Path, environment: Path) -> None:
    _keep_out_of_git(environment.parent)
    unfinished = environment.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _run([sys.executable, "-m", "venv", str(unfinished)])
        pip = [str(_interpreter(unfinished)), "-m", "pip", "install", "--quiet"]
        _run([*pip, "--disable-pip-version-check", "--requirement", str(requirements)])
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise InstallError(f"{requirements.stem} does not install: {_reason(error)}") from error
    unfinished.rename(environment)


def _keep_out_of_git(folder: Path) -> None:
    """Other people's packages, under their licences, never enter this repository."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)


def _reason(error: OSError | subprocess.SubprocessError) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
    return " ".join(str(said or error).split())[-_SHOWN_CHARACTERS:]


def _interpreter(environment: Path) -> Path:
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return environment / folder / name
