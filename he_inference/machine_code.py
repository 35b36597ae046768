"""numba's compiler, with a folder of its own for the machine code of every version of our kernels.

numba keeps code by the file that a function is in, and does not notice when another file changes
that was compiled into it. So the folder is named after all files of `backend`: whoever changes one
compiles anew, and everybody else starts in a second and not in ten. Where no folder can be written,
nothing is kept.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import platformdirs

_settings: Any = numba.config


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba's `njit`; `cache=True` holds where there is a folder for it."""
    kept = options.get("cache", False) and _FOLDER is not None

    def decorate(function: Callable[..., Any]) -> Any:
        others = _settings.CACHE_DIR
        _settings.CACHE_DIR = str(_FOLDER) if kept else others
        try:
            return numba.njit(**{**options, "cache": kept})(function)
        finally:
            _settings.CACHE_DIR = others  # where code that is not ours is kept

    return decorate


def _folder() -> Path | None:
    """Made for its owner alone; None where that cannot be."""
    digest = hashlib.sha256(f"{_settings.BOUNDSCHECK}".encode() + Path(__file__).read_bytes())
    for file in sorted((Path(__file__).parent / "backend").rglob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    chosen = _settings.CACHE_DIR  # by whoever set NUMBA_CACHE_DIR
    root = Path(chosen or platformdirs.user_cache_path("sottovoce") / "machine-code")
    folder = root / digest.hexdigest()[:16]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "writable").touch()
        ours = os.name != "posix" or folder.stat().st_uid == os.getuid()
    except OSError:
        return None
    return folder if ours else None


_FOLDER = _folder()
