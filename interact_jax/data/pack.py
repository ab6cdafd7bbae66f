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
    length_M = chosen.replies_MxC[:, LENGTH]
    start_M = _starts(length_M)
    place_R = np.arange(length_M.sum()) - start_M.repeat(length_M)
    word_R = place_R + np.repeat(forest.ends[1] + forest.starts.ids_M[chosen.reply_M], length_M)
    used_B = np.bincount(chosen.row_M, length_M, height).astype(np.int64)
    share_M, tables = _tables(chosen, factor_M, (height, capacity.R))
    weight_R = np.repeat(share_M / np.maximum(1, length_M - ignore_first), length_M)
    weight_R *= place_R >= ignore_first
    views, predictors = _predictors(chosen, spots, place_R)
    number_R = np.repeat(1 + _places_in_rows(chosen.row_M), length_M)
    flat = np.array([number_R, forest.word_W[word_R], *predictors], np.int32)
    example, target, *predictors = _in_rows(flat, used_B, capacity.R)
    example -= 1  # padding: -1
    (weight,) = _in_rows(weight_R.astype(np.float32)[None], used_B, capacity.R)
    frozen_bits = np.bitwise_or.reduce(chosen.trees_KxC[:, FROZEN], initial=0)
    batch = Batch(
        trunk=trunk,
        live=live,
        frozen=frozen,
        branches=branches,
        replies=Replies(
            example,
            target,
            weight,
            {forest.kind.views[v]: indices for v, indices in zip(views, predictors, strict=True)},
            _given(forest, known, word_R, used_B, capacity.R),
            *tables,
        ),
        frozen_views=tuple(sorted(forest.kind.views[v] for v in views if frozen_bits >> v & 1)),
    )
    start_M -= _starts(used_B)[chosen.row_M]
    places = np.stack([chosen.row_M, start_M, length_M], axis=1)
    return batch, Places(forest, chosen.reply_M, places)


class _Chosen(NamedTuple):
    """The trees K of rows, with their limbs A and replies M: numbers of them in the forest."""

    forest: Forest
    tree_K: np.ndarray
    trees_KxC: np.ndarray
    row_K: np.ndarray
    limb_A: np.ndarray
    tree_A: np.ndarray  # among the chosen ones
    first_limb_K: np.ndarray  # among the chosen ones
    reply_M: np.ndarray
    replies_MxC: np.ndarray
    tree_M: np.ndarray
    row_M: np.ndarray

    @classmethod
    def of(cls, forest: Forest, rows: Sequence[Sequence[int]]) -> _Chosen:
        tree_K = np.array([number for row in rows for number in row], np.int64)
        row_K = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        trees_KxC, at_K, starts = forest.trees_NxC[tree_K], np.arange(len(tree_K)), forest.starts
        limbs_K, replies_K = trees_KxC[:, LIMBS], trees_KxC[:, REPLIES]
        tree_A, tree_M = at_K.repeat(limbs_K), at_K.repeat(replies_K)
        first_limb_K = _starts(limbs_K)
        limb_A = (starts.limb_N[tree_K] - first_limb_K)[tree_A] + np.arange(len(tree_A))
        reply_M = (starts.reply_N[tree_K] - _starts(replies_K))[tree_M] + np.arange(len(tree_M))
        return cls(
            forest,
            tree_K,
            trees_KxC,
            row_K,
            limb_A,
            tree_A,
            first_limb_K,
            reply_M,
            forest.replies_MxC[reply_M],
            tree_M,
            row_K[tree_M],
        )


def _starts(length_N: np.ndarray) -> np.ndarray:
    return length_N.cumsum() - length_N


def _places_in_rows(row_N: np.ndarray) -> np.ndarray:
    """The place of each in its row, where they are in the order of rows: 0, 1, ..."""
    return np.arange(len(row_N)) - row_N.searchsorted(row_N)


def _in_rows(
    flat_CxN: np.ndarray, used_B: np.ndarray, length: int, padding: float = 0
) -> np.ndarray:
    """Arrays [C, B, length] whose rows begin with what is behind one another in `flat_CxN`."""
    arrays = np.zeros((len(flat_CxN), len(used_B), length), flat_CxN.dtype)
    if padding:
        arrays.fill(padding)
    end = 0
    for b, used in enumerate(used_B.tolist()):
        start, end = end, end + used
        arrays[:, b, :used] = flat_CxN[:, start:end]
    return arrays


class _Spots(NamedTuple):
    """Where trunks and limbs begin in their rows, and the forks of the limbs."""

    trunk_K: np.ndarray
    limb_A: np.ndarray
    fork_A: np.ndarray
    live: int  # where the live branches begin behind the trunks


def _streams(
    chosen: _Chosen, capacity: Size, height: int
) -> tuple[list[TokenStream], Branches, _Spots]:
    """The three token arrays, laid out as one: rows of trunks, of live and of frozen branches."""
    forest, starts, count = chosen.forest, chosen.forest.starts, len(chosen.tree_K)
    limbs_AxC, row_A = forest.limbs_LxC[chosen.limb_A], chosen.row_K[chosen.tree_A]
    fork_A = limbs_AxC[:, FORK]
    at_A = np.arange(len(row_A))
    is_frozen_A = at_A - chosen.first_limb_K[chosen.tree_A] >= chosen.trees_KxC[chosen.tree_A, LIVE]
    segment_K = 1 + _places_in_rows(chosen.row_K)
    segment_A, branch_A = segment_K[chosen.tree_A], 1 + _places_in_rows(row_A)
    # Pieces Z: their rows of the three arrays, lengths, words, first positions, segments, branches.
    pieces_6xZ = np.zeros((6, count + len(row_A)), np.int32)
    of_K, of_A = pieces_6xZ[:, :count], pieces_6xZ[:, count:]
    of_K[0], of_A[0] = chosen.row_K, row_A + height * (1 + is_frozen_A)
    of_K[1], of_A[1] = chosen.trees_KxC[:, 0], limbs_AxC[:, LENGTH]
    of_K[2] = 1 + starts.trunk_N[chosen.tree_K]
    of_A[2] = forest.ends[0] + starts.ids_L[chosen.limb_A]
    of_A[3] = fork_A
    of_K[4], of_A[4] = segment_K, segment_A
    of_A[5] = branch_A
    order_Z = pieces_6xZ[0].argsort(kind="stable")
    pieces_6xZ = pieces_6xZ[:, order_Z]
    length_Z, start_Z = pieces_6xZ[1], _starts(pieces_6xZ[1])
    pieces_6xZ[2:4] -= start_Z.astype(np.int32)
    flat_4xN = np.repeat(pieces_6xZ[2:], length_Z, axis=1)
    flat_4xN[:2] += np.arange(flat_4xN.shape[1], dtype=np.int32)
    flat_4xN[0] = forest.word_W[flat_4xN[0]]

    used_B = np.bincount(pieces_6xZ[0], length_Z, 3 * height).astype(np.int64)
    streams, end = [], 0
    for n, length in enumerate(capacity.counts()[:3]):
        used = used_B[n * height : (n + 1) * height]
        start, end = end, end + int(used.sum())
        streams.append(TokenStream(*_in_rows(flat_4xN[:, start:end], used, length)))
    segment_BxJ, parent_BxJ, fork_BxJ = np.zeros((3, height, capacity.J + 1), np.int32)
    segment_BxJ[row_A, branch_A] = segment_A
    fork_BxJ[row_A, branch_A] = fork_A
    within_Z = np.empty_like(start_Z)
    within_Z[order_Z] = start_Z - _starts(used_B)[pieces_6xZ[0]]
    spots = _Spots(within_Z[:count], within_Z[count:], fork_A, capacity.T)
    return streams, Branches(segment_BxJ, parent_BxJ, fork_BxJ), spots


def _tables(
    chosen: _Chosen, factor_M: Sequence[float] | np.ndarray | None, shape: tuple[int, int]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The share of each reply; units, sides and shares by row and example."""
    share_M = chosen.forest.weight_M[chosen.reply_M]
    if factor_M is not None:
        share_M = np.asarray(factor_M)[chosen.reply_M] * share_M
    share_M = share_M / chosen.replies_MxC[:, EXAMPLES]
    number_M = np.cumsum(chosen.replies_MxC[:, BEGINS])
    first_M = chosen.row_M.searchsorted(chosen.row_M)  # of the row
    number_M -= number_M[first_M]
    at = chosen.row_M, np.arange(len(first_M)) - first_M
    unit, side = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    share = np.zeros(shape, np.float32)
    unit[at], side[at], share[at] = number_M, chosen.replies_MxC[:, SIDE], share_M
    return share_M, (unit, side, share)


def _predictors(
    chosen: _Chosen, spots: _Spots, place_R: np.ndarray
) -> tuple[list[int], list[np.ndarray]]:
    """The views that some reply has, sorted by name, and the predictors of all entries in each.

    Those of a reply are on the trunk, on a branch, or first on the trunk and then on a live branch.
    """
    names, places_MxVx2 = chosen.forest.kind.views, chosen.forest.places_MxVx2[chosen.reply_M]
    trees_MxC, length_M = chosen.trees_KxC[chosen.tree_M], chosen.replies_MxC[:, LENGTH]
    trunk_M, first_M = spots.trunk_K[chosen.tree_M], chosen.first_limb_K[chosen.tree_M]
    views, predictors = [], []
    for v in sorted(range(len(names)), key=names.__getitem__):
        limb_M, start_M = places_MxVx2[:, v].T
        is_there_M = limb_M != NOWHERE
        if not is_there_M.any():
            continue
        # Live branches stand behind the trunk; frozen ones have all predictors.
        before_M, on_trunk_M = length_M.copy(), trunk_M + start_M
        on_limb_M = np.zeros_like(on_trunk_M)
        (on,) = np.nonzero(limb_M >= 0)
        is_frozen = (trees_MxC[on, FROZEN] >> v & 1).astype(bool)
        limb = first_M[on] + limb_M[on] + is_frozen * trees_MxC[on, LIVE]
        fork = spots.fork_A[limb]
        before_M[on] = np.where(is_frozen, 0, fork - start_M[on])
        on_limb_M[on] = spots.limb_A[limb] + start_M[on] - fork + ~is_frozen * spots.live
        pieces_3xM = np.stack([before_M, on_trunk_M, on_limb_M])
        before, on_trunk, on_limb = pieces_3xM.repeat(length_M, axis=1)
        predictor = np.where(place_R < before, on_trunk, on_limb) + place_R
        if not is_there_M.all():
            predictor *= is_there_M.repeat(length_M)
        views.append(v)
        predictors.append(predictor)
    return views, predictors


def _given(
    forest: Forest, names: Set[str], word_R: np.ndarray, used_B: np.ndarray, length: int
) -> dict[str, np.ndarray]:
    """Given log-probabilities by name; NaN where there are none."""
    found = {}
    for name in sorted(names):
        flat = np.full((1, len(word_R)), np.nan, np.float32)
        if name in forest.kind.given:
            row = forest.kind.given.index(name)
            flat[0] = forest.given_KxR[row, word_R - forest.ends[1]]
        (found[name],) = _in_rows(flat, used_B, length, np.nan)
    return found


def padding(batch: Batch) -> tuple[int, int]:
    """(slots that hold a token, all slots) of the three token arrays."""
    streams = (batch.trunk, batch.live, batch.frozen)
    held = sum(int(np.count_nonzero(s.segment_BxL)) for s in streams)
    return held, sum(s.segment_BxL.size for s in streams)
