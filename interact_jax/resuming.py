"""What is said of a run that goes on otherwise than it began: it may, and its user should know."""

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
    """What the bits of a step depend on beside settings and data; every checkpoint keeps it."""
    return {
        "attention": model.decoder.attention,
        "platform": jax.default_backend(),
        "devices": sharding.told(model.mesh),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "interact_jax": interact_jax.__version__,
    }


def differences(
    kept: Mapping[str, Any], now: Mapping[str, Any], optim: Any, step: int
) -> list[str]:
    """Lines for the log; `kept` and `now` are what goes with a checkpoint: `circumstances` and
    the number of `steps`. `optim` are the settings. What an earlier version kept says less."""
    lines = []
    if then := kept.get("circumstances"):
        here = now["circumstances"]
        other = [
            f"{name} {then[name]} then, {here[name]} now"
            for name in then.keys() & here.keys()
            if then[name] != here[name]
        ]
        if other:
            lines.append(f"the last bits of what follows may differ: {'; '.join(sorted(other))}")
    if then := kept.get("steps"):
        at = jnp.asarray(step)
        before, after = (float(learning_rate(optim, n)(at)) for n in (then, now["steps"]))
        if before != after:
            lines.append(
                f"the run was to be {then:,} steps long and is {now['steps']:,} now: from here on "
                f"the learning rate follows the {optim.schedule} schedule over {now['steps']:,}, "
                f"{after:.3g} at step {step + 1:,} instead of {before:.3g}"
            )
    return lines
