"""Packing token trees into rows of fixed shape: numpy, on the host, deterministic."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence, Set

import numpy as np

from interact_jax.data.examples import Target
from interact_jax.data.tree import Reply, Size, Tree
from interact_jax.schema import Batch, Branches, Replies, TokenStream


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where the reply of an example stands: entries [start, start + length) of R in one row."""

    id: str
    row: int
    start: int
    length: int


def pack(
    rows: Sequence[Sequence[Tree]],
    capacity: Size,
    height: int,
    ignore_first: int = 0,
    factor: Callable[[Target], float] = lambda target: 1.0,
    known: Set[str] = frozenset(),
) -> tuple[Batch, list[Placed]]:
    """Write up to `height` rows of trees into one Batch (numpy); missing rows stay empty.

    The first `ignore_first` tokens of a reply get weight 0; `factor` multiplies the weight of an
    example; `known` names the given log-probabilities that are packed, NaN where a target has none.
    Returns the batch, and where the reply of each example stands in it.
    """
    T, P, Q, R, J = capacity.counts()
    trunk, *limbs = (_Stream(height, n) for n in (T, P, Q))
    segment_BxJ, parent_BxJ, fork_BxJ = np.zeros((3, height, J + 1), np.int32)
    views = {view for trees in rows for tree in trees for r in tree.replies for view in r.places}
    frozen_views = {view for trees in rows for tree in trees for view in tree.frozen_views & views}
    example, unit = np.full((2, height, R), -1, np.int32)
    target, side = np.zeros((2, height, R), np.int32)
    weight, share = np.zeros((2, height, R), np.float32)
    predictor = {view: np.zeros((height, R), np.int32) for view in sorted(views)}
    logps = {name: np.full((height, R), np.nan, np.float32) for name in sorted(known)}
    placed: list[Placed] = []

    for b, trees in enumerate(rows):
        branch, reply_at, examples, units, last = 1, 0, 0, -1, None
        for segment, tree in enumerate(trees, 1):
            trunk_at = trunk.append(b, tree.trunk, 0, segment, 0)
            starts: list[list[int]] = [[], []]  # of the live limbs, of the frozen ones
            for kind, kind_limbs in enumerate((tree.live, tree.frozen)):
                for limb in kind_limbs:
                    starts[kind].append(limbs[kind].append(b, limb.ids, limb.fork, segment, branch))
                    segment_BxJ[b, branch], fork_BxJ[b, branch] = segment, limb.fork
                    branch += 1
            members = collections.Counter(_unit_key(reply) for reply in tree.replies)
            for reply in tree.replies:
                y = reply.target.y
                n = len(y)
                entries = slice(reply_at, reply_at + n)
                t = np.arange(n)
                for view, place in reply.places.items():
                    depth = place.start + t
                    index = trunk_at + depth
                    if place.limb is not None:
                        frozen = view in tree.frozen_views
                        limb = tree.limbs_of(view)[place.limb]
                        at = starts[frozen][place.limb] + depth - limb.fork
                        index = at if frozen else np.where(depth < limb.fork, index, T + at)
                    predictor[view][b, entries] = index
                key = _unit_key(reply)
                if key != last:
                    last, units = key, units + 1
                part = factor(reply.target) * reply.target.weight / members[key]
                example[b, entries], target[b, entries] = examples, y
                weight[b, entries] = part * (t >= ignore_first) / max(1, n - ignore_first)
                for name in known & reply.target.known.keys():
                    logps[name][b, entries] = reply.target.known[name]
                unit[b, examples], side[b, examples] = units, reply.target.side
                share[b, examples] = part
                placed.append(Placed(reply.target.id, b, reply_at, n))
                reply_at += n
                examples += 1
            last = None
    batch = Batch(
        trunk=trunk.tokens(),
        live=limbs[0].tokens(),
        frozen=limbs[1].tokens(),
        branches=Branches(segment_BxJ, parent_BxJ, fork_BxJ),
        replies=Replies(example, target, weight, predictor, logps, unit, side, share),
        frozen_views=tuple(sorted(frozen_views)),
    )
    return batch, placed


def _unit_key(reply: Reply) -> tuple[str, str]:
    return reply.target.conversation, reply.target.unit


class _Stream:
    """Rows of one token array, which are filled from the left."""

    def __init__(self, height: int, length: int):
        self.arrays = np.zeros((4, height, length), np.int32)  # id, position, segment, branch
        self.used = np.zeros(height, np.int64)

    def append(self, b: int, ids: np.ndarray, first: int, segment: int, branch: int) -> int:
        """Append ids to row b, with positions from `first` on; returns where they start."""
        start, end = int(self.used[b]), int(self.used[b]) + len(ids)
        self.arrays[0, b, start:end] = ids
        self.arrays[1, b, start:end] = first + np.arange(len(ids))
        self.arrays[2, b, start:end] = segment
        self.arrays[3, b, start:end] = branch
        self.used[b] = end
        return start

    def tokens(self) -> TokenStream:
        return TokenStream(*self.arrays)


def padding(batch: Batch) -> tuple[int, int]:
    """(slots that hold a token, all slots) of the three token arrays."""
    streams = (batch.trunk, batch.live, batch.frozen)
    held = sum(int((np.asarray(s.segment_BxL) > 0).sum()) for s in streams)
    return held, sum(s.segment_BxL.size for s in streams)
