"""Packing token trees into rows of fixed shape: numpy, on the host, deterministic.

All arrays of a batch are written in one piece, from the columns of a `Forest`: what lies in them is
a list of pieces (a trunk, a branch, a reply, and the padding at the end of a row), whose numbers
are repeated for each of their tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence, Set
from typing import NamedTuple, overload

import numpy as np

from interact_jax.data.forest import (
    BEGINS,
    EXAMPLES,
    FORK,
    FROZEN,
    LENGTH,
    LIMBS,
    LIVE,
    NOWHERE,
    REPLIES,
    SIDE,
    Forest,
)
from interact_jax.data.tree import Size, Tree
from interact_jax.schema import Batch, Branches, Replies, TokenStream


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where the reply of an example stands: entries [start, start + length) of R in one row."""

    id: str
    row: int
    start: int
    length: int


@dataclasses.dataclass(frozen=True, eq=False)
class Places(Sequence[Placed]):
    """Where the replies of a batch stand, in order."""

    forest: Forest
    reply_M: np.ndarray  # among those of the forest
    numbers_Mx3: np.ndarray  # row, start, length

    @functools.cached_property
    def _all(self) -> list[Placed]:
        names, numbers = self.forest.names, self.numbers_Mx3.tolist()
        replies = self.reply_M.tolist()
        return [Placed(names[n][0], *where) for n, where in zip(replies, numbers, strict=True)]

    def __len__(self) -> int:
        return len(self.reply_M)

    @overload
    def __getitem__(self, index: int) -> Placed: ...
    @overload
    def __getitem__(self, index: slice) -> list[Placed]: ...
    def __getitem__(self, index: int | slice) -> Placed | list[Placed]:
        return self._all[index]


def pack(
    rows: Sequence[Sequence[Tree]],
    capacity: Size,
    height: int,
    ignore_first: int = 0,
    factor_M: Sequence[float] | np.ndarray | None = None,
    known: Set[str] = frozenset(),
) -> tuple[Batch, Places]:
    """Write up to `height` rows of trees into one Batch (numpy); missing rows stay empty.

    The first `ignore_first` tokens of a reply get weight 0; `factor_M` multiplies the weights of
    the replies, in the order of the trees; `known` names the given log-probabilities that are
    packed, NaN where a target has none. Returns the batch, and where the reply of each example
    stands in it. Raises ValueError where a row has more than `capacity`.
    """
    forest = Forest.of([tree for row in rows for tree in row])
    ends = np.cumsum([0, *map(len, rows)])
    numbers = [range(start, end) for start, end in itertools.pairwise(ends.tolist())]
    return pack_forest(forest, numbers, capacity, height, ignore_first, factor_M, known)


def pack_forest(
    forest: Forest,
    rows: Sequence[Sequence[int]],
    capacity: Size,
    height: int,
    ignore_first: int = 0,
    factor_M: Sequence[float] | np.ndarray | None = None,
    known: Set[str] = frozenset(),
) -> tuple[Batch, Places]:
    """As `pack`: the rows have the numbers of trees of the forest, and `factor_M` is for all of its
    replies."""
    chosen = _Chosen.of(forest, rows)
    (trunk, live, frozen), branches, spots = _streams(chosen, capacity, height)
    row_M, length_M = chosen.row_M, chosen.replies_MxC[:, LENGTH]
    layout = _Layout(row_M, length_M, np.full(height, capacity.R))
    held, word, example, place = _entries(chosen, layout)
    shape = (height, capacity.R)
    share_M, tables = _tables(chosen, factor_M, shape)
    weight = layout.repeat((share_M / np.maximum(1, length_M - ignore_first))[None])[0]
    weight *= place >= ignore_first
    predictor, frozen_views = _predictors(chosen, layout, spots, place, shape)
    batch = Batch(
        trunk=trunk,
        live=live,
        frozen=frozen,
        branches=branches,
        replies=Replies(
            example.reshape(shape),
            forest.word_W[word].reshape(shape),
            weight.astype(np.float32).reshape(shape),
            predictor,
            {name: _given(forest, name, held, word).reshape(shape) for name in sorted(known)},
            *tables,
        ),
        frozen_views=frozen_views,
    )
    start_M = layout.start_Z[: len(row_M)] - row_M * capacity.R
    return batch, Places(forest, chosen.reply_M, np.stack([row_M, start_M, length_M], axis=1))


class _Chosen(NamedTuple):
    """The trees K of rows, with their limbs A and replies M: numbers of them in the forest."""

    forest: Forest
    trees_KxC: np.ndarray
    tree_K: np.ndarray
    row_K: np.ndarray
    limb_A: np.ndarray
    tree_A: np.ndarray  # among the chosen ones
    row_A: np.ndarray
    first_limb_K: np.ndarray  # among the chosen ones
    replies_MxC: np.ndarray
    reply_M: np.ndarray
    tree_M: np.ndarray
    row_M: np.ndarray

    @classmethod
    def of(cls, forest: Forest, rows: Sequence[Sequence[int]]) -> _Chosen:
        tree_K = np.fromiter(itertools.chain.from_iterable(rows), np.int64)
        row_K = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        trees_KxC, at_K, starts = forest.trees_NxC[tree_K], np.arange(len(tree_K)), forest.starts
        limbs_K, replies_K = trees_KxC[:, LIMBS], trees_KxC[:, REPLIES]
        tree_A, tree_M = np.repeat(at_K, limbs_K), np.repeat(at_K, replies_K)
        first_A, first_M = _starts(limbs_K), _starts(replies_K)
        limb_A = (starts.limb_N[tree_K] - first_A)[tree_A] + np.arange(len(tree_A))
        reply_M = (starts.reply_N[tree_K] - first_M)[tree_M] + np.arange(len(tree_M))
        return cls(
            forest,
            trees_KxC,
            tree_K,
            row_K,
            limb_A,
            tree_A,
            row_K[tree_A],
            first_A,
            forest.replies_MxC[reply_M],
            reply_M,
            tree_M,
            row_K[tree_M],
        )


def _starts(length_N: np.ndarray) -> np.ndarray:
    return np.cumsum(length_N) - length_N


def _places_in_rows(row_N: np.ndarray) -> np.ndarray:
    """The place of each in its row: 0, 1, ... where a row begins anew."""
    at_N = np.arange(len(row_N))
    return at_N - np.searchsorted(row_N, row_N)


class _Layout:
    """Pieces Z in rows of a given room, whose rest is padding, laid out flat row by row."""

    def __init__(self, row_Z: np.ndarray, length_Z: np.ndarray, room_B: np.ndarray):
        self.rows = len(room_B)
        left_B = room_B - np.bincount(row_Z, length_Z, self.rows).astype(np.int64)
        if (left_B < 0).any():
            raise ValueError(f"rows have {-left_B.min()} tokens more than there is room for")
        length_Y = np.concatenate([length_Z, left_B])
        rows_Y = np.concatenate([row_Z, np.arange(self.rows)])
        self.order_Y = np.argsort(rows_Y, kind="stable")  # padding behind the pieces of its row
        self.length_Y = length_Y[self.order_Y]
        start_Y = np.empty(len(length_Y), np.int64)
        start_Y[self.order_Y] = _starts(self.length_Y)
        self.start_Z = start_Y[: len(row_Z)]  # where each piece begins
        self.count = int(room_B.sum())

    def repeat(self, values_CxZ: np.ndarray, padding: float = 0) -> np.ndarray:
        """Values of every piece for each of its tokens."""
        values_CxY = np.full((len(values_CxZ), len(self.order_Y)), padding, values_CxZ.dtype)
        values_CxY[:, : values_CxZ.shape[1]] = values_CxZ
        return np.repeat(values_CxY[:, self.order_Y], self.length_Y, axis=1)


class _Spots(NamedTuple):
    """Where trunks and limbs begin in their rows, and the forks of the limbs."""

    trunk_K: np.ndarray
    limb_A: np.ndarray
    fork_A: np.ndarray
    live: int  # where the live branches begin behind the trunks


def _streams(
    chosen: _Chosen, capacity: Size, height: int
) -> tuple[list[TokenStream], Branches, _Spots]:
    """The three token arrays, laid out as one: rows of trunks, then of live and frozen branches."""
    forest, starts = chosen.forest, chosen.forest.starts
    room_B = np.repeat(capacity.counts()[:3], height)
    limbs_AxC = forest.limbs_LxC[chosen.limb_A]
    count, fork_A = len(chosen.tree_K), limbs_AxC[:, FORK]
    rank_A = np.arange(len(fork_A)) - chosen.first_limb_K[chosen.tree_A]
    is_frozen_A = rank_A >= chosen.trees_KxC[chosen.tree_A, LIVE]
    row_Z = np.concatenate([chosen.row_K, (1 + is_frozen_A) * height + chosen.row_A])
    length_Z = np.concatenate([chosen.trees_KxC[:, 0], limbs_AxC[:, LENGTH]])
    layout = _Layout(row_Z, length_Z, room_B)

    segment_K = 1 + _places_in_rows(chosen.row_K)
    segment_A, branch_A = segment_K[chosen.tree_A], 1 + _places_in_rows(chosen.row_A)
    # Word, position, segment and branch; the first two less the place, which is added below.
    pieces_4xZ = np.zeros((4, len(row_Z)), np.int32)
    pieces_4xZ[0, :count] = 1 + starts.trunk_N[chosen.tree_K]
    pieces_4xZ[0, count:] = forest.ends[0] + starts.ids_L[chosen.limb_A]
    pieces_4xZ[1, count:] = fork_A
    pieces_4xZ[:2] -= layout.start_Z.astype(np.int32)
    pieces_4xZ[2] = np.concatenate([segment_K, segment_A])
    pieces_4xZ[3, count:] = branch_A
    flat_4xN = layout.repeat(pieces_4xZ)
    flat_4xN[:2] += np.arange(layout.count, dtype=np.int32)
    flat_4xN[:2] *= flat_4xN[2] > 0  # padding: the word 0 is 0
    flat_4xN[0] = forest.word_W[flat_4xN[0]]

    streams, end = [], 0
    for length in capacity.counts()[:3]:
        start, end = end, end + height * length
        streams.append(TokenStream(*flat_4xN[:, start:end].reshape(4, height, length)))
    segment_BxJ, parent_BxJ, fork_BxJ = np.zeros((3, height, capacity.J + 1), np.int32)
    segment_BxJ[chosen.row_A, branch_A] = segment_A
    fork_BxJ[chosen.row_A, branch_A] = fork_A
    within_Z = layout.start_Z - _starts(room_B)[row_Z]
    spots = _Spots(within_Z[:count], within_Z[count:], fork_A, capacity.T)
    return streams, Branches(segment_BxJ, parent_BxJ, fork_BxJ), spots


def _entries(chosen: _Chosen, layout: _Layout) -> tuple[np.ndarray, ...]:
    """For each entry of R, flat: whether it has a token, its word, the number of its example, and
    its place in the reply."""
    forest = chosen.forest
    word_M = forest.ends[1] + forest.starts.ids_M[chosen.reply_M]
    pieces = [_places_in_rows(chosen.row_M), word_M - layout.start_Z, -layout.start_Z]
    flat_3xN = layout.repeat(np.stack(pieces).astype(np.int32), padding=-1)
    held = flat_3xN[0] >= 0
    flat_3xN[1:] += np.arange(layout.count, dtype=np.int32)
    return held, flat_3xN[1] * held, flat_3xN[0], flat_3xN[2]


def _tables(
    chosen: _Chosen, factor_M: Sequence[float] | np.ndarray | None, shape: tuple[int, int]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The share of each reply; units, sides and shares by row and example."""
    share_M = chosen.forest.weight_M[chosen.reply_M]
    if factor_M is not None:
        share_M = np.asarray(factor_M)[chosen.reply_M] * share_M
    share_M = share_M / chosen.replies_MxC[:, EXAMPLES]
    number_M = np.cumsum(chosen.replies_MxC[:, BEGINS])
    number_M -= number_M[np.searchsorted(chosen.row_M, chosen.row_M)]  # the row's first is 0
    at = chosen.row_M, _places_in_rows(chosen.row_M)
    unit, side = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    share = np.zeros(shape, np.float32)
    unit[at], side[at], share[at] = number_M, chosen.replies_MxC[:, SIDE], share_M
    return share_M, (unit, side, share)


def _predictors(
    chosen: _Chosen, layout: _Layout, spots: _Spots, place_N: np.ndarray, shape: tuple[int, int]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The predictors of all entries by view, and the views that are frozen.

    Those of a reply are on the trunk, on a branch, or first on the trunk and then on a live branch.
    """
    places_MxVx2 = chosen.forest.places_MxVx2[chosen.reply_M]
    views = np.flatnonzero((places_MxVx2[..., 0] != NOWHERE).any(axis=0))
    limb_VxM, start_VxM = places_MxVx2[:, views].transpose(2, 1, 0)
    trees_MxC, length_M = chosen.trees_KxC[chosen.tree_M], chosen.replies_MxC[:, LENGTH]
    is_frozen_VxM = (trees_MxC[:, FROZEN] >> views[:, None] & 1).astype(bool)
    has_limb_VxM = limb_VxM >= 0
    first_M = chosen.first_limb_K[chosen.tree_M]
    limb_of_VxM = limb_VxM + first_M + is_frozen_VxM * trees_MxC[:, LIVE]
    limb_of_VxM = np.where(has_limb_VxM, limb_of_VxM, len(spots.limb_A))
    fork_VxM = np.append(spots.fork_A, 0)[limb_of_VxM]
    # Live branches stand behind the trunk; frozen ones have all predictors.
    on_trunk_VxM = np.where(is_frozen_VxM, 0, fork_VxM - start_VxM)
    pieces_4xVxM = np.empty((4, *limb_VxM.shape), np.int32)
    pieces_4xVxM[0] = limb_VxM != NOWHERE
    pieces_4xVxM[1] = np.where(has_limb_VxM, on_trunk_VxM, length_M)
    pieces_4xVxM[2] = spots.trunk_K[chosen.tree_M] + start_VxM
    pieces_4xVxM[3] = np.append(spots.limb_A, 0)[limb_of_VxM] + start_VxM - fork_VxM
    pieces_4xVxM[3] += ~is_frozen_VxM * spots.live
    flat = layout.repeat(pieces_4xVxM.reshape(4 * len(views), -1))
    is_there, before, on_trunk, on_limb = flat.reshape(4, len(views), *shape)
    place = place_N.reshape(shape)
    predictor = (np.where(place < before, on_trunk, on_limb) + place) * is_there
    names = [chosen.forest.kind.views[v] for v in views]
    frozen = np.bitwise_or.reduce(chosen.trees_KxC[:, FROZEN], initial=0)
    return (
        dict(sorted(zip(names, predictor, strict=True))),
        tuple(sorted(name for name, v in zip(names, views, strict=True) if frozen >> v & 1)),
    )


def _given(forest: Forest, name: str, held_N: np.ndarray, word_N: np.ndarray) -> np.ndarray:
    """The given log-probabilities of this name; NaN where there are none."""
    if name not in forest.kind.given:
        return np.full(len(held_N), np.nan, np.float32)
    given_R = forest.given_KxR[forest.kind.given.index(name)]
    at_N = np.where(held_N, word_N - forest.ends[1], 0)
    return np.where(held_N, given_R[at_N], np.float32(np.nan))


def padding(batch: Batch) -> tuple[int, int]:
    """(slots that hold a token, all slots) of the three token arrays."""
    streams = (batch.trunk, batch.live, batch.frozen)
    held = sum(int(np.count_nonzero(s.segment_BxL)) for s in streams)
    return held, sum(s.segment_BxL.size for s in streams)
