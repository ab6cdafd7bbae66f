"""A trial: what the filters would do, before anything is written where the data go."""

from __future__ import annotations

import collections
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interact_jax.prepare.deciding import Decision, Decisions, Stored
from interact_jax.prepare.filtering import Filter, Survey
from interact_jax.prepare.job import Job, Settings
from interact_jax.prepare.parts import Part, plan_parts
from interact_jax.prepare.reading import Counts, FilterCounts, note_files, sample_of, survivors
from interact_jax.prepare.readme import filter_lines
from interact_jax.prepare.workers import Workers
from interact_jax.printable import count


def dry_run(
    settings: Settings, filters: Sequence[Filter | Survey], processes: int, limit: int | None
) -> list[str]:
    """In lines, what would be kept and dropped, of the first `limit` conversations of each part."""
    parts = plan_parts(settings.data, settings.format, settings.part_bytes, settings.mapping)
    with Workers(processes) as workers, tempfile.TemporaryDirectory() as folder:
        job = Job(settings, Path(folder), len(parts), tuple(filters))
        job.folder.mkdir()
        found = dict(workers.each(_try_part, [(job, part, limit) for part in parts], "reading"))
        counts = [found[part.number] for part in parts]
        kept_of = [each.kept for each in counts]
        decisions = Decisions(kept_of)
        for number, survey in job.surveys:
            notes = Stored(job, f"note-{number}", survey.width, kept_of)
            decisions.apply(number, survey, notes, Path(folder, str(number)), settings.samples)
        totals = [
            _sum_of([each.filters[number] for each in counts], settings.samples)
            for number in range(len(filters))
        ]
        wanted = _wanted(decisions.parts, totals, settings.samples)
        tasks = [(job, parts[number], cases, limit) for number, cases in wanted.items()]
        for samples in workers.each(_samples_of, tasks, "reading samples"):
            for number, reason, sample in samples:
                totals[number].add_sample(reason, sample, settings.samples)
    kept = int(np.count_nonzero(decisions.stays))
    return [*_read_lines(counts), *_filter_lines(settings, totals), _check(counts, totals, kept)]


def _try_part(job: Job, part: Part, limit: int | None) -> tuple[int, Counts]:
    """What is counted of a part; the notes of the surveys are written."""
    counts = Counts()
    with contextlib.ExitStack() as stack:
        files = note_files(job, part, stack)
        for survivor in survivors(job, part, counts, limit):
            for file, note in zip(files, survivor.notes, strict=True):
                file.write(note)
    return part.number, counts


def _sum_of(counts: Sequence[FilterCounts], most: int) -> FilterCounts:
    total = FilterCounts()
    for each in counts:
        total.dropped.update(each.dropped)
        total.changed.update(each.changed)
        for reason, samples in each.samples.items():
            for sample in samples:
                total.add_sample(reason, sample, most)
    return total


Cases = dict[int, tuple[int, str, str]]  # by index in a part: filter, reason, detail


def _wanted(
    decisions: Sequence[Decision], totals: Sequence[FilterCounts], most: int
) -> dict[int, Cases]:
    """Add what the surveys decided to the totals; which conversations to show of it, by part."""
    wanted: dict[int, Cases] = {}
    times: collections.Counter[tuple[int, str]] = collections.Counter()
    for part, decision in enumerate(decisions):
        for number, dropped in decision.dropped.items():
            totals[number].dropped.update(dropped)
        for number, reasons in decision.samples.items():
            for reason, cases in reasons.items():
                for index, detail in cases[: most - times[number, reason]]:
                    times[number, reason] += 1
                    wanted.setdefault(part, {})[index] = (number, reason, detail)
    return wanted


def _samples_of(
    job: Job, part: Part, cases: Cases, limit: int | None
) -> list[tuple[int, str, dict[str, str]]]:
    """A part is read again for a few conversations: to hold all of them would take much memory."""
    found = []
    for index, survivor in enumerate(survivors(job, part, Counts(), limit)):
        if index in cases:
            number, reason, detail = cases[index]
            found.append((number, reason, sample_of(survivor.conversation, detail)))
        if len(found) == len(cases):
            break
    return found


def _read_lines(counts: Sequence[Counts]) -> list[str]:
    lines = [
        f"read {count(len(counts), 'part')}: {count(sum(c.records for c in counts), 'record')}, "
        f"{count(sum(c.conversations for c in counts), 'conversation')}"
    ]
    for kind in ("lost", "ignored", "mended"):
        total = sum((getattr(each, kind) for each in counts), collections.Counter[str]())
        for reason, times in total.most_common():
            example = next(c.examples[reason] for c in counts if reason in c.examples)
            lines.append(f"  {times:,} x {reason}, such as {example}")
    return lines


def _filter_lines(settings: Settings, totals: Sequence[FilterCounts]) -> list[str]:
    lines = []
    for text, own in zip(settings.filters, totals, strict=True):
        lines += filter_lines([{"filter": text, "dropped": own.dropped, "changed": own.changed}])
        for reason, samples in own.samples.items():
            lines.append(f"    {reason}, such as")
            lines += [
                f"      {s['id']} ({s['source']}), {s['detail']}: {s['opening']}" for s in samples
            ]
    return lines


def _check(counts: Sequence[Counts], totals: Sequence[FilterCounts], kept: int) -> str:
    """The last line, once the sums are right."""
    items = sum(each.items for each in counts)
    dropped = sum(each.dropped.total() for each in totals)
    lost = sum(each.lost.total() + each.ignored.total() for each in counts)
    if items != kept + dropped + lost:
        raise AssertionError(f"{items} read, but {kept} kept, {dropped} dropped, {lost} lost")
    return f"would keep {kept:,} of {items:,}; nothing was written"
