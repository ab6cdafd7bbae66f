"""The shapes of packed rows: a handful for a run, chosen from its steps, and which a step uses.

A step's trees are spread evenly over few rows, and a program is compiled for every shape of row, so
two things are decided here. `plan_shapes` looks at the steps of a run: it spreads the trees of each
over as few rows as hold them, and merges what those rows need into a few shapes. `share_out` gives
the trees of a step to the cheapest set of rows of these shapes that holds them.

Everything depends on the sizes and the order of the trees alone.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from interact_jax.data.tree import Size, Tree, apart

MULTIPLE = 32  # capacities are rounded up to this
BLOCK = 128  # or trunks to this, what attention works in, where rows have at least BLOCKS of them
BLOCKS = 4
HEADROOM = 1.5  # of branches and replies in `full_row` over what a full trunk has on average
PLANNED = 3  # shapes made to measure; with `full_row`, which takes what they cannot, 4 in all
REPLY_COST = 0.25  # of an entry of R beside a slot of T, P or Q: the head against the layers
SLACKS = (1, 1.02, 1.04, 1.07, 1.1, 1.15, 1.2, 1.3, 1.5, 1e9)  # room of rows beyond the mean
EXCHANGES = 64  # of trees between rows until they count as even,
PARTNERS = 8  # with so many of the emptiest rows
ATTEMPTS = 24  # sets of rows that are tried before trees go to full rows,
DEARER = 0.001  # the n-th by n times this share dearer than the one before


def full_row(trees: Sequence[Tree], row_tokens: int) -> Size:
    """The largest row for these trees: a trunk of `row_tokens`, and room for what comes with it.

    The trunk grows where one tree is longer than `row_tokens`, and is no longer than all trees
    together. A tree with more branches than fit is split (`tree.split`); each interaction fits.
    """
    whole = _total(tree.size for tree in trees)
    trunk = max(min(row_tokens, whole.T), *(len(tree.trunk) for tree in trees))
    room = [int(HEADROOM * trunk * total / whole.T) for total in whole.counts()]
    full = rounded((trunk, *room[1:]), row_tokens)
    # Alone, since a branch that left another one's path may be longer once a split parts them.
    crowded = (tree for tree in trees if not tree.size.fits(full))
    alone = [one.size.counts() for tree in crowded for one in apart(tree)]
    return rounded(np.max([full.counts(), *alone], axis=0), row_tokens)


def _total(sizes: Iterable[Size]) -> Size:
    return sum(sizes, Size(0, 0, 0, 0, 0))


def rounded(needs: Iterable[int], row_tokens: int) -> Size:
    """Capacity for `needs` (T, P, Q, R, J), rounded up so that small changes of data keep it."""
    block = BLOCK if row_tokens >= BLOCKS * BLOCK else MULTIPLE
    units = (block, *[MULTIPLE] * 4)
    return Size(*(-(-int(n) // unit) * unit for n, unit in zip(needs, units, strict=True)))


def cost(shape: Size) -> float:
    """What a row of this shape costs, in token slots."""
    return shape.T + shape.P + shape.Q + REPLY_COST * shape.R


# ------------------------------------------------------------------------------ trees over rows


def spread(sizes_Nx5: np.ndarray, capacity_Bx5: np.ndarray) -> np.ndarray | None:
    """The row [N] of every tree so that no array overflows, as evenly as it goes; None where no
    such rows were found."""
    room_Bx5 = np.maximum(capacity_Bx5, 1e-9)
    used_Bx5 = np.zeros(room_Bx5.shape)
    row_N = np.zeros(len(sizes_Nx5), np.int64)
    for i in _largest_first(sizes_Nx5, room_Bx5):
        # To the row that is then least full; its fullest array counts.
        row_N[i] = ((used_Bx5 + sizes_Nx5[i]) / room_Bx5).max(axis=1).argmin()
        used_Bx5[row_N[i]] += sizes_Nx5[i]
    for _ in range(EXCHANGES):
        if (used_Bx5 <= capacity_Bx5).all():
            return row_N
        if not _exchange(row_N, used_Bx5, room_Bx5, sizes_Nx5):
            break
    return _first_fit(sizes_Nx5, capacity_Bx5)  # uneven, but rows may be filled to the brim


def _largest_first(sizes_Nx5: np.ndarray, room_Bx5: np.ndarray) -> np.ndarray:
    return np.argsort(-(sizes_Nx5 / room_Bx5.max(axis=0)).max(axis=1), kind="stable")


def _first_fit(sizes_Nx5: np.ndarray, capacity_Bx5: np.ndarray) -> np.ndarray | None:
    """The first row that holds it, for every tree, the largest first; None where none is left."""
    left_Bx5 = capacity_Bx5.copy()
    row_N = np.zeros(len(sizes_Nx5), np.int64)
    for i in _largest_first(sizes_Nx5, np.maximum(capacity_Bx5, 1e-9)):
        fits_B = (sizes_Nx5[i] <= left_Bx5).all(axis=1)
        row_N[i] = fits_B.argmax()
        if not fits_B[row_N[i]]:
            return None
        left_Bx5[row_N[i]] -= sizes_Nx5[i]
    return row_N


def _exchange(
    row_N: np.ndarray, used_Bx5: np.ndarray, room_Bx5: np.ndarray, sizes_Nx5: np.ndarray
) -> bool:
    """Move a tree of the fullest row, or exchange it, as helps most; False where nothing helps."""
    fill_B = (used_Bx5 / room_Bx5).max(axis=1)
    full = int(fill_B.argmax())
    partners = [b for b in np.argsort(fill_B, kind="stable")[:PARTNERS] if b != full]
    mine, others = np.flatnonzero(row_N == full), np.flatnonzero(np.isin(row_N, partners))
    # Against a tree of a partner, or against nothing.
    to_K = np.concatenate([row_N[others], np.array(partners, np.int64)])
    back_Kx5 = np.concatenate([sizes_Nx5[others], np.zeros((len(partners), 5), np.int64)])
    moved = sizes_Nx5[mine][:, None] - back_Kx5[None]
    here = ((used_Bx5[full] - moved) / room_Bx5[full]).max(axis=2)
    there = ((used_Bx5[to_K][None] + moved) / room_Bx5[to_K][None]).max(axis=2)
    after = np.maximum(here, there)
    if not after.size or after.min() >= fill_B[full]:
        return False
    i, k = np.unravel_index(after.argmin(), after.shape)
    used_Bx5[full] -= moved[i, k]
    used_Bx5[to_K[k]] += moved[i, k]
    row_N[mine[i]] = to_K[k]
    if k < len(others):
        row_N[others[k]] = full
    return True


def _sizes(trees: Sequence[Tree]) -> np.ndarray:
    return np.array([tree.size.counts() for tree in trees], np.int64).reshape(-1, 5)


# ------------------------------------------------------------------------------------ the plan


def plan_shapes(
    steps: Iterable[Sequence[Tree]], full: Size, row_tokens: int, height: int
) -> tuple[Size, ...]:
    """At most PLANNED shapes for these steps, large ones first; `height` rows a micro-batch."""
    needs: collections.Counter[Size] = collections.Counter()  # of how many micro-batches
    for trees in steps:
        needs.update(_even_rows(_sizes(trees), full, row_tokens, height))
    shapes = np.array([shape.counts() for shape in needs], np.int64).reshape(-1, 5)
    weight = np.array(list(needs.values()), np.float64)
    while len(shapes) > PLANNED:
        a, b = _cheapest_merge(shapes, weight)
        shapes[a] = np.maximum(shapes[a], shapes[b])
        weight[a] += weight[b]
        shapes, weight = np.delete(shapes, b, axis=0), np.delete(weight, b)
    found = {Size(*(int(n) for n in shape)) for shape in shapes}
    return tuple(sorted(found, key=lambda shape: (-cost(shape), shape.counts())))


def _even_rows(
    sizes_Nx5: np.ndarray, full: Size, row_tokens: int, height: int
) -> collections.Counter[Size]:
    """Micro-batches of even rows for these trees, as few as do; {shape: how many}.

    Live branches, where few trees have one, all go into a few micro-batches if that is cheaper.
    """
    total, most = sizes_Nx5.sum(axis=0), np.array(full.counts())
    few = -(-int(total[1]) // max(1, int(most[1]) * height))  # 0 where there is none
    count = _least_count(total, most, height)
    while True:
        found = [
            needs
            for branched in sorted({min(count, n) for n in (few, 2 * few, few and count)})
            if (needs := _needs(sizes_Nx5, most, count, branched, row_tokens, height))
        ]
        if found:
            return min(found, key=lambda needs: sum(cost(s) * n for s, n in needs.items()))
        count += max(1, count // 16)


def _least_count(total: np.ndarray, most: np.ndarray, height: int) -> int:
    """How many micro-batches of rows of `most` these many tokens need at least."""
    return max(1, int(np.max(-(-total // np.maximum(most * height, 1)))))


def _needs(
    sizes_Nx5: np.ndarray, most: np.ndarray, count: int, branched: int, row_tokens: int, height: int
) -> collections.Counter[Size] | None:
    """What `count` micro-batches of even rows need, the first `branched` of them live branches
    too; None where the trees do not fit into rows of `most`."""
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
                    needs[rounded(part.max(axis=0), row_tokens)] += len(part) // height
            return needs
    return None


def _cheapest_merge(shapes: np.ndarray, weight: np.ndarray) -> tuple[int, int]:
    """The two shapes, first < second, that one for both makes dearer by the least."""
    costs = np.array([1, 1, 1, REPLY_COST, 0])
    each = weight * (shapes @ costs)
    both = np.maximum(shapes[:, None], shapes[None]) @ costs
    more = both * (weight[:, None] + weight[None]) - each[:, None] - each[None]
    more[np.tril_indices(len(shapes))] = np.inf
    a, b = np.unravel_index(more.argmin(), more.shape)
    return int(a), int(b)


# --------------------------------------------------------------------------------- a step's rows


def share_out(
    trees: Sequence[Tree], shapes: Sequence[Size], full: Size, height: int
) -> list[tuple[Size, list[list[Tree]]]]:
    """The micro-batches of a step: (shape, at most `height` rows of trees) each.

    The cheapest set of micro-batches of `shapes` and `full` that holds the trees; rows of `full`
    alone where none of ATTEMPTS sets does.
    """
    sizes_Nx5, failed, tried = _sizes(trees), 0.0, 0
    for price, chosen in _choices(sizes_Nx5, [*shapes, full], height):
        if price < failed * (1 + DEARER * tried):
            continue
        capacity_Bx5 = np.repeat([shape.counts() for shape in chosen], height, axis=0)
        row_N = spread(sizes_Nx5, capacity_Bx5)
        if row_N is not None:
            rows = _rows(trees, row_N, len(capacity_Bx5))
            return [(shape, rows[m * height : (m + 1) * height]) for m, shape in enumerate(chosen)]
        failed, tried = price, tried + 1
        if tried == ATTEMPTS:
            break
    rows = fill(trees, full)
    return [(full, rows[at : at + height]) for at in range(0, len(rows), height)]


def _choices(
    sizes_Nx5: np.ndarray, shapes: Sequence[Size], height: int
) -> list[tuple[float, tuple[Size, ...]]]:
    """(price, micro-batches of at most two shapes) that could hold the trees, cheapest first."""
    total, largest = sizes_Nx5.sum(axis=0), sizes_Nx5.max(axis=0)
    table = np.array([shape.counts() for shape in shapes], np.int64)
    prices = [cost(shape) for shape in shapes]
    least = _least_count(total, table.max(axis=0), height)
    found = []
    for count in range(least, least + 2 + least // 8):
        for a, b in itertools.combinations(range(len(shapes)), 2):
            if (largest > np.maximum(table[a], table[b])).any():
                continue
            for of_a in range(count + 1):
                if (total <= height * (of_a * table[a] + (count - of_a) * table[b])).all():
                    price = of_a * prices[a] + (count - of_a) * prices[b]
                    found.append((price, count, of_a, a, b))
    return [
        (price, (shapes[a],) * of_a + (shapes[b],) * (count - of_a))
        for price, count, of_a, a, b in sorted(found)
    ]


def fill(trees: Sequence[Tree], capacity: Size) -> list[list[Tree]]:
    """Share trees out to as few rows as first-fit-decreasing finds, every array within capacity."""
    sizes_Nx5, most = _sizes(trees), np.array(capacity.counts())
    count = 2 * _least_count(sizes_Nx5.sum(axis=0), most, 1)
    while (row_N := _first_fit(sizes_Nx5, np.repeat([most], count, axis=0))) is None:
        count *= 2
    return _rows(trees, row_N, int(row_N.max()) + 1)


def _rows(trees: Sequence[Tree], row_N: np.ndarray, count: int) -> list[list[Tree]]:
    rows: list[list[Tree]] = [[] for _ in range(count)]
    for tree, b in zip(trees, row_N, strict=True):
        rows[b].append(tree)
    return rows
