"""A head that is ready to be served: programs, weights transformed ahead, and the public part.

    bundle/single.program  batch.program  single.precomputed      the server's: they hold the head
    bundle/public/                                                 what clients get

A folder is written whole or not at all, and only another bundle is replaced.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import he_inference
from he_inference import BatchProgram, CoefficientProgram, Precomputed
from private_models.errors import BundleError
from private_models.hybrid.public_part import PublicPart, load_public

SINGLE, BATCH, PRECOMPUTED, PUBLIC = (
    "single.program", "batch.program", "single.precomputed", "public",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bundle:
    """single, batch: programs; batch is None where only single queries are answered."""

    public: PublicPart
    single: CoefficientProgram
    batch: BatchProgram | None
    precomputed: Precomputed

    def save(self, folder: str | Path) -> None:
        """Write a folder, all or nothing, for the server alone (mode 0700; `public` is for anyone).

        A bundle that is there is replaced. Raises `BundleError` for another thing of that name.
        """
        target = Path(folder)
        check_place(target)
        part = target.absolute().with_name(f".{token_hex(8)}.part")
        try:
            part.mkdir(mode=0o700, parents=False)
            (part / PUBLIC).mkdir()
            self.public.save(part / PUBLIC)
            self.single.save(part / SINGLE)
            self.precomputed.save(part / PRECOMPUTED)
            if self.batch is not None:
                self.batch.save(part / BATCH)
            _replace(part, target)
        except OSError as error:
            raise BundleError(f"{folder}: cannot be written: {error.strerror or error}") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)


def check_place(folder: Path) -> None:
    """Raises `BundleError` for a place where no bundle can or should be written."""
    if folder.exists() and not _is_bundle(folder):
        raise BundleError(f"{folder} is there and no bundle: name another folder to write")
    if not os.access(folder.absolute().parent, os.W_OK):
        raise BundleError(f"{folder} cannot be written: {folder.absolute().parent} is no folder, "
                          "or one that you may not write in")  # fmt: skip


def _is_bundle(folder: Path) -> bool:
    return (folder / PUBLIC).is_dir() and (folder / SINGLE).is_file()


def _replace(part: Path, target: Path) -> None:
    old = part.with_suffix(".old")
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)


def load_bundle(folder: str | Path) -> Bundle:
    """Read and check a saved bundle. Raises `BundleError`, or what reading a program raises."""
    folder = Path(folder)
    if not _is_bundle(folder):
        raise BundleError(f"{folder}: not a bundle: expected {SINGLE} and {PUBLIC} in it")
    public = load_public(folder / PUBLIC)
    single = he_inference.load_program(folder / SINGLE)
    batch = he_inference.load_program(folder / BATCH) if (folder / BATCH).exists() else None
    if not isinstance(single, CoefficientProgram) or not isinstance(batch, BatchProgram | None):
        raise BundleError(f"{folder}: programs of other layouts than a bundle has")
    found = [single.signature.digest, None if batch is None else batch.signature.digest]
    if found != [public.single.digest, None if public.batch is None else public.batch.digest]:
        raise BundleError(f"{folder}: programs and public part are of different heads")
    return Bundle(
        public, single, batch, he_inference.load_precomputed(folder / PRECOMPUTED, single)
    )
