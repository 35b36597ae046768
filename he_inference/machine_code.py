"""numba's compiler, with a folder of its own for the machine code of every version of our kernels.

numba keeps code by the file that a function is in, and does not notice when another file changes
that was compiled into it. So the folder is named after all files of `backend`: whoever changes one
compiles anew, and everybody else starts in a second and not in ten. Where no folder can be written,
nothing is kept.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import platformdirs

_settings: Any = numba.config


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba's `njit`; `cache=True` holds where there is a folder for it."""
    made: Callable[[Callable[..., Any]], Any] = numba.njit(
        **{**options, "cache": options.get("cache", False) and _KEPT}
    )
    return made


def _folder() -> Path:
    digest = hashlib.sha256()
    for file in sorted((Path(__file__).parent / "backend").rglob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    chosen = _settings.CACHE_DIR  # by whoever set NUMBA_CACHE_DIR
    root = Path(chosen or platformdirs.user_cache_path("sottovoce") / "machine-code")
    return root / digest.hexdigest()[:16]


def _keep() -> bool:
    """Name the folder to numba; whether it can be written."""
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "writable").touch()
    except OSError:
        return False
    _settings.CACHE_DIR = str(folder)
    return True


_KEPT = _keep()
