"""Hidden states at the reply tokens -> per-token quantities, a chunk of tokens at a time.

There is never a [tokens, vocabulary] array for a whole row: the logits of one chunk are made from
every source (student, teacher, ...), what is wanted of them is computed, and they are dropped; the
backward pass makes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from interact_jax.models.decoder import BranchStream, Decoder, head_DxV
from interact_jax.models.layers import linear
from interact_jax.schema import Batch, Replies, TokenStream

CHUNK = 512  # C: reply tokens of a row whose logits exist at a time, at most. Fewer would leave an
# accelerator waiting for the head: v6e makes 560 FLOPs in the time it reads a byte.
VOCABULARY = ("fsdp", "tensor")  # the mesh axes that V is shared out over, in here
SAVED = "lse"  # what the backward pass keeps of a chunk's logits: their log-sum-exp


@flax.struct.dataclass
class Source:
    """One policy's view of the reply tokens: predictors' hidden states and the head over them."""

    hidden_BxRxD: jax.Array
    head_DxV: jax.Array


# ------------------------------------------------------------------ hidden states of both streams


def one_pass(decoder: Decoder, params: Any, batch: Batch) -> dict[str, Source]:
    """Student and teacher from one pass over trunk and branches (`sharing=tree`)."""
    branches = [BranchStream(batch.teacher, differentiated=False)]
    if batch.student.id_BxL.shape[1]:
        branches.insert(0, BranchStream(batch.student))
    trunk, hiddens = decoder.apply({"params": params}, batch.trunk, branches, batch.branches)
    student = jnp.concatenate([trunk, *hiddens[:-1]], axis=1)
    return _sources(params, batch.replies, student, hiddens[-1])


def two_passes(decoder: Decoder, params: Any, batch: Batch) -> dict[str, Source]:
    """Student and teacher by a full forward each (`sharing=none`); a tree is one interaction."""
    student, _ = decoder.apply({"params": params}, batch.trunk)
    frozen = jax.lax.stop_gradient(params)
    teacher, _ = decoder.apply({"params": frozen}, _as_trunk(batch.teacher))
    return _sources(params, batch.replies, student, teacher)


FORWARD = {"tree": one_pass, "none": two_passes}
"""How both streams are computed, by the name of the setting `sharing`."""


def _as_trunk(stream: TokenStream) -> TokenStream:
    return stream.replace(branch_BxL=jnp.zeros_like(stream.branch_BxL))


def _sources(
    params: Any, replies: Replies, student_BxLxD: jax.Array, teacher_BxLxD: jax.Array
) -> dict[str, Source]:
    def rows(hidden_BxLxD: jax.Array, index_BxR: jax.Array) -> jax.Array:
        return jnp.take_along_axis(hidden_BxLxD, index_BxR[:, :, None], axis=1)

    head = head_DxV(params)
    return {
        "student": Source(rows(student_BxLxD, replies.student_BxR), head),
        "teacher": jax.lax.stop_gradient(Source(rows(teacher_BxLxD, replies.teacher_BxR), head)),
    }


# ------------------------------------------------------------------- logits of a chunk, and no more


def logp(logits: Mapping[str, jax.Array], target_BxC: jax.Array) -> dict[str, jax.Array]:
    """`logp_SOURCE` [B, C]: log-probability of the target under each source."""
    return {f"logp_{name}": at(x, target_BxC) - logsumexp(x) for name, x in logits.items()}


@jax.custom_vjp
def logsumexp(logits_BxCxV: jax.Array) -> jax.Array:
    """log sum exp over the vocabulary, [B, C]; the backward pass does not take it again."""
    return jax.nn.logsumexp(logits_BxCxV, axis=-1)


def _logsumexp_forward(logits):
    lse = checkpoint_name(logsumexp(logits), SAVED)
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


Quantity = Callable[[Mapping[str, jax.Array], jax.Array], dict[str, jax.Array]]
QUANTITIES: dict[str, Quantity] = {"logp": logp}
"""What can be computed of a chunk: pure functions of {source: float32 logits [B, C, V]}, target."""


def score(
    sources: Mapping[str, Source],
    target_BxR: jax.Array,
    want: Sequence[str] = ("logp",),
    chunk: int = CHUNK,
) -> dict[str, jax.Array]:
    """Per-token quantities [B, R] of all sources; float32 logits of `chunk` tokens at a time.

    Under a mesh the vocabulary is shared out, and a chunk's hidden states go to every share of it.
    They are small; to bring the head to the tokens would move all of it for every chunk, and the
    whole gradient of it back.
    """
    B, R = target_BxR.shape
    chunk = -(-R // -(-R // chunk))  # chunks of nearly the same length
    tail = -R % chunk

    def chunks(x: jax.Array) -> jax.Array:  # [B, R, ...] -> [R / C, B, C, ...]
        x = jnp.pad(x, [(0, 0), (0, tail)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(B, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    heads = {name: _laid_out(source.head_DxV, None, VOCABULARY) for name, source in sources.items()}

    def one(hidden: dict[str, jax.Array], target_BxC: jax.Array) -> dict[str, jax.Array]:
        logits = {}
        for name, x_BxCxD in hidden.items():
            x = _laid_out(x_BxCxD, "data", None, None)
            x = linear(x, heads[name], jnp.float32)
            logits[name] = _laid_out(x, "data", None, VOCABULARY)
        found: dict[str, jax.Array] = {}
        for name in want:
            found |= QUANTITIES[name](logits, target_BxC)
        return found

    # Without recompute the scan would keep every chunk's logits for the backward pass.
    body = jax.checkpoint(one, policy=jax.checkpoint_policies.save_only_these_names(SAVED))
    hidden = {name: chunks(source.hidden_BxRxD) for name, source in sources.items()}
    _, found = jax.lax.scan(
        lambda carry, xs: (carry, body(*xs)), None, (hidden, chunks(target_BxR))
    )
    return {name: x.swapaxes(0, 1).reshape(B, -1)[:, :R] for name, x in found.items()}


def _laid_out(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """x with its dimensions on these axes of the mesh, if there is one."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
