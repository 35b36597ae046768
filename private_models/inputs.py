"""Pictures or texts of one's own, whichever a backbone takes, and their labels."""

from collections.abc import Sequence
from pathlib import Path

from private_models.errors import OptionError
from private_models.picture_files import read_pictures
from private_models.text_files import read_texts


def read_inputs(
    path: Path, texts: bool, column: str | None = None, label_column: str | None = None
) -> tuple[Sequence[object], list[str] | None]:
    """Pictures (PIL) or texts (str), and labels where folders or a column name them.

    Raises `InputError` for files, `OptionError` for columns of pictures.
    """
    if texts:
        return read_texts(path, column, label_column)
    if column is not None or label_column is not None:
        raise OptionError("--column and --label-column are for texts: say --backbone minilm")
    return read_pictures(path)
