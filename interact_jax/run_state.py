"""The state of a run: its models, their optimiser and the counters, as shapes and as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from interact_jax import sharding
from interact_jax.models.decoder import Decoder
from interact_jax.teachers import POLICY, Rule


@flax.struct.dataclass
class Counters:
    """What a run has counted so far; part of the state, so a resumed run goes on counting.

    Interactions and tokens wrap at 32 bits: `train.totals` reconstructs the full numbers.
    """

    interactions: jax.Array
    reply_tokens: jax.Array
    bad_steps: jax.Array  # skipped, because loss or gradient was not finite
    bad_steps_in_row: jax.Array


@flax.struct.dataclass
class Model:
    """One model of a run; `opt_state` is None for one that is not trained but follows a rule."""

    params: Any
    opt_state: Any = None


@flax.struct.dataclass
class TrainState:
    """Exactly what a checkpoint holds, plus the models that never change, which are saved once."""

    step: jax.Array
    models: dict[str, Model]
    counters: Counters

    @property
    def params(self) -> Any:
        """The parameters of the policy."""
        return self.models[POLICY].params

    def all_params(self) -> dict[str, Any]:
        """The parameters of every model, by name."""
        return {name: model.params for name, model in self.models.items()}


def abstract_state(
    decoder: Decoder,
    optimiser: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    rules: Mapping[str, Rule],
) -> TrainState:
    """Shapes, types and shardings of the state, before any array exists."""
    shapes = jax.eval_shape(lambda: new_state(decoder.fresh_params(0), optimiser, rules))
    return sharding.with_layout(shapes, mesh)


def new_state(
    params: Any, optimiser: optax.GradientTransformation, rules: Mapping[str, Rule]
) -> TrainState:
    """The state before the first step: every model equals the policy."""
    zero = jnp.zeros((), jnp.int32)
    models = {POLICY: Model(params, optimiser.init(params))}
    for name, rule in rules.items():
        copy = (lambda p: jnp.array(p, jnp.float32)) if rule.wide else jnp.array  # copies
        models[name] = Model(jax.tree.map(copy, params))
    return TrainState(zero, models, Counters(zero, zero, zero, zero))
