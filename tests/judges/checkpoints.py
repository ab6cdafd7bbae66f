"""A run's directory with real checkpoints, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax

from interact_jax import checkpoint, run_state, sharding
from interact_jax.opening import OpenedModel, open_model

LEARNED = 16  # interactions of a step


def make_run(folder: Path, path: str, scales: dict[int, float]) -> OpenedModel:
    """Checkpoints by step of the model at `path`, whose last norm is scaled: 1 leaves it as it is,
    less flattens what it says. Returns the model."""
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    model = open_model(path, mesh=mesh, attention="xla")
    params = model.load()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"data.end": "auto"}))
    checkpoint.keep_model_files(model.files, model.raw, model.tokenizer_files, folder)
    checkpoints = checkpoint.Checkpoints(folder, SimpleNamespace(keep=9, damaged="stop"))
    checkpoints.begin()
    for step, scale in scales.items():
        scaled = {
            name: jax.tree.map(lambda x, s=scale: x * s, each) if "final" in name else each
            for name, each in params.items()
        }
        state = run_state.new_state(scaled, optax.sgd(0.1), {})
        checkpoints.save(step, state.replace(step=jnp.int32(step)), {"position": {}})
    checkpoints.close()
    lines = [{"step": step, "interactions": LEARNED} for step in range(1, max(scales) + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return model
