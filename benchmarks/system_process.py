"""A system in a process of its own, pinned to one core, asked one query at a time."""

from __future__ import annotations

import json
import selectors
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks import measure

PROJECT = Path(__file__).resolve().parent.parent
ANSWER_SECONDS = 900
_SHOWN_CHARACTERS = 400


class AnswerError(Exception):
    """A system that reports an error, ends, or does not answer in time."""


class SystemProcess:
    """Speaks `peers/protocol.py` with `python -m module arguments…`, in a process with one thread.

    A context manager: leaving it ends the process.
    """

    def __init__(self, python: Path | str, module: str, arguments: Sequence[str] = ()) -> None:
        """Start the process; it prepares nothing yet."""
        variables = measure.one_thread_environment()
        variables["PYTHONPATH"] = str(PROJECT)
        self._complaints = tempfile.TemporaryFile(  # noqa: SIM115 - closed by `close`
            mode="w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            [str(python), "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env=variables,
        )

    def prepare(self, task: Path) -> measure.Row:
        """Keys made, network compiled: what the system says of its settings and sizes."""
        return self.ask({"command": "prepare", "task": str(task)})

    def query(self, image: int) -> measure.Row:
        """One encrypted query: times in milliseconds, sizes in bytes, logits."""
        return self.ask({"command": "query", "image": image})

    def ask(self, command: dict[str, Any]) -> measure.Row:
        """One line there, one line back.

        Raises:
            AnswerError: an error, the end of the process, or ANSWER_SECONDS without an answer.
        """
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise AnswerError("the process has no pipes")
        try:
            requests.write(json.dumps(command) + "\n")
            requests.flush()
        except BrokenPipeError:
            raise AnswerError(self._last_words()) from None
        with selectors.DefaultSelector() as selector:
            selector.register(answers, selectors.EVENT_READ)
            if not selector.select(timeout=ANSWER_SECONDS):
                raise AnswerError(f"no answer within {ANSWER_SECONDS} seconds")
        line = answers.readline()
        if not line:
            raise AnswerError(self._last_words())
        answer: measure.Row = json.loads(line)
        if "error" in answer:
            raise AnswerError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End the process; idempotent."""
        self._process.kill()
        self._process.communicate()
        self._complaints.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _last_words(self) -> str:
        self._process.wait()
        self._complaints.seek(0)
        said = " ".join(self._complaints.read().split())[-_SHOWN_CHARACTERS:]
        return f"the process ended with status {self._process.returncode}: {said}"
