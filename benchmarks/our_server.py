"""Our server alone in a process, so that its memory is its own: no client, no secret key, no torch.

{"command": "register", "keys": PATH}      → before_keys_bytes, peak_bytes
{"command": "evaluate", "request": PATH}   → peak_bytes, cpu_ms, wall_ms, response_bytes
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import he_inference
from benchmarks import measure


class ServerAlone:
    """A compiled program that answers requests read from files."""

    def __init__(self, program_path: str) -> None:
        """Load the program: all that is needed before the first client comes."""
        self.server = he_inference.Server(program_path)

    def answer(self, command: Mapping[str, Any]) -> measure.Row:
        """Do as one command says.

        Raises:
            ValueError: there is no such command.
        """
        if command["command"] == "register":
            before = measure.peak_memory_bytes()
            self.server.register(Path(command["keys"]).read_bytes())
            return {
                "before_keys_bytes": before,
                "peak_bytes": measure.peak_memory_bytes(),
            }
        if command["command"] == "evaluate":
            request = Path(command["request"]).read_bytes()
            span, response = measure.timed(lambda: self.server.evaluate(request))
            return {
                "peak_bytes": measure.peak_memory_bytes(),
                "cpu_ms": span.cpu_ms,
                "wall_ms": span.wall_ms,
                "response_bytes": len(response),
            }
        raise ValueError(f"Unknown command {command['command']!r}")


if __name__ == "__main__":
    measure.pin_to_one_core()
    alone = ServerAlone(*sys.argv[1:])
    for line in sys.stdin:
        measure.write_row(sys.stdout, alone.answer(json.loads(line)))
