"""Runs a schedule on all cores: residues of ciphertexts in, residues of ciphertexts out."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from he_inference.backend.residues import kernels
from he_inference.backend.residues.encoding import encode
from he_inference.backend.residues.memory import aligned
from he_inference.backend.residues.schedule import check_queries, schedule
from he_inference.layouts.batched import BatchedPlan
from he_inference.nodes import Array
from he_inference.processors import processors
from he_inference.wire import Residues

COEFFICIENTS_A_TASK = 256
"""What a thread takes at a time: eight chunks, whose input lies in the same pages of memory."""


class ResidueEvaluator:
    """The server's half of the batched layout; sees ciphertexts only.

    threads: as many as this process may use processors, unless given.
    """

    def __init__(self, plan: BatchedPlan, *, threads: int | None = None) -> None:
        self._schedule = schedule(plan)
        self._code = encode(self._schedule)
        self._threads = threads or processors()

    def prepare(self) -> None:
        """Compile the kernels now, which takes seconds, and not when the first batch comes."""
        s = self._schedule
        queries = np.empty((s.features, 2, len(s.primes), 0), dtype=np.uint64)
        answers = np.empty((s.outputs, s.components, len(s.primes), 0), dtype=np.uint64)
        self._run(queries, answers, aligned(self._code.workspace), 0, 0, 0)

    def evaluate(self, queries: Residues) -> Residues:
        """One batch.

        queries: uint64 (features, 2, primes, N), c0 and c1 of every feature's ciphertext in the
            NTT domain, residues below their primes.
        Returns uint64 (outputs, components, primes, N): the coefficients of s^0, s^1, …
        Raises `InputError` for another shape or type.
        """
        check_queries(self._schedule, queries)
        s = self._schedule
        answers = np.empty((s.outputs, s.components, len(s.primes), s.degree), dtype=np.uint64)
        tasks = [
            (prime, start)
            for prime in range(len(s.primes))
            for start in range(0, s.degree, COEFFICIENTS_A_TASK)
        ]
        with ThreadPoolExecutor(self._threads) as pool:
            waiting = iter(tasks)
            working = [
                pool.submit(self._work, waiting, queries, answers) for _ in range(self._threads)
            ]
            for thread in working:
                thread.result()
        return answers

    def _work(self, tasks: Iterator[tuple[int, int]], queries: Residues, answers: Residues) -> None:
        """Take tasks, which all threads share, until none is left."""
        workspace = aligned(self._code.workspace)
        for prime, start in tasks:
            stop = start + COEFFICIENTS_A_TASK
            self._run(queries, answers, workspace, prime, start, stop)

    def _run(
        self,
        queries: Residues,
        answers: Residues,
        workspace: Array,
        prime: int,
        start: int,
        stop: int,
    ) -> None:
        code, modulus = self._code, float(self._schedule.primes[prime])
        kernels.run(
            code.steps, code.weights, code.indices, self._schedule.constants, queries, answers,
            workspace, prime, modulus, start, stop, kernels.LANES,
        )  # fmt: skip
