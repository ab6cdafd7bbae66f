"""Differences to report when a run is resumed in other circumstances than it began in."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib

import interact_jax
from interact_jax import sharding
from interact_jax.opening import OpenedModel
from interact_jax.optim import learning_rate


def circumstances(model: OpenedModel) -> dict[str, str]:
    """What the exact bits of a step depend on, besides settings and data; saved in checkpoints."""
    return {
        "attention": model.decoder.attention,
        "platform": jax.default_backend(),
        "devices": sharding.describe(model.mesh),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "interact_jax": interact_jax.__version__,
    }


def differences(
    kept: Mapping[str, Any], now: Mapping[str, Any], optim: Any, step: int
) -> list[str]:
    """Lines for the log. `kept` and `now` are what goes with a checkpoint: `circumstances` and the
    number of `steps`; `optim` are the settings. Earlier versions saved less."""
    lines = []
    if old := kept.get("circumstances"):
        new = now["circumstances"]
        changes = [
            f"{name} {old[name]} then, {new[name]} now"
            for name in old.keys() & new.keys()
            if old[name] != new[name]
        ]
        if changes:
            lines.append(f"the last bits of what follows may differ: {'; '.join(sorted(changes))}")
    if old := kept.get("steps"):
        at = jnp.asarray(step)
        before, after = (float(learning_rate(optim, n)(at)) for n in (old, now["steps"]))
        if before != after:
            lines.append(
                f"the run was to be {old:,} steps long and is {now['steps']:,} now: from here on "
                f"the learning rate follows the {optim.schedule} schedule over {now['steps']:,}, "
                f"{after:.3g} at step {step + 1:,} instead of {before:.3g}"
            )
    return lines
