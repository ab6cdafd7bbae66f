"""Divergences between two distributions over the vocabulary, per token.

Pure functions of log-probabilities s (the student's, differentiated) and t, each [..., V]; [...].
t is a constant: callers hand it in under a stop-gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def reverse_kl(s: jax.Array, t: jax.Array) -> jax.Array:
    """KL(s, t) = sum_v exp(s) (s - t)."""
    return (jnp.exp(s) * (s - t)).sum(axis=-1)


def forward_kl(s: jax.Array, t: jax.Array) -> jax.Array:
    """KL(t, s) = sum_v exp(t) (t - s)."""
    return (jnp.exp(t) * (t - s)).sum(axis=-1)


def jsd(s: jax.Array, t: jax.Array, alpha: float) -> jax.Array:
    """alpha KL(t, m) + (1 - alpha) KL(s, m), m = log((1 - alpha) exp(s) + alpha exp(t)).

    The ends are not its limits: alpha = 0 is the forward KL and alpha = 1 the reverse one, by the
    convention of GKD (arXiv 2306.13649).
    """
    if alpha == 0:
        return forward_kl(s, t)
    if alpha == 1:
        return reverse_kl(s, t)
    m = jnp.logaddexp(s + jnp.log1p(-alpha), t + jnp.log(alpha))
    per_token = alpha * jnp.exp(t) * (t - m) + (1 - alpha) * jnp.exp(s) * (s - m)
    return per_token.sum(axis=-1)


def top_k(s: jax.Array, t: jax.Array, k: int, by_teacher: bool = False) -> jax.Array:
    """KL(s, t) over buckets: the k likeliest tokens of s (or of t), and one with all the rest.

    With k = V it is the reverse KL. Which tokens are chosen is not differentiated. The mass of the
    rest is a sum over its tokens and not 1 less that of the others: it is exact however small.
    """
    V = s.shape[-1]
    if k >= V:
        return reverse_kl(s, t)
    _, chosen = jax.lax.top_k(jax.lax.stop_gradient(t if by_teacher else s), k)
    s_k, t_k = (jnp.take_along_axis(x, chosen, axis=-1) for x in (s, t))
    s_rest, t_rest = (_rest(x, chosen) for x in (s, t))
    return reverse_kl(s_k, t_k) + jnp.exp(s_rest) * (s_rest - t_rest)


def _rest(x: jax.Array, chosen: jax.Array) -> jax.Array:
    """Log of the mass of all tokens but the chosen ones [..., k]."""
    lead = [jax.lax.broadcasted_iota(jnp.int32, chosen.shape, axis) for axis in range(x.ndim - 1)]
    return jax.nn.logsumexp(x.at[(*lead, chosen)].set(-jnp.inf), axis=-1)
