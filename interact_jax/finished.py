"""A finished run that is started again reports so at once, and computes nothing.

    finished.write(cfg, stage, lines)     once everything is written
    lines = finished.read(cfg, stage)     its final lines; None where there is more to do

There is more to do where a setting, the data, or a file that the run wrote has changed: it then
starts like any run, which finds out what is wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interact_jax import checkpoint, config, digests, places, remote
from interact_jax.data import mixture
from interact_jax.data.dataset import POCKET_LOGS
from interact_jax.data.prepared import CARD, is_prepared
from interact_jax.data.records import find_files
from interact_jax.models import hf
from interact_jax.online.feed import is_online
from interact_jax.online.record import record_files
from interact_jax.schema import InputError
from interact_jax.stage import Stage
from interact_jax.store import Place

NAME = "finished.json"


def write(cfg: Any, stage: Stage, lines: Sequence[str]) -> None:
    """Write `finished.json`: the state of the run's files, and the `lines` that it ended with."""
    try:
        conditions = _conditions(cfg, stage)
    except (OSError, InputError):  # data elsewhere, out of reach: the next start looks for itself
        return
    record = {
        "lines": list(lines),
        "conditions": conditions,
        "files": _digests(stage),
    }
    places.write(stage.folder / NAME, json.dumps(record, indent=1) + "\n")


def read(cfg: Any, stage: Stage) -> list[str] | None:
    """The lines that the run ended with; None if anything has changed since."""
    try:
        recorded = json.loads((stage.folder / NAME).read_text(encoding="utf-8"))
        lines = [str(line) for line in recorded["lines"]]
        if recorded["conditions"] != _conditions(cfg, stage):
            return None  # before gigabytes are read
        return lines if recorded["files"] == _digests(stage) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, InputError):
        return None  # the run itself reports what is wrong


def _conditions(cfg: Any, stage: Stage) -> dict[str, Any]:
    """Settings, checkpoints, size and time of the data's files."""
    data = _data_files(cfg, stage.folder)
    return {
        "settings": config.to_json(cfg),
        "checkpoints": sorted(checkpoint.finished_steps(stage.home)),
        "data": [[str(file), *_state(file)] for file in data],
    }


def _state(file: Path | str) -> list[int | str]:
    """What is another when the file is."""
    if remote.is_remote(file):
        return [remote.state(str(file))]
    stat = os.stat(file)
    return [stat.st_size, stat.st_mtime_ns]


def _data_files(cfg: Any, workdir: Path) -> list[Path | str]:
    if is_online(cfg):
        return list(record_files(Path(cfg.online.replay or workdir)))
    if cfg.data.mixture:
        return [Path(each.path) / CARD for each in mixture.parse(cfg.data.mixture)]
    if is_prepared(cfg.data.path):
        return [Path(cfg.data.path) / CARD]
    return [POCKET_LOGS] if cfg.data.path == "pocket" else sorted(find_files(cfg.data.path))


def _digests(stage: Stage) -> dict[str, str]:
    """Of the files that the run wrote for others to read, by name."""
    pages = sorted(page.name for page in (stage.folder / "report").glob("*.html"))
    small = ["config.json", "metrics.jsonl", "summary.json", *(f"report/{page}" for page in pages)]
    place_of: dict[str, Place] = {name: stage.folder / name for name in small}
    export = stage.home / "export"
    place_of |= {f"export/{name}": export / name for name in hf.names_of(export)}
    return dict(zip(place_of, digests.of_files(list(place_of.values())), strict=True))
