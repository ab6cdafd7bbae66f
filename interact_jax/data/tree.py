"""Token trees: the sequences of a conversation in all views, with shared prefixes stored once.

Sequences are compared by ids, so no chat template is special-cased, and tokens that span a boundary
are right by construction. The longest differentiated sequence is the trunk;
every other sequence is a limb that forks where it leaves the trunk:

    trunk      u1 y1 u2 y2
    frozen     u1|[hindsight o1] y1
    frozen     u1 y1 u2|[hindsight o2] y2

Inputs and targets are separate: the last token of a sequence is only ever a target, so it is
dropped before prefixes are compared, and a reply token is a pair (predictor, target).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from interact_jax.data.encode import Unit
from interact_jax.data.examples import Example, Target
from interact_jax.data.thinking import NOTES
from interact_jax.printable import count
from interact_jax.settings import Setting

SHARED = 0.5  # of the shorter context: two sequences that share less are in separate trees


@dataclasses.dataclass(frozen=True)
class Limb:
    """A branch of a tree: `ids` [L], whose first token has `fork` ancestors, all on the trunk."""

    ids: np.ndarray
    fork: int


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the predictors of a reply stand in one view.

    The predictor of y[t] has `start + t` ancestors; it is on `limb` (of the view's kind) if that is
    at least the limb's fork, on the trunk otherwise (always if None).
    """

    limb: int | None
    start: int


@dataclasses.dataclass(frozen=True)
class Reply:
    """A target, and its place in every view."""

    target: Target
    places: Mapping[str, Place]


@dataclasses.dataclass(frozen=True)
class Size:
    """Tokens of a tree, or capacity of a row, by array: T trunk, P and Q branches, R replies; J is
    the number of branches."""

    T: int
    P: int
    Q: int
    R: int
    J: int

    def __add__(self, other: Size) -> Size:
        return Size(*(a + b for a, b in zip(self.counts(), other.counts(), strict=True)))

    def fits(self, capacity: Size) -> bool:
        """Whether no array overflows."""
        return all(a <= b for a, b in zip(self.counts(), capacity.counts(), strict=True))

    def counts(self) -> tuple[int, ...]:
        """The five numbers, in order."""
        return (self.T, self.P, self.Q, self.R, self.J)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A trunk [T], the limbs of differentiated views and of the others, and the replies to score.

    Replies of one unit are adjacent. `frozen_views` are the views whose limbs are `frozen`.
    """

    trunk: np.ndarray
    live: tuple[Limb, ...]
    frozen: tuple[Limb, ...]
    replies: tuple[Reply, ...]
    frozen_views: frozenset[str]

    @functools.cached_property
    def size(self) -> Size:
        return Size(
            T=len(self.trunk),
            P=sum(len(limb.ids) for limb in self.live),
            Q=sum(len(limb.ids) for limb in self.frozen),
            R=sum(len(reply.target.y) for reply in self.replies),
            J=len(self.live) + len(self.frozen),
        )

    def limbs_of(self, view: str) -> tuple[Limb, ...]:
        """The limbs on which sequences of this view may be."""
        return self.frozen if view in self.frozen_views else self.live

    def path(self, reply: Reply, view: str) -> np.ndarray:
        """The input ids of a sequence by itself."""
        place = reply.places[view]
        if place.limb is None:
            return self.trunk[: place.start + len(reply.target.y)]
        limb = self.limbs_of(view)[place.limb]
        return np.concatenate([self.trunk[: limb.fork], limb.ids])

    def units(self) -> list[Unit]:
        """The units from which the tree was grown."""
        examples = [
            Example(
                reply.target,
                {v: self.path(reply, v)[: p.start + 1] for v, p in reply.places.items()},
            )
            for reply in self.replies
        ]
        grouped = itertools.groupby(examples, lambda e: (e.target.conversation, e.target.unit))
        return [list(unit) for _, unit in grouped]


def grow(window: Sequence[Unit], frozen_views: Collection[str]) -> list[Tree]:
    """Trees of the units that see one history window, in order.

    Usually one; a unit that shares little with the current tree (as in the reference's cut
    windows) starts another.
    """
    groups: list[list[_Unit]] = []
    trunk: _Path | None = None  # of the current tree, as far as it is known
    for unit in map(_with_paths, window):
        longest = _longest(unit, frozen_views)
        if trunk is not None and trunk.shares_much_with(longest):
            groups[-1].append(unit)
            trunk = max(trunk, longest, key=lambda path: len(path.ids))
        else:
            groups.append([unit])
            trunk = longest
    return [_build_tree(group, frozen_views) for group in groups]


def grow_separately(window: Sequence[Unit], frozen_views: Collection[str]) -> list[Tree]:
    """Trees that share nothing (`sharing=none`): each unit alone, every sequence in full."""
    return [_build_tree([_with_paths(unit)], frozen_views, share=False) for unit in window]


GROW = {"tree": grow, "none": grow_separately}
"""How examples become trees, by the value of the setting `sharing`."""
SETTINGS = {
    "sharing": Setting(
        "tree",
        "tree computes every shared prefix once; none runs a full forward for every "
        "sequence, with the same result",
        tuple(GROW),
    ),
}


def split(tree: Tree, capacity: Size) -> list[Tree]:
    """Halve a tree between units until every part fits; each part repeats the trunk as far as it
    needs it.

    Raises ValueError where a single unit does not fit: the capacity is too small.
    """
    if tree.size.fits(capacity):
        return [tree]
    units = tree.units()
    if len(units) == 1:
        name = tree.replies[0].target.unit
        raise ValueError(f"interaction {name} of {tree.size} exceeds {capacity}")
    half = len(units) // 2
    parts = (map(_with_paths, part) for part in (units[:half], units[half:]))
    halves = (_build_tree(list(part), tree.frozen_views) for part in parts)
    return [part for half_tree in halves for part in split(half_tree, capacity)]


def split_units(tree: Tree) -> list[Tree]:
    """Each unit of a tree as a tree of its own."""
    units = tree.units()
    if len(units) == 1:  # unchanged: a tree without sharing would share if it were grown again
        return [tree]
    return [_build_tree([_with_paths(unit)], tree.frozen_views) for unit in units]


def shared_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    if not n:
        return 0
    differ = np.asarray(a[:n]) != np.asarray(b[:n])
    first = int(differ.argmax())
    return first if differ[first] else n


_Unit = list[tuple[Example, Mapping[str, np.ndarray]]]
"""The examples of a unit, and the input ids of their sequences by view."""


def _with_paths(unit: Unit) -> _Unit:
    return [(e, {view: e.path(view) for view in e.contexts}) for e in unit]


class _Path(NamedTuple):
    """A differentiated sequence, and how much of it is context."""

    ids: np.ndarray
    context: int

    def shares_much_with(self, other: _Path) -> bool:
        least = SHARED * min(self.context, other.context)
        return shared_prefix(self.ids, other.ids) >= least


def _longest(unit: _Unit, frozen_views: Collection[str]) -> _Path:
    """The longest differentiated sequence of a unit."""
    paths = (
        _Path(paths[view], len(context))
        for e, paths in unit
        for view, context in e.contexts.items()
        if view not in frozen_views
    )
    return max(paths, key=lambda path: len(path.ids))


def _build_tree(units: Sequence[_Unit], frozen_views: Collection[str], share: bool = True) -> Tree:
    trunk = max((_longest(unit, frozen_views).ids for unit in units), key=len)
    limbs: dict[bool, list[Limb]] = {False: [], True: []}
    replies = []
    trunk_used = False  # without sharing, only one sequence is on the trunk
    for e, paths in itertools.chain.from_iterable(units):
        places = {}
        for view, context in e.contexts.items():
            path, frozen = paths[view], view in frozen_views
            fork = shared_prefix(trunk, path)
            if frozen:
                # At the latest before the last token of the context: the predictor of y[0] belongs
                # to the view, even if an empty follow-up makes its prompt equal to the plain one.
                fork = min(fork, len(context) - 1)
            if not share and (frozen or trunk_used or fork < len(trunk)):
                fork = 0
            limb = None
            if fork < len(path):
                limb = len(limbs[frozen])
                limbs[frozen].append(Limb(path[fork:].copy(), fork))
            else:
                trunk_used = True
            places[view] = Place(limb, len(context) - 1)
        replies.append(Reply(e.target, places))
    return Tree(
        trunk, tuple(limbs[False]), tuple(limbs[True]), tuple(replies), frozenset(frozen_views)
    )


def paths(tree: Tree) -> list[tuple[str, str, np.ndarray]]:
    """(example id, view, input ids) of every sequence by itself."""
    return [
        (reply.target.id, view, tree.path(reply, view))
        for reply in tree.replies
        for view in reply.places
    ]


def picture(tree: Tree, decode: Callable[[np.ndarray], str], width: int = 79) -> str:
    """The tree as text, one line per limb: shared tokens are drawn as `·`, a limb begins with `|`.

    `decode` turns ids into text. Columns are not tokens: every line has its own numbers.
    """

    def clip(text: str, room: int) -> str:
        text = text.replace("\n", "⏎")
        half = (room - 3) // 2
        return text if len(text) <= room else f"{text[:half]} … {text[-half:]}"

    views = {
        (view in tree.frozen_views, place.limb): view
        for reply in tree.replies
        for view, place in reply.places.items()
    }
    lines = [f"trunk     {len(tree.trunk):5d} tokens  {clip(decode(tree.trunk), width - 24)}"]
    for frozen, limbs in enumerate((tree.live, tree.frozen)):
        for number, limb in enumerate(limbs):
            indent = "·" * round(20 * limb.fork / max(1, len(tree.trunk)))
            room = width - 24 - len(indent) - 1
            text = clip(decode(limb.ids), room)
            view = views[bool(frozen), number]
            lines.append(f"{view:<10s}{len(limb.ids):5d} tokens  {indent}|{text}")
    for reasoning, note in NOTES.items():
        if names := [r.target.id for r in tree.replies if r.target.reasoning == reasoning]:
            lines.append(f"{note}: {', '.join(names)}")
    size = tree.size
    separate = sum(len(ids) for _, _, ids in paths(tree))
    lines.append(
        f"{count(len(tree.replies), 'reply', 'replies')}, {size.R} reply tokens; "
        f"{size.T + size.P + size.Q} tokens in place of {separate} in separate sequences"
    )
    return "\n".join(lines)
