"""How the trees of a run become rows: the shapes of the rows, and batches of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from interact_jax.data.forest import Forest, given_with, sizes_of
from interact_jax.data.pack import Places, pack, pack_forest
from interact_jax.data.shapes import cost, fits, full_row, plan_shapes, round_up, share_out
from interact_jax.data.tree import Size, Tree, split, split_units
from interact_jax.printable import count
from interact_jax.schema import Batch


@dataclasses.dataclass(frozen=True)
class Packing:
    """How trees become batches: shapes and number of rows, and tokens of y that are not counted.

    A batch has one of `shapes`, or `full` where none of them is large enough.
    """

    shapes: tuple[Size, ...]
    full: Size
    height: int
    ignore_first: int = 0
    known: frozenset[str] = frozenset()  # given log-probabilities that some reply has

    @classmethod
    def for_trees(
        cls,
        trees: Sequence[Tree],
        row_tokens: int,
        height: int,
        ignore_first: int = 0,
        steps: Iterable[Sequence[Tree]] | None = None,
        known: Collection[str] = (),
    ) -> Packing:
        """Shapes for `steps`, which may be a sample; by default a single step of all trees.

        `known` names log-probabilities that replies will have, besides those that they have.
        """
        full = full_row(trees, row_tokens)
        parts = (_split(step, full) for step in ([trees] if steps is None else steps))
        shapes = plan_shapes(map(sizes_of, parts), full, row_tokens, height)
        return cls(shapes, full, height, ignore_first, frozenset(given_with(trees).union(known)))

    def plan(self, sizes_Nx5: np.ndarray) -> list[tuple[Size, list[list[int]]]]:
        """The micro-batches of a step with trees of these sizes, each within `full`: the shape, and
        rows of numbers of trees."""
        return share_out(sizes_Nx5, self.shapes, self.full, self.height)

    def pack(
        self,
        trees: Forest,
        shape: Size,
        rows: Sequence[Sequence[int]],
        factor_M: Sequence[float] | np.ndarray | None = None,
    ) -> tuple[Batch, Places]:
        """A micro-batch of these rows; `factor_M` multiplies the weights of the trees' replies."""
        return pack_forest(trees, rows, shape, self.height, self.ignore_first, factor_M, self.known)

    def batches(
        self, trees: Sequence[Tree], factor_M: Sequence[float] | np.ndarray | None = None
    ) -> Iterator[tuple[Batch, Places]]:
        """Micro-batches with these trees, which are split if too large for a row; `factor_M`
        multiplies the weights of their replies."""
        parts = Forest.of(_split(trees, self.full))
        for shape, rows in self.plan(parts.sizes_Nx5):
            yield self.pack(parts, shape, rows, factor_M)

    def widened(self, trees: Sequence[Tree]) -> Packing:
        """The same with rows that are large enough for each unit of these trees: where not all
        trees were known when the shapes were chosen."""
        crowded = np.flatnonzero(~fits(sizes_of(trees), self.full)).tolist()
        units = [part for n in crowded for part in split_units(trees[n])]
        if all(part.size.fits(self.full) for part in units):
            return self
        needs = np.max([self.full.counts(), *(part.size.counts() for part in units)], axis=0)
        return dataclasses.replace(self, full=round_up(needs, self.full.T))

    def largest(self, trees: Sequence[Tree]) -> Batch:
        """A batch of the largest planned shape with one of these trees, to compile programs in
        advance."""
        parts = _split(trees, self.full)
        shape = max(self.shapes, key=cost)
        tree = parts[int(sizes_of(parts)[:, 0].argmin())]
        shape = shape if tree.size.fits(shape) else self.full
        return pack([[tree]], shape, self.height, self.ignore_first, known=self.known)[0]

    def count(self, trees: Sequence[Tree]) -> int:
        """How many micro-batches these trees make."""
        parts = _split(trees, self.full)
        return len(self.plan(sizes_of(parts)))

    def __str__(self) -> str:
        shapes = ", ".join(f"{s.T}+{s.P}+{s.Q}" for s in self.shapes)
        rows = count(self.height, "row")
        return (
            f"micro-batches of {rows}: {shapes} tokens\n"
            "  (trunk + live branches, with gradients + frozen ones)"
        )


def _split(trees: Sequence[Tree], full: Size) -> Sequence[Tree]:
    if fits(sizes_of(trees), full).all():
        return trees
    return [part for tree in trees for part in split(tree, full)]
