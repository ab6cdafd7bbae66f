"""A run that has ended says so at once when it is started again, and computes nothing.

    finished.note(cfg, workdir, lines)      once everything is written
    lines = finished.lines(cfg, workdir)    what it said then; None where there is more to do

There is more to do where a setting, the data, or something that the run has left is not as it was:
then it starts as any run does, which finds out what is wrong.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interact_jax import checkpoint, config, digests, places
from interact_jax.data.dataset import POCKET_LOGS
from interact_jax.data.records import find_files
from interact_jax.models import hf
from interact_jax.schema import InputError

log = logging.getLogger(__name__)

NAME = "finished.json"


def note(cfg: Any, workdir: Path, lines: Sequence[str]) -> None:
    """Write `finished.json`: what the run left, and the `lines` that it ended with."""
    seen = {**_seen(cfg, workdir), "lines": list(lines)}
    places.write(workdir / NAME, json.dumps(seen, indent=1) + "\n")


def lines(cfg: Any, workdir: Path) -> list[str] | None:
    """The lines that the run ended with; None unless all is as it was then."""
    try:
        then = json.loads((workdir / NAME).read_text(encoding="utf-8"))
        said = then.pop("lines")
        return [str(line) for line in said] if then == _seen(cfg, workdir) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, InputError):
        return None  # the run itself says what is wrong


def _seen(cfg: Any, workdir: Path) -> dict[str, Any]:
    """Settings, the state of the data's files, digests of what the run has written for others."""
    export = workdir / "export"
    left = [workdir / name for name in ("config.json", "metrics.jsonl", "summary.json")]
    left += sorted(file for pattern in hf.files_of(export) for file in export.glob(pattern))
    left += sorted((workdir / "report").glob("*.html"))
    names = [file.relative_to(workdir).as_posix() for file in left]
    data = [POCKET_LOGS] if cfg.data.path == "pocket" else sorted(find_files(cfg.data.path))
    stats = [os.stat(name) for name in data]
    return {
        "settings": config.to_json(cfg),
        "checkpoints": sorted(checkpoint.finished_steps(workdir)),
        "data": [[str(f), s.st_size, s.st_mtime_ns] for f, s in zip(data, stats, strict=True)],
        "files": dict(zip(names, digests.of_files(left), strict=True)),
    }
