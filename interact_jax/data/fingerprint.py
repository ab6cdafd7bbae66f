"""Digests of all that a run learns from: it is resumed with the data with which it began.

fingerprint(dataset)    {"conversations": "9f3c...", "contexts": "0b17...", ...}
difference(then, now)   in words, what has changed
digest_trees(trees)     a digest of what is measured, not learned from
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from interact_jax.data.tree import Reply, Tree

DIFFERENCES = {
    "conversations": "other conversations, or the same {:,} in another order",
    "contexts": "other follow-ups, or other contexts of replies, in the same {:,} conversations",
    "replies": "other replies in the same {:,} conversations",
    "weights": "other weights, users or log-probabilities in the same {:,} conversations",
}


def fingerprint(dataset: Any) -> dict[str, str]:
    """A digest of a `dataset.Dataset` for every key of DIFFERENCES."""
    trees = [tree for trees in dataset.trees for tree in trees]
    replies = [reply for tree in trees for reply in tree.replies]
    return {
        "conversations": _digest(
            [[len(trees) for trees in dataset.trees], dataset.interactions],
            (tree.trunk for tree in trees),
        ),
        "contexts": _digest(map(_places, trees), _limbs(trees)),
        "replies": _digest(map(_identity, replies), (reply.target.y for reply in replies)),
        "weights": _digest([_users(dataset), *map(_weight, replies)], _known(replies)),
    }


def digest_trees(trees: Sequence[Tree], more: Sequence[Any] = ()) -> str:
    """One digest of everything in the trees and of `more`, JSON values."""
    replies = [reply for tree in trees for reply in tree.replies]
    arrays = [*(tree.trunk for tree in trees), *_limbs(trees), *(r.target.y for r in replies)]
    return _digest([*map(_places, trees), *map(_identity, replies), *more], arrays)


def difference(
    then: Mapping[str, str], now: Mapping[str, str], parts: Iterable[str] = DIFFERENCES
) -> str | None:
    """The first difference in these parts, to be formatted with the number of conversations; None
    if there is none."""
    return next((DIFFERENCES[part] for part in parts if then[part] != now[part]), None)


def _places(tree: Tree) -> Any:
    limbs = [[limb.fork for limb in kind] for kind in (tree.live, tree.frozen)]
    places = [
        [(view, place.limb, place.start) for view, place in sorted(reply.places.items())]
        for reply in tree.replies
    ]
    return limbs, places


def _limbs(trees: Iterable[Tree]) -> Iterator[np.ndarray]:
    return (limb.ids for tree in trees for limb in (*tree.live, *tree.frozen))


def _identity(reply: Reply) -> Any:
    target = reply.target
    name, unit = (text.removeprefix(target.conversation) for text in (target.id, target.unit))
    return name, unit, target.side


def _users(dataset: Any) -> list[int]:
    """The user of each conversation, as the index of their first conversation; -1 = unknown."""
    first: dict[str, int] = {}
    users = [conversation.user for conversation in dataset.conversations]
    return [first.setdefault(user, n) if user else -1 for n, user in enumerate(users)]


def _weight(reply: Reply) -> Any:
    return reply.target.weight, sorted(reply.target.known)


def _known(replies: Iterable[Reply]) -> Iterator[np.ndarray]:
    return (reply.target.known[name] for reply in replies for name in sorted(reply.target.known))


def _digest(facts: Iterable[Any], arrays: Iterable[np.ndarray]) -> str:
    """Of JSON values and of arrays with their lengths, so that no two series look the same."""
    digest = hashlib.blake2b(digest_size=16)
    for fact in facts:
        digest.update(json.dumps(fact, default=lambda number: number.item()).encode() + b"\n")
    for array in arrays:
        digest.update(f"{array.dtype.str}{len(array)}:".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# ------------------------------------------------------------- what earlier versions stored


def legacy_digests(dataset: Any) -> dict[str, int]:
    """Of the ids of all trunks, and of the rest: limbs, replies, sides, weights."""
    trees = [tree for trees in dataset.trees for tree in trees]
    targets = [reply.target for tree in trees for reply in tree.replies]
    numbers = [np.array([(t.side, t.weight, len(t.y)) for t in targets], np.float64)]
    return {
        "digest": _crc(tree.trunk.astype(np.int64) for tree in trees),
        "replies": _crc([*_limbs(trees), *(t.y for t in targets), *numbers]),
    }


def _crc(arrays: Iterable[np.ndarray]) -> int:
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum
