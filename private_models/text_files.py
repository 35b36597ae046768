"""Texts from a column of a CSV file, or from .txt files in a folder or in one for each class."""

from pathlib import Path

from private_models.errors import InputError
from private_models.feature_files import read_table
from private_models.labelled_folders import labelled_files

TEXTS = (".txt",)
_MOST_BYTES = 1 << 20
"""Of one text: more than any backbone reads."""


def read_texts(
    path: Path, column: str | None = None, label_column: str | None = None
) -> tuple[list[str], list[str] | None]:
    """Texts, and their labels where there are any: folders' names, or a column.

    column, label_column: names in the CSV file's first line; not for folders. Raises `InputError`.
    """
    if not path.is_dir():
        return _columns(path, column, label_column)
    if column is not None or label_column is not None:
        raise InputError(f"{path} is a folder: it has no columns, each .txt file is one text")
    files, names = labelled_files(path, TEXTS, ".txt files")
    return [_text(file) for file in files], names


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InputError(f"{file}: over {_MOST_BYTES} bytes: split it")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: not text in UTF-8: convert it") from None


def _columns(
    path: Path, column: str | None, label_column: str | None
) -> tuple[list[str], list[str] | None]:
    rows = read_table(path)
    if column is None:
        raise InputError(f"{path}: name the column that holds the texts (--column), one of "
                         f"{', '.join(rows[0]) if rows else 'none'}")  # fmt: skip
    if len(rows) < 2 or len({len(row) for row in rows}) != 1:
        raise InputError(f"{path}: expected a line of names and lines with as many values")
    texts = _column(path, rows, column)
    return texts, None if label_column is None else _column(path, rows, label_column)


def _column(path: Path, rows: list[list[str]], name: str) -> list[str]:
    if rows[0].count(name) != 1:
        raise InputError(f"{path}: no column {name!r}, or several: there are {', '.join(rows[0])}")
    place = rows[0].index(name)
    return [row[place] for row in rows[1:]]
