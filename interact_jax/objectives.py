"""Objectives: pure functions of per-token quantities and the reply table; none sees a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from interact_jax.schema import Replies, Sum

Loss = Callable[[Mapping[str, jax.Array], Replies], tuple[Sum, dict[str, Sum]]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """`want` names the quantities it needs (`scoring.QUANTITIES`). `loss` returns the sum to divide
    by the number of interactions, and the sums for the log that `metrics` names."""

    want: tuple[str, ...]
    loss: Loss
    metrics: tuple[str, ...]


def sdpo(quantities: Mapping[str, jax.Array], replies: Replies) -> tuple[Sum, dict[str, Sum]]:
    """Self-distillation from user interactions, sampled-token form (arXiv 2603.12273, offline).

    signal_t = log pi(y_t | x, o, y_<t) - log pi(y_t | x, y_<t)
    loss     = mean over interactions of mean over t of  -stopgrad(signal_t) log pi(y_t | x, y_<t)
    """
    student, teacher = quantities["logp_student"], quantities["logp_teacher"]
    counts = replies.weight_BxR > 0
    signal = jax.lax.stop_gradient(teacher - student)
    loss = jnp.where(counts, -signal * student * replies.weight_BxR, 0.0).sum()
    metrics = {
        "signal_mean": Sum.of(signal, counts),
        "signal_abs_mean": Sum.of(abs(signal), counts),
    }
    return Sum(loss, interactions(replies)), metrics


def interactions(replies: Replies) -> jax.Array:
    """How many interactions the rows hold, float32 scalar: an exact count, not a sum of weights."""
    first = (replies.interaction_BxR >= 0) & (replies.offset_BxR == 0)
    return first.sum().astype(jnp.float32)


OBJECTIVES = {
    "sdpo": Objective(("logp",), sdpo, metrics=("signal_mean", "signal_abs_mean")),
}
"""By the name of the setting `objective.name`."""
