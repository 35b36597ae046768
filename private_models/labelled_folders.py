"""Files of one kind in a folder, or in a folder for each class."""

from collections.abc import Sequence
from pathlib import Path

from private_models.errors import InputError


def labelled_files(
    folder: Path, endings: Sequence[str], what: str
) -> tuple[list[Path], list[str] | None]:
    """Files with these endings, sorted by name, and their folders' names where each is a class.

    Raises `InputError` for a folder that cannot be read or holds none. what: for the message.
    """
    try:
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
        places = classes or [folder]
        found = [
            (file, place.name)
            for place in places
            for file in sorted(place.iterdir())
            if file.suffix.lower() in endings
        ]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None
    if not found:
        raise InputError(f"{folder}: no {what} in it, or in a folder for each class")
    return [file for file, _ in found], [name for _, name in found] if classes else None
