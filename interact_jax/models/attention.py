"""Who sees whom, and attention under it.

The rule of sight over trunk and branches (a trunk token counts as branch 0 with fork 0):

    q sees k  iff  segment(q) == segment(k)  and
        (  k on the trunk  and position(k) < fork(q)
        or branch(q) == branch(k)  and position(k) <= position(q) )

Example: trunk a b c d, a branch x y that forks after b (fork = 2). Rows are queries:

        a b c d | x y
    a   1 . . .   . .
    b   1 1 . .   . .
    c   1 1 1 .   . .
    d   1 1 1 1   . .
    x   1 1 . .   1 .
    y   1 1 . .   1 1

This module computes it with dense masks: right everywhere, fast for short rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from interact_jax.schema import Branches, TokenStream


def same_tree(q: TokenStream, k: TokenStream) -> jax.Array:
    """[B, L, S]: both tokens are of one tree (and neither is padding)."""
    segment_q, segment_k = q.segment_BxL[:, :, None], k.segment_BxL[:, None, :]
    return (segment_q == segment_k) & (segment_q > 0)


def sees_own(stream: TokenStream) -> jax.Array:
    """[B, L, L]: the second half of the rule, a token sees its own branch up to itself."""
    branch, position = stream.branch_BxL, stream.position_BxL
    return (
        same_tree(stream, stream)
        & (branch[:, :, None] == branch[:, None, :])
        & (position[:, None, :] <= position[:, :, None])
    )


def sees_trunk(stream: TokenStream, trunk: TokenStream, branches: Branches) -> jax.Array:
    """[B, L, T]: the first half of the rule, a branch token sees its trunk up to the fork."""
    fork_BxL = jnp.take_along_axis(branches.fork_BxJ, stream.branch_BxL, axis=1)
    return same_tree(stream, trunk) & (trunk.position_BxL[:, None, :] < fork_BxL[:, :, None])


def distance(position_BxL: jax.Array, position_BxS: jax.Array) -> jax.Array:
    """[B, L, S]: how many ancestors lie between query and key; sliding windows limit it."""
    return position_BxL[:, :, None] - position_BxS[:, None, :]


def attend(
    q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, v_BxSxGxK: jax.Array, mask_BxLxS: jax.Array
) -> jax.Array:
    """Softmax attention, [B, L, H, K]. Query head h reads key head h // (H / G).

    Logits and softmax are float32. A query that sees nothing (padding) gets some finite value that
    nobody reads.
    """
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxSxGxK.shape[2]
    q = q_BxLxHxK.reshape(B, L, G, H // G, K)
    logits = jnp.einsum("BLGrK,BSGK->BGrLS", q, k_BxSxGxK, preferred_element_type=jnp.float32)
    logits = jnp.where(mask_BxLxS[:, None, None], logits * K**-0.5, -1e30)
    weights = jax.nn.softmax(logits, axis=-1).astype(v_BxSxGxK.dtype)
    return jnp.einsum("BGrLS,BSGK->BLGrK", weights, v_BxSxGxK).reshape(B, L, H, K)
