"""The second pass over a part: what was decided is done, and its shards are written, each with an
index beside it (`prepared.INDEX`): numbers of every conversation, in the order of the records."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax.data.array_records import Writer, decode, encode, read, reader_of
from interact_jax.data.prepared import INDEX, blake2b
from interact_jax.prepare.deciding import decision_of
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
    index: list[list[tuple[int, ...]]] = [[] for _ in splits]
    samples: dict[str, Any] = {}
    with _writers(job, part, splits) as writers:
        for facts, example in _decided(job, part, decision, samples):
            writers[facts.split].write(example)
            counts[facts.split].add(facts, len(example))
            index[facts.split].append(tuple(getattr(facts, name) for name in INDEX.names or ()))
    written = {}
    for name, counted, numbers in zip(splits, counts, index, strict=True):
        shard, file = job.shard(name, part), job.shard(name, part, "index")
        with complete(file, job.file(part, f"index-{name}")) as temporary:
            temporary.write_bytes(_npy(np.array(numbers, INDEX)))
        written[name] = plain(counted) | describe(shard) | {"index": describe(file)}
    record = {
        "splits": written,
        "dropped": decision["dropped"],
        "samples": samples,
        "renamed": len(decision["renamed"]),
    }
    write_json(job.file(part, "written.json"), record)
    remove_kept(job, part)


def remove_kept(job: Job, part: int) -> None:
    """Remove what only the second pass over a part needs."""
    for what in ("kept", "ids", "decided.json", *(f"note-{n}" for n, _ in job.surveys)):
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
    job: Job, part: int, decision: dict[str, Any], samples: dict[str, Any]
) -> Iterator[tuple[Facts, bytes]]:
    """The conversations that stay, under the names they get. Adds to `samples` those that do not,
    where they are wanted."""
    file = job.file(part, "kept")
    leaves, renamed = set(decision["drop"]), dict(decision["renamed"])
    wanted = {
        index: (survey, reason, detail)
        for survey, reasons in decision["samples"].items()
        for reason, cases in reasons.items()
        for index, detail in cases
    }
    digest = read_json(job.file(part, "read.json"))["digests"]["kept"]
    if file.is_file() and digest_of_file(file) != digest:
        raise damaged(file, "damaged")
    for index, record in enumerate(_records(file)):
        if index in leaves:
            if index in wanted:
                survey, reason, detail = wanted[index]
                sample = sample_of(decode(record[FACTS.size :], str(file)), detail)
                samples.setdefault(survey, {}).setdefault(reason, []).append(sample)
            continue
        facts, example = Facts(*FACTS.unpack_from(record)), record[FACTS.size :]
        if index in renamed:
            conversation = decode(example, str(file))
            name = f"{conversation.id}~{renamed[index]}"
            example = encode(dataclasses.replace(conversation, id=name), facts.interactions)
        yield facts, example


def _records(file: Path) -> Iterator[bytes]:
    reader = reader_of(file)
    count = reader.num_records()
    for start in range(0, count, PORTION):
        yield from read(reader, list(range(start, min(start + PORTION, count))), file)
    reader.close()


def describe(file: Path) -> dict[str, Any]:
    """Name, size and digest of a file."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, blake2b)
    return {"file": file.name, "size": file.stat().st_size, "digest": digest.hexdigest()}


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


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
