"""Skipping interactions whose follow-up is uninformative: a forward pass decides.

Shown an unrelated follow-up, a model does not change its judgement, and the signal is near zero
over the whole reply. Such interactions cost as much as the others and teach nothing. With
`skip.signal` a step is first scored, without a gradient, and the rest of it is packed again:

    trunk   u1 y1 u2 y2     both near zero: the tree is left out
    trunk   u1 y1 u2 y2     y1 near zero: it gets weight 0, the tree stays for y2

A skipped interaction still counts in the mean, so the weight of the others does not grow. The loss
and the metrics of a step are those of all its interactions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interact_jax import scoring, sharding
from interact_jax.data.pipeline import StepBatch, step_batch
from interact_jax.methods import Method
from interact_jax.models.decoder import Decoder
from interact_jax.objectives import counts_in, mean_over_example
from interact_jax.schema import Batch, InputError
from interact_jax.settings import LARGEST, Setting

SETTINGS = {
    "skip.signal": Setting(
        0.0,
        "skip interactions whose mean |signal| is below this, in nats per token; 0 = off",
        least=0,
        most=LARGEST,
    ),
}


def observe(
    models: Mapping[str, Any],
    batch: Batch,
    *,
    decoder: Decoder,
    forward: Callable[..., scoring.Hiddens],
    method: Method,
) -> Any:
    """A micro-batch's contribution to the step's metrics and counts; its mean |signal| [B, I]."""
    seen = scoring.look(forward, decoder, models, batch, method.sources)
    quantities = method.quantities(seen, batch.replies)
    loss, metrics = method.loss(quantities, batch.replies)
    signal = abs(quantities["logp_teacher"] - quantities["logp_student"])
    sums = {"loss": loss, **metrics}, counts_in(batch.replies)
    return sums, mean_over_example(signal, batch.replies)


def skimmer_for(
    cfg: Any, method: Method, decoder: Decoder, mesh: jax.sharding.Mesh
) -> Skimmer | None:
    """The skimmer that a run's settings ask for. Raises InputError if the method has no signal."""
    least = cfg.skip.signal
    if not least:
        return None
    if not {"logp_student", "logp_teacher"} <= method.want.keys():
        raise InputError(
            f"skip.signal={least}: objective.name={cfg.objective.name} has no signal, since it "
            "looks at no follow-up. Set skip.signal=0."
        )
    forward = scoring.FORWARD[cfg.sharing]
    return Skimmer(least, mesh, decoder=decoder, forward=forward, method=method)


class Skimmer:
    """Removes from a step what need not be differentiated."""

    def __init__(self, least: float, mesh: jax.sharding.Mesh, **options: Any):
        self.least, self.mesh = least, mesh
        whole = sharding.replicated(mesh)
        self._observe = jax.jit(functools.partial(observe, **options), out_shardings=whole)

    def __call__(self, models: Mapping[str, Any], batch: StepBatch) -> tuple[StepBatch, Any]:
        """The rest of the batch; the metrics and counts of all of it."""
        sums, signal = None, {}
        for micro, placed in zip(batch.micro, batch.placed, strict=True):
            more, mean_BxI = self._observe(models, sharding.place_rows(micro, self.mesh))
            sums = more if sums is None else jax.tree.map(jnp.add, sums, more)
            mean_BxI = jax.device_get(mean_BxI)
            for place in placed:
                number = micro.replies.example_BxR[place.row, place.start]
                signal[place.id] = mean_BxI[place.row, number]

        trees = batch.trees
        signal_M = np.array([signal[name] for name, *_ in trees.names])
        replies = [trees.replies_of(n) for n in range(len(trees))]
        strong_M = signal_M >= self.least
        kept = [n for n, of_tree in enumerate(replies) if strong_M[of_tree].any()]
        # If nothing is left, one tree of weight 0 keeps the gradient's shape.
        kept = kept or [int(trees.sizes_Nx5[:, 0].argmin())]
        factor_M = strong_M.astype(np.float64)
        if batch.factor_M is not None:
            factor_M *= batch.factor_M
        left_M = factor_M[np.concatenate([replies[n] for n in kept])]
        skipped = sum(mean < self.least for mean in signal.values()) / len(signal)
        rest = step_batch(batch.packing, trees.take(kept), batch.interactions, left_M)
        metrics = {**batch.metrics, "skipped": skipped}
        left = dataclasses.replace(batch, micro=rest.micro, placed=rest.placed, metrics=metrics)
        return left, sums
