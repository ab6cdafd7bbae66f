"""A run of no size, made once, that faults are done to; whether two runs came to the same end."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.runs import EVEN, FLOAT32, read_lines, records, tiny, write_lines

SETTINGS = {
    "data.max_length": 512,
    **FLOAT32,
    "report.interactions": 0,
    "batch.row_tokens": 64,
    "batch.rows": 1,
    "batch.interactions": 0,
    "batch.conversations": 2,
    "epochs": 0,
    "optim.lr": 0.01,
    "optim.schedule": "constant",
    "optim.warmup_fraction": 0,
    "checkpoint.every": 2,
}
# Between them they write every kind of file: fixed/, and known/.
METHODS: dict[str, dict[str, Any]] = {
    "trust_region": {"teacher.name": "trust_region", "teacher.mix": 0.3},
    "dpo": {"objective.name": "dpo", "objective.ignore_first": 0},
}


def parser(description: str | None, folder: str, count: int) -> argparse.ArgumentParser:
    """What the programs here are told; `folder` says what is kept there."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--folder", type=Path, help=f"keeps {folder}; made if new")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--from", type=int, default=0, dest="first", help="number of a case")
    made.add_argument("--count", type=int, default=count)
    made.add_argument("--show", action="store_true", help="every case, not only the bad ones")
    return made


def settings_of(folder: Path, method: str) -> dict[str, Any]:
    """Settings of a run on the model and the data in `folder`, which are made where they are not
    there."""
    if not (folder / "model").is_dir():
        shutil.rmtree(folder / "partial", ignore_errors=True)
        tiny(folder / "partial")
        write_lines(folder / "talks.jsonl", records(EVEN))
        (folder / "partial").rename(folder / "model")
    paths = {"model.path": folder / "model", "data.path": folder / "talks.jsonl"}
    return {**SETTINGS, **METHODS[method], **paths}


def ending(workdir: Path) -> dict[str, Any]:
    """What a run came to: its exported model, its log and its summary, less what takes time."""
    log = read_lines(workdir / "metrics.jsonl")
    summary = json.loads((workdir / "summary.json").read_text())
    for timed in (*log, summary):
        del timed["seconds"]
    model = {file.name: file.read_bytes() for file in sorted((workdir / "export").iterdir())}
    return {"model": model, "log": log, "summary": summary}


def different(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """The parts of an ending that are not the same."""
    return [name for name, value in expected.items() if found[name] != value]
