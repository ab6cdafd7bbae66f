"""Optimisers and schedules. The learning rate is a function of the run's step, outside of optax's
state, so that a skipped step does not shift it and the log shows the rate that was used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from interact_jax.schema import InputError
from interact_jax.settings import LARGEST, Setting

Schedule = Callable[[jax.Array], jax.Array]  # share of the run after warm-up, 0 to 1 -> factor

SCHEDULES: dict[str, Schedule] = {
    "constant": jnp.ones_like,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + jnp.cos(jnp.pi * share)) / 2,
}
"""Factor on the learning rate, by the name of the setting `optim.schedule`."""


def learning_rate(settings: Any, total_steps: int) -> Callable[[jax.Array], jax.Array]:
    """step (0 = first) -> learning rate: linear warm-up, then the schedule over the rest.

    `settings` has `lr`, `schedule` and `warmup_fraction`, the share of the run before the first
    step with the full `lr`. The rate is positive at every step of the warm-up, even the first.
    """
    warmup = min(math.ceil(settings.warmup_fraction * total_steps), max(0, total_steps - 1))
    decay = choose("optim.schedule", settings.schedule, SCHEDULES)

    def rate_at(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        share = jnp.clip((step - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        return settings.lr * jnp.where(step < warmup, (step + 1) / (warmup + 1), decay(share))

    return rate_at


def adamw(settings: Any) -> optax.GradientTransformation:
    """AdamW (b1 0.9, b2 0.999, epsilon 1e-8, which are optax's defaults); norms and biases are not
    decayed, as is usual for transformers.

    Moments are float32 whatever the parameters are: in bfloat16, 0.999 times a number is itself.
    """
    adam = optax.scale_by_adam()

    def init(params: Any) -> Any:
        return adam.init(jax.tree.map(lambda p: p.astype(jnp.float32), params))

    return optax.chain(
        optax.GradientTransformation(init, adam.update),
        optax.add_decayed_weights(settings.weight_decay, mask=_matrix_mask),
    )


def sgd(settings: Any) -> optax.GradientTransformation:
    """Plain stochastic gradient descent with decoupled weight decay."""
    return optax.add_decayed_weights(settings.weight_decay, mask=_matrix_mask)


OPTIMISERS = {"adamw": adamw, "sgd": sgd}
"""By the name of the setting `optim.name`. Their updates are still to be scaled by -lr."""

SETTINGS = {
    "optim.name": Setting("adamw", "the optimiser", tuple(OPTIMISERS)),
    "optim.lr": Setting(2e-6, "peak learning rate", least=0, most=LARGEST),
    "optim.weight_decay": Setting(
        0.0, "decoupled weight decay, on matrices only", least=0, most=LARGEST
    ),
    "optim.schedule": Setting(
        "cosine", "the learning rate's schedule after warm-up", tuple(SCHEDULES)
    ),
    "optim.warmup_fraction": Setting(
        0.05,
        "share of the run in which the learning rate rises linearly to its peak",
        least=0,
        most=1,
    ),
    "optim.clip_norm": Setting(10.0, "largest norm of the whole gradient; inf = off", above=0),
}


def make_optimiser(settings: Any) -> optax.GradientTransformation:
    """The optimiser named `name`; it expects gradients that are already clipped."""
    return choose("optim.name", settings.name, OPTIMISERS)(settings)


def clip_factor(norm: jax.Array, clip_norm: float) -> jax.Array:
    """The factor that brings a gradient of this global norm down to at most `clip_norm`.

    A number rather than a clipped copy: it is applied in the optimiser's pass over the gradient.
    """
    return jnp.minimum(1.0, clip_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))


def _matrix_mask(params: Any) -> Any:
    """True where a leaf is a matrix, judging by its name: not a norm, not a bias."""

    def is_matrix(path: tuple[Any, ...], _: Any) -> bool:
        name = str(path[-1].key)
        return not ("norm" in name or "bias" in name)

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def choose(setting: str, name: str, table: dict[str, Any]) -> Any:
    """Look `name` up in a table of names; InputError lists what exists."""
    if name not in table:
        raise InputError(f"{setting}={name!r} is not known. Available: {', '.join(table)}.")
    return table[name]
