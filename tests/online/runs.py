"""Online runs of the pocket model for tests: few steps, short replies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interact_jax import config, train
from tests.runs import FLOAT32, ONE_ROW_SHARD, ROOT, overrides

SMALL = {
    **FLOAT32,
    **ONE_ROW_SHARD,
    "online.users": "emoji,-sentence | polite",
    "online.new_tokens": 12,
    "batch.interactions": 4,
    "batch.rows": 1,
    "batch.row_tokens": 128,
    "steps": 4,
    "optim.lr": 1e-3,
    "checkpoint.every": 100,
    "evaluation.name": "none",
    "evaluation.prompts": 0,
    "report.interactions": 0,
    "loggers": "",
    "compile_cache": "",
}


def settings(more: Mapping[str, Any] | None = None, small: Mapping[str, Any] = SMALL) -> Any:
    """The config of a small online run."""
    given = overrides({**small, **(more or {})})
    return config.load(str(ROOT / "configs/online_pocket.py"), given)


def started(workdir: Path, more: Mapping[str, Any] | None = None, **small: Any) -> train.Run:
    """A run that has not made a step, or goes on from its checkpoint."""
    return train.start(settings(more, **small), workdir)


def trained(workdir: Path, more: Mapping[str, Any] | None = None, **small: Any) -> train.Run:
    """The same, after all of its steps."""
    run = started(workdir, more, **small)
    train.loop(run)
    run.checkpoints.close()
    return run
