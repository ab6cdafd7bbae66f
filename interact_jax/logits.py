"""What can be computed of a chunk of logits: pure functions, for `scoring` and for objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

SAVED = "lse"  # what the backward pass keeps of a chunk: log-sum-exps, and the like


class Logits:
    """One role's logits of a chunk, float32 [B, C, V], and what is computed of them; each once."""

    def __init__(self, logits_BxCxV: jax.Array):
        self.logits_BxCxV = logits_BxCxV
        # The name for those too that are not differentiated, such as the teacher's.
        self.lse_BxC = checkpoint_name(logsumexp(logits_BxCxV), SAVED)

    def logp(self) -> jax.Array:
        """Log-probabilities of the whole vocabulary [B, C, V]."""
        return self.logits_BxCxV - self.lse_BxC[:, :, None]

    def logp_of(self, target_BxC: jax.Array) -> jax.Array:
        """Log-probability of the target [B, C]."""
        return at(self.logits_BxCxV, target_BxC) - self.lse_BxC


@jax.custom_vjp
def logsumexp(logits_BxCxV: jax.Array) -> jax.Array:
    """log sum exp over the vocabulary, [B, C]; the backward pass does not take it again."""
    return jax.nn.logsumexp(logits_BxCxV, axis=-1)


def _logsumexp_forward(logits):
    lse = checkpoint_name(logsumexp(logits), SAVED)  # what the backward pass reads
    return lse, (logits, lse)


def _logsumexp_backward(residuals, dlse):
    logits, lse = residuals
    return (dlse[:, :, None] * jnp.exp(logits - lse[:, :, None]),)


logsumexp.defvjp(_logsumexp_forward, _logsumexp_backward)


@jax.custom_vjp
def at(logits_BxCxV: jax.Array, target_BxC: jax.Array) -> jax.Array:
    """The target's logit [B, C]. The gradient is a comparison, which fuses, not a scatter."""
    return jnp.take_along_axis(logits_BxCxV, target_BxC[:, :, None], axis=-1)[:, :, 0]


def _at_backward(residuals, dat):
    target, V = residuals
    index = jax.lax.broadcasted_iota(jnp.int32, (*target.shape, V), 2)
    return jnp.where(index == target[:, :, None], dat[:, :, None], 0.0), None


at.defvjp(lambda logits, target: (at(logits, target), (target, logits.shape[-1])), _at_backward)


Quantity = Callable[[Mapping[str, Logits], jax.Array], jax.Array]
"""What can be computed of a chunk: a pure function of {role: Logits} and target [B, C]; [B, C]."""


class Roles(dict[str, "Logits"]):
    """The roles that a term asked for, by name."""

    def __missing__(self, role: str) -> Logits:
        raise KeyError(f"role {role!r} is not among the roles of the term: {', '.join(self)}")


def logp(role: str) -> Quantity:
    """The log-probability of the target under a role."""
    return lambda roles, target_BxC: roles[role].logp_of(target_BxC)
