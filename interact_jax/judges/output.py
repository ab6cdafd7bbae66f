"""What an evaluation writes, and the lines that it shows of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import cli, places, report
from interact_jax.generation.prompts import Prompt
from interact_jax.judges.contest import Answered
from interact_jax.judges.pairwise import Judgement
from interact_jax.judges.replies import lines_of
from interact_jax.printable import count

PAIRS_SHOWN = 50  # on the page


def write_replies(folder: Path, prompts: Sequence[Prompt], answered: Answered) -> None:
    """A file per side, as launch/generate.py writes them."""
    folder.mkdir(exist_ok=True)
    taken: set[str] = set()
    for name, replies in answered.items():
        stem = re.sub(r"[^\w.-]+", "_", name).strip("._") or "side"
        stem, number = stem[-80:], 2
        while stem in taken:
            stem, number = f"{stem}-{number}", number + 1
        taken.add(stem)
        cli.write_lines(folder / f"{stem}.jsonl", lines_of(prompts, replies))


def write_json(found: Mapping[str, Any], *files: str | Path) -> None:
    """The results, into every file whose name is not empty."""
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for file in files:
        if file:
            places.write(file, text)


def write(
    out: Path, found: dict[str, Any], judged: Mapping[str, Sequence[Judgement]], copy: str = ""
) -> list[str]:
    """results.json (and its `copy`), judgements.jsonl and the page; returns the table for the
    terminal."""
    baseline = found["baseline"]["name"]
    lines = [each.line(name, baseline) for name, some in judged.items() for each in some]
    cli.write_lines(out / "judgements.jsonl", lines)
    write_json(found, out / "results.json", copy)
    shown = lines[:: max(1, -(-len(lines) // PAIRS_SHOWN))]
    page = report.write_evaluation_page(out, found, shown, len(lines))
    return [
        f"judge {found['judge']}, against {baseline}, {count(found['prompts'], 'prompt')}",
        *report.win_rate_lines(found["candidates"]),
        *found["notes"],
        f"report: {page}",
    ]
