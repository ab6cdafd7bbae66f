"""The trees of a conversation as bytes, and back: what the cache of trees keeps.

    tokenised == from_bytes(to_bytes(tokenised))

A description (msgpack) of lengths, places and targets, then all ids in a row, then the known
log-probabilities. Arrays of a tree that was read are views of the bytes, read-only.
"""

from __future__ import annotations

import collections
import struct
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np

from interact_jax.data.examples import Target
from interact_jax.data.tokenise import Tokenised
from interact_jax.data.tree import Limb, Place, Reply, Tree

FORMAT = 1  # to be raised where these bytes change
_LENGTHS = struct.Struct("<II")  # of the description, and ids


def to_bytes(tokenised: Tokenised) -> bytes:
    """The bytes of what a conversation has become."""
    ids: list[np.ndarray] = []
    logps: list[np.ndarray] = []
    trees = [_describe(tree, ids, logps) for tree in tokenised.trees]
    head = msgpack.packb([trees, tokenised.units, dict(tokenised.counts)])
    parts = [np.asarray(part, np.int32).tobytes() for part in ids]
    parts += [np.ascontiguousarray(part).tobytes() for part in logps]
    return b"".join([_LENGTHS.pack(len(head), sum(map(len, ids))), head, *parts])


def from_bytes(data: bytes) -> Tokenised:
    """What `to_bytes` made bytes of."""
    size, count = _LENGTHS.unpack_from(data)
    start = _LENGTHS.size + size
    trees, units, counts = msgpack.unpackb(memoryview(data)[_LENGTHS.size : start])
    ids = _Cutter(np.frombuffer(data, np.uint8, 4 * count, start))
    logps = _Cutter(np.frombuffer(data, np.uint8, offset=start + 4 * count))
    return Tokenised(
        [_tree(facts, ids, logps) for facts in trees], units, collections.Counter(counts)
    )


def _describe(tree: Tree, ids: list[np.ndarray], logps: list[np.ndarray]) -> list[Any]:
    ids.append(tree.trunk)
    limbs = []
    for kind in (tree.live, tree.frozen):
        limbs.append([(len(limb.ids), limb.fork) for limb in kind])
        ids.extend(limb.ids for limb in kind)
    replies = []
    for reply in tree.replies:
        t = reply.target
        ids.append(t.y)
        logps.extend(t.known.values())
        known = [(name, values.dtype.str, len(values)) for name, values in t.known.items()]
        places = [(view, place.limb, place.start) for view, place in reply.places.items()]
        facts = (t.id, len(t.y), t.conversation, t.unit, t.side, float(t.weight), t.reasoning)
        replies.append((facts, known, places))
    return [len(tree.trunk), *limbs, sorted(tree.frozen_views), replies]


class _Cutter:
    """Takes arrays from the front of bytes, one after the other."""

    def __init__(self, data: np.ndarray):
        self.data, self.at = data, 0

    def take(self, count: int, dtype: str = "<i4") -> np.ndarray:
        end = self.at + count * np.dtype(dtype).itemsize
        part = self.data[self.at : end].view(dtype)
        self.at = end
        return part


def _tree(facts: list[Any], ids: _Cutter, logps: _Cutter) -> Tree:
    length, live, frozen, frozen_views, replies = facts
    return Tree(
        ids.take(length),
        tuple(Limb(ids.take(size), fork) for size, fork in live),
        tuple(Limb(ids.take(size), fork) for size, fork in frozen),
        tuple(_replies(replies, ids, logps)),
        frozenset(frozen_views),
    )


def _replies(replies: list[Any], ids: _Cutter, logps: _Cutter) -> Iterator[Reply]:
    for (name, length, conversation, unit, side, weight, reasoning), known, places in replies:
        target = Target(
            name,
            ids.take(length),
            conversation,
            unit,
            side,
            weight,
            {of: logps.take(count, dtype) for of, dtype, count in known},
            reasoning,
        )
        yield Reply(target, {view: Place(limb, start) for view, limb, start in places})
