"""Divergences of two distributions over the vocabulary, per token: functions of `Logits`, [...].

s and t are the log-probabilities of the student, which is differentiated, and of the teacher, which
is a constant. Every gradient with respect to the student's logits has the form

    exp(s) (g - sum_v exp(s) g),     g the derivative with respect to exp(s),

and is written out in terms of the divergence itself: one pass over the logits. Automatic
differentiation of the sums and exponentials would keep more arrays of that size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from interact_jax.logits import SAVED, Logits, top

# Value: (s, t, constant) -> divergence [...]. Gradient: (s, t, constant, divergence) -> [..., V].
Value = Callable[[jax.Array, jax.Array, Any], jax.Array]
Gradient = Callable[[jax.Array, jax.Array, Any, jax.Array], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _divergence(
    value: Value,
    gradient: Gradient,
    constant: Any,
    student: jax.Array,
    lse_s: jax.Array,
    teacher: jax.Array,
    lse_t: jax.Array,
) -> jax.Array:
    """`lse_s` belongs to `student`, whose gradient includes the part that goes through `lse_s`."""
    return value(student - lse_s[..., None], teacher - lse_t[..., None], constant)


def _forward(value, gradient, constant, student, lse_s, teacher, lse_t):
    divergence = _divergence(value, gradient, constant, student, lse_s, teacher, lse_t)
    return divergence, (constant, student, lse_s, teacher, lse_t, divergence)


def _backward(value, gradient, residuals, cotangent):
    constant, student, lse_s, teacher, lse_t, divergence = residuals
    # The barrier stops XLA from keeping what value and gradient share (arrays of logits) from one
    # to the other, when computing it twice costs almost nothing.
    student, teacher = jax.lax.optimization_barrier((student, teacher))
    s, t = student - lse_s[..., None], teacher - lse_t[..., None]
    by_logits = cotangent[..., None] * gradient(s, t, constant, divergence)
    return None, by_logits, jnp.zeros_like(lse_s), jnp.zeros_like(t), jnp.zeros_like(lse_t)


_divergence.defvjp(_forward, _backward)


def _apply(
    student: Logits, teacher: Logits, value: Value, gradient: Gradient, constant: Any = None
) -> jax.Array:
    return _divergence(
        value,
        gradient,
        constant,
        student.logits_BxCxV,
        student.lse_BxC,
        teacher.logits_BxCxV,
        teacher.lse_BxC,
    )


def reverse_kl(student: Logits, teacher: Logits) -> jax.Array:
    """KL(s, t) = sum_v exp(s) (s - t)."""
    return _apply(student, teacher, _reverse, _reverse_gradient)


def _reverse(s, t, _):
    return (jnp.exp(s) * (s - t)).sum(axis=-1)


def _reverse_gradient(s, t, _, kl):
    return jnp.exp(s) * (s - t - kl[..., None])


def forward_kl(student: Logits, teacher: Logits) -> jax.Array:
    """KL(t, s) = sum_v exp(t) (t - s)."""
    return _apply(
        student,
        teacher,
        lambda s, t, _: (jnp.exp(t) * (t - s)).sum(axis=-1),
        lambda s, t, _, kl: jnp.exp(s) - jnp.exp(t),
    )


def jsd(student: Logits, teacher: Logits, alpha: float) -> jax.Array:
    """alpha KL(t, m) + (1 - alpha) KL(s, m), m = log((1 - alpha) exp(s) + alpha exp(t)).

    The end points are not its limits: alpha = 0 is the forward KL and alpha = 1 the reverse one, by
    the convention of GKD (arXiv 2306.13649).
    """
    if alpha == 0:
        return forward_kl(student, teacher)
    if alpha == 1:
        return reverse_kl(student, teacher)

    def middle(s: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.logaddexp(s + jnp.log1p(-alpha), t + jnp.log(alpha))

    def value(s, t, _):
        m = middle(s, t)
        parts = alpha * jnp.exp(t) * (t - m) + (1 - alpha) * jnp.exp(s) * (s - m)
        return parts.sum(axis=-1)

    def gradient(s, t, _, divergence):
        m = middle(s, t)
        of_student = _reverse(s, m, None)
        return (1 - alpha) * jnp.exp(s) * (s - m - of_student[..., None])

    return _apply(student, teacher, value, gradient)


def top_k(student: Logits, teacher: Logits, k: int, by_teacher: bool = False) -> jax.Array:
    """KL(s, t) over buckets: the k likeliest tokens of s (or of t), and one with all the rest.

    With k = V it is the reverse KL. The choice of tokens is not differentiated. The mass of the
    rest is a sum over its tokens, not 1 minus that of the others, so it is exact however small.
    """
    if k >= student.logits_BxCxV.shape[-1]:
        return reverse_kl(student, teacher)
    chooser = teacher if by_teacher else student
    # Chosen once. The backward pass computes logits again, whose last bits may be others: they are
    # compared with what is halfway to the next token, not with the last one itself.
    largest, index = top(jax.lax.stop_gradient(chooser.logp()), k + 1)
    bound = (largest[..., -2:-1] + largest[..., -1:]) / 2
    last = jnp.where(largest[..., -2:-1] == largest[..., -1:], index[..., -2:-1], -1)
    bound, last = (checkpoint_name(x, SAVED) for x in (bound, last))

    def chosen_mask(s: jax.Array, t: jax.Array, constant: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Mask of the chosen tokens; of equal ones, top_k takes the first, up to `last`."""
        bound, last = constant
        x = t if by_teacher else s
        at = jax.lax.broadcasted_iota(last.dtype, x.shape, x.ndim - 1)
        return (x > bound) | ((x == bound) & (at <= last))

    def log_rest(x: jax.Array, chosen: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, x), axis=-1)

    def value(s, t, constant):
        chosen = chosen_mask(s, t, constant)
        s_rest, t_rest = log_rest(s, chosen), log_rest(t, chosen)
        of_chosen = jnp.where(chosen, jnp.exp(s) * (s - t), 0.0).sum(axis=-1)
        return of_chosen + jnp.exp(s_rest) * (s_rest - t_rest)

    def gradient(s, t, constant, kl):
        chosen = chosen_mask(s, t, constant)
        of_rest = log_rest(s, chosen) - log_rest(t, chosen)
        return jnp.exp(s) * (jnp.where(chosen, s - t, of_rest[..., None]) - kl[..., None])

    return _apply(student, teacher, value, gradient, (bound, last))
