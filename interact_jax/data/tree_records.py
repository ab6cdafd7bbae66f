"""The trees of a conversation as bytes, and back: what the cache of trees keeps.

    tokenised == from_bytes(to_bytes(tokenised))

A head, then the columns of a `Forest` as they are, then its strings (msgpack). What was read is a
forest over the bytes, read-only; the strings are unpacked when somebody asks for them.
"""

from __future__ import annotations

import collections
import functools
import struct
from collections.abc import Sequence

import msgpack
import numpy as np

from interact_jax.data.forest import LIMB, LIVE, REPLY, TREE, Facts, Forest, Kind, Label
from interact_jax.data.tokenise import Tokenised

FORMAT = 2  # to be raised where these bytes change
# The weight of all units, how many of them have names of their own, and how many were counted;
# trees, limbs, replies, views, given log-probabilities; words, and where trunks and limbs end in
# them; bytes of the kind, of the name and of the counts.
_HEAD = struct.Struct("<d13I4x")


def to_bytes(tokenised: Tokenised) -> bytes:
    """The bytes of what a conversation has become."""
    forest = Forest.of(tokenised.trees)
    views, given = forest.kind.views, forest.kind.given
    conversation, named, weight = forest.facts
    name = conversation.encode()
    tables = (forest.limbs_LxC, forest.replies_MxC)
    kind = msgpack.packb([views, given])
    counts = msgpack.packb(dict(tokenised.counts)) if tokenised.counts else b""
    head = _HEAD.pack(
        weight,
        named,
        tokenised.units,
        len(forest),
        *map(len, tables),
        len(views),
        len(given),
        len(forest.word_W),
        *forest.ends,
        len(kind),
        len(name),
        len(counts),
    )
    # The sizes of the trees are in front: `sizes_in` reads no more.
    arrays = (forest.trees_NxC, forest.weight_M, *tables, forest.places_MxVx2, forest.word_W)
    columns = map(np.ndarray.tobytes, (*arrays, forest.given_KxR))
    return b"".join([head, *columns, kind, name, counts, _packed(forest.names)])


def from_bytes(data: bytes, at: int = 0) -> Tokenised:
    """What `to_bytes` made bytes of, which begin at a multiple of 8."""
    (weight, named, units, N, L, M, V, K, W, trunks, limbs, of_kind, of_name, of_counts) = (
        _HEAD.unpack_from(data, at)
    )
    at, R = at + _HEAD.size, W - limbs
    a = N * TREE
    b = a + 2 * M
    c = b + L * LIMB
    d = c + M * REPLY
    e = d + 2 * M * V
    f = e + W
    number = np.frombuffer(data, np.int32, f + K * R, at)
    at += 4 * len(number)
    name = at + of_kind
    rest = name + of_name
    counts = collections.Counter[str]()
    if of_counts:
        counts.update(msgpack.unpackb(data[rest : rest + of_counts]))
    forest = Forest(
        _kind(data[at:name]),
        number[:a].reshape(N, TREE),
        number[b:c].reshape(L, LIMB),
        number[c:d].reshape(M, REPLY),
        number[d:e].reshape(M, V, 2),
        number[a:b].view(np.float64),
        number[e:f],
        (trunks, limbs),
        number[f:].view(np.float32).reshape(K, R),
        functools.partial(_unpacked, data, rest + of_counts),
        Facts(data[name:rest].decode(), named, weight),
    )
    return Tokenised(forest, units, counts)


def size_of_sizes(data: bytes) -> int:
    """How many bytes, from the beginning of what `to_bytes` made, `sizes_in` needs."""
    return _HEAD.size + 4 * TREE * int(_HEAD.unpack_from(data)[3])


def sizes_in(data: bytes) -> np.ndarray:
    """The sizes [N, 5] of the trees in the first bytes of what `to_bytes` made."""
    count = int(_HEAD.unpack_from(data)[3])
    return np.frombuffer(data, np.int32, count * TREE, _HEAD.size).reshape(count, TREE)[:, :LIVE]


@functools.lru_cache(64)
def _kind(data: bytes) -> Kind:
    views, given = msgpack.unpackb(data)
    return Kind(tuple(views), tuple(given))


def _packed(names: Sequence[Label]) -> bytes:
    return msgpack.packb(list(zip(*names, strict=True)))


def _unpacked(data: bytes, start: int) -> list[Label]:
    return list(zip(*msgpack.unpackb(memoryview(data)[start:]), strict=True))
