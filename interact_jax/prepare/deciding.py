"""Between the passes: which conversations stay, once all have been seen, and what they are called.

The surveys decide one after the other, each on those that the ones before it keep. What does not
fit into memory lies in a folder beside the notes (`buckets`), which is removed in the end. In
memory are two bytes of each conversation, and what a survey says that it needs: up to nine.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from interact_jax import places
from interact_jax.prepare import buckets
from interact_jax.prepare.buckets import Buckets, Seen, blocks_of, buckets_for
from interact_jax.prepare.filtering import Dropped, Survey
from interact_jax.prepare.job import (
    Job,
    damaged,
    digest_of_bytes,
    digest_of_file,
    read_json,
    write_json,
)
from interact_jax.prepare.reading import ID_BYTES, shorten

SCRATCH = ".deciding"
FATES = np.dtype("<u4")
"""What becomes of a conversation: 0 is dropped, 1 stays, n is the n-th to stay with its id."""
RENAMED = np.dtype([("place", "<u8"), ("times", "<u4")])
IDENTITY = np.dtype([("key", "<u8"), ("place", "<u8")])


def decide(job: Job) -> None:
    """Decide about all parts, when all are read; `decided.json` is the last thing written."""
    ids = Stored.checked(job, "ids", ID_BYTES)
    decisions = Decisions(ids.counts)
    with scratch(job.folder) as folder:
        for number, survey in job.surveys:
            notes = Stored.checked(job, f"note-{number}", survey.width)
            decisions.apply(number, survey, notes, folder / str(number), job.settings.samples)
        fates = Fates(ids, decisions.stays, folder)
        for part, decision in enumerate(decisions.parts):
            digest = _write_fates(job.file(part, "fates"), fates, *ids.rows_of(part))
            write_json(job.file(part, "decided.json"), {**decision.to_json(), "fates": digest})
    write_json(job.folder / "decided.json", {"parts": job.parts})


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder for files that nobody else wants. Others may be deciding the same, on other
    machines."""
    own = places.temporary_name(folder / SCRATCH.strip("."))
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own)


def remove_scratch(folder: Path) -> None:
    """Remove what killed processes left of theirs."""
    for each in folder.glob(f"{SCRATCH}.*"):
        shutil.rmtree(each)


# ---------------------------------------------------------------------------------- what is read


class Rows(Protocol):
    """Notes [N, width] (uint8) of all conversations, in the order of the input."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Neighbouring ones, from a start to an end."""


class Stored:
    """Notes that the first pass wrote for each part, read whenever they are used."""

    def __init__(self, job: Job, what: str, width: int, counts: Sequence[int]):
        """`counts` says how many there are of each part."""
        self._files, self._width = [job.file(part, what) for part in range(job.parts)], width
        self.counts = list(counts)
        self._ends = [0, *itertools.accumulate(self.counts)]

    @classmethod
    def checked(cls, job: Job, what: str, width: int) -> Stored:
        """Those of parts that have a record. Raises InputError where they are not as they were
        written."""
        parts = range(job.parts)
        digests = [read_json(job.file(part, "read.json"))["digests"][what] for part in parts]
        files = [job.file(part, what) for part in parts]
        return cls(job, what, width, list(map(_count, files, itertools.repeat(width), digests)))

    def __len__(self) -> int:
        return self._ends[-1]

    def rows_of(self, part: int) -> tuple[int, int]:
        """The first of a part, and that of the next one."""
        return self._ends[part], self._ends[part + 1]

    def __getitem__(self, rows: slice) -> np.ndarray:
        found_NxW = np.empty((rows.stop - rows.start, self._width), np.uint8)
        part = int(np.searchsorted(self._ends, rows.start, side="right")) - 1
        at = rows.start
        while at < rows.stop:
            start, end = self.rows_of(part)
            until = min(end, rows.stop)
            found_NxW[at - rows.start : until - rows.start] = self._read(
                part, at - start, until - at
            )
            at, part = until, part + 1
        return found_NxW

    def _read(self, part: int, start: int, count: int) -> np.ndarray:
        file, size = self._files[part], count * self._width
        try:
            found = np.fromfile(file, np.uint8, size, offset=start * self._width)
            return found.reshape(count, self._width)
        except (OSError, ValueError) as error:
            raise damaged(file, f"damaged ({error})") from None


def _count(file: Path, width: int, digest: str) -> int:
    """How many notes are in a file."""
    try:
        if digest_of_file(file) != digest:
            raise damaged(file, "damaged")
        return file.stat().st_size // width
    except OSError as error:
        raise damaged(file, f"cannot be read ({error.strerror})") from None


class Remaining:
    """The notes of the conversations that are still there: `filtering.Notes`."""

    def __init__(self, rows: Rows, stays_N: np.ndarray, folder: Path):
        self._rows, self._stays_N, self.scratch = rows, stays_N, folder
        self._count, self._begins = 0, list[int]()  # the row of the first place of each block
        for start in range(0, len(stays_N), buckets.BLOCK):
            (own,) = np.nonzero(stays_N[start : start + buckets.BLOCK])
            # At most one block begins among so many rows.
            if (at := -self._count % buckets.BLOCK) < len(own):
                self._begins.append(start + int(own[at]))
            self._count += len(own)

    def __len__(self) -> int:
        return self._count

    def rows_of(self, number: int) -> np.ndarray:
        """The rows of the conversations in a block."""
        begins = [*self._begins, len(self._stays_N)]
        found = []
        for start in range(begins[number], begins[number + 1], buckets.BLOCK):
            piece = self._stays_N[start : min(start + buckets.BLOCK, begins[number + 1])]
            found.append(start + np.flatnonzero(piece))
        return np.concatenate(found)

    def block(self, number: int) -> np.ndarray:
        found, rows = [], self.rows_of(number)
        for pieces in np.split(rows, np.flatnonzero(np.diff(rows // buckets.BLOCK)) + 1):
            start, end = int(pieces[0]), int(pieces[-1]) + 1
            found.append(self._rows[start:end][pieces - start])
        return np.concatenate(found)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.block, range(len(self._begins)))


# ------------------------------------------------------------------------------ what is decided


class Decision:
    """What the surveys drop of one part, and why."""

    def __init__(self) -> None:
        self.dropped: dict[int, collections.Counter[str]] = {}
        self.samples: dict[int, dict[str, list[list[Any]]]] = {}  # survey, reason: [index, detail]

    def drop(self, survey: int, index: int, what: Dropped, most: int) -> None:
        self.dropped.setdefault(survey, collections.Counter())[what.reason] += 1
        samples = self.samples.setdefault(survey, {}).setdefault(what.reason, [])
        if len(samples) < most:
            samples.append([index, shorten(what.detail)])

    def to_json(self) -> dict[str, Any]:
        return {"dropped": self.dropped, "samples": self.samples}


class Decisions:
    """Which conversations stay, of parts with so many of them."""

    def __init__(self, counts: Sequence[int]):
        self._ends = np.cumsum([0, *counts])
        self.parts = [Decision() for _ in counts]
        self.stays = np.ones(int(self._ends[-1]), bool)

    def apply(self, number: int, survey: Survey, rows: Rows, folder: Path, most: int) -> None:
        """Ask a survey about the conversations that are still there. The folder must not exist."""
        folder.mkdir()
        notes, stays = Remaining(rows, self.stays, folder), self.stays.copy()
        block, own = -1, np.zeros(0, np.int64)
        for place, what in survey.decide(notes):
            if place // buckets.BLOCK != block:
                block = place // buckets.BLOCK
                own = notes.rows_of(block)
            row = int(own[place % buckets.BLOCK])
            part = int(np.searchsorted(self._ends, row, side="right")) - 1
            self.parts[part].drop(number, row - int(self._ends[part]), what, most)
            stays[row] = False
        self.stays = stays
        shutil.rmtree(folder)


class Fates:
    """What becomes of every conversation, as FATES: of those that stay and have one id, the later
    ones are counted."""

    def __init__(self, ids: Rows, stays_N: np.ndarray, folder: Path):
        self._stays_N = stays_N
        self._again = Buckets(folder / "again", RENAMED, blocks_of(len(stays_N)))
        self._block, self._found = -1, np.zeros(0, FATES)
        keyed = Buckets(folder / "ids", IDENTITY, buckets_for(len(stays_N)))
        count = np.uint64(buckets_for(len(stays_N)))
        for start in range(0, len(stays_N), buckets.BLOCK):
            end = min(start + buckets.BLOCK, len(stays_N))
            (own,) = np.nonzero(stays_N[start:end])
            records = np.empty(len(own), IDENTITY)
            records["key"] = ids[start:end].view("<u8")[own, 0]
            records["place"] = start + own
            keyed.add(records, records["key"] % count)
        for bucket in keyed.filled():
            self._count(keyed, bucket)
        keyed.remove()

    def _count(self, keyed: Buckets, bucket: int) -> None:
        seen = Seen(IDENTITY["key"])
        for records in keyed.read(bucket):
            *_, before = seen.add(records["key"], records["place"])
            again = before > 0
            found = np.empty(np.count_nonzero(again), RENAMED)
            found["place"], found["times"] = records["place"][again], before[again] + 1
            self._again.add(found, found["place"] // np.uint64(buckets.BLOCK))

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Those of neighbouring rows in one block."""
        if (block := rows.start // buckets.BLOCK) != self._block:
            at = block * buckets.BLOCK
            self._block = block
            self._found = self._stays_N[at : at + buckets.BLOCK].astype(FATES)
            for records in self._again.read(block):
                self._found[records["place"] - np.uint64(at)] = records["times"]
        at = block * buckets.BLOCK
        return self._found[rows.start - at : rows.stop - at]


def _write_fates(file: Path, fates: Fates, start: int, end: int) -> str:
    """Write those of a part; returns the digest of the file."""
    with places.writing(file) as out:
        while start < end:
            until = min(end, (start // buckets.BLOCK + 1) * buckets.BLOCK)
            out.write(fates[start:until].tobytes())
            start = until
    return digest_of_file(file)


def decision_of(job: Job, part: int) -> dict[str, Any]:
    """What was decided about a part. Raises InputError."""
    return read_json(job.file(part, "decided.json"))


def fates_of(job: Job, part: int, digest: str) -> np.ndarray:
    """What becomes of each conversation of a part, as FATES; `digest` is of the file, as the
    decision has it. Raises InputError."""
    file = job.file(part, "fates")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise damaged(file, f"cannot be read ({error.strerror})") from None
    if digest_of_bytes(data) != digest:
        raise damaged(file, "damaged")
    return np.frombuffer(data, FATES)
