"""A program of the packed layout as tasks on rows, in an order that threads can share.

What a program says is kept; how it is done differs where that is cheaper and not noisier:

- products with weights are summed as they are made, modulo one prime after the other;
- a sum of rotations is divided by the special prime once, not once for each;
- rotations of one ciphertext share its digits (Halevi and Shoup 2018, "hoisting"). They are
  residues nearest to zero, which a rotation maps to such residues: so the digits of the rotated
  ciphertext are its rotated digits, and the result is what rotating first would have given.
  Rotated are the sums, and keys beforehand, the other way: that is one row instead of many.

With `as_seal` nothing of this is done, digits are in [0, p) as SEAL's are, and every ciphertext is
SEAL's, bit for bit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from he_inference.backend.residues import row_tasks as op
from he_inference.backend.residues.key_rows import KeyPlace, KeyRows, weight_rows
from he_inference.backend.residues.task_table import Task, TaskTable, write
from he_inference.fusion import Fusion, Sum, alone
from he_inference.program import Instruction, Program

_NONE = -1


@dataclass(frozen=True, eq=False)
class PackedSchedule:
    """table: whose kept rows are the answer's two, coefficients modulo the first prime.

    digits: at most, of one key switch. steps: rotations by their number in `PLACES`.
    """

    table: TaskTable
    digits: int
    steps: tuple[int, ...]


def schedule(program: Program, *, threads: int = 1, as_seal: bool = False) -> PackedSchedule:
    """The tasks of a program that the checker has passed."""
    return _Scheduler(program, as_seal).finish(threads)


@dataclass(frozen=True)
class _Value:
    """A ciphertext: the first of `level` rows for each of its components.

    deferred: the first component is still to be divided by the special prime, and has a row more.
    """

    level: int
    components: tuple[int, ...]
    deferred: bool = False

    def row(self, component: int, modulus: int) -> int:
        return self.components[component] + modulus


class _Scheduler:
    """Walks the instructions once; rows have numbers of their own until all are known."""

    def __init__(self, program: Program, as_seal: bool) -> None:
        self._program, self._as_seal = program, as_seal
        self._keys = KeyRows(program)
        self._special = len(program.parameters.data_primes)
        self._weights = weight_rows(program)
        self._tasks: list[Task] = []
        self._next_row = 0
        self._blocks: list[tuple[int, int]] = []
        self._values: dict[int, _Value] = {}
        self._spread: dict[int, list[int]] = {}
        self._steps: dict[int, int] = {}
        self._most_digits = 1
        self._fusion = Fusion(program.instructions)
        for index, instruction in enumerate(program.instructions):
            if as_seal or index not in self._fusion.absorbed:
                self._values[index] = self._apply(index, instruction)
        self._answer = self._coefficients(self._values[len(program.instructions) - 1])

    def finish(self, threads: int) -> PackedSchedule:
        table = write(self._tasks, self._blocks, self._answer, threads)
        return PackedSchedule(table, self._most_digits, tuple(self._steps))

    # -------------------------------------------------------------------- instructions

    def _apply(self, index: int, i: Instruction) -> _Value:
        if i.operation == "input":
            return self._input(i.level)
        if i.operation in ("rotate", "add", "multiply_plain"):
            return self._sum(index, alone(i) if self._as_seal else self._fusion.sum(index))
        read = [self._values[source] for source in i.sources]
        match i.operation:
            case "multiply":
                return self._multiply(read[0], read[1])
            case "relinearise":
                return self._relinearise(read[0])
            case "rescale":
                return self._rescale(read[0])
            case "add_plain":
                return self._add_plain(read[0], self._weights[i.vector])
            case _:
                return _Value(i.level, read[0].components)

    def _input(self, level: int) -> _Value:
        value = self._new_value(level, 2)
        for number in range(2 * level):
            component, m = divmod(number, level)
            row = value.row(component, m)
            self._task(op.LOAD, m, (), (row,), {op.TARGET: row, op.KEY: number})
        return value

    def _sum(self, index: int, found: Sum) -> _Value:
        others = [self._values[source] for source in found.others]
        if found.products:
            others.append(self._weigh(found.products))
        if found.rotations:
            deferred = not self._as_seal and index in self._fusion.deferred
            return self._rotate(found.rotations, others, deferred)
        if len(others) == 1:
            return others[0]
        return self._add(others)

    def _weigh(self, products: Sequence[tuple[int, int]]) -> _Value:
        """Σ weights · values."""
        values = [(self._values[source], self._weights[vector]) for source, vector in products]
        level, size = values[0][0].level, len(values[0][0].components)
        result = self._new_value(level, size + size % 2)
        for m in range(level):
            for pair in range(0, size, 2):
                last = min(pair + 1, size - 1)
                terms = tuple((v.row(pair, m), v.row(last, m), w + m) for v, w in values)
                target = result.row(pair, m), result.row(pair + 1, m)
                self._task(
                    op.WEIGH, m, [row for term in terms for row in term[:2]], target,
                    {op.TARGET: target[0], op.SECOND: target[1]}, terms, 2,
                )  # fmt: skip
        return _Value(level, result.components[:size])

    def _add(self, values: Sequence[_Value]) -> _Value:
        level = values[0].level
        result = self._new_value(level, max(len(v.components) for v in values))
        for component in range(len(result.components)):
            for m in range(level):
                self._combine(
                    result.row(component, m), m,
                    [(v.row(component, m), _NONE) for v in values if component < len(v.components)],
                )  # fmt: skip
        return result

    def _combine(self, target: int, m: int, terms: Sequence[tuple[int, int]]) -> None:
        reads = [row for row, _ in terms]
        self._task(op.COMBINE, m, reads, (target,), {op.TARGET: target}, terms)

    def _multiply(self, left: _Value, right: _Value) -> _Value:
        result = self._new_value(left.level, 3)
        for m in range(left.level):
            target = [result.row(component, m) for component in range(3)]
            fields = {
                op.SOURCE: left.row(0, m), op.OTHER: left.row(1, m), op.TARGET: target[0],
                op.SECOND: target[1], op.OWN_ROW: target[2],
            }  # fmt: skip
            pair = [(right.row(component, m),) for component in range(2)]
            reads = [left.row(0, m), left.row(1, m), *(row for (row,) in pair)]
            if left.components == right.components:
                self._task(op.SQUARE, m, reads, target, fields)
            else:
                self._task(op.MULTIPLY, m, reads, target, fields, pair)
        return result

    def _add_plain(self, value: _Value, weights: int) -> _Value:
        result = self._new_value(value.level, 1)
        for m in range(value.level):
            source, target = value.row(0, m), result.row(0, m)
            fields = {op.SOURCE: source, op.TARGET: target, op.KEY: weights + m}
            self._task(op.ADD_WEIGHTS, m, (source,), (target,), fields)
        return _Value(value.level, (result.components[0], *value.components[1:]))

    def _rescale(self, value: _Value) -> _Value:
        level = value.level - 1
        result = self._new_value(level, len(value.components))
        rest = [self._digit(value.row(c, level), level) for c in range(len(value.components))]
        for component, row in enumerate(rest):
            for m in range(level):
                source, target = value.row(component, m), result.row(component, m)
                self._divide(source, row, target, m, by=level)
        return result

    def _coefficients(self, value: _Value) -> list[int]:
        return [self._digit(value.row(c, 0), 0, nearest=False) for c in range(2)]

    # -------------------------------------------------------------------- key switching

    def _relinearise(self, value: _Value) -> _Value:
        sums = self._new_value(value.level + 1, 2)
        digits = self._digits(value.row(2, 0), value.level)
        self._switch(digits, value.row(2, 0), value.level, self._keys.relinearisation, sums)
        terms = [[_terms([(value, _NONE)], c, m) for m in range(value.level)] for c in range(2)]
        return _Value(value.level, tuple(self._divided(sums, c, _NONE, terms[c]) for c in range(2)))

    def _rotate(
        self, rotations: Sequence[tuple[int, int]], others: Sequence[_Value], deferred: bool
    ) -> _Value:
        """Σ rotations + Σ others."""
        values = [self._values[source] for source, _ in rotations]
        level = values[0].level
        sums = self._new_value(level + 1, 2)
        places = [self._steps.setdefault(step, len(self._steps)) for _, step in rotations]
        if self._as_seal:
            values = [self._permuted(v, p) for v, p in zip(values, places, strict=True)]
        alone = len(rotations) == 1
        for number, ((source, step), value) in enumerate(zip(rotations, values, strict=True)):
            after = _NONE if alone else places[number]
            self._switch_value(source, value, step, sums, after, add=number > 0)
        order = places[0] if alone and not self._as_seal else _NONE
        added = [(v, _NONE) for v in others]
        moved = [(v, _NONE if self._as_seal else p) for v, p in zip(values, places, strict=True)]
        second = self._divided(sums, 1, order, [_terms(added, 1, m) for m in range(level)])
        if deferred or any(v.deferred for v, _ in added + moved):
            first = self._gathered(sums, order, added + moved)
            if not deferred:
                first = self._divided(_Value(level + 1, (first,)), 0, _NONE, [()] * level)
        else:
            terms = [_terms(added + moved, 0, m) for m in range(level)]
            first = self._divided(sums, 0, order, terms)
        return _Value(level, (first, second), deferred)

    def _gathered(self, sums: _Value, order: int, terms: Sequence[tuple[_Value, int]]) -> int:
        """The first component, before its division: sums, permuted, and terms, level + 1 rows."""
        level = sums.level - 1
        scaled = [(v if v.deferred else self._scaled(v), place) for v, place in terms]
        first = self._new_rows(level + 1)
        for j, m in enumerate(self._moduli(level)):
            here = [(v.row(0, j), place) for v, place in scaled if v.deferred or j < level]
            self._combine(first + j, m, [(sums.row(0, j), order), *here])
        return first

    def _scaled(self, value: _Value) -> _Value:
        """The first component times the special prime, modulo which nothing is left of it."""
        first = self._new_rows(value.level)
        for m in range(value.level):
            source, target = value.row(0, m), first + m
            self._task(op.SCALE, m, (source,), (target,), {op.SOURCE: source, op.TARGET: target})
        return _Value(value.level, (first, *value.components[1:]))

    def _permuted(self, value: _Value, place: int) -> _Value:
        result = self._new_value(value.level, 2)
        for component in range(2):
            for m in range(value.level):
                self._combine(result.row(component, m), m, [(value.row(component, m), place)])
        return result

    def _switch_value(
        self, source: int, value: _Value, step: int, sums: _Value, after: int, *, add: bool
    ) -> None:
        """sums ← or += the second component times the key of a step, permuted."""
        row, level, key = value.row(1, 0), value.level, self._keys.rotations[step]
        if self._as_seal or not self._fusion.shared(source):
            digits = self._digits(row, level)
            self._switch(digits, row, level, key, sums, after, add=add)
            return
        if source not in self._spread:
            self._spread[source] = self._spread_out(self._digits(row, level), row, level)
        for j, m in enumerate(self._moduli(level)):
            start = self._spread[source][j]
            self._switch_task(
                op.INNER, m, range(start, start + level), key, sums, j, level, after, add,
                {op.SOURCE: start},
            )  # fmt: skip

    def _moduli(self, level: int) -> list[int]:
        return [*range(level), self._special]

    def _digits(self, row: int, level: int) -> int:
        """The first of `level` rows: coefficients of a component modulo each prime."""
        first = self._new_rows(level, together=True)
        for m in range(level):
            self._digit(row + m, m, nearest=not self._as_seal, into=first + m)
        return first

    def _digit(self, row: int, m: int, *, nearest: bool = True, into: int | None = None) -> int:
        target = self._new_rows(1) if into is None else into
        fields = {op.SOURCE: row, op.TARGET: target, op.OPTION: int(not nearest)}
        self._task(op.DIGIT, m, (row,), (target,), fields)
        return target

    def _spread_out(self, digits: int, row: int, level: int) -> list[int]:
        """Digits modulo every prime, in the NTT domain: for each, the first of `level` rows."""
        firsts = []
        for m in self._moduli(level):
            first = self._new_rows(level, together=True)
            rows = range(first, first + level)
            fields = {op.TARGET: first, **self._own(digits, row, level, m)}
            self._task(op.SPREAD, m, self._read(digits, row, level, m), rows, fields)
            firsts.append(first)
        return firsts

    def _own(self, digits: int, row: int, level: int, m: int) -> dict[int, int]:
        own = m if m < level else _NONE
        return {
            op.SOURCE: digits, op.COUNT: level, op.OWN: own,
            op.OWN_ROW: row + m if m < level else row,
        }  # fmt: skip

    def _read(self, digits: int, row: int, level: int, m: int) -> list[int]:
        return [*range(digits, digits + level), row + m if m < level else row]

    def _switch(
        self, digits: int, row: int, level: int, key: KeyPlace, sums: _Value,
        after: int = _NONE, *, add: bool = False,
    ) -> None:  # fmt: skip
        for j, m in enumerate(self._moduli(level)):
            self._switch_task(
                op.SWITCH, m, self._read(digits, row, level, m), key, sums, j, level, after, add,
                self._own(digits, row, level, m),
            )  # fmt: skip

    def _switch_task(
        self, operation: int, m: int, reads: Iterable[int], key: KeyPlace, sums: _Value, j: int,
        level: int, after: int, add: bool, fields: dict[int, int],
    ) -> None:  # fmt: skip
        self._most_digits = max(self._most_digits, level)
        targets = sums.row(0, j), sums.row(1, j)
        at = key.first + (j if m < self._special else key.level)
        fields = fields | {
            op.COUNT: level, op.TARGET: targets[0], op.SECOND: targets[1], op.KEY: at,
            op.APART: key.level + 1, op.PLACES: after, op.OPTION: int(add),
        }  # fmt: skip
        self._task(operation, m, [*reads, *(targets if add else ())], targets, fields)

    def _divided(
        self, sums: _Value, component: int, place: int, terms: Sequence[Sequence[tuple[int, int]]]
    ) -> int:
        """Divide a component by the special prime, permute, add terms by modulus: its rows."""
        level = sums.level - 1
        first, rest = self._new_rows(level), self._digit(sums.row(component, level), self._special)
        for m in range(level):
            self._divide(sums.row(component, m), rest, first + m, m, self._special, place, terms[m])
        return first

    def _divide(
        self, source: int, rest: int, target: int, m: int, by: int, place: int = _NONE,
        terms: Sequence[tuple[int, int]] = (),
    ) -> None:  # fmt: skip
        fields = {
            op.SOURCE: source, op.OTHER: rest, op.TARGET: target, op.PLACES: place, op.OPTION: by,
        }  # fmt: skip
        reads = [source, rest, *(row for row, _ in terms)]
        self._task(op.DIVIDE, m, reads, (target,), fields, terms)

    # -------------------------------------------------------------------- rows and tasks

    def _new_rows(self, count: int, *, together: bool = False) -> int:
        """The first one's number; together: one after the other in memory, too."""
        first = self._next_row
        self._blocks += [(first, count)] if together else [(first + i, 1) for i in range(count)]
        self._next_row += count
        return first

    def _new_value(self, level: int, size: int) -> _Value:
        return _Value(level, tuple(self._new_rows(level) for _ in range(size)))

    def _task(
        self,
        operation: int,
        m: int,
        reads: Iterable[int],
        writes: Iterable[int],
        fields: dict[int, int],
        terms: Sequence[tuple[int, ...]] = (),
        rows_of_term: int = 1,
    ) -> None:
        fields = {op.OPERATION: operation, op.PRIME: m, **fields}
        self._tasks.append(Task(fields, tuple(reads), tuple(writes), tuple(terms), rows_of_term))


def _terms(values: Sequence[tuple[_Value, int]], c: int, m: int) -> list[tuple[int, int]]:
    """A row of every value that has the component, and the permutation that goes with it."""
    return [(v.row(c, m), place) for v, place in values if c < len(v.components)]
