"""One query at a time, on residues: the server's half of the packed layout.

No SEAL and no secret: a program, evaluation keys, and a query that `wire` has checked.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from he_inference.backend import seeds
from he_inference.backend.clear import plain_scale
from he_inference.backend.residues import row_tasks
from he_inference.backend.residues.key_rows import KeyRows, weight_rows
from he_inference.backend.residues.memory import aligned
from he_inference.backend.residues.packed_schedule import schedule
from he_inference.backend.residues.switching import MAX_DIGITS, Floats, Places
from he_inference.backend.residues.task_table import Integers
from he_inference.backend.residues.transforms import Transform
from he_inference.backend.residues.weights import centred, encode
from he_inference.checker import MAX_REGISTER_BYTES
from he_inference.cost import key_primes
from he_inference.errors import CompileError
from he_inference.noise import GENERATOR
from he_inference.parameters import EXACT_PRIME_BITS
from he_inference.program import Program
from he_inference.wire import Residues, Seeded, SwitchingKey


class PackedEvaluator:
    """Runs a program on ciphertexts. Weights are encoded once, at the level they are used at.

    Guarantee: with `as_seal` an answer is bit for bit what `backend.seal.Evaluator` makes of the
    same query, keys and encoded weights, for tests. Without, it has at most the noise that
    `NoiseModel` expects: digits are centred, sums of rotations are rounded once.
    """

    def __init__(self, program: Program, *, threads: int = 1, as_seal: bool = False) -> None:
        """threads: that share one query. Raises `CompileError` for primes that are too large or
        too many for exact sums."""
        parameters = program.parameters
        self._program, self._as_seal = program, as_seal
        self._primes = np.array(parameters.primes, np.float64)
        _check_exact(parameters.primes)
        self._transform = Transform(parameters.ring_degree, parameters.primes)
        made = schedule(program, threads=threads, as_seal=as_seal)
        self._table = made.table
        self._factors = _factors(parameters.primes)
        self._places = _places(made.steps, parameters.ring_degree)
        self._weights = self._encoded()
        _check_memory(self._table.rows + threads * (3 + made.digits), parameters.ring_degree)
        self._rows = aligned(self._table.rows, parameters.ring_degree)
        self._scratch = [aligned(3 + made.digits, parameters.ring_degree) for _ in range(threads)]
        self._orders = [self._table.order(thread) for thread in range(threads)]
        self._lock, self._pool = Lock(), ThreadPoolExecutor(threads)

    def prepare(self) -> None:
        """Compile the kernels now, which takes seconds, and not when the first query comes."""
        degree, top = self._transform.degree, len(self._program.parameters.data_primes)
        self._run(np.zeros((0, degree)), np.zeros((2 * top, degree), np.uint64), tasks=0)

    def keys(self, keys: Sequence[SwitchingKey]) -> Floats:
        """Evaluation keys in the order of `KeyPlan.levels` → (rows, N) as `KeyRows` has it.

        Keys of rotations are rotated, the other way, so that what is multiplied by them need not
        be.
        """
        parameters, plan = self._program.parameters, self._program.signature.keys
        places, degree = KeyRows(self._program), parameters.ring_degree
        rows = aligned(places.count, degree)
        steps = [0] * bool(plan.relinearisation) + [step for step, _ in plan.rotations]
        for step, key, place in zip(steps, keys, places.places, strict=True):
            order = None if self._as_seal or not step else permutation(step, degree)
            primes = key_primes(parameters, place.level)
            target = rows[place.first : place.first + place.rows]
            for i, digit in enumerate(key):
                drawn = np.empty_like(digit.residues)
                seeds.expand(digit.seed, primes, drawn)
                for b, part in enumerate((digit.residues, drawn)):
                    first = (2 * i + b) * len(primes)
                    for row, residues, prime in zip(target[first:], part, primes, strict=False):
                        row[slice(None) if order is None else order] = centred(residues, prime)
        return rows

    def evaluate(self, keys: Floats, query: Seeded) -> Residues:
        """A fresh query → (2, N) coefficients of the answer modulo the first prime."""
        primes = self._program.parameters.data_primes
        words = np.empty((2, *query.residues.shape), np.uint64)
        words[0] = query.residues
        seeds.expand(query.seed, primes, words[1])
        with self._lock:
            self._run(keys, words.reshape(-1, query.residues.shape[-1]))
            return self._rows[list(self._table.kept)].astype(np.uint64)

    def _run(self, keys: Floats, words: Residues, tasks: int | None = None) -> None:
        table = self._table
        marks = aligned(len(table.tasks), row_tasks.MARKS).view(np.int64)
        marks[:] = 0
        rows, scratches = self._rows, self._scratch

        def work(scratch: Floats, order: Integers) -> None:
            row_tasks.run(
                table.tasks, table.lists, order[:tasks], marks, words, rows, scratch, keys,
                self._weights, self._places, self._transform.tables,
                self._transform.inverse_tables, self._primes, self._factors,
            )  # fmt: skip

        try:
            (mine, *others) = zip(scratches, self._orders, strict=True)
            running = [self._pool.submit(work, *other) for other in others]
            work(*mine)
            for other in running:
                other.result()
        except BaseException:  # other threads may still write there
            self._rows = aligned(*rows.shape)
            self._scratch = [aligned(*scratch.shape) for scratch in scratches]
            raise

    def _encoded(self) -> Floats:
        firsts = weight_rows(self._program)
        used = [i for i in self._program.instructions if i.vector >= 0]
        rows = aligned(max(1, sum(i.level for i in used)), self._transform.degree)
        for i in used:
            first = firsts[i.vector]
            vector, scale = self._program.vectors[i.vector], plain_scale(self._program, i)
            rows[first : first + i.level] = encode(vector, scale, i.level, self._transform)
        return rows


def _check_memory(rows: int, degree: int) -> None:
    if 8 * rows * degree > MAX_REGISTER_BYTES:
        raise CompileError(
            f"the program would take {8 * rows * degree >> 20} MiB to evaluate, at most "
            f"{MAX_REGISTER_BYTES >> 20}: compile it again, or evaluate with backend='seal'"
        )


def _check_exact(primes: Sequence[int]) -> None:
    bits = max(prime.bit_length() for prime in primes)
    if bits > EXACT_PRIME_BITS or len(primes) > MAX_DIGITS:
        raise CompileError(
            f"{len(primes)} primes of up to {bits} bits: arithmetic is exact up to {MAX_DIGITS} of "
            f"{EXACT_PRIME_BITS} bits; compile the program again, or evaluate with backend='seal'"
        )


def _factors(primes: Sequence[int]) -> Floats:
    """Row l, column k: the inverse of prime l modulo prime k, 0 where they are one; then a row of
    the last prime modulo each. All centred."""
    rows = [[0 if p == q else pow(q, -1, p) for p in primes] for q in primes]
    rows.append([primes[-1] % p for p in primes])
    return np.array(
        [[x - p if x > p // 2 else x for x, p in zip(row, primes, strict=True)] for row in rows],
        np.float64,
    )


def permutation(step: int, degree: int) -> Places:
    """π with σ(x)[k] = x[π(k)] in the NTT domain, for the σ that rotates slots left by a step.

    Value k is that at ψ^(2·rev(k) + 1), and σ takes X to X^g with g = 3^step.
    """
    order = np.zeros(1, np.int64)
    while len(order) < degree:
        order = np.concatenate([2 * order, 2 * order + 1])
    element = pow(GENERATOR, step % (degree // 2), 2 * degree)
    exponents = (2 * order + 1) * element % (2 * degree)
    found = order[(exponents - 1) // 2]  # reversing bits twice is nothing
    return np.asarray(found, dtype=np.uint16)


def _places(steps: Sequence[int], degree: int) -> Places:
    if not steps:
        return np.zeros((1, degree), np.uint16)
    return np.stack([permutation(step, degree) for step in steps])
