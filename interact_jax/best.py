"""The best step of a run by a held-out measure: its checkpoint is kept, and exported at the end.

best.check(cfg, measured)                          the measure is one that this log has
better = best.note(kept, cfg, step, measured)      whether this step is the best so far
state, lines = best.restore(state, kept, cfg, home) the policy of that step, from its checkpoint
"""

from __future__ import annotations

import dataclasses
import logging
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax

from interact_jax import checkpoint, guard
from interact_jax.data import holdout
from interact_jax.run_state import Model, TrainState
from interact_jax.schema import InputError
from interact_jax.settings import Setting
from interact_jax.store import Place
from interact_jax.teachers import POLICY

log = logging.getLogger(__name__)

BETTER: dict[str, Callable[[float, float], bool]] = {
    "held_out_signal_abs": operator.lt,
    "held_out_margin": operator.gt,
    "held_out_preferred": operator.gt,
}
"""Measures by which steps are compared: (a step's value, another's) -> whether it is better."""

SETTINGS = {
    "checkpoint.best": Setting(
        "none",
        "the held-out measure by which the best step is kept, and exported instead of the "
        "last; none = export the last step",
        ("none", *BETTER),
        free=True,
    ),
}


def check(cfg: Any, before: Mapping[str, float] | None) -> None:
    """Raise InputError where the chosen measure is not available on the data."""
    measure = cfg.checkpoint.best
    if measure == "none" or measure in (before or {}):
        return
    available = [name for name in BETTER if name in (before or {})]
    if available:
        advice = f"These can be measured on this data: {', '.join(available)}."
    else:
        advice = (
            "Nothing is held out: choose an evaluation.holdout that makes at least "
            f"{holdout.FEWEST} conversations."
        )
    raise InputError(f"checkpoint.best={measure!r} is not measured in this run. {advice}")


def note(kept: dict[str, Any], cfg: Any, step: int, measured: Mapping[str, float]) -> bool:
    """Whether a step is better than all before it; if so, it is recorded in `kept`, which goes with
    checkpoints. A model that shows signs of collapse is never the best."""
    measure = cfg.checkpoint.best
    if measure not in measured or guard.signs(kept.get("before") or {}, measured):
        return False
    best = _best_so_far(kept, measure)
    if best is not None and not BETTER[measure](measured[measure], best["value"]):
        return False
    now = {"measure": measure, "step": step, "value": measured[measure]}
    kept["best"] = now | {"data": kept.get("measuring_on")}
    return True


def protected_steps(kept: Mapping[str, Any]) -> set[int]:
    """The steps whose checkpoints stay, however old they are."""
    return {kept["best"]["step"]} if kept.get("best") else set()


def restore(
    state: TrainState, kept: Mapping[str, Any], cfg: Any, home: Place
) -> tuple[TrainState, list[str]]:
    """The state with the policy and the number of the best step, and lines about it. Moments and
    other models are dropped: the run has ended.

    If its checkpoint can no longer be read, that is logged, and the state stays the last one.
    """
    measure, last = cfg.checkpoint.best, int(state.step)
    if measure == "none":
        return state, []
    best = _best_so_far(kept, measure)
    if best is None:
        log.warning("no step was the best by %s: each showed signs of collapse", measure)
        return state, []
    summary = f"step {best['step']:,} is the best by {measure} ({best['value']:.4g})"
    before = (kept.get("before") or {}).get(measure)
    if before is not None and not BETTER[measure](best["value"], before):
        log.warning("%s, and no better than the model was before training (%.4g)", summary, before)
    if best["step"] == last:
        return state, [f"{summary}: the last one"]
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state.params
    )
    try:
        place = home / "checkpoints" / str(best["step"])
        params = checkpoint.restore_params(str(place), abstract)
    except InputError as error:
        log.error("the best step cannot be exported, the last one is: %s", error)
        return state, []
    step = jax.device_put(best["step"], state.step.sharding).astype(state.step.dtype)
    best_state = dataclasses.replace(state, step=step, models={POLICY: Model(params)})
    return best_state, [f"{summary}: exported, instead of step {last:,}"]


def _best_so_far(kept: Mapping[str, Any], measure: str) -> Any:
    """The best step so far; None where it was chosen by another measure or on other data."""
    best = kept.get("best")
    if not best or best["measure"] != measure or best.get("data") != kept.get("measuring_on"):
        return None
    return best
