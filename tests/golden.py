"""The golden step of `shared/oracle`: one step of plain SGD on six real conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.runs import FLOAT32, PLAIN_SGD, train_arguments

GOLDEN_STEP = {
    **FLOAT32,
    "data.history": "conversation",
    "hindsight": "offline",
    "batch.interactions": 0,
    "batch.conversations": 6,
    "steps": 1,
    "epochs": 0,
    **PLAIN_SGD,
    "optim.lr": 0.05,
    "objective.name": "sdpo",
    "objective.ignore_first": 2,
}
SHORT = {"batch.row_tokens": 640, "report.interactions": 0}


def golden_step(oracle: Path, workdir: Path, **settings: Any) -> list[str]:
    """Arguments of the run that makes the golden step."""
    data = {"model.path": oracle / "model", "data.path": oracle / "conversations.jsonl"}
    return train_arguments(workdir, {**data, **GOLDEN_STEP, **settings})
