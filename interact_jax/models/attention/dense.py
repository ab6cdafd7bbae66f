"""Attention under a dense mask: the plain formula. The other backends are tested against it, and
sampling, whose cache has gaps, uses it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from interact_jax.models.attention.sight import Sight, mask_of

NOTHING = -1e30  # logit of what is not seen; finite, so that a row of nothing has no NaN


def attend(
    q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, v_BxSxGxK: jax.Array, mask_BxLxS: jax.Array
) -> jax.Array:
    """Softmax attention, [B, L, H, K]. Query head h reads key head h // (H / G).

    Logits and softmax are float32. A query that sees nothing (padding) gets some finite value that
    nobody reads.
    """
    return _attend(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, mask_BxLxS)[0]


def forward(
    q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, v_BxSxGxK: jax.Array, sight: Sight
) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, K] and log-sum-exp [B, H, L]; 0 and +inf where a query sees nothing."""
    mask = mask_of(sight, k_BxSxGxK.shape[1])
    out, lse_BxHxL = _attend(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, mask)
    seen_BxL = mask.any(axis=2)
    out = jnp.where(seen_BxL[:, :, None, None], out, 0)
    return out, jnp.where(seen_BxL[:, None, :], lse_BxHxL, jnp.inf)


def backward(
    q_BxLxHxK: jax.Array,
    k_BxSxGxK: jax.Array,
    v_BxSxGxK: jax.Array,
    sight: Sight,
    out_BxLxHxK: jax.Array,
    lse_BxHxL: jax.Array,
    dout_BxLxHxK: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of q, k and v, by differentiating the formula."""
    del out_BxLxHxK, lse_BxHxL
    _, transpose = jax.vjp(lambda *qkv: forward(*qkv, sight)[0], q_BxLxHxK, k_BxSxGxK, v_BxSxGxK)
    return transpose(dout_BxLxHxK)


def _attend(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, mask_BxLxS):
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxSxGxK.shape[2]
    q = q_BxLxHxK.reshape(B, L, G, H // G, K)
    logits = jnp.einsum("BLGrK,BSGK->BGrLS", q, k_BxSxGxK, preferred_element_type=jnp.float32)
    logits = jnp.where(mask_BxLxS[:, None, None], logits * K**-0.5, NOTHING)
    lse = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - lse).astype(v_BxSxGxK.dtype)
    out = jnp.einsum("BGrLS,BSGK->BLGrK", weights, v_BxSxGxK).reshape(B, L, H, K)
    return out, lse.reshape(B, H, L)
