"""What the verbs that decrypt print, and the size of messages."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from he_inference import terminal


def report_scores(scores: Any, names: Sequence[str], more: dict[str, Any], as_json: bool) -> None:
    """Print a line a query: its name, its label, and the first ten of its scores (queries, K)."""
    labels = [int(label) for label in np.argmax(scores, axis=1)]
    width = max(map(len, ("query", *names)))
    rows = [
        f"{name:>{width}}  {label:>5}  " + " ".join(f"{score:8.3f}" for score in row[:10])
        for name, label, row in zip(names, labels, scores, strict=True)
    ]
    text = "\n".join([f"{'query':>{width}}  label  scores", *rows])
    terminal.report({"labels": labels, "scores": scores.tolist(), **more}, text, as_json)


def size_text(count: int) -> str:
    """Bytes, in MB or kB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
