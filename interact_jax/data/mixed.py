"""Several prepared data sets as one, whose conversations are drawn by weight.

    mixed = MixedDataset(parts, weighted)    `Data` of `LogBatches`
    mixed.course(seed)                       which conversation is drawn when (`draws.Course`)

Each data set has its own shuffled order, which depends on the seed and on its own content, and
begins anew when it is through. A position has the number of conversations drawn of each. So weights
may change when a run is resumed, and data sets come and go: each goes on where it was.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from interact_jax.data.draws import Course, Place
from interact_jax.data.fingerprint import difference
from interact_jax.data.forest import Forest, Label, Measured, given_with, sizes_of
from interact_jax.data.limits import Member
from interact_jax.data.mixture import Weighted
from interact_jax.data.order import Order
from interact_jax.data.reading import Read
from interact_jax.data.tree import Tree
from interact_jax.data.tree_index import Sizes
from interact_jax.printable import count
from interact_jax.schema import Conversation, InputError

GONE = "0"  # the share of a data set that a run has left


class Part(Protocol):
    """What a mixture needs of a data set (`stored.StoredDataset`)."""

    @property
    def interactions(self) -> np.ndarray: ...
    @property
    def users(self) -> np.ndarray: ...
    @property
    def prints(self) -> dict[str, str]: ...
    def __len__(self) -> int: ...
    def trees_of(self, indices: Sequence[int]) -> Sequence[Tree]: ...
    def sizes(self, indices: Sequence[int]) -> Sizes | None: ...
    def forests_of(self, indices: Sequence[int], counted: Collection[int]) -> list[Forest]: ...
    def count_elsewhere(self, indices: Sequence[int]) -> None: ...
    def members(self, indices: Sequence[int], trees: Sequence[Sequence[Tree]]) -> list[Member]: ...
    def follow(self, *orders: Iterator[int]) -> Read: ...
    def summary(self) -> Mapping[str, int]: ...
    def lines(self) -> list[str]: ...
    def close(self) -> None: ...


class MixedDataset:
    """The conversations of all data sets, numbered through: those of the first, of the second, ...

    Conversations of two data sets are two, whatever their names, and so are users: behind the name
    of a conversation stands the path of its data set. Raises InputError where two data sets are the
    same.
    """

    def __init__(self, parts: Sequence[Part], weighted: Sequence[Weighted]):
        self.parts, self.paths = list(parts), [each.path for each in weighted]
        self.weight_of = [each.weight for each in weighted]
        self._ids = [part.prints["conversations"] for part in parts]
        for n, own in enumerate(self._ids):
            if own in self._ids[:n]:
                raise InputError(
                    f"data.mixture: {self.paths[self._ids.index(own)]} and {self.paths[n]} have "
                    "the same conversations. Give one of them, with the sum of the weights."
                )
        self._starts = np.cumsum([0, *map(len, parts)])
        self.interactions = np.concatenate([part.interactions for part in parts])
        self.users = np.concatenate(
            [_own_users(part.users, own) for part, own in zip(parts, self._ids, strict=True)]
        )
        self._gone: list[dict[str, Any]] = []  # positions in data sets that the run has left

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def weights(self) -> np.ndarray:
        """As those of its parts: interactions."""
        return self.interactions.astype(np.float64)

    @property
    def prints(self) -> dict[str, str]:
        """Of all parts together."""
        each = [part.prints for part in self.parts]
        return {
            name: hashlib.blake2b(
                "".join(p[name] for p in each).encode(), digest_size=16
            ).hexdigest()
            for name in each[0]
        }

    def course(self, seed: int) -> Course:
        """Which conversation is drawn when."""
        orders = [
            Order(len(part), _number(f"{seed} {own}", 4))
            for part, own in zip(self.parts, self._ids, strict=True)
        ]
        return Course(orders, self.weight_of)

    def trees_of(self, indices: Sequence[int]) -> Sequence[Tree]:
        """The trees of these conversations."""
        places = self._places(indices)
        found = [part.trees_of(own) for part, own in zip(self.parts, places.own, strict=True)]
        sizes = [part.sizes(own) for part, own in zip(self.parts, places.own, strict=True)]
        known = [each for each in sizes if each is not None]
        if len(known) == len(sizes):
            counts = [each.trees_C.tolist() for each in known]
            return _Joined(found, places.merged_trees(counts))
        each = [self.parts[part].trees_of([i]) for part, i in map(self._place, indices)]
        return [tree for trees in each for tree in trees]

    def sizes(self, indices: Sequence[int]) -> Sizes | None:
        """The sizes of the trees of these conversations; None where some are not stored."""
        places = self._places(indices)
        sizes = [part.sizes(own) for part, own in zip(self.parts, places.own, strict=True)]
        known = [each for each in sizes if each is not None]
        if len(known) < len(sizes):
            return None
        trees = places.merged_trees([each.trees_C.tolist() for each in known])
        order_C = places.order_C

        def merged(name: str) -> np.ndarray:
            return np.concatenate([getattr(each, name) for each in known])[order_C]

        starts = np.cumsum([0, *(len(each.trees_Nx5) for each in known)])
        trees_Nx5 = np.concatenate([each.trees_Nx5 for each in known])
        return Sizes(
            trees_Nx5[[int(starts[part]) + n for part, n in trees]],
            merged("trees_C"),
            merged("units_C"),
            merged("weight_C"),
            any(each.given for each in known),
        )

    def forests_of(self, indices: Sequence[int], counted: Collection[int]) -> list[Forest]:
        """The trees of each of these conversations, in any order. What is lost of those `counted`
        is counted."""
        places, counted_of = self._places(indices), self._places(list(counted)).own
        found = [
            _renamed(trees, path)
            for path, part, own, counts in zip(
                self.paths, self.parts, places.own, counted_of, strict=True
            )
            for trees in part.forests_of(own, set(counts))
        ]
        return [found[n] for n in places.order_C.tolist()]

    def count_elsewhere(self, indices: Sequence[int]) -> None:
        """From here on do not count what is lost of these conversations: others have."""
        for part, own in zip(self.parts, self._places(indices).own, strict=True):
            part.count_elsewhere(own)

    def members(self, indices: Sequence[int], trees: Sequence[Sequence[Tree]]) -> list[Member]:
        """These conversations, whose trees are at hand, as `Limits` sees them."""
        members = []
        for index, of_one in zip(indices, trees, strict=True):
            part, i = self._place(index)
            ((name, _, weight),) = self.parts[part].members([i], [of_one])
            own = name if of_one else f"\0{index}"
            members.append((own, str(self.users[index] or ""), weight))
        return members

    def follow(self, *orders: Iterator[int]) -> Read:
        """A function that returns the trees of the next conversations; `orders` are those of each
        data set, by their numbers in it."""
        reads = [part.follow(order) for part, order in zip(self.parts, orders, strict=True)]

        def read(indices: Sequence[int]) -> Sequence[Sequence[Tree]]:
            places = self._places(indices)
            found = [
                _renamed(trees, path)
                for path, own_read, own in zip(self.paths, reads, places.own, strict=True)
                for trees in own_read(own)
            ]
            return [found[n] for n in places.order_C.tolist()]

        return read

    def summary(self) -> collections.Counter[str]:
        """Everything that was lost or mended, by reason."""
        return sum((collections.Counter(part.summary()) for part in self.parts), _nothing())

    def lines(self) -> list[str]:
        """What there is, for people."""
        whole = sum(self.weight_of)
        return [
            f"{path}, {float(weight / whole):.1%} of the conversations drawn: {line}"
            if n == 0
            else line
            for path, weight, part in zip(self.paths, self.weight_of, self.parts, strict=True)
            for n, line in enumerate(part.lines())
        ]

    def read_lines(self, place: Place) -> list[str]:
        """How often each data set has been read, for people."""
        return [
            f"{path}: {count(drawn, 'conversation')} drawn, {drawn / len(part):.2f} times all of it"
            for path, part, drawn in zip(self.paths, self.parts, place, strict=True)
        ]

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def _places(self, indices: Sequence[int]) -> _Places:
        part_C = np.searchsorted(self._starts, indices, side="right") - 1
        number_C = np.asarray(indices, np.int64) - self._starts[part_C]
        own = [number_C[part_C == part].tolist() for part in range(len(self.parts))]
        order_C = np.empty(len(part_C), np.int64)
        order_C[np.argsort(part_C, kind="stable")] = np.arange(len(part_C))
        return _Places(part_C, own, order_C)

    def _place(self, index: int) -> tuple[int, int]:
        """The data set of a conversation, and its number there."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return part, index - int(self._starts[part])

    # ------------------------------------------------------------------------------- the position

    def position(self, place: Place, since: Place) -> list[dict[str, Any]]:
        """What a checkpoint stores: for each data set what it is, how many of its conversations
        have been drawn, and from which number on its share is counted."""
        whole = sum(self.weight_of)
        now = [
            {
                "path": path,
                "data": part.prints,
                "conversations": len(part),
                "drawn": drawn,
                "since": from_,
                "share": str(weight / whole),
            }
            for path, part, weight, drawn, from_ in zip(
                self.paths, self.parts, self.weight_of, place, since, strict=True
            )
        ]
        return [*now, *self._gone]

    def place_of(self, saved: Sequence[Mapping[str, Any]]) -> tuple[Place, Place]:
        """The place of a position, and that from which shares are counted: the same, where weights
        or data sets are others than they were. A data set that is new begins at its beginning."""
        by_id = {each["data"]["conversations"]: each for each in saved}
        then = [by_id.get(own, {"drawn": 0, "since": 0}) for own in self._ids]
        place = tuple(each["drawn"] for each in then)
        whole = sum(self.weight_of)
        shares = {i: str(w / whole) for i, w in zip(self._ids, self.weight_of, strict=True)}
        before = {i: each["share"] for i, each in by_id.items() if each["share"] != GONE}
        self._gone = [{**e, "share": GONE} for i, e in by_id.items() if i not in self._ids]
        if shares != before:
            return place, place
        return place, tuple(each["since"] for each in then)

    def change(self, saved: Sequence[Mapping[str, Any]], parts: Collection[str]) -> str | None:
        """In words, what is another in the data sets of a position; None where they are the same,
        or were not read yet."""
        by_id = {each["data"]["conversations"]: each for each in saved}
        by_path = {each["path"]: each for each in saved}
        for path, part, own in zip(self.paths, self.parts, self._ids, strict=True):
            if own in by_id:
                if change := difference(by_id[own]["data"], part.prints, parts):
                    return f"{change.format(len(part))} of {path}"
            elif path in by_path:
                then = count(by_path[path]["conversations"], "conversation")
                return f"other data in {path}: {then}, now there are {len(part):,} others"
        return None


def with_own_id(conversation: Conversation, path: str) -> Conversation:
    """A conversation of the data set of this path, by the name that it has in a mixture."""
    return dataclasses.replace(conversation, id=_own_name(conversation.id, path))


def _own_name(name: str, path: str) -> str:
    return f"{name} ({path})"


def _renamed(trees: Sequence[Tree], path: str) -> Forest:
    """The trees of a conversation, under the name that it has in a mixture."""
    forest = Forest.of(trees)

    def labels() -> list[Label]:
        return [
            (
                _own_name(conversation, path) + id.removeprefix(conversation),
                _own_name(conversation, path),
                _own_name(conversation, path) + unit.removeprefix(conversation) if unit else "",
                reasoning,
            )
            for id, conversation, unit, reasoning in forest.labels()
        ]

    known = forest.known
    if known is not None and known.conversation:
        known = known._replace(conversation=_own_name(known.conversation, path))
    return dataclasses.replace(forest, labels=labels, known=known)


class _Places(NamedTuple):
    """Where conversations C are: their data sets; by data set, their numbers there; and the place
    of each where the data sets come one after the other."""

    part_C: np.ndarray
    own: list[list[int]]
    order_C: np.ndarray

    def merged_trees(self, counts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        """(data set, number) of each tree, where the conversations of the data sets have so many of
        them."""
        left = [iter(each) for each in counts]
        at, trees = [0] * len(counts), list[tuple[int, int]]()
        for part in self.part_C.tolist():
            start, at[part] = at[part], at[part] + next(left[part])
            trees += [(part, n) for n in range(start, at[part])]
        return trees


class _Joined(Measured):
    """Trees of several data sets, which may not have been read yet."""

    def __init__(self, of_each: Sequence[Sequence[Tree]], trees: Sequence[tuple[int, int]]):
        """`trees` has the data set of each tree, and its number among those of that."""
        self._of_each, self._trees = of_each, trees

    @property
    def sizes_Nx5(self) -> np.ndarray:
        """The sizes of the trees: T, P, Q, R, J."""
        starts = np.cumsum([0, *map(len, self._of_each)]).tolist()
        sizes_Nx5 = np.concatenate([np.zeros((0, 5), np.int64), *map(sizes_of, self._of_each)])
        return sizes_Nx5[[starts[part] + n for part, n in self._trees]]

    @property
    def given(self) -> set[str]:
        """The names of all given log-probabilities."""
        return {name for trees in self._of_each for name in given_with(trees)}

    def __len__(self) -> int:
        return len(self._trees)

    def tree(self, number: int) -> Tree:
        part, own = self._trees[number]
        return self._of_each[part][own]


def _own_users(users_N: np.ndarray, own: str) -> np.ndarray:
    """Users [N] of a data set among those of others; 0 stays nobody."""
    return np.where(users_N == 0, users_N, users_N ^ np.uint64(_number(own, 8)))


def _number(text: str, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest())


def _nothing() -> collections.Counter[str]:
    return collections.Counter()
