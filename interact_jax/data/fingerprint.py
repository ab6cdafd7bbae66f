"""Digests of all that a run learns from: it is resumed with the data with which it began.

fingerprint(dataset)    {"conversations": "9f3c...", "contexts": "0b17...", ...}
difference(then, now)   in words, what has changed
digest_trees(trees)     a digest of what is measured, not learned from
"""

from __future__ import annotations

import hashlib
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from interact_jax.data.forest import (
    FORK,
    GIVEN,
    LENGTH,
    LIMBS,
    LIVE,
    NOWHERE,
    ON_TRUNK,
    REPLIES,
    SIDE,
    Forest,
)
from interact_jax.data.tree import Tree

T = TypeVar("T")
TOGETHER = 256  # conversations

DIFFERENCES = {
    "conversations": "other conversations, or the same {:,} in another order",
    "contexts": "other follow-ups, or other contexts of replies, in the same {:,} conversations",
    "replies": "other replies in the same {:,} conversations",
    "weights": "other weights, users or log-probabilities in the same {:,} conversations",
}


def fingerprint(dataset: Any) -> dict[str, str]:
    """A digest of a `dataset.Dataset` for every key of DIFFERENCES."""
    counts = [list(map(len, dataset.trees)), dataset.interactions]
    forests = _joined(dataset.trees)
    return {
        "conversations": _digest(counts, _each(_trunks, forests)),
        "contexts": _digest(_each(_places, forests), _each(_limbs, forests)),
        "replies": _digest(_each(_identities, forests), _each(_replies, forests)),
        "weights": _digest([_users(dataset), *_each(_weights, forests)], _each(_known, forests)),
    }


def digest_trees(trees: Sequence[Tree], more: Sequence[Any] = ()) -> str:
    """One digest of everything in the trees and of `more`, JSON values."""
    forest = Forest.of(trees)
    arrays = [*_trunks(forest), *_limbs(forest), *_replies(forest)]
    return _digest([*_places(forest), *_identities(forest), *more], arrays)


def difference(
    then: Mapping[str, str], now: Mapping[str, str], parts: Iterable[str] = DIFFERENCES
) -> str | None:
    """The first difference in these parts, to be formatted with the number of conversations; None
    if there is none."""
    return next((DIFFERENCES[part] for part in parts if then[part] != now[part]), None)


def _joined(forests: Sequence[Forest]) -> list[Forest]:
    """TOGETHER in one: small ones would take the time of many calls of numpy."""
    starts = range(0, len(forests), TOGETHER)
    return [Forest.join(forests[start : start + TOGETHER]) for start in starts]


def _each(part: Callable[[Forest], Iterable[T]], forests: Sequence[Forest]) -> Iterator[T]:
    return itertools.chain.from_iterable(map(part, forests))


def _places(forest: Forest) -> Iterator[Any]:
    """Of each tree, the forks of its limbs, and the places of its replies by view."""
    views = sorted(enumerate(forest.kind.views), key=lambda view: view[1])
    forks = iter(forest.limbs_LxC[:, FORK].tolist())
    replies = iter(forest.places_MxVx2.tolist())
    for tree in forest.trees_NxC.tolist():
        live, frozen, count = tree[LIVE], tree[LIMBS] - tree[LIVE], tree[REPLIES]
        limbs = [list(itertools.islice(forks, number)) for number in (live, frozen)]
        yield (
            limbs,
            [
                [
                    (view, None if limb == ON_TRUNK else limb, start)
                    for n, view in views
                    for limb, start in [places[n]]
                    if limb != NOWHERE
                ]
                for places in itertools.islice(replies, count)
            ],
        )


def _pieces(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    ends = lengths.cumsum().tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _trunks(forest: Forest) -> list[np.ndarray]:
    return _pieces(forest.ids[0], forest.trees_NxC[:, 0])


def _limbs(forest: Forest) -> list[np.ndarray]:
    return _pieces(forest.ids[1], forest.limbs_LxC[:, LENGTH])


def _replies(forest: Forest) -> list[np.ndarray]:
    return _pieces(forest.ids[2], forest.replies_MxC[:, LENGTH])


def _identities(forest: Forest) -> Iterator[Any]:
    sides = forest.replies_MxC[:, SIDE].tolist()
    for (id, conversation, unit, _), side in zip(forest.names, sides, strict=True):
        yield id.removeprefix(conversation), unit.removeprefix(conversation), side


def _weights(forest: Forest) -> Iterator[Any]:
    names, given = forest.kind.given, forest.replies_MxC[:, GIVEN].tolist()
    for weight, bits in zip(forest.weight_M.tolist(), given, strict=True):
        yield weight, sorted(name for n, name in enumerate(names) if bits >> n & 1)


def _known(forest: Forest) -> Iterator[np.ndarray]:
    if forest.kind.given:
        names = sorted(enumerate(forest.kind.given), key=lambda name: name[1])
        each = [_pieces(row, forest.replies_MxC[:, LENGTH]) for row in forest.given_KxR]
        for reply, bits in enumerate(forest.replies_MxC[:, GIVEN].tolist()):
            yield from (each[n][reply] for n, _ in names if bits >> n & 1)


def _users(dataset: Any) -> list[int]:
    """The user of each conversation, as the index of their first conversation; -1 = unknown."""
    first: dict[str, int] = {}
    users = [conversation.user for conversation in dataset.conversations]
    return [first.setdefault(user, n) if user else -1 for n, user in enumerate(users)]


def _digest(facts: Iterable[Any], arrays: Iterable[np.ndarray]) -> str:
    """Of JSON values and of arrays with their lengths, so that no two series look the same."""
    digest, as_json = hashlib.blake2b(digest_size=16), json.JSONEncoder().encode
    for fact in facts:
        digest.update(as_json(fact).encode() + b"\n")
    for array in arrays:
        digest.update(b"%b%d:%b" % (array.dtype.str.encode(), len(array), array.tobytes()))
    return digest.hexdigest()


# ------------------------------------------------------------- what earlier versions stored


def legacy_digests(dataset: Any) -> dict[str, int]:
    """Of the ids of all trunks, and of the rest: limbs, replies, sides, weights."""
    forests = _joined(dataset.trees)
    numbers = [
        (side, weight, length)
        for forest in forests
        for (length, side), weight in zip(
            forest.replies_MxC[:, [LENGTH, SIDE]].tolist(), forest.weight_M.tolist(), strict=True
        )
    ]
    rest = (_each(_limbs, forests), _each(_replies, forests), [np.array(numbers, np.float64)])
    return {
        "digest": _crc(trunk.astype(np.int64) for trunk in _each(_trunks, forests)),
        "replies": _crc(itertools.chain.from_iterable(rest)),
    }


def _crc(arrays: Iterable[np.ndarray]) -> int:
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum
