"""Packing token trees into rows of fixed shape: numpy, on the host, deterministic."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence, Set
from typing import Any

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
    trunk, live, frozen = (_Stream(height, n) for n in (T, P, Q))
    segment_BxJ, parent_BxJ, fork_BxJ = np.zeros((3, height, J + 1), np.int32)
    unit, side = np.full((height, R), -1, np.int32), np.zeros((height, R), np.int32)
    share = np.zeros((height, R), np.float32)
    entries = _Ranges()  # of R, one range for each reply
    predicted: dict[str, tuple[_Ranges, _Ranges]] = {}  # by view: entries, and their predictors
    given = {name: (_Ranges(), list[np.ndarray]()) for name in sorted(known)}
    numbers, weights, targets = list[int](), list[float](), list[np.ndarray]()
    used = [0] * height  # entries of each row
    placed: list[Placed] = []

    for b, trees in enumerate(rows):
        branch, reply_at, examples, units, last = 1, 0, 0, -1, None
        for segment, tree in enumerate(trees, 1):
            trunk_at = trunk.append(b, tree.trunk, 0, segment, 0)
            starts: list[list[int]] = [[], []]  # of the live limbs, of the frozen ones
            for kind, limbs, stream in ((0, tree.live, live), (1, tree.frozen, frozen)):
                for limb in limbs:
                    starts[kind].append(stream.append(b, limb.ids, limb.fork, segment, branch))
                    segment_BxJ[b, branch], fork_BxJ[b, branch] = segment, limb.fork
                    branch += 1
            members = collections.Counter(map(_unit_key, tree.replies))
            for reply in tree.replies:
                target, n, entry = reply.target, len(reply.target.y), b * R + reply_at
                for view, place in reply.places.items():
                    if view not in predicted:
                        predicted[view] = _Ranges(), _Ranges()
                    of_view, predictors = predicted[view]
                    on_trunk = n
                    if place.limb is not None:
                        is_frozen = view in tree.frozen_views
                        fork = (tree.frozen if is_frozen else tree.live)[place.limb].fork
                        # Live branches stand behind the trunk; frozen ones have all predictors.
                        on_trunk = 0 if is_frozen else min(n, max(0, fork - place.start))
                        at = starts[is_frozen][place.limb] + place.start + on_trunk - fork
                        of_view.append(entry + on_trunk, n - on_trunk)
                        predictors.append(at if is_frozen else T + at, n - on_trunk)
                    of_view.append(entry, on_trunk)
                    predictors.append(trunk_at + place.start, on_trunk)
                key = _unit_key(reply)
                if key != last:
                    last, units = key, units + 1
                part = factor(target) * target.weight / members[key]
                entries.append(entry, n)
                numbers.append(examples)
                weights.append(part / max(1, n - ignore_first))
                targets.append(target.y)
                for name, (of_name, logps) in given.items():
                    if name in target.known:
                        of_name.append(entry, n)
                        logps.append(target.known[name])
                unit[b, examples], side[b, examples], share[b, examples] = units, target.side, part
                placed.append(Placed(target.id, b, reply_at, n))
                reply_at += n
                examples += 1
            last = None
        used[b] = reply_at
    shape, counted = (height, R), entries.places() >= ignore_first
    flat = np.stack([entries.repeat(numbers), _joined(targets)]).astype(np.int32)
    example, target_BxR = _in_rows(flat, used, shape)
    example[np.arange(R) >= np.array(used)[:, None]] = -1
    weight = (entries.repeat(weights) * counted).astype(np.float32)
    predictor = {
        view: _scatter(shape, 0, np.int32, of_view.all(), predictors.all())
        for view, (of_view, predictors) in sorted(predicted.items())
    }
    logps_of = {
        name: _scatter(shape, np.nan, np.float32, of_name.all(), _joined(logps))
        for name, (of_name, logps) in given.items()
    }
    kinds = {tree.frozen_views for trees in rows for tree in trees}
    batch = Batch(
        trunk=trunk.tokens(),
        live=live.tokens(),
        frozen=frozen.tokens(),
        branches=Branches(segment_BxJ, parent_BxJ, fork_BxJ),
        replies=Replies(
            example,
            target_BxR,
            _in_rows(weight[None], used, shape)[0],
            predictor,
            logps_of,
            unit,
            side,
            share,
        ),
        frozen_views=tuple(sorted(predicted.keys() & frozenset().union(*kinds))),
    )
    return batch, placed


def _unit_key(reply: Reply) -> tuple[str, str]:
    return reply.target.conversation, reply.target.unit


class _Ranges:
    """Ranges of numbers, one behind the other: collected one by one, written out at once."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.lengths: list[int] = []

    def append(self, start: int, length: int) -> None:
        self.starts.append(start)
        self.lengths.append(length)

    def places(self) -> np.ndarray:
        """The place of every number in its range."""
        lengths = np.array(self.lengths, np.int64)
        return np.arange(lengths.sum()) - self.repeat(np.cumsum(lengths) - lengths)

    def all(self) -> np.ndarray:
        """Every number."""
        return self.places() + self.repeat(np.array(self.starts, np.int64))

    def repeat(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """A value of each range, for every number of it."""
        return np.repeat(np.asarray(values), np.array(self.lengths, np.int64))


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int32)


def _in_rows(flat_CxN: np.ndarray, used_B: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """Arrays [C, *shape] whose rows begin with what is behind one another in `flat_CxN`."""
    arrays, end = np.zeros((len(flat_CxN), *shape), flat_CxN.dtype), 0
    for b, used in enumerate(used_B):
        start, end = end, end + used
        arrays[:, b, :used] = flat_CxN[:, start:end]
    return arrays


def _scatter(
    shape: tuple[int, int], fill: float, dtype: Any, index: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """An array of `fill` with values at places of it laid out flat."""
    array = np.full(shape, fill, dtype)
    array.reshape(-1)[index] = values
    return array


class _Stream:
    """Rows of one token array, which are filled from the left, one row after the other."""

    def __init__(self, height: int, length: int):
        self.height, self.length = height, length
        self.used = [0] * height
        self.ids: list[np.ndarray] = []
        self.pieces: list[tuple[int, int, int, int]] = []  # length, first position, segment, branch

    def append(self, b: int, ids: np.ndarray, first: int, segment: int, branch: int) -> int:
        """Append ids to row b, with positions from `first` on; returns where they start."""
        start = self.used[b]
        self.used[b] += len(ids)
        self.ids.append(ids)
        self.pieces.append((len(ids), first, segment, branch))
        return start

    def tokens(self) -> TokenStream:
        """The array: ids, positions, segments and branches."""
        pieces_4xM = np.array(self.pieces, np.int32).reshape(-1, 4).T
        lengths_M = pieces_4xM[0].copy()
        pieces_4xM[1] -= np.cumsum(lengths_M) - lengths_M  # the first position, less its place
        flat_4xN = np.repeat(pieces_4xM, lengths_M, axis=1)
        flat_4xN[1] += np.arange(flat_4xN.shape[1], dtype=np.int32)
        flat_4xN[0] = _joined(self.ids)
        return TokenStream(*_in_rows(flat_4xN, self.used, (self.height, self.length)))


def padding(batch: Batch) -> tuple[int, int]:
    """(slots that hold a token, all slots) of the three token arrays."""
    streams = (batch.trunk, batch.live, batch.frozen)
    held = sum(int((np.asarray(s.segment_BxL) > 0).sum()) for s in streams)
    return held, sum(s.segment_BxL.size for s in streams)
