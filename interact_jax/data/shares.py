"""What each of several processes reads and packs of a step, that all of them plan alike.

    share = Share(process=1, processes=4)
    dataset.index(share)                       makes its share of the trees that are missing
    LogBatches(dataset, draws, packing, limits, share)

A step's rows are planned from the sizes of its trees, which stand in the index of the store: no
process has to ask another. Shard k of n is rows [k h / n, (k + 1) h / n) of every micro-batch of h
rows. A process packs the shards of its devices, by default the one with its own number, and reads
only the conversations in these. One behind the other, the rows of all shards are those of a single
process, and so the position does not depend on how many there are.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from interact_jax import sharding
from interact_jax.data.forest import Forest, sizes_of
from interact_jax.data.pack import Places
from interact_jax.data.rows import Packing
from interact_jax.data.shapes import fits
from interact_jax.data.tree import Size, Tree, split
from interact_jax.schema import Batch, InputError


@dataclasses.dataclass(frozen=True)
class Share:
    """That of number `process` of so many processes: the rows of `held` of so many `shards`, which
    are as many as there are processes where nothing is said. Of those that several hold, each is
    among the `told` of one of them; None: all that it holds."""

    process: int = 0
    processes: int = 1
    held: tuple[int, ...] | None = None
    shards: int = 0
    told: tuple[int, ...] | None = None

    def rows(self, height: int) -> list[int]:
        """Its rows of a micro-batch. Raises InputError where these cannot be shared out."""
        return self._rows(height, (self.process,) if self.held is None else self.held)

    def rows_told(self, height: int) -> list[int]:
        """Those of its rows of which it says what is lost. Raises as `rows`."""
        return self.rows(height) if self.told is None else self._rows(height, self.told)

    def _rows(self, height: int, of: Sequence[int]) -> list[int]:
        shards = self.shards or self.processes
        if height % shards:
            raise InputError(
                f"a micro-batch of {height} rows cannot be shared out over {shards} shards. Set "
                "batch.rows, or the mesh, so that it can."
            )
        size = height // shards
        return [row for shard in of for row in range(shard * size, (shard + 1) * size)]

    def numbers(self, count: int) -> range:
        """The conversations of `count` whose trees it makes."""
        return range(self.process, count, self.processes)


def share_of(cfg: Any, mesh: Mesh) -> Share | None:
    """Which rows this process packs, one of several; None for all of them."""
    own, count = jax.process_index(), jax.process_count()
    if count == 1 or cfg.skip.signal:  # which looks at whole steps
        return None
    return Share(
        own,
        count,
        sharding.shards_here(mesh),
        sharding.row_shards(mesh),
        sharding.shards_told_here(mesh),
    )


class Views(NamedTuple):
    """The views that replies of a run have, and which of them are frozen: all processes compute the
    same program, also those whose rows are empty."""

    all: tuple[str, ...]
    frozen: tuple[str, ...]

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> Views:
        """Those of these trees."""
        views = {view for tree in trees for reply in tree.replies for view in reply.places}
        frozen = {view for tree in trees for view in tree.frozen_views}
        return cls(tuple(sorted(views)), tuple(sorted(views & frozen)))


@dataclasses.dataclass(frozen=True)
class SharedStep:
    """A share of a step: micro-batches of its own rows, and their trees. The numbers are those of
    all shares: `tokens` are held by `slots`."""

    micro: list[Batch]
    placed: list[Places]
    trees: Forest
    factor_M: np.ndarray
    tokens: int
    slots: int


def pack_share(
    share: Share,
    packing: Packing,
    trees: Sequence[Tree],
    of_tree: Sequence[int],
    read: Callable[[Sequence[int], Collection[int]], Sequence[Forest]],
    factor_of: Callable[[int], float],
    views: Views,
) -> SharedStep:
    """Pack a share of a step.

    `trees` are those of the whole step, of which only the sizes need to be known; `of_tree` has the
    conversation of each, by its place in the step; `read` returns the trees of such conversations,
    and `factor_of` the factor for their weights. `read` is also told of which conversations this
    process counts what is lost: those that begin in its rows, so that each is counted once.
    """
    parts = list(_parts(trees, packing))
    sizes_Px5 = np.concatenate([part.sizes_1x5 for part in parts])
    plan, own = list(_whole(packing.plan(sizes_Px5), packing.height)), share.rows(packing.height)
    rows_of = [[rows[n] for n in own] for _, rows in plan]
    numbers = sorted({n for rows in rows_of for row in rows for n in row})
    # Split trees have been read already.
    unread = [of_tree[parts[n].tree] for n in numbers if parts[n].part is None]
    begin = {of_tree[parts[n].tree]: n for n in reversed(range(len(parts)))}
    told = share.rows_told(packing.height)
    begun = {n for _, rows in plan for at in told for n in rows[at]} & set(begin.values())
    counted = [conversation for conversation, n in begin.items() if n in begun]
    wanted = dict.fromkeys([*unread, *counted])
    forests = dict(zip(wanted, read(list(wanted), counted), strict=True))
    first = {c: of_tree.index(c) for c in forests}

    def found(part: _Part) -> Forest:
        if part.part is not None:
            return Forest.of([part.part])
        conversation = of_tree[part.tree]
        forest = forests[conversation]
        return forest if len(forest) == 1 else forest.take([part.tree - first[conversation]])

    joined = [found(parts[n]) for n in numbers]
    forest = Forest.join(joined) if joined else Forest.of([])
    factors = [factor_of(of_tree[parts[n].tree]) for n in numbers]
    factor_M = np.repeat(np.array(factors, np.float64), [len(f.replies_MxC) for f in joined])
    place = {n: at for at, n in enumerate(numbers)}
    of_share = dataclasses.replace(packing, height=len(own))
    packed = [
        of_share.pack(forest, shape, [[place[n] for n in row] for row in rows], factor_M)
        for (shape, _), rows in zip(plan, rows_of, strict=True)
    ]
    slots = sum(sum(shape.counts()[:3]) for shape, _ in plan) * packing.height
    return SharedStep(
        [_with_views(batch, views) for batch, _ in packed],
        [placed for _, placed in packed],
        forest,
        factor_M,
        int(sizes_Px5[:, :3].sum()),
        slots,
    )


def _whole(
    plan: Iterable[tuple[Size, list[list[int]]]], height: int
) -> Iterator[tuple[Size, list[list[int]]]]:
    """A plan whose micro-batches all have `height` rows: the last ones may be empty."""
    for shape, rows in plan:
        yield shape, [*rows, *([] for _ in range(height - len(rows)))]


class _Part(NamedTuple):
    """A tree of the step by number, or a part of one that is too large for a row."""

    tree: int
    sizes_1x5: np.ndarray
    part: Tree | None


def _parts(trees: Sequence[Tree], packing: Packing) -> list[_Part]:
    sizes_Nx5 = sizes_of(trees)
    fits_N = fits(sizes_Nx5, packing.full)
    return list(
        itertools.chain.from_iterable(
            [_Part(n, sizes_Nx5[n : n + 1], None)]
            if fits_N[n]
            else [_Part(n, sizes_of([part]), part) for part in split(trees[n], packing.full)]
            for n in range(len(sizes_Nx5))
        )
    )


def _with_views(batch: Batch, views: Views) -> Batch:
    """A batch with the predictors of all views, 0 where its own rows have none."""
    own = batch.replies.predictor
    nothing_BxR = np.zeros_like(batch.replies.target_BxR)
    predictor = {view: own.get(view, nothing_BxR) for view in sorted({*own, *views.all})}
    return dataclasses.replace(
        batch,
        replies=dataclasses.replace(batch.replies, predictor=predictor),
        frozen_views=tuple(sorted({*batch.frozen_views, *views.frozen})),
    )
