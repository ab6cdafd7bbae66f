"""The shapes of packed rows: a few for a run, chosen from its steps, and those that a step uses.

The trees of a step are spread evenly over few rows, and a program is compiled for every shape of
row, so two things are decided here. `plan_shapes` spreads the trees of each step of a run over as
few rows as hold them, and merges the sizes of those rows into a few shapes. `share_out` assigns the
trees of a step to the cheapest set of rows of these shapes that holds them.

Everything depends only on the sizes and the order of the trees.
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from interact_jax.data.forest import sizes_of
from interact_jax.data.tree import Size, Tree, split_units

MULTIPLE = 32  # capacities are rounded up to this
BLOCK = 128  # trunks to this, a block of attention, where rows have at least BLOCKS of them
BLOCKS = 4
HEADROOM = 1.5  # for branches and replies in `full_row`, over the average of a full trunk
PLANNED = 3  # shapes made to measure; with `full_row`, for what does not fit them, 4 in all
REPLY_COST = 0.25  # of an entry of R relative to a slot of T, P or Q: the head against the layers
SLACKS = (1, 1.02, 1.04, 1.07, 1.1, 1.15, 1.2, 1.3, 1.5, 1e9)  # room of rows beyond the mean
EXCHANGES = 64  # of trees between rows, at most
PARTNERS = 8  # emptiest rows that take part in an exchange
ATTEMPTS = 24  # sets of rows that are tried before trees go to full rows
DEARER = 0.001  # set n is dearer than the one tried before by at least n times this share


def full_row(trees: Sequence[Tree], row_tokens: int) -> Size:
    """The largest row for these trees: a trunk of `row_tokens`, and room for what comes with it.

    The trunk is longer where one tree is longer than `row_tokens`, and never longer than all trees
    together. A tree with more branches than fit is split (`tree.split`); each interaction fits.
    """
    sizes_Nx5 = sizes_of(trees)
    total, longest = sizes_Nx5.sum(axis=0).tolist(), int(sizes_Nx5[:, 0].max())
    trunk = max(min(row_tokens, total[0]), longest)
    room = [int(HEADROOM * trunk * size / total[0]) for size in total]
    full = round_up((trunk, *room[1:]), row_tokens)
    # By themselves, since a branch that forked from the path of another one may be longer after a
    # split.
    crowded = [trees[n] for n in np.flatnonzero(~fits(sizes_Nx5, full)).tolist()]
    units = [part.size.counts() for tree in crowded for part in split_units(tree)]
    return round_up(np.max([full.counts(), *units], axis=0), row_tokens)


def fits(sizes_Nx5: np.ndarray, capacity: Size) -> np.ndarray:
    """Whether each of these sizes [N] is within capacity."""
    return np.all(sizes_Nx5 <= np.array(capacity.counts()), axis=1)


def round_up(needs: Iterable[int], row_tokens: int) -> Size:
    """Capacity for `needs` (T, P, Q, R, J), rounded up so that small changes of data keep it."""
    block = BLOCK if row_tokens >= BLOCKS * BLOCK else MULTIPLE
    units = (block, *[MULTIPLE] * 4)
    return Size(*(-(-int(n) // unit) * unit for n, unit in zip(needs, units, strict=True)))


def cost(shape: Size) -> float:
    """The cost of a row of this shape, in token slots."""
    return shape.T + shape.P + shape.Q + REPLY_COST * shape.R


# ------------------------------------------------------------------------------ trees over rows


def spread(sizes_Nx5: np.ndarray, capacity_Bx5: np.ndarray) -> np.ndarray | None:
    """The row [N] of every tree such that no array overflows, as even as possible; None if none is
    found."""
    # A column for each row: numpy finds the largest of five numbers faster so.
    capacity_5xB, size_5xN = np.ascontiguousarray(capacity_Bx5.T), sizes_Nx5.T
    room_5xB = np.maximum(capacity_5xB, 1e-9)
    used_5xB, after_5xB = np.zeros(room_5xB.shape), np.empty(room_5xB.shape)
    row_N = np.zeros(len(sizes_Nx5), np.int64)
    for i in _largest_first(sizes_Nx5, room_5xB).tolist():
        # To the row that is least full afterwards, by its fullest array.
        size_5x1 = size_5xN[:, i : i + 1]
        np.divide(np.add(used_5xB, size_5x1, out=after_5xB), room_5xB, out=after_5xB)
        row_N[i] = row = int(np.maximum.reduce(after_5xB).argmin())
        used_5xB[:, row : row + 1] += size_5x1
    for _ in range(EXCHANGES):
        if (used_5xB <= capacity_5xB).all():
            return row_N
        if not _exchange(row_N, used_5xB, room_5xB, size_5xN):
            break
    return _first_fit(sizes_Nx5, capacity_Bx5)  # uneven, but it can fill rows completely


def _largest_first(sizes_Nx5: np.ndarray, room_5xB: np.ndarray) -> np.ndarray:
    return np.argsort(-(sizes_Nx5 / room_5xB.max(axis=1)).max(axis=1), kind="stable")


def _first_fit(sizes_Nx5: np.ndarray, capacity_Bx5: np.ndarray) -> np.ndarray | None:
    """The first row with room for every tree, the largest tree first; None if there is none."""
    left_5xB, size_5xN = capacity_Bx5.T.copy(), sizes_Nx5.T
    row_N = np.zeros(len(sizes_Nx5), np.int64)
    for i in _largest_first(sizes_Nx5, np.maximum(left_5xB, 1e-9)).tolist():
        size_5x1 = size_5xN[:, i : i + 1]
        fits_B = np.logical_and.reduce(size_5x1 <= left_5xB)
        row_N[i] = row = int(fits_B.argmax())
        if not fits_B[row]:
            return None
        left_5xB[:, row : row + 1] -= size_5x1
    return row_N


def _exchange(
    row_N: np.ndarray, used_5xB: np.ndarray, room_5xB: np.ndarray, size_5xN: np.ndarray
) -> bool:
    """Move or exchange the tree of the fullest row that helps most; False if nothing helps."""
    fill_B = np.maximum.reduce(used_5xB / room_5xB)
    full = int(fill_B.argmax())
    partners = fill_B.argsort(kind="stable")[:PARTNERS]
    partners = partners[partners != full]
    is_partner_B = np.zeros(len(fill_B), bool)
    is_partner_B[partners] = True
    mine, others = (row_N == full).nonzero()[0], is_partner_B[row_N].nonzero()[0]
    # For a tree of a partner, or for nothing.
    to_K = np.concatenate([row_N[others], partners])
    back_5xK = np.zeros((5, len(to_K)), size_5xN.dtype)
    back_5xK[:, : len(others)] = size_5xN[:, others]
    moved = size_5xN[:, mine, None] - back_5xK[:, None]
    own_fill = (used_5xB[:, full, None, None] - moved) / room_5xB[:, full, None, None]
    partner_fill = (used_5xB[:, None, to_K] + moved) / room_5xB[:, None, to_K]
    after = np.maximum.reduce(np.maximum(own_fill, partner_fill))
    if not after.size or after.min() >= fill_B[full]:
        return False
    i, k = divmod(int(after.argmin()), len(to_K))
    used_5xB[:, full] -= moved[:, i, k]
    used_5xB[:, to_K[k]] += moved[:, i, k]
    row_N[mine[i]] = to_K[k]
    if k < len(others):
        row_N[others[k]] = full
    return True


# ------------------------------------------------------------------------------------ the plan


def plan_shapes(
    steps: Iterable[np.ndarray], full: Size, row_tokens: int, height: int
) -> tuple[Size, ...]:
    """At most PLANNED shapes for steps with trees of these sizes [N, 5], large ones first; `height`
    rows a micro-batch."""
    needs: collections.Counter[Size] = collections.Counter()  # of how many micro-batches
    for sizes_Nx5 in steps:
        needs.update(_even_rows(sizes_Nx5, full, row_tokens, height))
    shapes = np.array([shape.counts() for shape in needs], np.int64).reshape(-1, 5)
    weight = np.array(list(needs.values()), np.float64)
    while len(shapes) > PLANNED:
        a, b = _cheapest_merge(shapes, weight)
        shapes[a] = np.maximum(shapes[a], shapes[b])
        weight[a] += weight[b]
        shapes, weight = np.delete(shapes, b, axis=0), np.delete(weight, b)
    sizes = {Size(*(int(n) for n in shape)) for shape in shapes}
    return tuple(sorted(sizes, key=lambda shape: (-cost(shape), shape.counts())))


def _even_rows(
    sizes_Nx5: np.ndarray, full: Size, row_tokens: int, height: int
) -> collections.Counter[Size]:
    """The smallest number of micro-batches of even rows for these trees: {shape: how many}.

    Where few trees have live branches, these go into a few micro-batches if that is cheaper.
    """
    total, most = sizes_Nx5.sum(axis=0), np.array(full.counts())
    few = -(-int(total[1]) // max(1, int(most[1]) * height))  # 0 if there are none
    count = _least_count(total, most, height)
    while True:
        candidates = [
            needs
            for branched in sorted({min(count, n) for n in (few, 2 * few, few and count)})
            if (needs := _needs(sizes_Nx5, most, count, branched, row_tokens, height))
        ]
        if candidates:
            return min(candidates, key=lambda needs: sum(cost(s) * n for s, n in needs.items()))
        count += max(1, count // 16)


def _least_count(total: np.ndarray, most: np.ndarray, height: int) -> int:
    """The least number of micro-batches, with rows of `most`, for so many tokens."""
    return max(1, int(np.max(-(-total // np.maximum(most * height, 1)))))


def _needs(
    sizes_Nx5: np.ndarray, most: np.ndarray, count: int, branched: int, row_tokens: int, height: int
) -> collections.Counter[Size] | None:
    """The shapes that `count` micro-batches of even rows need, where only the first `branched` have
    live branches; None if the trees do not fit into rows of `most`."""
    rows = count * height
    even_Bx5 = np.repeat([sizes_Nx5.sum(axis=0) / rows], rows, axis=0)
    even_Bx5[:, 1] *= count / max(1, branched)
    even_Bx5[branched * height :, 1] = 0
    largest = np.where(even_Bx5 > 0, sizes_Nx5.max(axis=0), 0)
    even_Bx5 = np.maximum(even_Bx5, largest)
    for slack in SLACKS:
        capacity_Bx5 = np.where(even_Bx5 > 0, np.minimum(even_Bx5 * slack, most), 0)
        capacity_Bx5[:, 4] = most[4]  # a table of branches costs nothing
        row_N = spread(sizes_Nx5, capacity_Bx5)
        if row_N is not None:
            used_Bx5 = np.zeros((rows, 5), np.int64)
            np.add.at(used_Bx5, row_N, sizes_Nx5)
            used_Bx5[:, 4] = most[4]
            parts = (used_Bx5[: branched * height], used_Bx5[branched * height :])
            needs: collections.Counter[Size] = collections.Counter()
            for part in parts:
                if len(part):
                    needs[round_up(part.max(axis=0), row_tokens)] += len(part) // height
            return needs
    return None


def _cheapest_merge(shapes: np.ndarray, weight: np.ndarray) -> tuple[int, int]:
    """The two shapes, first < second, whose merge adds the least cost."""
    costs = np.array([1, 1, 1, REPLY_COST, 0])
    each = weight * (shapes @ costs)
    both = np.maximum(shapes[:, None], shapes[None]) @ costs
    more = both * (weight[:, None] + weight[None]) - each[:, None] - each[None]
    more[np.tril_indices(len(shapes))] = np.inf
    a, b = np.unravel_index(more.argmin(), more.shape)
    return int(a), int(b)


# --------------------------------------------------------------------------------- a step's rows


def share_out(
    sizes_Nx5: np.ndarray, shapes: Sequence[Size], full: Size, height: int
) -> list[tuple[Size, list[list[int]]]]:
    """The micro-batches of a step with trees of these sizes: (shape, at most `height` rows) each,
    where rows have the numbers of their trees.

    The cheapest set of micro-batches of `shapes` and `full` that holds the trees; only rows of
    `full` if none of ATTEMPTS sets does.
    """
    failed, tried = 0.0, 0
    for price, choice in _choices(sizes_Nx5, [*shapes, full], height):
        if price < failed * (1 + DEARER * tried):
            continue
        capacity_Bx5 = np.repeat([shape.counts() for shape in choice], height, axis=0)
        row_N = spread(sizes_Nx5, capacity_Bx5)
        if row_N is not None:
            rows = _rows(row_N, len(capacity_Bx5))
            parts = [rows[m * height : (m + 1) * height] for m in range(len(choice))]
            # Few trees may all be in the first rows; a micro-batch without any has no views.
            return [(shape, part) for shape, part in zip(choice, parts, strict=True) if any(part)]
        failed, tried = price, tried + 1
        if tried == ATTEMPTS:
            break
    rows = fill(sizes_Nx5, full)
    return [(full, rows[at : at + height]) for at in range(0, len(rows), height)]


def _choices(
    sizes_Nx5: np.ndarray, shapes: Sequence[Size], height: int
) -> list[tuple[float, tuple[Size, ...]]]:
    """(price, micro-batches of at most two shapes) that could hold the trees, cheapest first."""
    total, largest = sizes_Nx5.sum(axis=0), sizes_Nx5.max(axis=0)
    most = np.array([shape.counts() for shape in shapes]).max(axis=0)
    sets, bounds_Cx10 = _sets(tuple(shapes), height, _least_count(total, most, height))
    fitting = np.all(np.concatenate([total, largest]) <= bounds_Cx10, axis=1)
    return [
        (price, (shapes[a],) * of_a + (shapes[b],) * (count - of_a))
        for price, count, of_a, a, b in itertools.compress(sets, fitting)
    ]


@functools.lru_cache(64)
def _sets(
    shapes: tuple[Size, ...], height: int, least: int
) -> tuple[list[tuple[float, int, int, int, int]], np.ndarray]:
    """All sets of `least` or some more micro-batches of two shapes, the cheapest first: price,
    number, number of the first shape, and both shapes; and the room [C, 10] in each: of all
    rows together, and for one tree. Steps of a run have few numbers of micro-batches."""
    table = np.array([shape.counts() for shape in shapes], np.int64)
    prices = [cost(shape) for shape in shapes]
    sets = sorted(
        (of_a * prices[a] + (count - of_a) * prices[b], count, of_a, a, b)
        for count in range(least, least + 2 + least // 8)
        for a, b in itertools.combinations(range(len(shapes)), 2)
        for of_a in range(count + 1)
    )
    _, count_C, of_a_C, a_C, b_C = np.array(sets, np.int64).reshape(-1, 5).T
    of_b_C = count_C - of_a_C
    room_Cx5 = height * (of_a_C[:, None] * table[a_C] + of_b_C[:, None] * table[b_C])
    return sets, np.concatenate([room_Cx5, np.maximum(table[a_C], table[b_C])], axis=1)


def fill(sizes_Nx5: np.ndarray, capacity: Size) -> list[list[int]]:
    """Distribute trees, by their sizes, over rows by first-fit-decreasing, every array within
    capacity; the rows have the numbers of their trees."""
    most = np.array(capacity.counts())
    count = 2 * _least_count(sizes_Nx5.sum(axis=0), most, 1)
    while (row_N := _first_fit(sizes_Nx5, np.repeat([most], count, axis=0))) is None:
        count *= 2
    return _rows(row_N, int(row_N.max()) + 1)


def _rows(row_N: np.ndarray, count: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(count)]
    for n, b in enumerate(row_N.tolist()):
        rows[b].append(n)
    return rows
