"""Digests of all that is learned from: a run is resumed with the data it began with.

fingerprint(dataset)    {"conversations": "9f3c...", "contexts": "0b17...", ...}
difference(then, now)   in words, what is not the same
of_trees(trees)         a digest of what is measured, not learned from
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from interact_jax.data.tree import Reply, Tree

DIFFERENT = {
    "conversations": "other conversations, or the same {:,} in another order",
    "contexts": "other follow-ups, or other contexts of replies, in the same {:,} conversations",
    "replies": "other replies in the same {:,} conversations",
    "weights": "other weights, users or log-probabilities in the same {:,} conversations",
}


def fingerprint(dataset: Any) -> dict[str, str]:
    """A digest for every key of DIFFERENT, of a `dataset.Dataset`."""
    trees = [tree for trees in dataset.trees for tree in trees]
    replies = [reply for tree in trees for reply in tree.replies]
    return {
        "conversations": _digest(
            [[len(trees) for trees in dataset.trees], dataset.interactions],
            (tree.trunk for tree in trees),
        ),
        "contexts": _digest(map(_places, trees), _limbs(trees)),
        "replies": _digest(map(_said, replies), (reply.target.y for reply in replies)),
        "weights": _digest([_users(dataset), *map(_weight, replies)], _known(replies)),
    }


def of_trees(trees: Sequence[Tree], more: Sequence[Any] = ()) -> str:
    """One digest of all that stands in trees, and of `more`, JSON values."""
    replies = [reply for tree in trees for reply in tree.replies]
    arrays = [*(tree.trunk for tree in trees), *_limbs(trees), *(r.target.y for r in replies)]
    return _digest([*map(_places, trees), *map(_said, replies), *more], arrays)


def difference(then: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """What is different, the first of it, to be formatted with the number of conversations; None
    where nothing is."""
    return next((said for part, said in DIFFERENT.items() if then[part] != now[part]), None)


def _places(tree: Tree) -> Any:
    limbs = [[limb.fork for limb in kind] for kind in (tree.live, tree.frozen)]
    places = [
        [(view, place.limb, place.start) for view, place in sorted(reply.places.items())]
        for reply in tree.replies
    ]
    return limbs, places


def _limbs(trees: Iterable[Tree]) -> Iterator[np.ndarray]:
    return (limb.ids for tree in trees for limb in (*tree.live, *tree.frozen))


def _said(reply: Reply) -> Any:
    target = reply.target
    name, unit = (text.removeprefix(target.conversation) for text in (target.id, target.unit))
    return name, unit, target.side


def _users(dataset: Any) -> list[int]:
    """Who spoke in each conversation, by the first conversation of theirs; -1 = nobody knows."""
    first: dict[str, int] = {}
    users = [talk.user for talk in dataset.conversations]
    return [first.setdefault(user, n) if user else -1 for n, user in enumerate(users)]


def _weight(reply: Reply) -> Any:
    return reply.target.weight, sorted(reply.target.known)


def _known(replies: Iterable[Reply]) -> Iterator[np.ndarray]:
    return (reply.target.known[name] for reply in replies for name in sorted(reply.target.known))


def _digest(facts: Iterable[Any], arrays: Iterable[np.ndarray]) -> str:
    """Of JSON values and of arrays, each with its length: no two series of them read alike."""
    found = hashlib.blake2b(digest_size=16)
    for fact in facts:
        found.update(json.dumps(fact, default=lambda number: number.item()).encode() + b"\n")
    for array in arrays:
        found.update(f"{array.dtype.str}{len(array)}:".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


# ------------------------------------------------------------- what earlier versions kept


def earlier(dataset: Any) -> dict[str, int]:
    """Of the ids of all trunks, and of what they do not hold: limbs, replies, sides, weights."""
    trees = [tree for trees in dataset.trees for tree in trees]
    targets = [reply.target for tree in trees for reply in tree.replies]
    numbers = [np.array([(t.side, t.weight, len(t.y)) for t in targets], np.float64)]
    return {
        "digest": _crc(tree.trunk.astype(np.int64) for tree in trees),
        "replies": _crc([*_limbs(trees), *(t.y for t in targets), *numbers]),
    }


def _crc(arrays: Iterable[np.ndarray]) -> int:
    found = 0
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(array).data, found)
    return found
