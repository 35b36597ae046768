"""One query in the slots of one ciphertext: where tensors sit, and matrices as rotations.

Notation. S slots; a value has period T when slot s and slot s + T hold the same element. A matrix
M is applied as

    y = Fold( Σ_r  p_r ⊙ rotate(x, r) ),        rotate(x, r)[s] = x[s + r]

where every entry M[o, e] sits in exactly one plaintext p_r, at a slot u with u + r a slot of e and
u one of those that Fold sums into a slot of o. `Fold` is rotate-and-add by doubling steps. Two
families of placements, both after Gazelle (Juvekar et al. 2018) and LoLa (Brutzkus et al. 2019):

- *diagonals*: outputs repeat with period B; r runs over (slot of e − slot of o) mod min(B, T);
  folding by B, 2B, … T/2 makes the sum valid in every slot.
- *stacked rows*: output o owns the block [oB, oB + B); r runs over multiples of B; folding by
  1, 2, … B/2 leaves the sum at slot oB and leftovers elsewhere.

Rotations are split r = giant + baby, so that √ of them suffice (Halevi and Shoup 2014).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from he_inference.affine import AffineStage, Matrix, Source
from he_inference.errors import CompileError
from he_inference.nodes import Array, Shape

Slots = npt.NDArray[np.int64]

ROTATION_COST = (0.0, 0.6, 1.2, 2.0, 3.0, 4.1, 5.5, 7.0, 8.7, 10.6, 12.7)
"""Relative cost of a rotation with so many primes left; grows a little slower than squared."""
PRODUCT_SHARE = 0.08
"""A product with a plaintext, relative to a rotation at the same level."""
BEAM = 6


@dataclass(frozen=True, eq=False)
class Layout:
    """Element e is in slots positions[e] + k·period, for every k."""

    positions: Slots
    period: int
    image: tuple[Shape, tuple[int, int, int]] | None = None
    """Shape (channels, height, width) and slot strides, where the layout is a regular grid."""


@dataclass(frozen=True, eq=False)
class InputLayout:
    """How a client arranges a query: slot s holds flat element gather[s], or zero for −1."""

    gather: Slots


@dataclass(frozen=True, eq=False)
class Product:
    """p ⊙ rotate(x, giant + baby), with `vector` as it is multiplied before the giant rotation."""

    giant: int
    baby: int
    vector: Array


@dataclass(frozen=True, eq=False)
class PackedStage:
    """An affine stage in slots: products per source, folds, offset; and the layout it yields."""

    products: dict[Source, tuple[Product, ...]]
    folds: tuple[int, ...]
    offset: Array
    layout: Layout

    @cached_property
    def largest_weights(self) -> dict[Source, float]:
        """Largest absolute weight of every source's products."""
        return {
            source: max(float(np.abs(p.vector).max()) for p in products)
            for source, products in self.products.items()
        }


@dataclass(frozen=True, eq=False)
class PackedPlan:
    """A whole network in slots."""

    slots: int
    input: InputLayout
    stages: tuple[PackedStage, ...]


@dataclass(frozen=True, eq=False)
class _Rotation:
    """The entries of one source's matrix, each at its rotation and slot; babies are r mod step."""

    rotation: Slots
    slot: Slots
    weight: Array
    step: int


@dataclass(frozen=True, eq=False)
class _Placement:
    """A way to apply one stage, before its vectors are made.

    width: the vectors repeat with this period. cost: in rotations at the stage's level.
    """

    target: Layout
    width: int
    folds: tuple[int, ...]
    sources: dict[Source, _Rotation]
    cost: float


@dataclass(frozen=True, eq=False)
class _Partial:
    """A plan up to some stage: an element of the beam.

    first: the first stage's matrices, over what the client arranged.
    hint: slots for the first stage's outputs that suit this arrangement, or None.
    layouts: of the query and of every placed stage.
    """

    input: InputLayout
    first: Mapping[Source, Matrix]
    hint: Slots | None
    layouts: tuple[Layout, ...]
    placements: tuple[_Placement, ...] = ()
    cost: float = 0.0


def pack(stages: list[AffineStage], slots: int) -> PackedPlan:
    """Place every tensor and split every matrix, by a beam search over estimated cost.

    Raises `CompileError` where a tensor has more elements than there are slots.
    """
    for number, stage in enumerate(stages, 1):
        if stage.size > slots:
            raise CompileError(
                f"layer {number} has {stage.size} values, more than the {slots} slots of one "
                "ciphertext: use a larger stride or fewer channels"
            )
    beam = list(_starts(stages[0], slots))
    if not beam:
        raise CompileError(
            f"a query has {stages[0].terms[0, 1].shape[1]} values, more than the {slots} slots of "
            "one ciphertext"
        )
    for number, stage in enumerate(stages):
        weight = ROTATION_COST[min(len(stages) - number, len(ROTATION_COST) - 1)]
        grown = [
            replace(
                partial,
                placements=(*partial.placements, placement),
                layouts=(*partial.layouts, placement.target),
                cost=partial.cost + weight * placement.cost,
            )
            for partial in beam
            for placement in _placements(partial, stage, slots)
        ]
        beam = sorted(grown, key=lambda partial: partial.cost)[:BEAM]
    best = beam[0]
    packed = [_packed(stage, p, slots) for stage, p in zip(stages, best.placements, strict=True)]
    return PackedPlan(slots, best.input, tuple(packed))


def _starts(first: AffineStage, slots: int) -> Iterator[_Partial]:
    """Ways in which the client may arrange a query: as it is, or unrolled for the first stage."""
    matrix = first.terms[0, 1]
    size = matrix.shape[1]
    if size <= slots:
        period = ceil_power(size)
        gather = np.full(period, -1, dtype=np.int64)
        gather[:size] = np.arange(size)
        layout = Layout(np.arange(size), period)
        yield _Partial(InputLayout(np.tile(gather, slots // period)), first.terms, None, (layout,))
    if set(first.terms) == {(0, 1)}:
        yield from _unrolled(matrix, slots)


def _unrolled(matrix: Matrix, slots: int) -> Iterator[_Partial]:
    """im2col for any matrix whose rows share supports: slot (k, p) holds entry k of support p.

    Rows with one support are the maps of one position of a convolution. Each map is then a plain
    weighted sum over k, and the rotations needed are by whole columns of positions only.
    """
    supports, position_of, map_of = _supports(matrix)
    taps = ceil_power(max(map(len, supports)))
    positions = ceil_power(len(supports))
    period = taps * positions
    if len(supports) == matrix.shape[0] or period > slots:
        return
    gather = np.full(period, -1, dtype=np.int64)
    for p, support in enumerate(supports):
        gather[np.arange(len(support)) * positions + p] = support
    lengths = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(matrix.shape[0]), lengths)
    rank = np.concatenate([np.arange(n) for n in lengths])
    columns = rank * positions + position_of[rows]
    shape = (matrix.shape[0], period)
    unrolled = sp.csr_array(sp.coo_array((matrix.data, (rows, columns)), shape=shape))
    yield _Partial(
        InputLayout(np.tile(gather, slots // period)),
        {(0, 1): unrolled},
        map_of * positions + position_of,
        (Layout(np.arange(period), period),),
    )


def _supports(matrix: Matrix) -> tuple[list[Slots], Slots, Slots]:
    """Distinct row supports, and for each row its support's number and its rank within it."""
    matrix.sort_indices()
    numbers: dict[bytes, int] = {}
    supports: list[Slots] = []
    counts: list[int] = []
    position_of = np.zeros(matrix.shape[0], dtype=np.int64)
    map_of = np.zeros(matrix.shape[0], dtype=np.int64)
    for row in range(matrix.shape[0]):
        support = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]].astype(np.int64)
        number = numbers.setdefault(support.tobytes(), len(supports))
        if number == len(supports):
            supports.append(support)
            counts.append(0)
        position_of[row], map_of[row] = number, counts[number]
        counts[number] += 1
    return supports, position_of, map_of


def _placements(partial: _Partial, stage: AffineStage, slots: int) -> Iterator[_Placement]:
    """Every way worth considering to apply the next stage."""
    terms = stage.terms if partial.placements else partial.first
    layouts = {source: partial.layouts[source[0]] for source in terms}
    width = max(layout.period for layout in layouts.values())
    for positions in _targets(partial, stage, layouts, slots):
        period = ceil_power(int(positions.max()) + 1)
        while period <= max(width, ceil_power(int(positions.max()) + 1)):
            yield _diagonals(terms, layouts, Layout(positions, period), width)
            period *= 2
    if ceil_power(stage.size) > 1:
        yield _stacked_rows(terms, layouts, stage.size, width, slots)


def _targets(
    partial: _Partial, stage: AffineStage, layouts: dict[Source, Layout], slots: int
) -> Iterator[Slots]:
    """Slots for the outputs of a stage: in order, as hinted, or on the grid that they come from."""
    yield np.arange(stage.size)
    hint = partial.hint if not partial.placements else None
    if hint is not None and hint.max() < slots:
        yield hint
    for layout in layouts.values():
        if layout.image is None or len(stage.shape) != 3:
            continue
        (_, height, width), (sc, sy, sx) = layout.image
        fy, fx = max(1, round(height / stage.shape[1])), max(1, round(width / stage.shape[2]))
        grid = grid_slots(stage.shape, (sc, sy * fy, sx * fx))
        if grid.max() < slots and len(np.unique(grid)) == len(grid):
            yield grid


def grid_slots(shape: Shape, strides: tuple[int, int, int]) -> Slots:
    """Slot of every element of (channels, height, width), flattened, on a regular grid."""
    axes = (np.arange(n) * stride for n, stride in zip(shape, strides, strict=True))
    c, y, x = np.meshgrid(*axes, indexing="ij")
    return np.asarray((c + y + x).ravel(), dtype=np.int64)


def _diagonals(
    terms: Mapping[Source, Matrix], layouts: dict[Source, Layout], target: Layout, width: int
) -> _Placement:
    sources = {}
    for source, matrix in terms.items():
        entries, layout = matrix.tocoo(), layouts[source]
        slot, to = layout.positions[entries.coords[1]], target.positions[entries.coords[0]]
        modulus = min(target.period, layout.period)
        rotation = _contiguous((slot - to) % modulus, modulus)
        at = (slot - rotation) % layout.period if target.period <= layout.period else to
        sources[source] = _split(rotation, at, entries.data)
    folds = tuple(_doublings(target.period, width))
    return _placement(target, max(target.period, width), folds, sources)


def _stacked_rows(
    terms: Mapping[Source, Matrix],
    layouts: dict[Source, Layout],
    size: int,
    width: int,
    slots: int,
) -> _Placement:
    block = slots // ceil_power(size)
    spare = int(size < ceil_power(size))  # leave slot 0 free: it is key switching's noisiest
    summed = min(block, width)
    sources = {}
    for source, matrix in terms.items():
        entries, layout = matrix.tocoo(), layouts[source]
        slot, start = layout.positions[entries.coords[1]], (entries.coords[0] + spare) * block
        inside = slot % summed
        rotation = (slot - inside - start) % max(layout.period, summed) if block <= width else 0
        sources[source] = _split(rotation + 0 * slot, start + inside, entries.data)
    target = Layout((np.arange(size) + spare) * block, slots)
    return _placement(target, slots, tuple(_doublings(1, summed)), sources)


def _placement(
    target: Layout, width: int, folds: tuple[int, ...], sources: dict[Source, _Rotation]
) -> _Placement:
    cost = float(len(folds))
    for source in sources.values():
        cost += _split_cost(np.unique(source.rotation), source.step)
    return _Placement(target, width, folds, sources, cost)


def _contiguous(rotation: Slots, modulus: int) -> Slots:
    """Representatives modulo `modulus` that lie close together and include or neighbour zero."""
    present = np.unique(rotation)
    gaps = np.diff(np.append(present, present[0] + modulus))
    widest = int(np.argmax(gaps))
    start = present[(widest + 1) % len(present)]
    lifted = np.where(rotation < start, rotation + modulus, rotation)
    return lifted - modulus if start > modulus // 2 else lifted


def _split(rotation: Slots, slot: Slots, weight: Array) -> _Rotation:
    """Choose the baby-step range that leaves the fewest rotations."""
    present = np.unique(rotation)
    unit = gcd(*(int(r) for r in present)) or 1
    count = int(present[-1] - present[0]) // unit + 1
    steps = [unit * babies for babies in range(1, min(count, 2 * int(count**0.5) + 2) + 1)]
    step = min(steps, key=lambda step: _split_cost(present, step))
    return _Rotation(rotation, slot, weight, step)


def _split_cost(present: Slots, step: int) -> float:
    babies, giants = np.unique(present % step), np.unique(present - present % step)
    rotations = np.count_nonzero(giants) + 1.05 * np.count_nonzero(babies)
    return float(rotations + PRODUCT_SHARE * len(present))


def _doublings(start: int, stop: int) -> Iterator[int]:
    while start < stop:
        yield start
        start *= 2


def _packed(stage: AffineStage, placement: _Placement, slots: int) -> PackedStage:
    """Make the vectors of a chosen placement."""
    offset = np.zeros(slots)
    target = placement.target
    for start in range(0, slots, target.period):
        offset[start + target.positions] = stage.offset
    products = {
        source: tuple(_products(rotation, placement.width, slots))
        for source, rotation in placement.sources.items()
    }
    strides = _grid(stage.shape, target.positions)
    image = (stage.shape, strides) if strides else None
    return PackedStage(products, placement.folds, offset, replace(target, image=image))


def _products(rotation: _Rotation, width: int, slots: int) -> Iterator[Product]:
    for r in np.unique(rotation.rotation):
        chosen = rotation.rotation == r
        vector = np.zeros(width)
        np.add.at(vector, rotation.slot[chosen], rotation.weight[chosen])
        baby = int(r % rotation.step)
        giant = int(r) - baby
        if vector.any():
            yield Product(giant, baby, np.roll(np.tile(vector, slots // width), giant))


def _grid(shape: Shape, positions: Slots) -> tuple[int, int, int] | None:
    """The strides by which positions form a regular grid, if they do."""
    if len(shape) != 3:
        return None
    cube = positions.reshape(shape)
    sc, sy, sx = (
        int(np.diff(np.moveaxis(cube, axis, 0)[:2, 0, 0])[0]) if shape[axis] > 1 else 0
        for axis in range(3)
    )
    return (sc, sy, sx) if np.array_equal(grid_slots(shape, (sc, sy, sx)), positions) else None


def ceil_power(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()
