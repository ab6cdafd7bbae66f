"""Which keys each query sees.

The rule of sight over trunk and branches (a trunk token counts as branch 0 with fork 0):

    q sees k  iff  segment(q) == segment(k)  and
        (  k on the trunk  and position(k) < fork(q)
        or branch(q) == branch(k)  and position(k) <= position(q) )

Example: trunk a b c d, a branch x y that forks after b (fork = 2). Rows are queries:

        a b c d | x y          stem      own
    a   1 . . .   . .          [0, 1)
    b   1 1 . .   . .          [0, 2)
    c   1 1 1 .   . .          [0, 3)
    d   1 1 1 1   . .          [0, 4)
    x   1 1 . .   1 .          [0, 2)    [4, 5)
    y   1 1 . .   1 1          [0, 2)    [4, 6)

Trees and branches lie in a row one after the other, without gaps, so a token sees two runs of
adjacent keys: on the trunk (`stem`) and on its own branch (`own`). Two numbers describe a run;
there is no mask of queries times keys.
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from interact_jax.schema import Array, Branches, TokenStream


@flax.struct.dataclass
class Span:
    """For every query, a run of keys: indices [first, end), empty if end <= first.

    `shift` is the index of a key of the run minus its position; windows need it.
    """

    first_BxL: jax.Array
    end_BxL: jax.Array
    shift_BxL: jax.Array

    def within(self, window: jax.Array, position_BxL: Array) -> Span:
        """The part of the run within `window` positions of a query, its own included."""
        nearest = self.shift_BxL + position_BxL - window + 1
        return dataclasses.replace(self, first_BxL=jnp.maximum(self.first_BxL, nearest))


Sight = tuple[Span, ...]
"""The runs of keys that a query sees; no key is in two of them."""


def trunk_sight(trunk: TokenStream) -> Sight:
    """What trunk tokens see among the T keys of the trunk: their own tree, up to themselves."""
    index_BxT = _indices(trunk)
    start = index_BxT - trunk.position_BxL
    return (_mask_padding(trunk, Span(start, index_BxT + 1, start)),)


def branch_sight(
    stream: TokenStream, trunk: TokenStream, table: Branches, before: int = 0
) -> Sight:
    """What branch tokens [B, L] see. The keys are T of the trunk, `before` of other streams, which
    they do not see, and L of their own."""
    T = trunk.id_BxL.shape[1]
    fork, stem = (
        jnp.take_along_axis(column_BxJ, stream.branch_BxL, axis=1)
        for column_BxJ in (table.fork_BxJ, _starts(trunk, table))
    )
    index_BxL = _indices(stream) + (T + before)
    start = index_BxL - (stream.position_BxL - fork)
    return (
        _mask_padding(stream, Span(stem, stem + fork, stem)),
        _mask_padding(stream, Span(start, index_BxL + 1, start - fork)),
    )


def concatenate_sights(sights: list[Sight]) -> Sight:
    """The sight of concatenated streams over the same keys; missing runs are empty."""
    runs = max(len(sight) for sight in sights)
    filled = [
        (*sight, *[jax.tree.map(jnp.zeros_like, sight[0])] * (runs - len(sight)))
        for sight in sights
    ]
    return tuple(
        jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *spans)
        for spans in zip(*filled, strict=True)
    )


def mask_of(sight: Sight, keys: int) -> jax.Array:
    """[B, L, S]: the sight as a dense mask, for short rows and for inspection."""
    index_S = jnp.arange(keys)[None, None, :]
    seen = [
        (span.first_BxL[:, :, None] <= index_S) & (index_S < span.end_BxL[:, :, None])
        for span in sight
    ]
    return jnp.stack(seen).any(axis=0)


def _indices(stream: TokenStream) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, stream.id_BxL.shape, 1)


def _starts(trunk: TokenStream, table: Branches) -> jax.Array:
    """[B, J]: the index in the row at which the trunk of each branch begins."""
    segment_BxT, segment_BxJ = trunk.segment_BxL, table.segment_BxJ
    earlier = (segment_BxT[:, None, :] > 0) & (segment_BxT[:, None, :] < segment_BxJ[:, :, None])
    return jnp.sum(earlier, axis=2, dtype=jnp.int32)


def _mask_padding(stream: TokenStream, span: Span) -> Span:
    """The span without what padding would see."""
    return jax.tree.map(lambda x: jnp.where(stream.segment_BxL > 0, x, 0), span)
