"""A trial: what the filters would do, before anything is written."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax.prepare.deciding import Decision, apply_survey
from interact_jax.prepare.filtering import Filter, Survey
from interact_jax.prepare.job import Job, Settings
from interact_jax.prepare.parts import Part, plan_parts
from interact_jax.prepare.reading import Counts, FilterCounts, sample_of, survivors
from interact_jax.prepare.readme import filter_lines
from interact_jax.prepare.workers import Workers
from interact_jax.printable import count

LISTED = "      "


def dry_run(
    settings: Settings, filters: Sequence[Filter | Survey], processes: int, limit: int | None
) -> list[str]:
    """In lines, what would be kept and dropped, of the first `limit` conversations of each part."""
    parts = plan_parts(settings.data, settings.format, settings.part_bytes)
    job = Job(settings, Path(), len(parts), tuple(filters))
    tasks = [(job, part, limit) for part in parts]
    with Workers(processes) as workers:
        found = sorted(workers.each(_try_part, tasks, "reading"), key=lambda result: result[0])
    counts = [each for _, each, _, _ in found]
    decisions = [Decision(each.kept) for each in counts]
    for order, (number, survey) in enumerate(job.surveys):
        notes = [
            np.frombuffer(of_part[order], np.uint8).reshape(-1, survey.width)
            for _, _, of_part, _ in found
        ]
        apply_survey(number, survey, notes, decisions, settings.samples)
    kept = sum(int(decision.stays.sum()) for decision in decisions)
    items = sum(each.items for each in counts)
    lines = [
        f"read {count(len(parts), 'part')}: {count(sum(c.records for c in counts), 'record')}, "
        f"{count(sum(c.conversations for c in counts), 'conversation')}"
    ]
    for kind in ("lost", "ignored", "mended"):
        total = sum((getattr(each, kind) for each in counts), collections.Counter[str]())
        for reason, times in total.most_common():
            example = next(c.examples[reason] for c in counts if reason in c.examples)
            lines.append(f"  {times:,} x {reason}, such as {example}")
    dropped = 0
    for number, text in enumerate(settings.filters):
        own = _sum_of([each.filters[number] for each in counts], settings.samples)
        for decision, (_, _, _, openings) in zip(decisions, found, strict=True):
            own.dropped.update(decision.dropped.get(number, {}))
            for reason, cases in decision.samples.get(number, {}).items():
                for index, detail in cases:
                    sample = {**openings[index], "detail": detail}
                    own.add_sample(reason, sample, settings.samples)
        dropped += own.dropped.total()
        lines += filter_lines([{"filter": text, "dropped": own.dropped, "changed": own.changed}])
        for reason, samples in own.samples.items():
            lines.append(f"    {reason}, such as")
            lines += [
                f"{LISTED}{s['id']} ({s['source']}), {s['detail']}: {s['opening']}" for s in samples
            ]
    lost = sum(each.lost.total() + each.ignored.total() for each in counts)
    if items != kept + dropped + lost:
        raise AssertionError(f"{items} read, but {kept} kept, {dropped} dropped, {lost} lost")
    return [*lines, f"would keep {kept:,} of {items:,}; nothing was written"]


def _try_part(
    job: Job, part: Part, limit: int | None
) -> tuple[int, Counts, list[bytes], list[dict[str, str]]]:
    counts, notes = Counts(), [bytearray() for _ in job.surveys]
    openings = []
    for conversation, _, _, own in survivors(job, part, counts, limit):
        for all_notes, note in zip(notes, own, strict=True):
            all_notes += note
        if job.surveys:
            openings.append(sample_of(conversation, ""))
    return part.number, counts, [bytes(note) for note in notes], openings


def _sum_of(counts: Sequence[FilterCounts], most: int) -> Any:
    total = FilterCounts()
    for each in counts:
        total.dropped.update(each.dropped)
        total.changed.update(each.changed)
        for reason, samples in each.samples.items():
            for sample in samples:
                total.add_sample(reason, sample, most)
    return total
