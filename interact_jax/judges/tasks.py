"""Tasks: what is measured of models by themselves, without a judge; by name.

    check_names(["pocket"])
    lines = measure_sides(sides, ["pocket"], replies=2048, seed=0, store=store)
    lines[0]["tasks"]["pocket"]["wanted_styles"]

A task is a run's own measure before and after training (`evaluation.EVALUATIONS`), on any weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interact_jax import config, progress, sharding
from interact_jax.evaluation import EVALUATIONS, LOGGED
from interact_jax.judges.sides import ModelSide
from interact_jax.judges.store import Store, digest
from interact_jax.report import measures
from interact_jax.schema import InputError

FIELDS = ("task", "values")  # of a line of the store
REPLIES: int = config.settings()["evaluation.replies"].default


def check_names(names: Sequence[str]) -> None:
    """Raise InputError for a task that does not exist, and for one that is named twice."""
    for name in names:
        if name not in EVALUATIONS:
            raise InputError(
                f"--tasks {name}: expected {', '.join(EVALUATIONS)}. Tasks of lm-eval are run by "
                "launch/harness.py, public benchmarks by launch/answer.py."
            )
    if len(set(names)) < len(names):
        raise InputError(f"--tasks {' '.join(names)}: name each once.")


def measure_sides(
    sides: Sequence[ModelSide], names: Sequence[str], replies: int, seed: int, store: Store
) -> list[dict[str, Any]]:
    """A line per side: its name, its place on a curve, and the measures by task. What is in the
    store is not measured again."""
    return [
        {"name": side.name, **side.place, "tasks": _measure(side, names, replies, seed, store)}
        for side in sides
    ]


def _measure(
    side: ModelSide, names: Sequence[str], replies: int, seed: int, store: Store
) -> dict[str, dict[str, float]]:
    keys = {name: digest([side.digest, name, replies, seed]) for name in names}
    missing = [name for name, key in keys.items() if store.get(key) is None]
    params, model = side.load() if missing else None, side.model
    for name in missing:
        with progress.of(f"{side.name}: {name}"), sharding.on(model.mesh):
            measure = EVALUATIONS[name]
            values = measure(model.decoder, params, model.chat, replies, seed, LOGGED, ())
        store.add(keys[name], {"task": name, "values": values})
    lines = {name: store.get(key) for name, key in keys.items()}
    return {name: line["values"] for name, line in lines.items() if line is not None}


def table(lines: Sequence[dict[str, Any]]) -> list[str]:
    """For the terminal: a line per model, task and measure."""
    width = max(len(line["name"]) for line in lines)
    return [
        f"{line['name']:{width}}  {task} {name} {measures.format_value(name, value)}"
        for line in lines
        for task, values in line["tasks"].items()
        for name, value in values.items()
    ]
