"""What can be computed of a chunk of logits: pure functions, for `scoring` and for objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

VOCABULARY = ("fsdp", "tensor")  # the mesh axes that V is shared out over
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


def top(x_BxCxV: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest and where they are, [B, C, k] each; of equals the first. Of a vocabulary that
    is shared out every device takes its own k, and only these are sent."""
    mesh, V = jax.sharding.get_abstract_mesh(), x_BxCxV.shape[-1]
    shares = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in VOCABULARY)
    if shares == 1 or V % shares:
        return jax.lax.top_k(x_BxCxV, k)

    def of_all(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        largest, index = jax.lax.top_k(x, min(k, V // shares))
        index += jax.lax.axis_index(VOCABULARY) * (V // shares)
        largest, index = (
            jax.lax.all_gather(own, VOCABULARY, axis=2, tiled=True) for own in (largest, index)
        )
        largest, place = jax.lax.top_k(largest, k)
        return largest, jnp.take_along_axis(index, place, axis=2)

    rows = PartitionSpec("data")
    shared = PartitionSpec("data", None, VOCABULARY)
    # That the result is the same on all devices is more than shard_map can see.
    return jax.shard_map(of_all, in_specs=shared, out_specs=rows, check_vma=False)(x_BxCxV)


Quantity = Callable[[Mapping[str, Logits], jax.Array], jax.Array]
"""What can be computed of a chunk: a pure function of {role: Logits} and target [B, C]; [B, C]."""


class Roles(dict[str, "Logits"]):
    """The roles that a term asked for, by name."""

    def __missing__(self, role: str) -> Logits:
        raise KeyError(f"role {role!r} is not among the roles of the term: {', '.join(self)}")


def logp(role: str) -> Quantity:
    """The log-probability of the target under a role."""
    return lambda roles, target_BxC: roles[role].logp_of(target_BxC)
