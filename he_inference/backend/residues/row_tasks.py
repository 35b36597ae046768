"""Tasks on rows of residues as one compiled loop, which any number of threads enter side by side.

A task reads and writes whole rows modulo one prime, and names the tasks that must be done before.
Threads take tasks in the order that was planned for each, so that a row stays in the cache of who
works on it, and wait for those before. That takes microseconds, so a thread looks again and again;
after a while it does what another is late with, and lets others have the processor in between: they
may be more than there are processors.

Rows lie in a workspace, keys and weights in arrays of their own; `PackedSchedule` names them by
their numbers there.
"""

import os
from typing import Any

import numpy as np
from numba.core import types

from he_inference.backend.residues.atomics import fetch_and_add, look
from he_inference.backend.residues.kernels import product, reduced
from he_inference.backend.residues.switching import (
    digit,
    divided,
    first_stages,
    multiplied,
    switched,
    values,
)
from he_inference.machine_code import njit

(
    LOAD, DIGIT, SWITCH, SPREAD, INNER, DIVIDE, COMBINE, SCALE, WEIGH, ADD_WEIGHTS, SQUARE,
    MULTIPLY,
) = range(12)  # fmt: skip

(
    OPERATION, PRIME, TARGET, SECOND, SOURCE, OTHER, COUNT, OWN, OWN_ROW, KEY, APART, PLACES,
    LIST, TERMS, OPTION, AFTER,
) = range(16)  # fmt: skip
"""Fields of a task. PLACES: which permutation, −1 for none. LIST, TERMS: where its terms begin, and
how many there are. AFTER: where the tasks before it begin, which end with −1."""
FIELDS = 16
SUMS = 128
"""float64s of workspace that sums over digits take."""
_GIVE_WAY = "SwitchToThread" if os.name == "nt" else "sched_yield"
_give_way: Any = types.ExternalFunction(_GIVE_WAY, types.int32())
_LOOKS = 2000
"""Before a thread does what another is late with, or gives way: some microseconds."""
MARKS = 8
"""int64s of every task: 0 until it is taken; 0 until it is done; and room up to the end of a cache
line, so that threads do not write to one line for tasks of their own."""


@njit(nogil=True)
def _missing(lists, at, done):  # type: ignore[no-untyped-def]
    """The first of a list that is not done, −1 for none; done: the address of task 0's mark."""
    while lists[at] >= 0 and look(done + 8 * MARKS * lists[at]) != 0:
        at += 1
    return lists[at]


@njit(nogil=True)
def _take(tasks, lists, order, at, marks):  # type: ignore[no-untyped-def]
    """The next task of a thread, −1 for none, and where in its order to look for the one after.

    It is the first that nobody took, once those before it are done; if that takes long, one of
    these that nobody took, or of those before them. Whoever takes a task does it at once, so what
    is waited for is being done.
    """
    taken, done, looks = marks.ctypes.data, marks.ctypes.data + 8, 0
    while at < len(order):
        number = order[at]
        if look(taken + 8 * MARKS * number) != 0:
            at += 1
            continue
        missing = _missing(lists, tasks[number, AFTER], done)
        while missing >= 0 and looks > _LOOKS and look(taken + 8 * MARKS * missing) == 0:
            number = missing
            missing = _missing(lists, tasks[number, AFTER], done)
        if missing < 0 and fetch_and_add(taken + 8 * MARKS * number) == 0:
            return number, at
        looks += 1
        if looks > _LOOKS:
            _give_way()
    return -1, at


@njit(nogil=True)
def _combine(target, terms, rows, places, p):  # type: ignore[no-untyped-def]
    """target ← itself + Σ rows, each permuted, reduced. terms: (row, permutation), one by one."""
    inverse = 1.0 / p
    for term in range(0, len(terms), 2):
        row = rows[terms[term]]
        if terms[term + 1] < 0:
            for k in range(len(target)):
                target[k] += row[k]
        else:
            order = places[terms[term + 1]]
            for k in range(len(target)):
                target[k] += row[order[k]]
        if term % 32 == 30:  # after 16 rows, each below p: sums stay below 2^53
            for k in range(len(target)):
                target[k] = reduced(target[k], p, inverse)
    for k in range(len(target)):
        target[k] = reduced(target[k], p, inverse)


@njit(nogil=True)
def _permute(target, row, order):  # type: ignore[no-untyped-def]
    for k in range(len(target)):
        target[k] = row[order[k]]


@njit(nogil=True)
def _add_permuted(target, row, order, p):  # type: ignore[no-untyped-def]
    inverse = 1.0 / p
    for k in range(len(target)):
        target[k] = reduced(target[k] + row[order[k]], p, inverse)


@njit(nogil=True)
def _weigh(first, second, terms, rows, weights, p):  # type: ignore[no-untyped-def]
    """first, second ← Σ weights · rows, reduced; terms: (row, row, row of weights)."""
    inverse, n, piece = 1.0 / p, len(first), 1024
    for start in range(0, n, piece):
        one, two = first[start : start + piece], second[start : start + piece]
        for term in range(0, len(terms), 3):
            a = rows[terms[term], start : start + piece]
            b = rows[terms[term + 1], start : start + piece]
            w = weights[terms[term + 2], start : start + piece]
            if term == 0:
                for k in range(piece):
                    one[k] = product(a[k], w[k], p, inverse)
                    two[k] = product(b[k], w[k], p, inverse)
            else:
                for k in range(piece):
                    one[k] += product(a[k], w[k], p, inverse)
                    two[k] += product(b[k], w[k], p, inverse)
            if term % 96 == 93:  # after 32 products
                for k in range(piece):
                    one[k] = reduced(one[k], p, inverse)
                    two[k] = reduced(two[k], p, inverse)
        for k in range(piece):
            one[k] = reduced(one[k], p, inverse)
            two[k] = reduced(two[k], p, inverse)


@njit(nogil=True)
def _product_of(a0, a1, b0, b1, c0, c1, c2, p):  # type: ignore[no-untyped-def]
    """(a0 + a1·s)·(b0 + b1·s); the operands may be one."""
    inverse = 1.0 / p
    for k in range(len(c0)):
        w, x, y, z = a0[k], a1[k], b0[k], b1[k]
        c0[k] = reduced(product(w, y, p, inverse), p, inverse)
        c1[k] = reduced(product(w, z, p, inverse) + product(x, y, p, inverse), p, inverse)
        c2[k] = reduced(product(x, z, p, inverse), p, inverse)


@njit(nogil=True)
def _square_of(a0, a1, c0, c1, c2, p):  # type: ignore[no-untyped-def]
    inverse = 1.0 / p
    for k in range(len(c0)):
        x, y = a0[k], a1[k]
        c0[k] = reduced(product(x, x, p, inverse), p, inverse)
        c1[k] = reduced(product(2.0 * x, y, p, inverse), p, inverse)
        c2[k] = reduced(product(y, y, p, inverse), p, inverse)


@njit(nogil=True)
def _add_weights(target, row, weights, p):  # type: ignore[no-untyped-def]
    inverse = 1.0 / p
    for k in range(len(target)):
        target[k] = reduced(row[k] + weights[k], p, inverse)


@njit(nogil=True)
def _scale(target, row, factor, p):  # type: ignore[no-untyped-def]
    inverse = 1.0 / p
    for k in range(len(target)):
        target[k] = reduced(product(row[k], factor, p, inverse), p, inverse)


@njit(nogil=True)
def _load(target, words):  # type: ignore[no-untyped-def]
    for k in range(len(target)):
        target[k] = np.float64(np.int64(words[k]))


@njit(nogil=True)
def _spread(task, rows, digits, tables, primes):  # type: ignore[no-untyped-def]
    """Digits of a row of every prime, modulo the task's own, all stages but the last six."""
    m = task[PRIME]
    for i in range(task[COUNT]):
        if i == task[OWN]:
            digits[i][:] = rows[task[OWN_ROW]]
        else:
            first_stages(rows[task[SOURCE] + i], digits[i], tables[m], primes[m], primes[i])


@njit(nogil=True)
def _accumulated(task, first, second, rows, places, p):  # type: ignore[no-untyped-def]
    """Write sums over digits where they belong: permuted, and added to others if so asked."""
    one, two, order = rows[task[TARGET]], rows[task[SECOND]], places[task[PLACES]]
    if task[OPTION]:
        _add_permuted(one, first, order, p)
        _add_permuted(two, second, order, p)
    else:
        _permute(one, first, order)
        _permute(two, second, order)


@njit(nogil=True)
def _switch(task, rows, scratch, keys, places, tables, primes):  # type: ignore[no-untyped-def]
    """Σ digits · key modulo one prime: digits are transformed here, or were by SPREAD."""
    count, m, n = task[COUNT], task[PRIME], rows.shape[1]
    sums = scratch[0][:SUMS]
    key, apart = keys[task[KEY]].ctypes.data, 8 * n * task[APART]
    first, second = scratch[1], scratch[2]
    if task[PLACES] < 0:
        first, second = rows[task[TARGET]], rows[task[SECOND]]
    if task[OPERATION] == INNER:
        start = task[SOURCE]
        multiplied(rows[start : start + count], key, apart, sums, first, second, primes[m])
    else:
        digits = scratch[3 : 3 + count]
        _spread(task, rows, digits, tables, primes)
        switched(digits, task[OWN], key, apart, sums, first, second, tables[m], primes[m])
    if task[PLACES] >= 0:
        _accumulated(task, first, second, rows, places, primes[m])


@njit(nogil=True)
def _divide(task, terms, rows, scratch, places, tables, primes, factors):  # type: ignore[no-untyped-def]
    """(source − other) / prime, permuted, plus terms; other: coefficients modulo that prime."""
    m, by = task[PRIME], task[OPTION]
    first_stages(rows[task[OTHER]], scratch[1], tables[m], primes[m], primes[by])
    source, target, factor = rows[task[SOURCE]], rows[task[TARGET]], factors[by, m : m + 1]
    if task[PLACES] < 0:
        divided(scratch[1], source, target, tables[m], primes[m], factor)
    else:
        divided(scratch[1], source, scratch[2], tables[m], primes[m], factor)
        _permute(target, scratch[2], places[task[PLACES]])
    if len(terms):
        _combine(target, terms, rows, places, primes[m])


@njit(nogil=True, cache=True)
def run(  # type: ignore[no-untyped-def]
    tasks, lists, order, marks, words, rows, scratch, keys, weights, places, tables, inverse_tables,
    primes, factors,
):  # fmt: skip
    """Do what is left of the tasks.

    tasks: int64 (count, FIELDS). lists: int64, what tasks refer to. order: int64, tasks as this
    thread takes them. marks: int64 (count, MARKS), from the start of a cache line; zero at first.
    words: uint64 (rows, N), the query. rows: float64 (rows, N), the workspace of all threads.
    scratch: (3 + digits, N), this thread's. keys, weights: float64 (rows, N), centred. places:
    uint16 (permutations, N). tables, inverse_tables: of `Transform`. primes: float64. factors:
    float64 (primes + 1, primes), row l the inverses of prime l, the last row the special prime
    itself, centred.
    """
    number, at = _take(tasks, lists, order, 0, marks)
    while number >= 0:
        task = tasks[number]
        operation, m = task[OPERATION], task[PRIME]
        p = primes[m]
        terms = lists[task[LIST] : task[LIST] + task[TERMS]]
        if operation in (SWITCH, INNER):
            _switch(task, rows, scratch, keys, places, tables, primes)
        elif operation == DIVIDE:
            _divide(task, terms, rows, scratch, places, tables, primes, factors)
        elif operation == DIGIT:
            source, target = rows[task[SOURCE]], rows[task[TARGET]]
            digit(source, target, inverse_tables[m], p, task[OPTION] == 0)
        elif operation == WEIGH:
            _weigh(rows[task[TARGET]], rows[task[SECOND]], terms, rows, weights, p)
        elif operation == COMBINE:
            rows[task[TARGET]][:] = 0.0
            _combine(rows[task[TARGET]], terms, rows, places, p)
        elif operation == SCALE:
            _scale(rows[task[TARGET]], rows[task[SOURCE]], factors[len(primes), m], p)
        elif operation == SPREAD:
            target = rows[task[TARGET] : task[TARGET] + task[COUNT]]
            _spread(task, rows, target, tables, primes)
            for i in range(task[COUNT]):
                if i != task[OWN]:
                    values(target[i], target[i], tables[m], p)
        elif operation == SQUARE:
            _square_of(
                rows[task[SOURCE]], rows[task[OTHER]], rows[task[TARGET]], rows[task[SECOND]],
                rows[task[OWN_ROW]], p,
            )  # fmt: skip
        elif operation == MULTIPLY:
            _product_of(
                rows[task[SOURCE]], rows[task[OTHER]], rows[terms[0]], rows[terms[1]],
                rows[task[TARGET]], rows[task[SECOND]], rows[task[OWN_ROW]], p,
            )  # fmt: skip
        elif operation == ADD_WEIGHTS:
            _add_weights(rows[task[TARGET]], rows[task[SOURCE]], weights[task[KEY]], p)
        elif operation == LOAD:
            _load(rows[task[TARGET]], words[task[KEY]])
        fetch_and_add(marks[number, 1:].ctypes.data)
        number, at = _take(tasks, lists, order, at, marks)
