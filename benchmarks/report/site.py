"""The table of FHE-Benchmarking.org's workload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.measure import Row
from benchmarks.report.table import Column, Table, number, plain, source


def _around(row: Row) -> str:
    """The two stages that neither encrypt nor decrypt: pixels in, labels out."""
    stages = ("client_preprocess_input_seconds", "client_postprocess_seconds")
    return f"{sum(row[stage] for stage in stages):.2f}"


_COLUMNS: Sequence[Column] = (
    ("system", plain("system")),
    ("figure", source),
    ("images", number("images", 0)),
    ("right", number("right", 0)),
    ("s, all but keys", number("seconds", 2)),
    ("s an image", number("seconds_each", 4)),
    ("keys s", number("client_key_generation_seconds", 2)),
    ("prepare and conclude s", _around),
    ("encode and encrypt s", number("client_encode_encrypt_input_seconds", 2)),
    ("compute s", number("server_encrypted_compute_seconds", 2)),
    ("compute CPU s", number("server_encrypted_compute_cpu_seconds", 2)),
    ("decrypt and decode s", number("client_decrypt_decode_seconds", 2)),
    ("keys MB", number("public_keys_bytes", 1, 1e6)),
    ("up MB", number("ciphertexts_upload_bytes", 2, 1e6)),
    ("down MB", number("ciphertexts_download_bytes", 2, 1e6)),
)
_NOTE = (
    "Every stage is a process that starts an interpreter, loads its libraries and reads files: "
    "for one image that is most of the time."
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """The workload's sizes beside the published reference."""
    found = [row for row in rows if row.get("kind") == "site"]
    return [Table("FHE-Benchmarking.org's MNIST workload", _COLUMNS, found, _NOTE)] if found else []
