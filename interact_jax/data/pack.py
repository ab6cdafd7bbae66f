"""Packing token trees into rows of fixed shape: numpy, on the host, deterministic."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from interact_jax.data.tree import Size, Tree
from interact_jax.schema import Batch, Branches, Replies, TokenStream


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where an interaction's reply went: entries [start, start + length) of R in one row."""

    id: str
    row: int
    start: int
    length: int


def pack(
    rows: Sequence[Sequence[Tree]], capacity: Size, height: int, ignore_first: int = 0
) -> tuple[Batch, list[Placed]]:
    """Write up to `height` rows of trees into one Batch (numpy); missing rows stay empty.

    The first `ignore_first` tokens of a reply get weight 0. Returns the batch and where each
    interaction's reply stands in it.
    """
    T, P, Q, R, J = capacity.counts()
    trunk, student, teacher = (_Stream(height, n) for n in (T, P, Q))
    segment_BxJ, parent_BxJ, fork_BxJ = np.zeros((3, height, J + 1), np.int32)
    replies = {f.name: np.zeros((height, R), np.int32) for f in dataclasses.fields(Replies)}
    replies["interaction_BxR"][:] = -1
    replies["weight_BxR"] = np.zeros((height, R), np.float32)
    placed: list[Placed] = []

    for b, trees in enumerate(rows):
        branch, reply_at, interaction = 1, 0, 0
        for segment, tree in enumerate(trees, 1):
            trunk_at = trunk.append(b, tree.trunk, 0, segment, 0)
            starts: dict[str, list[int]] = {"student": [], "teacher": []}
            for kind, stream in (("student", student), ("teacher", teacher)):
                for limb in getattr(tree, kind):
                    starts[kind].append(stream.append(b, limb.ids, limb.fork, segment, branch))
                    segment_BxJ[b, branch], fork_BxJ[b, branch] = segment, limb.fork
                    branch += 1
            for reply in tree.replies:
                n = len(reply.y)
                to = slice(reply_at, reply_at + n)
                t = np.arange(n)
                depth = reply.student_start + t
                predictor = trunk_at + depth
                if reply.student is not None:
                    fork = tree.student[reply.student].fork
                    on_limb = T + starts["student"][reply.student] + depth - fork
                    predictor = np.where(depth < fork, predictor, on_limb)
                limb_at = starts["teacher"][reply.teacher] - tree.teacher[reply.teacher].fork
                replies["interaction_BxR"][b, to] = interaction
                replies["offset_BxR"][b, to] = t
                replies["target_BxR"][b, to] = reply.y
                replies["student_BxR"][b, to] = predictor
                replies["teacher_BxR"][b, to] = limb_at + reply.teacher_start + t
                replies["weight_BxR"][b, to] = (t >= ignore_first) / max(1, n - ignore_first)
                placed.append(Placed(reply.id, b, reply_at, n))
                reply_at += n
                interaction += 1
    batch = Batch(
        trunk=trunk.tokens(),
        student=student.tokens(),
        teacher=teacher.tokens(),
        branches=Branches(segment_BxJ, parent_BxJ, fork_BxJ),
        replies=Replies(**replies),
    )
    return batch, placed


class _Stream:
    """Rows of one token array while they are being filled from the left."""

    def __init__(self, height: int, length: int):
        self.arrays = np.zeros((4, height, length), np.int32)  # id, position, segment, branch
        self.used = np.zeros(height, np.int64)

    def append(self, b: int, ids: np.ndarray, first: int, segment: int, branch: int) -> int:
        """Write ids behind what row b holds, positions from `first` on; where they start."""
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
    """(slots that hold a token, slots in all) over the three token arrays."""
    streams = (batch.trunk, batch.student, batch.teacher)
    held = sum(int((np.asarray(s.segment_BxL) > 0).sum()) for s in streams)
    return held, sum(s.segment_BxL.size for s in streams)
