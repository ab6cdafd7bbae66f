"""How the trees of a run become rows: the shapes of the rows, and batches of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from interact_jax.data.examples import Target
from interact_jax.data.pack import Placed, pack
from interact_jax.data.shapes import cost, full_row, plan_shapes, round_up, share_out
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
        shapes = plan_shapes(parts, full, row_tokens, height)
        names = {name for tree in trees for reply in tree.replies for name in reply.target.known}
        return cls(shapes, full, height, ignore_first, frozenset(names.union(known)))

    def batches(
        self, trees: Sequence[Tree], factor: Callable[[Target], float] = lambda target: 1.0
    ) -> Iterator[tuple[Batch, list[Placed]]]:
        """Micro-batches with these trees, which are split if too large for a row; `factor`
        multiplies the weight of an example."""
        parts = _split(trees, self.full)
        for shape, rows in share_out(parts, self.shapes, self.full, self.height):
            yield pack(rows, shape, self.height, self.ignore_first, factor, self.known)

    def widened(self, trees: Sequence[Tree]) -> Packing:
        """The same with rows that are large enough for each unit of these trees: where not all
        trees were known when the shapes were chosen."""
        crowded = (tree for tree in trees if not tree.size.fits(self.full))
        units = [part for tree in crowded for part in split_units(tree)]
        if all(part.size.fits(self.full) for part in units):
            return self
        needs = np.max([self.full.counts(), *(part.size.counts() for part in units)], axis=0)
        return dataclasses.replace(self, full=round_up(needs, self.full.T))

    def largest(self, trees: Sequence[Tree]) -> Batch:
        """A batch of the largest planned shape with one of these trees, to compile programs in
        advance."""
        parts = _split(trees, self.full)
        shape = max(self.shapes, key=cost)
        tree = min(parts, key=lambda tree: tree.size.T)
        shape = shape if tree.size.fits(shape) else self.full
        return pack([[tree]], shape, self.height, self.ignore_first, known=self.known)[0]

    def count(self, trees: Sequence[Tree]) -> int:
        """How many micro-batches these trees make."""
        parts = _split(trees, self.full)
        return sum(1 for _ in share_out(parts, self.shapes, self.full, self.height))

    def __str__(self) -> str:
        shapes = ", ".join(f"{s.T}+{s.P}+{s.Q}" for s in self.shapes)
        rows = count(self.height, "row")
        return (
            f"micro-batches of {rows}: {shapes} tokens\n"
            "  (trunk + live branches, with gradients + frozen ones)"
        )


def _split(trees: Sequence[Tree], full: Size) -> list[Tree]:
    return [part for tree in trees for part in split(tree, full)]
