"""Between the passes: which conversations stay, once all have been seen, and what they are called.

The surveys decide one after the other, each on those that the ones before it keep. All that is in
memory are their notes, a byte for each conversation, and 8 bytes of each id of one share of ids at
a time.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from interact_jax.prepare.filtering import Dropped, Survey
from interact_jax.prepare.job import Job, damaged, digest_of_bytes, read_json, write_json
from interact_jax.prepare.reading import ID_BYTES, shorten

MOST_IDS = 1 << 24  # that are compared at a time
Notes = Sequence[np.ndarray]  # [n, width] of each part


class Decision:
    """What is decided about one part: which of its conversations are dropped, by which survey and
    why, and which get another id."""

    def __init__(self, count: int):
        self.stays = np.ones(count, bool)
        self.dropped: dict[int, collections.Counter[str]] = {}
        self.samples: dict[int, dict[str, list[list[Any]]]] = {}  # survey, reason: [index, detail]
        self.renamed: list[list[int]] = []  # index, how often its id has occurred

    def drop(self, survey: int, index: int, what: Dropped, most: int) -> None:
        self.stays[index] = False
        self.dropped.setdefault(survey, collections.Counter())[what.reason] += 1
        samples = self.samples.setdefault(survey, {}).setdefault(what.reason, [])
        if len(samples) < most:
            samples.append([index, shorten(what.detail)])

    def to_json(self) -> dict[str, Any]:
        return {
            "drop": np.flatnonzero(~self.stays).tolist(),
            "dropped": self.dropped,
            "samples": self.samples,
            "renamed": self.renamed,
        }


def decide(job: Job) -> None:
    """Decide about all parts, when all are read; `decided.json` is the last thing written."""
    ids = Stored(job, "ids", ID_BYTES)
    decisions = [Decision(len(of_part)) for of_part in ids]
    for number, survey in job.surveys:
        notes = Stored(job, f"note-{number}", survey.width)
        apply_survey(number, survey, notes, decisions, job.settings.samples)
    rename(ids, decisions)
    for part, decision in enumerate(decisions):
        write_json(job.file(part, "decided.json"), decision.to_json())
    write_json(job.folder / "decided.json", {"parts": job.parts})


class Stored(Sequence[np.ndarray]):
    """Notes [n, width] that the first pass wrote for each part, read whenever they are used."""

    def __init__(self, job: Job, what: str, width: int):
        self._job, self._what, self._width = job, what, width
        records = (read_json(job.file(part, "read.json")) for part in range(job.parts))
        self._digests = [record["digests"][what] for record in records]

    def __len__(self) -> int:
        return self._job.parts

    def __getitem__(self, part: Any) -> Any:
        if part >= len(self):
            raise IndexError(part)
        file = self._job.file(part, self._what)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise damaged(file, f"cannot be read ({error.strerror})") from None
        if digest_of_bytes(data) != self._digests[part]:
            raise damaged(file, "damaged")
        return np.frombuffer(data, np.uint8).reshape(-1, self._width)


def apply_survey(
    number: int, survey: Survey, notes: Notes, decisions: Sequence[Decision], most: int
) -> None:
    """Ask a survey about the conversations that are still there."""
    places = [np.flatnonzero(decision.stays) for decision in decisions]

    def remaining() -> Iterator[np.ndarray]:
        for of_part, index in zip(notes, places, strict=True):
            yield of_part[index]

    answers = survey.decide(remaining())
    for decision, index, answer in zip(decisions, places, answers, strict=True):
        for place, what in zip(index.tolist(), answer, strict=True):
            if what is not None:
                decision.drop(number, place, what, most)


def rename(ids: Notes, decisions: Sequence[Decision]) -> None:
    """Find the ids that an earlier conversation has, among those that stay."""
    buckets = -(-sum(map(len, ids)) // MOST_IDS)
    for bucket in range(buckets):
        hashes, parts, places = [], [], []
        for part, (of_part, decision) in enumerate(zip(ids, decisions, strict=True)):
            own = np.ascontiguousarray(of_part).view("<u8")[:, 0]
            place = np.flatnonzero(decision.stays & (own % max(buckets, 1) == bucket))
            hashes.append(own[place])
            places.append(place)
            parts.append(np.full(len(place), part))
        _rename(np.concatenate(hashes), np.concatenate(parts), np.concatenate(places), decisions)
    for decision in decisions:
        decision.renamed.sort()


def _rename(
    hashes: np.ndarray, parts: np.ndarray, places: np.ndarray, decisions: Sequence[Decision]
) -> None:
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    before, times = -1, 1
    for at in again.tolist():
        times = times + 1 if at == before + 1 and before >= 0 else 2
        before = at
        item = order[at]
        decisions[int(parts[item])].renamed.append([int(places[item]), times])


def decision_of(job: Job, part: int) -> dict[str, Any]:
    """What was decided about a part. Raises InputError."""
    return read_json(job.file(part, "decided.json"))
