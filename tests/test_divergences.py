"""Divergences and their gradients with respect to the student's logits, as objectives take them,
against closed forms in numpy.

With p = exp(s), every gradient has the form p (g - sum_v p g), where g is the derivative of the
divergence with respect to p.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import divergences
from interact_jax.logits import Logits

B, C, V = 2, 3, 50
PRECISIONS = pytest.mark.parametrize(
    "dtype, atol", [(np.float32, 1e-6), (np.float64, 1e-10)], ids=["float32", "float64"]
)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - log_mass(x)[..., None]


def log_mass(x):
    most = x.max(-1)
    return most + np.log(np.exp(x - most[..., None]).sum(-1))


# Closed forms: (divergence [...], g [..., V]) from log-probabilities in float64.


def reverse_kl(s, t):
    return (np.exp(s) * (s - t)).sum(-1), s - t


def forward_kl(s, t):
    return (np.exp(t) * (t - s)).sum(-1), -np.exp(t - s)


def jsd(s, t, alpha):
    if alpha in (0, 1):
        return (forward_kl, reverse_kl)[int(alpha)](s, t)
    p, q = np.exp(s), np.exp(t)
    m = np.log((1 - alpha) * p + alpha * q)
    value = alpha * (q * (t - m)).sum(-1) + (1 - alpha) * (p * (s - m)).sum(-1)
    return value, (1 - alpha) * (s - m)


def top_k(s, t, k, by_teacher=False):
    order = np.argsort(-(t if by_teacher else s), axis=-1)
    chosen = np.zeros(s.shape, bool)
    np.put_along_axis(chosen, order[..., :k], True, axis=-1)
    s_rest, t_rest = (log_mass(np.where(chosen, -np.inf, x)) for x in (s, t))
    value = np.where(chosen, np.exp(s) * (s - t), 0).sum(-1) + np.exp(s_rest) * (s_rest - t_rest)
    return value, np.where(chosen, s - t, (s_rest - t_rest)[..., None])


def both(ours, exact, **settings):
    return functools.partial(ours, **settings), functools.partial(exact, **settings)


BY = {"student": False, "teacher": True}
CASES = {
    "reverse_kl": (divergences.reverse_kl, reverse_kl),
    "forward_kl": (divergences.forward_kl, forward_kl),
    **{
        f"jsd-{alpha}": both(divergences.jsd, jsd, alpha=alpha)
        for alpha in (0, 0.001, 0.1, 0.5, 0.9, 0.999, 1)
    },
    **{
        f"top_{k}-by-{who}": both(divergences.top_k, top_k, k=k, by_teacher=by_teacher)
        for k in (1, 7, V - 1)
        for who, by_teacher in BY.items()
    },
}


def random_logits():
    """Student's and teacher's [B, C, V]; those of the second row have little in common."""
    rng = np.random.default_rng(0)
    scale, apart = (np.array(x)[:, None, None] for x in ([2.0, 3.0], [1.0, 5.0]))
    student = scale * rng.normal(size=(B, C, V))
    return student, student + apart * rng.normal(size=student.shape)


def computed(divergence, student, teacher, dtype):
    """Value and gradient by the logits of the student [B, C, V], in this precision; the teacher,
    which may be made of the student, is a constant."""
    with jax.enable_x64(dtype == np.float64):

        def total(student_BxCxV, teacher_BxCxV):
            per_token = divergence(Logits(student_BxCxV), Logits(teacher_BxCxV))
            return per_token.sum(), per_token

        logits = jnp.asarray(student, dtype), jnp.asarray(teacher, dtype)
        differentiate = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
        (gradient, of_teacher), value = differentiate(*logits)
        assert not of_teacher.any()
        assert value.dtype == gradient.dtype == dtype
        return np.asarray(value), np.asarray(gradient)


def expected(closed_form, student, teacher, dtype):
    """The same by the closed form, in float64, of logits that are rounded to this precision."""
    s, t = (log_softmax(x.astype(dtype)) for x in (student, teacher))
    value, g = closed_form(s, t)
    p = np.exp(s)
    return value, p * (g - (p * g).sum(-1, keepdims=True))


def check(divergence, closed_form, dtype, atol):
    student, teacher = random_logits()
    found = computed(divergence, student, teacher, dtype)
    exact = expected(closed_form, student, teacher, dtype)
    (near, far), sizes = exact[0], (1, max(1, exact[0].max()))
    assert near.max() < 1  # what float32 can give to 1e-6; of 10 nats that is the last digit
    assert far.max() > near.max()
    for row, size in enumerate(sizes):
        for ours, closed in zip(found, exact, strict=True):
            np.testing.assert_allclose(ours[row], closed[row], rtol=0, atol=atol * size)


@PRECISIONS
@pytest.mark.parametrize("name", CASES)
def test_divergence_and_its_gradient_equal_the_closed_form(name, dtype, atol):
    check(*CASES[name], dtype, atol)


@PRECISIONS
@pytest.mark.parametrize("k", [V, V + 1])
@pytest.mark.parametrize("by_teacher", BY.values(), ids=BY)
def test_top_k_of_the_whole_vocabulary_is_the_reverse_kl(k, by_teacher, dtype, atol):
    whole = functools.partial(divergences.top_k, k=k, by_teacher=by_teacher)
    check(whole, reverse_kl, dtype, atol)


@PRECISIONS
def test_log_probability_of_the_target_and_its_gradient(dtype, atol):
    """d s[y] / d logits = one-hot of y - p."""
    logits, target = random_logits()[0], np.random.default_rng(1).integers(0, V, (B, C))
    with jax.enable_x64(dtype == np.float64):

        def total(logits_BxCxV):
            logp = Logits(logits_BxCxV).logp_of(jnp.asarray(target))
            return logp.sum(), logp

        gradient, logp = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(logits, dtype))
        assert logp.dtype == gradient.dtype == dtype
    s = log_softmax(logits.astype(dtype))
    at = np.take_along_axis(s, target[..., None], -1)[..., 0]
    np.testing.assert_allclose(logp, at, rtol=0, atol=atol)
    np.testing.assert_allclose(gradient, np.eye(V)[target] - np.exp(s), rtol=0, atol=atol)


# ----------------------------------------------------------------------------- very unlikely tails

K = 5
DEPTHS = np.array(
    [(14, 20), (60, 60), (200, 210), (200, 10), (10, 200), (1200, 1000), (1200, 10), (10, 1200)]
)  # of the student's tail and of the teacher's, nats below the others


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("by_teacher", BY.values(), ids=BY)
def test_the_mass_of_the_tail_is_exact_however_small(by_teacher, dtype):
    """In float32 exp(-104) is 0, in float64 exp(-746). Exact in proportion, too: the gradient by a
    logit of the tail has as many digits as any other, where it is not 0 itself."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2, len(DEPTHS), C, V))
    logits[..., :K] += DEPTHS.T[:, :, None, None]
    divergence, closed_form = both(divergences.top_k, top_k, k=K, by_teacher=by_teacher)
    value, gradient = computed(divergence, *logits, dtype)
    exact_value, exact_gradient = expected(closed_form, *logits, dtype)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    # Log-probabilities of so many nats are rounded to this.
    rounding = 4 * np.finfo(dtype).eps * DEPTHS.max(axis=1)[:, None]
    off = abs(value - exact_value)
    assert (off <= rounding * (1 + abs(exact_value))).all()
    p = np.exp(log_softmax(logits[0].astype(dtype)))
    off = abs(gradient - exact_gradient)
    tiny = np.finfo(dtype).tiny
    assert (off <= rounding[..., None] * (p + abs(exact_gradient)) + tiny).all()
