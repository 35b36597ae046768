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
    ("whose figure", source),
    ("images", number("images", 0)),
    ("right", number("right", 0)),
    ("s elapsed, all but keys", number("seconds", 2)),
    ("s an image", number("seconds_each", 4)),
    ("keys MB, once", number("public_keys_bytes", 1, 1e6)),
    ("up MB", number("ciphertexts_upload_bytes", 2, 1e6)),
    ("down MB", number("ciphertexts_download_bytes", 2, 1e6)),
)
_STAGES: Sequence[Column] = (
    ("system", plain("system")),
    ("images", number("images", 0)),
    ("make keys s", number("client_key_generation_seconds", 2)),
    ("prepare and conclude s", _around),
    ("encode and encrypt s", number("client_encode_encrypt_input_seconds", 2)),
    ("server computes s", number("server_encrypted_compute_seconds", 2)),
    ("of it CPU s", number("server_encrypted_compute_cpu_seconds", 2)),
    ("decrypt and decode s", number("client_decrypt_decode_seconds", 2)),
)
_TITLE = "FHE-Benchmarking.org's MNIST workload"
_NOTE = (
    "Ours runs the stages of that site's harness, the reference is the site's own run on its "
    "machine, whose page rounds bytes and counts making of data and keys in its total; neither is "
    "here. One image goes through the packed layout, more through the batched one. Right: how many "
    "of the images got the label that they have."
)
_STAGES_NOTE = (
    "Elapsed seconds. Every stage of ours is a process that starts an interpreter, loads its "
    "libraries and reads files: for one image that is most of the time."
)


def tables(rows: Iterable[Row]) -> list[Table]:
    """The workload's sizes beside the published reference."""
    found = [row for row in rows if row.get("kind") == "site"]
    if not found:
        return []
    return [
        Table(_TITLE, _COLUMNS, found, _NOTE),
        Table(f"{_TITLE}, stage by stage", _STAGES, found, _STAGES_NOTE),
    ]
