"""Trees in columns: those of a conversation, or of a step, as a few flat arrays.

    forest = Forest.of(trees)             from trees as they were grown
    forest = Forest.join([a, b])          those of several, one behind the other
    forest[3]                             a tree again: its arrays are views of the columns

Records of stored trees hold these arrays, and rows are packed from them: neither needs an object
for each reply. A table has a row for every tree, limb or reply. The ids of all trunks lie one
behind the other, and so do those of all limbs and those of all replies: where one begins is the sum
of the lengths before it.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np

from interact_jax.data.examples import Target
from interact_jax.data.tree import Limb, Place, Reply, Tree

# Columns of the table of trees: their sizes, how many of the limbs are live, how many replies there
# are, and which views are frozen, a bit for each.
LIMBS, LIVE, REPLIES, FROZEN = 4, 5, 6, 7
TREE = 8
# Of limbs.
LENGTH, FORK = 0, 1
LIMB = 2
# Of replies: the length of y, 1 where a unit begins, how many examples the unit has, its side, and
# which log-probabilities are given, a bit for each.
BEGINS, EXAMPLES, SIDE, GIVEN = 1, 2, 3, 4
REPLY = 5
_ZERO = np.zeros(1, np.int32)
ON_TRUNK, NOWHERE = -1, -2  # in place of a limb: no limb, and no place in this view

Label = tuple[str, str, str, str]
"""Of a reply: its id, conversation, unit, and what became of its reasoning."""
Labels = Callable[[], Sequence[Label]]


class Facts(NamedTuple):
    """What there is to know of a conversation's trees before the strings of all replies are."""

    conversation: str  # "" where there is no reply
    units: int  # interactions, or pairs of replies
    weight: float  # of all units

    @classmethod
    def of(cls, names: Sequence[Label], weights: Sequence[float]) -> Facts:
        """Of replies with these strings, and the weights of their units."""
        units = {(conversation, unit or id) for id, conversation, unit, _ in names}
        weight = sum(dict(zip((unit for _, _, unit, _ in names), weights, strict=True)).values())
        return cls(names[0][1] if names else "", len(units), float(weight))


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the bits and the places in columns stand for: names of views, in the order of a reply's
    places, and of given log-probabilities."""

    views: tuple[str, ...] = ()
    given: tuple[str, ...] = ()


class Measured(Sequence[Tree]):
    """Trees whose sizes are known without looking at each."""

    @property
    @abc.abstractmethod
    def sizes_Nx5(self) -> np.ndarray:
        """The sizes of the trees: T, P, Q, R, J."""

    @property
    @abc.abstractmethod
    def given(self) -> Collection[str]:
        """The names of all given log-probabilities."""

    @abc.abstractmethod
    def tree(self, number: int) -> Tree:
        """A tree by its number, 0, 1, ..."""

    @overload
    def __getitem__(self, index: int) -> Tree: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tree]: ...
    def __getitem__(self, index: int | slice) -> Tree | list[Tree]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        return self.tree(range(len(self))[index])


def sizes_of(trees: Sequence[Tree]) -> np.ndarray:
    """The sizes [N, 5] of trees: T, P, Q, R, J."""
    if isinstance(trees, Measured):
        return trees.sizes_Nx5
    return np.array([tree.size.counts() for tree in trees], np.int64).reshape(-1, 5)


def given_with(trees: Sequence[Tree]) -> set[str]:
    """The names of the log-probabilities that are given with some reply."""
    if isinstance(trees, Measured):
        return set(trees.given)
    return {name for tree in trees for reply in tree.replies for name in reply.target.known}


@dataclasses.dataclass(frozen=True, eq=False)
class Forest(Measured):
    """Trees in columns: N trees, L limbs, M replies, V views, K given log-probabilities.

    `labels` returns the strings of the replies: they are read when somebody asks.
    """

    kind: Kind
    trees_NxC: np.ndarray  # int32, as TREE
    limbs_LxC: np.ndarray  # int32, as LIMB; of each tree the live ones, then the frozen ones
    replies_MxC: np.ndarray  # int32, as REPLY
    places_MxVx2: np.ndarray  # int32: the number of the limb among those of its kind, and the start
    weight_M: np.ndarray  # float64, of the unit
    word_W: np.ndarray  # int32: 0, and the ids of all trunks, of all limbs, of all replies
    ends: tuple[int, int]  # in `word_W`, of the trunks and of the limbs
    given_KxR: np.ndarray  # float32, for all ids of replies
    labels: Labels
    known: Facts | None = None  # where they are those of one conversation that was stored

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> Forest:
        """These trees in columns."""
        return trees if isinstance(trees, Forest) else _columns_of(trees)

    @classmethod
    def join(cls, forests: Sequence[Forest]) -> Forest:
        """The trees of all, in order."""
        if len(forests) == 1:
            return forests[0]
        kinds = dict.fromkeys(forest.kind for forest in forests)
        if len(kinds) > 1:
            forests = [_with_kind(forest, _union(kinds)) for forest in forests]

        def joined(name: str, axis: int = 0) -> np.ndarray:
            return np.concatenate([getattr(forest, name) for forest in forests], axis=axis)

        return cls(
            forests[0].kind,
            joined("trees_NxC"),
            joined("limbs_LxC"),
            joined("replies_MxC"),
            joined("places_MxVx2"),
            joined("weight_M"),
            *_joined_words(forests),
            joined("given_KxR", axis=1),
            lambda: list(itertools.chain.from_iterable(forest.labels() for forest in forests)),
        )

    def __len__(self) -> int:
        return len(self.trees_NxC)

    def tree(self, number: int) -> Tree:
        return _tree(self, number)

    def take(self, numbers: Sequence[int]) -> Forest:
        """Some of the trees, in this order."""
        return Forest.of([self[n] for n in numbers])

    @property
    def ids(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of all trunks, of all limbs and of all replies."""
        trunks, limbs = self.ends
        return self.word_W[1:trunks], self.word_W[trunks:limbs], self.word_W[limbs:]

    @property
    def sizes_Nx5(self) -> np.ndarray:
        """The sizes of the trees: T, P, Q, R, J."""
        return self.trees_NxC[:, :LIVE].astype(np.int64)

    @property
    def given(self) -> tuple[str, ...]:
        """The names of all given log-probabilities."""
        return self.kind.given

    @functools.cached_property
    def starts(self) -> Starts:
        """Where what belongs to each tree, limb and reply begins."""
        of_tree = self.trees_NxC.T
        return Starts(
            _starts(of_tree[0]),
            _starts(of_tree[LIMBS]),
            _starts(of_tree[REPLIES]),
            _starts(self.limbs_LxC[:, LENGTH]),
            _starts(self.replies_MxC[:, LENGTH]),
        )

    @functools.cached_property
    def names(self) -> Sequence[Label]:
        """The strings of every reply."""
        return self.labels()

    @functools.cached_property
    def facts(self) -> Facts:
        """Of a conversation with these trees."""
        return self.known or Facts.of(self.names, self.weight_M.tolist())

    def replies_of(self, tree: int) -> range:
        """The replies of a tree, by number."""
        first = int(self.starts.reply_N[tree])
        return range(first, first + int(self.trees_NxC[tree, REPLIES]))


@dataclasses.dataclass(frozen=True)
class Starts:
    """Where something begins: the trunk of a tree among all ids of trunks, its limbs and replies
    in their tables, and the ids of each of these."""

    trunk_N: np.ndarray
    limb_N: np.ndarray
    reply_N: np.ndarray
    ids_L: np.ndarray
    ids_M: np.ndarray


def _starts(length_N: np.ndarray) -> np.ndarray:
    return length_N.cumsum() - length_N


# ------------------------------------------------------------------------------------ from trees


def _columns_of(trees: Sequence[Tree]) -> Forest:
    replies = [reply for tree in trees for reply in tree.replies]
    kind = _kind_of(trees, replies)
    limbs = [limb for tree in trees for limb in (*tree.live, *tree.frozen)]
    targets = [reply.target for reply in replies]
    names = [(t.id, t.conversation, t.unit, t.reasoning) for t in targets]
    weights = [target.weight for target in targets]
    return Forest(
        kind,
        _table([_tree_row(tree, kind) for tree in trees], TREE),
        _table([(len(limb.ids), limb.fork) for limb in limbs], LIMB),
        _table([row for tree in trees for row in _reply_rows(tree, kind)], REPLY),
        _table([_places(reply, kind) for reply in replies], len(kind.views), 2),
        np.array(weights, np.float64),
        *_words([t.trunk for t in trees], [x.ids for x in limbs], [t.y for t in targets]),
        _given(targets, kind),
        lambda: names,
    )


def _table(rows: Sequence[object], *shape: int) -> np.ndarray:
    return np.array(rows, np.int32).reshape(len(rows), *shape)


def _words(
    trunks: Sequence[np.ndarray], limbs: Sequence[np.ndarray], replies: Sequence[np.ndarray]
) -> tuple[np.ndarray, tuple[int, int]]:
    """All ids behind one 0, and where trunks and limbs end."""
    words = np.concatenate([_ZERO, *trunks, *limbs, *replies]).astype(np.int32, copy=False)
    of_trunks = 1 + sum(map(len, trunks))
    return words, (of_trunks, of_trunks + sum(map(len, limbs)))


def _kind_of(trees: Sequence[Tree], replies: Sequence[Reply]) -> Kind:
    views = dict.fromkeys(view for reply in replies for view in reply.places)
    frozen = {view for tree in trees for view in tree.frozen_views}
    given = {name for reply in replies for name in reply.target.known}
    return Kind((*views, *sorted(frozen - views.keys())), tuple(sorted(given)))


def _bits(names: Sequence[str], found: Iterable[str]) -> int:
    return sum(1 << names.index(name) for name in found)


def _tree_row(tree: Tree, kind: Kind) -> tuple[int, ...]:
    frozen = _bits(kind.views, tree.frozen_views)
    return (*tree.size.counts(), len(tree.live), len(tree.replies), frozen)


def _reply_rows(tree: Tree, kind: Kind) -> Iterator[tuple[int, ...]]:
    keys = [(reply.target.conversation, reply.target.unit) for reply in tree.replies]
    examples, last = collections.Counter(keys), None
    for reply, key in zip(tree.replies, keys, strict=True):
        target = reply.target
        given = _bits(kind.given, target.known) if target.known else 0
        yield len(target.y), int(key != last), examples[key], target.side, given
        last = key


def _places(reply: Reply, kind: Kind) -> list[tuple[int, int]]:
    found = (reply.places.get(view) for view in kind.views)
    return [
        (NOWHERE, 0)
        if place is None
        else (ON_TRUNK if place.limb is None else place.limb, place.start)
        for place in found
    ]


def _given(targets: Sequence[Target], kind: Kind) -> np.ndarray:
    count = sum(len(target.y) for target in targets)
    given_KxR = np.full((len(kind.given), count), np.nan, np.float32)
    if kind.given:
        at = 0
        for target in targets:
            for name, logps in target.known.items():
                given_KxR[kind.given.index(name), at : at + len(logps)] = logps
            at += len(target.y)
    return given_KxR


# -------------------------------------------------------------------------------------- to trees


def _tree(forest: Forest, number: int) -> Tree:
    starts, kind = forest.starts, forest.kind
    T, *_, J, live, _, frozen = forest.trees_NxC[number].tolist()
    trunk, first = int(starts.trunk_N[number]), int(starts.limb_N[number])
    limbs = [_limb(forest, n) for n in range(first, first + J)]
    return Tree(
        forest.ids[0][trunk : trunk + T],
        tuple(limbs[:live]),
        tuple(limbs[live:]),
        tuple(_reply(forest, n) for n in forest.replies_of(number)),
        frozenset(view for n, view in enumerate(kind.views) if frozen >> n & 1),
    )


def _limb(forest: Forest, number: int) -> Limb:
    length, fork = forest.limbs_LxC[number].tolist()
    start = int(forest.starts.ids_L[number])
    return Limb(forest.ids[1][start : start + length], fork)


def _reply(forest: Forest, number: int) -> Reply:
    length, _, _, side, given = forest.replies_MxC[number].tolist()
    start = int(forest.starts.ids_M[number])
    at = slice(start, start + length)
    id, conversation, unit, reasoning = forest.names[number]
    known = {
        name: forest.given_KxR[n, at] for n, name in enumerate(forest.kind.given) if given >> n & 1
    }
    target = Target(
        id,
        forest.ids[2][at],
        conversation,
        unit,
        side,
        float(forest.weight_M[number]),
        known,
        reasoning,
    )
    places = {
        view: Place(None if limb == ON_TRUNK else limb, start)
        for view, (limb, start) in zip(
            forest.kind.views, forest.places_MxVx2[number].tolist(), strict=True
        )
        if limb != NOWHERE
    }
    return Reply(target, places)


# --------------------------------------------------------------------------------------- joining


def _joined_words(forests: Sequence[Forest]) -> tuple[np.ndarray, tuple[int, int]]:
    return _words(*zip(*(forest.ids for forest in forests), strict=True))


def _union(kinds: Iterable[Kind]) -> Kind:
    views = dict.fromkeys(view for kind in kinds for view in kind.views)
    return Kind(tuple(views), tuple(sorted({name for kind in kinds for name in kind.given})))


def _with_kind(forest: Forest, kind: Kind) -> Forest:
    """The same, with columns for what others have."""
    views = [kind.views.index(view) for view in forest.kind.views]
    given = [kind.given.index(name) for name in forest.kind.given]
    trees_NxC, replies_MxC = forest.trees_NxC.copy(), forest.replies_MxC.copy()
    trees_NxC[:, FROZEN] = _moved(trees_NxC[:, FROZEN], views)
    replies_MxC[:, GIVEN] = _moved(replies_MxC[:, GIVEN], given)
    places_MxVx2 = np.zeros((len(replies_MxC), len(kind.views), 2), np.int32)
    places_MxVx2[..., 0] = NOWHERE
    places_MxVx2[:, views] = forest.places_MxVx2
    given_KxR = np.full((len(kind.given), forest.given_KxR.shape[1]), np.nan, np.float32)
    given_KxR[given] = forest.given_KxR
    return dataclasses.replace(
        forest,
        kind=kind,
        trees_NxC=trees_NxC,
        replies_MxC=replies_MxC,
        places_MxVx2=places_MxVx2,
        given_KxR=given_KxR,
    )


def _moved(bits_N: np.ndarray, to: Sequence[int]) -> np.ndarray:
    moved_N = np.zeros_like(bits_N)
    for n, place in enumerate(to):
        moved_N |= (bits_N >> n & 1) << place
    return moved_N
