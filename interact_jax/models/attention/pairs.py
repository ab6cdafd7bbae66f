"""The pairs of blocks (of queries and keys) that a kernel visits, listed on the device.

    pairs = Pairs(seen)                                     seen: how much of each pair, in each run
    first, last, pair = pairs.visit(pairs.numbers, t)       in step t < pairs.steps

The list has room for every pair of all rows of a device, 4 bytes each in scalar memory (1 MiB from
v4 on): two runs over 131,072 tokens take half of it.

Where each program of a kernel owns a block, it has a list of its own (`visits_of`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from interact_jax.models.attention.sight import Sight

NONE, SOME, ALL = range(3)  # how many of the queries of a pair see how many of its keys


class Pair(NamedTuple):
    """A pair to visit: row, own block, run, other block, and how much of it is seen."""

    row: jax.Array
    own: jax.Array
    run: jax.Array
    other: jax.Array
    kind: jax.Array


class Pairs:
    """The pairs of blocks to visit, in order: one int32 per pair, [steps] and a sentinel.

    Its fields, from the high bits down: row, own block, run, other block, how much is seen. The own
    block is the one that is written: its visits are consecutive, and it has at least one (in which
    nothing may be seen).
    """

    def __init__(self, seen_BxOxNxW: jax.Array):
        shape = (*seen_BxOxNxW.shape, 3)
        self.bits = [(size - 1).bit_length() for size in shape]
        least = jnp.zeros(shape[:-1], bool).at[:, :, 0, 0].set(True)
        least &= ~(seen_BxOxNxW > NONE).any(axis=(2, 3), keepdims=True)
        visited = (seen_BxOxNxW > NONE) | least
        number = jnp.zeros(shape[:-1], jnp.int32)
        for axis, bits in enumerate(self.bits[:-1]):
            number = (number << bits) | jax.lax.broadcasted_iota(jnp.int32, shape[:-1], axis)
        number = (number << self.bits[-1]) | seen_BxOxNxW
        end = jnp.full((1,), jnp.iinfo(jnp.int32).max)
        # Sorting is a fast way to collect them on a TPU.
        numbers = jnp.sort(jnp.where(visited, number, end[0]).reshape(-1))
        self.numbers = jnp.concatenate([numbers, end])
        self.steps = visited.sum(dtype=jnp.int32)

    def fields(self, number: jax.Array) -> Pair:
        fields = []
        for bits in reversed(self.bits):
            fields.append(number & ((1 << bits) - 1))
            number = number >> bits
        return Pair(*reversed(fields))

    def visit(self, numbers: Any, t: jax.Array) -> tuple[jax.Array, jax.Array, Pair]:
        """Whether step t is the first of its own block, whether it is the last, and its pair."""
        below = sum(self.bits[2:])
        own = numbers[t] >> below
        first = (t == 0) | (numbers[jnp.maximum(t - 1, 0)] >> below != own)
        return first, numbers[t + 1] >> below != own, self.fields(numbers[t])


def kinds_of(sight: Sight, S: int, q: int, k: int) -> jax.Array:
    """[B, n, m]: how much of each pair of blocks (q queries, k of S keys) is seen, in all runs
    together. A block that an end of the row cuts short is never seen wholly."""

    def count(first_BxL: jax.Array, end_BxL: jax.Array) -> jax.Array:
        """[B, L, m]: the keys of each block that are in the run."""
        start = (jnp.arange(-(-S // k), dtype=jnp.int32) * k)[None, None, :]
        low = jnp.maximum(first_BxL[:, :, None], start)
        return jnp.maximum(jnp.minimum(jnp.minimum(end_BxL[:, :, None], start + k), S) - low, 0)

    first, *others = [count(span.first_BxL, span.end_BxL) for span in sight]
    count_BxLxM = sum(others, start=first)
    B, L, m = count_BxLxM.shape
    padded = jnp.pad(count_BxLxM, ((0, 0), (0, -L % q), (0, 0)))
    blocks = padded.reshape(B, -1, q, m)
    partly, wholly = blocks.max(axis=2) > 0, blocks.min(axis=2) == k
    return jnp.where(wholly, ALL, jnp.where(partly, SOME, NONE)).astype(jnp.int32)


def visits_of(kind_BxOxW: jax.Array) -> jax.Array:
    """[B, O, W + 2]: for each own block, the W other ones: those seen wholly, those seen in part,
    those not seen; then the numbers of the first two.

        kinds SOME NONE ALL ALL  ->  2 3 0 1   2 1
    """
    W = kind_BxOxW.shape[2]
    index = jax.lax.broadcasted_iota(jnp.int32, kind_BxOxW.shape, 2)
    other = jnp.sort((ALL - kind_BxOxW) * W + index, axis=2) % W
    counts = [
        (kind_BxOxW == kind).sum(axis=2, keepdims=True, dtype=jnp.int32) for kind in (ALL, SOME)
    ]
    return jnp.concatenate([other, *counts], axis=2)
