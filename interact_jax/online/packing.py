"""Shapes of rows for steps whose sizes are not known in advance.

A program is compiled for every shape, so shapes are on a coarse grid and are kept from step to
step. New ones are added for the step at hand where a tree does not fit, or where the rows would be
much larger than need be. What becomes of them depends on the steps alone: a replay has the same.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interact_jax.data.forest import sizes_of
from interact_jax.data.rows import Packing
from interact_jax.data.shapes import cost
from interact_jax.data.tree import Size, Tree, split, split_units
from interact_jax.known import SAMPLER

WASTE = 1.5  # rows that cost so many times more than made-to-measure ones get a new shape
MOST = 8  # shapes; the oldest are given up
PARTS = 4  # sizes of the grid from one power of two to the next


@dataclasses.dataclass(frozen=True)
class Planner:
    """Plans rows of `row_tokens`, `height` of them in a micro-batch."""

    row_tokens: int
    height: int
    ignore_first: int

    def plan(self, trees: Sequence[Tree], before: Packing | None = None) -> Packing:
        """Shapes that will do for these trees: those of `before`, and more where they do not."""
        fresh = Packing.for_trees(
            trees, self.row_tokens, self.height, self.ignore_first, known=(SAMPLER,)
        )
        if before is not None:
            units = (unit.size for tree in trees for unit in split_units(tree))
            fits = all(size.fits(before.full) for size in units)
            if fits and _cost(before, trees) <= WASTE * _cost(fresh, trees):
                return before
        shapes = [on_grid(shape) for shape in fresh.shapes]
        full = on_grid(fresh.full)
        if before is not None:
            shapes += before.shapes
            full = Size(*np.maximum(full.counts(), before.full.counts()).tolist())
        newest = tuple(itertools.islice(dict.fromkeys(shapes), MOST))
        return dataclasses.replace(fresh, shapes=newest, full=full)

    def restore(self, saved: Mapping[str, Any]) -> Packing:
        """The packing that `save` made JSON of."""
        shapes = tuple(Size(*counts) for counts in saved["shapes"])
        full, known = Size(*saved["full"]), frozenset({SAMPLER})
        return Packing(shapes, full, self.height, self.ignore_first, known)


def save(packing: Packing) -> dict[str, Any]:
    """A packing's shapes, as JSON."""
    return {"shapes": [shape.counts() for shape in packing.shapes], "full": packing.full.counts()}


def on_grid(size: Size) -> Size:
    """Every number of a size rounded up by at most a quarter."""
    return Size(*map(_on_grid, size.counts()))


def _on_grid(number: int) -> int:
    step = max(1, (1 << (max(number - 1, 1).bit_length() - 1)) // PARTS)
    return -(-number // step) * step


def _cost(packing: Packing, trees: Sequence[Tree]) -> float:
    """The cost of the rows that the trees would be in."""
    parts = [part for tree in trees for part in split(tree, packing.full)]
    return sum(cost(shape) for shape, _ in packing.plan(sizes_of(parts)))
