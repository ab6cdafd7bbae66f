"""The input, cut into parts that are prepared one by one, each into shards of its own.

    parts = plan_parts("logs/*.jsonl", part_bytes=64 << 20)

A file is a part; a large file of JSON lines is cut at line ends into several. What a part holds
does not depend on who prepares it, nor when. Lines keep their numbers in the file: where a file is
cut, its line ends are counted once, so that messages and the ids of conversations without one are
the same however it is cut.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import stat
from collections.abc import Iterator
from typing import Any

from interact_jax import places, remote
from interact_jax.data.formats import FORMATS, ROWS, SAMPLE, recognise
from interact_jax.data.prepared import is_prepared
from interact_jax.data.records import Record, find_files, read_records
from interact_jax.data.sources import GZIP_MAGIC, Span, other_kind
from interact_jax.schema import InputError

PART_BYTES = 64 << 20
WHOLE_FILES = ("oasst_flat", ROWS)  # formats whose records need the others of their file
BLOCK = 1 << 20  # bytes in which line ends are counted at a time


@dataclasses.dataclass(frozen=True)
class Part:
    """A file or a span of one, with the format to read it in."""

    number: int
    file: str
    stem: str
    format: str
    span: Span | None = None

    @property
    def name(self) -> str:
        """For people: the file, and the line at which the part begins."""
        return f"{self.file}:{self.span.line}" if self.span else self.file

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"span": self.span and list(self.span)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Part:
        return cls(**value | {"span": value["span"] and Span(*value["span"])})


@dataclasses.dataclass(frozen=True)
class Input:
    """A file as it was when the parts were made: with another size or time it is another."""

    file: str
    size: int
    changed: int | str  # its time of modification, in nanoseconds; elsewhere a key of its content


def find_inputs(path: str) -> list[Input]:
    """The files that `path` stands for, as they are now. Raises InputError."""
    if path == places.STANDARD:
        raise InputError("-: standard input cannot be read again, as a continued run does.")
    inputs = []
    for file in find_files(path):
        try:
            inputs.append(_as_it_is(file))
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{file}: cannot be read ({reason}).") from None
    return inputs


def _as_it_is(file: str) -> Input:
    """Raises OSError, and InputError for what is no file."""
    if remote.is_remote(file):
        return Input(file, remote.size(file), remote.state(file))
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{file}: not a regular file, which a continued run can read again.")
    return Input(file, status.st_size, status.st_mtime_ns)


def plan_parts(
    path: str, format: str = "auto", part_bytes: int = PART_BYTES, mapping: str = ""
) -> list[Part]:
    """The parts of the files that `path` stands for, in order. Raises InputError."""
    if is_prepared(path):
        raise InputError(
            f"{path}: prepared data, not logs. Give the logs that they were prepared from, or "
            "another directory."
        )
    parts: list[Part] = []
    for file, stem in find_files(path).items():
        try:
            for form, span in _cut(file, ROWS if mapping else format, part_bytes):
                parts.append(Part(len(parts), file, stem, form, span))
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{file}: cannot be read ({reason}).") from None
    return parts


def _cut(file: str, format: str, part_bytes: int) -> Iterator[tuple[str, Span | None]]:
    """The spans of a file, and the format to read them in; one for all of it, None, where it is
    small or cannot be cut."""
    size = remote.size(file) if remote.is_remote(file) else os.path.getsize(file)
    if size <= part_bytes or not _has_lines(file):
        yield format, None
        return
    known = _format_of(file) if format == "auto" else format
    if known is None or known in WHOLE_FILES:
        yield format, None
        return
    for span in _spans(file, size, part_bytes):
        yield known, span


def _has_lines(file: str) -> bool:
    """Whether a file looks like plain JSON lines."""
    with places.reading(file) as opened:
        head = opened.read(1 << 12)
    packed = head.startswith(GZIP_MAGIC) or file.endswith(".gz")
    return not packed and other_kind(file, head) is None and head.lstrip().startswith(b"{")


def _format_of(file: str) -> str | None:
    """The format of most of the first records of a file, as `formats.auto` finds it."""
    votes: dict[str, int] = {}
    items = (item for item in read_records(file, "") if isinstance(item, Record))
    for record in itertools.islice(items, SAMPLE):
        if isinstance(record.value, dict) and (name := recognise(record.value)):
            same = (n for n in votes if FORMATS[n].read is FORMATS[name].read)
            name = next(same, name)
            votes[name] = votes.get(name, 0) + 1
    return max(votes, key=lambda name: votes[name], default=None)


def _spans(file: str, size: int, part_bytes: int) -> Iterator[Span]:
    """Stretches of about `part_bytes`, each up to the end of a line."""
    with places.reading(file) as opened:
        start, line = 0, 1
        while start < size:
            count = 0
            opened.seek(start)
            while opened.tell() < min(size, start + part_bytes):
                left = start + part_bytes - opened.tell()
                if not (block := opened.read(min(BLOCK, left))):
                    break
                count += block.count(b"\n")
            count += _to_line_end(opened)
            end = opened.tell()
            yield Span(start, end, line)
            start, line = end, line + count


def _to_line_end(opened: Any) -> bool:
    """Move behind the next line end, or to the end of the file; whether there was one."""
    while piece := opened.readline(BLOCK):
        if piece.endswith(b"\n"):
            return True
    return False
