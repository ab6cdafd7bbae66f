"""The second pass over a part: what was decided is done, and its shards are written, each with an
index beside it (`prepared.INDEX`): numbers of every conversation, in the order of the records."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from interact_jax.data.array_records import (
    Writer,
    checksum_of,
    decode,
    encode,
    read,
    reader_of,
)
from interact_jax.data.prepared import EARLIER, INDEX, blake2b
from interact_jax.prepare.deciding import decision_of, fates_of
from interact_jax.prepare.job import Job, damaged, digest_of_file, plain, read_json, write_json
from interact_jax.prepare.parts import Part
from interact_jax.prepare.reading import FACTS, Facts, complete, sample_of
from interact_jax.schema import InputError

PORTION = 256  # records that are read at a time
HISTOGRAMS = ("interactions", "messages", "characters", "tokens", "reply_tokens")


@dataclasses.dataclass
class SplitCounts:
    """What a shard holds. Histograms count by the highest power of two in a number."""

    records: int = 0
    bytes: int = 0  # of the examples, before compression
    totals: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    histograms: dict[str, collections.Counter[int]] = dataclasses.field(
        default_factory=lambda: {name: collections.Counter() for name in HISTOGRAMS}
    )

    def add(self, facts: Facts, size: int) -> None:
        self.records += 1
        self.bytes += size
        for name in HISTOGRAMS:
            value = getattr(facts, name)
            self.totals[name] += value
            self.histograms[name][bucket_of(value)] += 1


def bucket_of(value: int) -> int:
    """The largest power of two that is not above a number; 0 of 0."""
    return 1 << value.bit_length() - 1 if value else 0


def write_part(job: Job, part: int) -> None:
    """Write the shards of a part, then its record; then what was kept for this pass goes."""
    decision = decision_of(job, part)
    splits = [name for name, _ in job.settings.splits]
    counts = [SplitCounts() for _ in splits]
    done = Done()
    with contextlib.ExitStack() as stack:
        indices = [stack.enter_context(_index(job, part, name)) for name in splits]
        with _writers(job, part, splits) as writers:
            for facts, example in _decided(job, part, decision, done):
                writers[facts.split].write(example)
                counts[facts.split].add(facts, len(example))
                indices[facts.split].add(facts, example)
    written = {}
    for name, counted in zip(splits, counts, strict=True):
        shard, file = job.shard(name, part), job.shard(name, part, "index")
        written[name] = plain(counted) | describe(shard) | {"index": describe(file)}
    record = {
        "splits": written,
        "dropped": decision["dropped"],
        "samples": done.samples,
        "renamed": done.renamed,
    }
    write_json(job.file(part, "written.json"), record)
    remove_kept(job, part)


def write_once(job: Job, part: int) -> None:
    """`write_part`, where no other machine has written the part, or does so meanwhile: it then
    removes what this one reads."""
    try:
        if not job.is_written(part):
            write_part(job, part)
    except (InputError, OSError):
        if not job.is_written(part):
            raise


@dataclasses.dataclass
class Done:
    """What the second pass did: samples of what is dropped, by survey and reason, and how many
    conversations got another id."""

    samples: dict[str, dict[str, list[dict[str, str]]]] = dataclasses.field(default_factory=dict)
    renamed: int = 0


@contextlib.contextmanager
def _index(job: Job, part: int, split: str) -> Iterator[Index]:
    """The index of a shard; it gets its name when it is complete."""
    own = job.file(part, f"index-{split}")
    with complete(job.shard(split, part, "index"), own) as name, open(name, "wb") as file:
        index = Index(file)
        yield index
        index.finish()


class Index:
    """Writes the numbers of conversations to the same bytes as `np.save`, whose header has room
    for any number of rows."""

    def __init__(self, file: BinaryIO):
        self._file, self._count, self._rows = file, 0, list[tuple[int, ...]]()
        self._write_header()

    def _write_header(self) -> None:
        names: Any = np.lib.format.dtype_to_descr(INDEX)
        header = {"descr": names, "fortran_order": False, "shape": (self._count,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def add(self, facts: Facts, example: bytes) -> None:
        numbers = (getattr(facts, name) for name in EARLIER.names or ())
        self._rows.append((*numbers, checksum_of(example)))
        if len(self._rows) == PORTION:
            self._write_rows()

    def _write_rows(self) -> None:
        self._file.write(np.array(self._rows, INDEX).tobytes())
        self._count += len(self._rows)
        self._rows.clear()

    def finish(self) -> None:
        self._write_rows()
        self._file.seek(0)
        self._write_header()


def remove_kept(job: Job, part: int) -> None:
    """Remove what only the second pass over a part needs."""
    kinds = ("kept", "ids", "fates", "decided.json", *(f"note-{n}" for n, _ in job.surveys))
    for what in kinds:
        job.file(part, what).unlink(missing_ok=True)


@contextlib.contextmanager
def _writers(job: Job, part: int, splits: list[str]) -> Iterator[list[Writer]]:
    """A writer for the shard of each split; they get their names when all of them are complete."""
    with contextlib.ExitStack() as stack:
        writers = []
        for name in splits:
            own = job.file(part, f"shard-{name}")
            file = stack.enter_context(complete(job.shard(name, part), own))
            writers.append(Writer(file))
        yield writers
        for writer in writers:
            writer.close()


def _decided(
    job: Job, part: int, decision: dict[str, Any], done: Done
) -> Iterator[tuple[Facts, bytes]]:
    """The conversations that stay, under the names they get. Adds to `done.samples` those that do
    not, where they are wanted."""
    file = job.file(part, "kept")
    wanted = {
        index: (survey, reason, detail)
        for survey, reasons in decision["samples"].items()
        for reason, cases in reasons.items()
        for index, detail in cases
    }
    digest = read_json(job.file(part, "read.json"))["digests"]["kept"]
    if file.is_file() and digest_of_file(file) != digest:
        raise damaged(file, "damaged")
    fates_N = fates_of(job, part, decision["fates"])
    for index, record in enumerate(_records(file, len(fates_N))):
        times = int(fates_N[index])  # as `deciding.FATES` has it
        if not times:
            if index in wanted:
                survey, reason, detail = wanted[index]
                sample = sample_of(decode(record[FACTS.size :], str(file)), detail)
                done.samples.setdefault(survey, {}).setdefault(reason, []).append(sample)
            continue
        facts, example = Facts(*FACTS.unpack_from(record)), record[FACTS.size :]
        if times > 1:
            conversation = decode(example, str(file))
            name = f"{conversation.id}~{times}"
            example = encode(dataclasses.replace(conversation, id=name), facts.interactions)
            done.renamed += 1
        yield facts, example


def _records(file: Path, count: int) -> Iterator[bytes]:
    """All records of a file. Raises InputError where there are not so many."""
    reader = reader_of(file)
    if (found := reader.num_records()) != count:
        raise InputError(
            f"{file}: damaged ({found:,} conversations, of which {count:,} were decided about). "
            f"Delete {file.parent.parent} and prepare it again."
        )
    for start in range(0, count, PORTION):
        yield from read(reader, list(range(start, min(start + PORTION, count))), file)
    reader.close()


def describe(file: Path) -> dict[str, Any]:
    """Name, size and digest of a file."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, blake2b)
    return {"file": file.name, "size": file.stat().st_size, "digest": digest.hexdigest()}


def check_shards(job: Job, part: Part, record: dict[str, Any]) -> None:
    """That the shards of a part are there, in the size that was written. Raises InputError."""
    for counted in record["splits"].values():
        for each in (counted, counted["index"]):
            file = job.out / each["file"]
            size = file.stat().st_size if file.is_file() else None
            if size != each["size"]:
                state = "is missing" if size is None else f"has {size:,} bytes"
                raise InputError(
                    f"{file}: {state}, expected {each['size']:,} bytes. To write the shards of "
                    f"{part.name} again, delete {job.out} and prepare it again."
                )
