"""Pure functions of a chunk of logits, for `scoring` and for objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

VOCABULARY = ("fsdp", "tensor", "sequence")  # the mesh axes that V is sharded over
ROWS = ("slice", "data")  # those that the rows of a chunk are sharded over
SAVED = "lse"  # what is saved of a chunk for the backward pass: log-sum-exps, and the like


class Logits:
    """One role's logits of a chunk, float32 [B, C, V], and their log-sum-exp, computed once."""

    def __init__(self, logits_BxCxV: jax.Array):
        self.logits_BxCxV = logits_BxCxV
        # Named also where it is not differentiated, such as the teacher's.
        self.lse_BxC = checkpoint_name(logsumexp(logits_BxCxV), SAVED)

    def logp(self) -> jax.Array:
        """Log-probabilities of the whole vocabulary [B, C, V]."""
        return self.logits_BxCxV - self.lse_BxC[:, :, None]

    def logp_of(self, target_BxC: jax.Array) -> jax.Array:
        """Log-probability of the target [B, C]."""
        return target_logit(self.logits_BxCxV, target_BxC) - self.lse_BxC


@jax.custom_vjp
def logsumexp(logits_BxCxV: jax.Array) -> jax.Array:
    """log sum exp over the vocabulary, [B, C]; the backward pass does not recompute it."""
    return jax.nn.logsumexp(logits_BxCxV, axis=-1)


def _logsumexp_forward(logits):
    lse = checkpoint_name(logsumexp(logits), SAVED)  # what the backward pass reads
    return lse, (logits, lse)


def _logsumexp_backward(residuals, dlse):
    logits, lse = residuals
    return (dlse[:, :, None] * jnp.exp(logits - lse[:, :, None]),)


logsumexp.defvjp(_logsumexp_forward, _logsumexp_backward)


@jax.custom_vjp
def target_logit(logits_BxCxV: jax.Array, target_BxC: jax.Array) -> jax.Array:
    """The target's logit [B, C]. The gradient is a comparison, which fuses, not a scatter."""
    return jnp.take_along_axis(logits_BxCxV, target_BxC[:, :, None], axis=-1)[:, :, 0]


def _target_logit_backward(residuals, dlogit):
    target, V = residuals
    index = jax.lax.broadcasted_iota(jnp.int32, (*target.shape, V), 2)
    return jnp.where(index == target[:, :, None], dlogit[:, :, None], 0.0), None


target_logit.defvjp(
    lambda logits, target: (target_logit(logits, target), (target, logits.shape[-1])),
    _target_logit_backward,
)


def top(x_BxCxV: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest values and their indices, [B, C, k] each; of equal ones the first. With a
    sharded vocabulary every device takes the top k of its shard, and only these are sent."""
    mesh, V = jax.sharding.get_abstract_mesh(), x_BxCxV.shape[-1]
    shares = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in VOCABULARY)
    if shares == 1 or V % shares:
        return jax.lax.top_k(x_BxCxV, k)

    def sharded_top(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        largest, index = jax.lax.top_k(x, min(k, V // shares))
        index += jax.lax.axis_index(VOCABULARY) * (V // shares)
        largest, index = (
            jax.lax.all_gather(part, VOCABULARY, axis=2, tiled=True) for part in (largest, index)
        )
        largest, place = jax.lax.top_k(largest, k)
        return largest, jnp.take_along_axis(index, place, axis=2)

    rows = PartitionSpec(ROWS)
    shared = PartitionSpec(ROWS, None, VOCABULARY)
    # shard_map cannot infer that the result is the same on all devices.
    return jax.shard_map(sharded_top, in_specs=shared, out_specs=rows, check_vma=False)(x_BxCxV)


Quantity = Callable[[Mapping[str, Logits], jax.Array], jax.Array]
"""A pure function of a chunk: ({role: Logits}, target [B, C]) -> [B, C]."""


class Roles(dict[str, "Logits"]):
    """The roles that a term uses, by name."""

    def __missing__(self, role: str) -> Logits:
        raise KeyError(f"role {role!r} is not among the roles of the term: {', '.join(self)}")


def logp(role: str) -> Quantity:
    """The log-probability of the target under a role."""
    return lambda roles, target_BxC: roles[role].logp_of(target_BxC)
