"""Attention with a dense mask: the plain formula. The other backends are tested against it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from interact_jax.models.attention.sight import Sight, mask_of

NOTHING = -1e30  # logit of unseen keys; finite, so that a query that sees nothing gets no NaN


def forward(
    q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, v_BxSxGxK: jax.Array, sight: Sight
) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, K] and log-sum-exp [B, H, L]; 0 and +inf where a query sees nothing.

    Query head h reads key head h // (H / G). Logits and softmax are float32.
    """
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
    """Gradients of q, k and v, each shaped and typed as what it belongs to."""
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxSxGxK.shape[2]

    def grouped(x_BxLxHxK: jax.Array) -> jax.Array:
        return x_BxLxHxK.reshape(B, L, G, H // G, K)

    q, dout, out = grouped(q_BxLxHxK), grouped(dout_BxLxHxK), grouped(out_BxLxHxK)
    logits = _logits(q, k_BxSxGxK, mask_of(sight, k_BxSxGxK.shape[1]))
    weights = jnp.exp(logits - lse_BxHxL.reshape(B, G, H // G, L, 1))
    delta = _einsum("BLGrK,BLGrK->BGrL", dout, out)
    dweights = _einsum("BLGrK,BSGK->BGrLS", dout, v_BxSxGxK)
    dlogits = (weights * (dweights - delta[..., None]) * K**-0.5).astype(q.dtype)
    dq = _einsum("BGrLS,BSGK->BLGrK", dlogits, k_BxSxGxK).reshape(q_BxLxHxK.shape)
    dk = _einsum("BGrLS,BLGrK->BSGK", dlogits, q)
    dv = _einsum("BGrLS,BLGrK->BSGK", weights.astype(q.dtype), dout)
    return dq.astype(q.dtype), dk.astype(k_BxSxGxK.dtype), dv.astype(v_BxSxGxK.dtype)


def _einsum(spec, a, b):
    return jnp.einsum(spec, a, b.astype(a.dtype), preferred_element_type=jnp.float32)


def _logits(q_BxLxGxrxK, k_BxSxGxK, mask_BxLxS):
    logits = _einsum("BLGrK,BSGK->BGrLS", q_BxLxGxrxK, k_BxSxGxK)
    scale = q_BxLxGxrxK.shape[-1] ** -0.5
    return jnp.where(mask_BxLxS[:, None, None], logits * scale, NOTHING)


def _attend(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, mask_BxLxS):
    B, L, H, K = q_BxLxHxK.shape
    G = k_BxSxGxK.shape[2]
    logits = _logits(q_BxLxHxK.reshape(B, L, G, H // G, K), k_BxSxGxK, mask_BxLxS)
    largest = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(axis=-1, keepdims=True)
    weights = (weights / total).astype(v_BxSxGxK.dtype)
    out = jnp.einsum("BGrLS,BSGK->BLGrK", weights, v_BxSxGxK).reshape(B, L, H, K)
    return out, (largest + jnp.log(total)).reshape(B, H, L)
