"""From files to records: globs, JSON lines, JSON lists and tables, one record at a time.

What cannot be read is not raised but yielded as a `Loss`, in its place among the records. So one
code path serves both stopping at the first fault and reading everything else.
"""

from __future__ import annotations

import codecs
import collections
import glob
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from interact_jax import places, remote
from interact_jax.data import parquet
from interact_jax.data.losses import (
    FIX_LINE,
    MEND_LINE,
    NOTHING_WRONG,
    Loss,
    Note,
    Record,
)
from interact_jax.data.sources import (
    LONGEST,
    MOST_BYTES,
    Source,
    Span,
    lines_of,
    other_kind,
)
from interact_jax.data.tables import DELIMITERS, delimiter_of, read_table
from interact_jax.data.unpacking import FIX_FILE
from interact_jax.schema import InputError

__all__ = [
    "FIX_LINE",
    "MEND_LINE",
    "NOTHING_WRONG",
    "Loss",
    "Note",
    "Record",
    "find_files",
    "read_records",
]

SUFFIXES = (".json", ".jsonl", *DELIMITERS, parquet.ENDING, ".gz", ".zst")
_SPACE, _SPACE_AND_MARKS = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n\ufeff]*")
_ENDINGS = re.compile(rf"({'|'.join(map(re.escape, SUFFIXES))})+$", re.IGNORECASE)
MARK = "\ufeff"  # byte order mark: in concatenated files it also occurs in the middle
PIECE = 1 << 12  # characters of a list that are decoded at a time, more if an item is longer


def find_files(path: str) -> dict[str, str]:
    """The files that `path` (a file, a directory or a glob) stands for, sorted: file -> stem.

    A directory stands for all files below it that end as SUFFIXES do; hidden ones are left out, as
    by any glob. "-" is standard input; hf://, gs:// and s3:// lead elsewhere (see `remote`). Stems
    name the records: `logs/a/train.jsonl.gz` is "train" when read alone and "a/train" when read
    together with `logs/b/train.jsonl.gz`.
    Raises InputError where there is no such file.
    """
    if path == places.STANDARD:
        return {path: "stdin"}
    ordered = remote.find(path, SUFFIXES) if remote.is_remote(path) else _find_here(path)
    if not ordered:
        raise InputError(
            f"{path or repr(path)}: no such file. Expected a file, a directory that holds "
            f"{', '.join(SUFFIXES)} files, or a quoted glob such as 'logs/*.jsonl.gz'; looked from "
            f"{os.getcwd()}."
        )
    top = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in ordered])
    relatives = [os.path.relpath(name, top) for name in ordered]
    stems = [_ENDINGS.sub("", name) for name in relatives]
    times = collections.Counter(stems)
    return {
        name: stem if times[stem] == 1 else relative
        for name, stem, relative in zip(ordered, stems, relatives, strict=True)
    }


def _find_here(path: str) -> list[str]:
    path = os.path.expanduser(path)
    matches = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
    files: set[str] = set()
    for name in matches:
        if os.path.isdir(name):
            below = glob.glob(os.path.join(glob.escape(name), "**", "*"), recursive=True)
            files.update(f for f in below if f.lower().endswith(SUFFIXES) and os.path.isfile(f))
        else:
            files.add(name)
    return sorted(files)


def read_records(
    path: str, stem: str, max_bytes: int = MOST_BYTES, span: Span | None = None
) -> Iterator[Record | Loss]:
    """The records of one file, in order; at most `max_bytes` of it, after unpacking. Of a `span`,
    its lines: together, the spans of a file have the records that the file has.

    It is Parquet, or JSON lines, JSON lists or a table, plain or packed. Lines are streamed; a list
    is held in memory. Blank lines are skipped.
    """
    empty, name = True, places.input_name(path)
    try:
        source = Source(path, max_bytes, span)
        lines = None if span is None else _read_lines(source, source, stem)
        for item in lines or _read_kind(path, stem, max_bytes):
            empty = False
            yield item
    except OSError as error:
        empty = False
        yield Loss("unreadable file", name, error.strerror or str(error), FIX_FILE)
    if empty and span is None:
        yield Loss("empty file", name, "there is no record in it", FIX_FILE)


def _read_kind(path: str, stem: str, max_bytes: int) -> Iterator[Record | Loss]:
    """The records of a file by its kind. Raises OSError."""
    if parquet.is_parquet(path, max_bytes):
        yield from parquet.read_parquet(path, stem, max_bytes)
        return
    source = Source(path, max_bytes)
    chunks: Iterator[bytes] = filter(None, source)
    head = b""
    while len(head) < 64 and (more := next(chunks, b"")):  # gzip members may be tiny
        head += more
    if (other := other_kind(path, head)) is not None:
        yield Loss(other.reason, source.name, other.detail, other.remedy)
        return
    head = head.removeprefix(codecs.BOM_UTF8)
    begin, delimiter, chunks = (
        head.lstrip()[:1],
        delimiter_of(path),
        itertools.chain([head], chunks),
    )
    if delimiter is not None and begin not in (b"{", b"["):
        yield from read_table(source, chunks, stem, delimiter)
    elif begin == b"[":
        yield from _read_list(source, chunks, stem)
    else:
        yield from _read_lines(source, chunks, stem)


# ------------------------------------------------------------------------------------- JSON lines


def _read_lines(source: Source, chunks: Iterable[bytes], stem: str) -> Iterator[Record | Loss]:
    number = 0
    for number, line in enumerate(lines_of(chunks), source.span.line if source.span else 1):
        where = f"{source.name}:{number}"
        if line is None:
            yield Loss("line too long", where, f"it has more than {LONGEST:,} bytes")
            continue
        for item in _parse(line, where, f"{stem}.{number}"):
            if isinstance(item, Loss) and source.cut:
                break  # the line at which the file was cut: reported once, below
            yield item
    if source.cut:
        reason, detail, remedy = source.cut
        yield Loss(reason, f"{source.name}:{number}", detail, remedy)


def _parse(line: bytes, where: str, name: str) -> Iterator[Record | Loss]:
    """The value of a line; several if concatenated files, with byte order marks, meet in it."""
    decode = json.JSONDecoder().raw_decode
    try:
        text = line.decode()
        position, number = _skip(_SPACE_AND_MARKS, text, 0), 0
        while position < len(text):
            value, position = decode(text, position)
            position = _skip(_SPACE, text, position)
            if position < len(text) and text[position] != MARK:
                raise json.JSONDecodeError("Extra data", text, position)
            position = _skip(_SPACE_AND_MARKS, text, position)
            number += 1
            yield Record(value, where, name if number == 1 else f"{name}.{number}")
    except UnicodeDecodeError as error:
        detail = (
            f"byte 0x{line[error.start]:02x} at column {error.start + 1}; if all of the file is in "
            "an older encoding, `iconv -f latin1 -t UTF-8` converts it"
        )
        yield Loss("not UTF-8", where, detail)
    except (ValueError, RecursionError) as error:
        expected = "expected one whole object a line (`jq -c` writes that), or one list of objects"
        yield Loss("broken JSON", where, f"{_explain(error)}; {expected}")


def _explain(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)  # nested too deeply, or a number of thousands of digits


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


# ------------------------------------------------------------------------------------- JSON lists


def _read_list(source: Source, chunks: Iterable[bytes], stem: str) -> Iterator[Record | Loss]:
    """The items of a JSON list, decoded one by one, so that a bad one does not cost the others.

    After an item that cannot be decoded, the next item is the next line that opens an object and is
    indented no deeper; a list without line breaks ends there. So JSON lines whose first line is bad
    and begins with "[" are read as well, and so is anything appended to a list.
    """
    text, clean = _decode_text(b"".join(chunks))
    position = counted = number = 0
    line, inside, intact = 1, False, True
    while (position := _skip(_SPACE_AND_MARKS, text, position)) < len(text):
        if text[position] == "[]"[inside]:
            inside, position = not inside, position + 1
            continue
        start, number = position, number + 1
        line += text.count("\n", counted, start)
        counted = start
        where = f"{source.name}:{line} (item {number})"
        try:
            value, position = _decode_value(text, start)
            if clean or _is_unicode(text[start:position]):
                yield Record(value, where, f"{stem}.{number}")
            else:
                yield Loss("not UTF-8", where, "the item holds bytes that are not UTF-8")
            position = _skip(_SPACE_AND_MARKS, text, position)
            if text.startswith(",", position):
                position += 1
            elif inside and intact and position < len(text) and text[position] != "]":
                # After a fault, commas are not required.
                raise _BrokenValue("Expecting ',' or the end", *_lines_to(text, start, position))
        except (_BrokenValue, ValueError, RecursionError) as error:
            column = start - text.rfind("\n", 0, start) - 1
            opening = re.compile(rf"\n[ \t]{{0,{column}}}(?={{)").search(text, start)
            if opening is None and source.cut:
                break  # the item at which the file was cut: reported once, below
            detail = _explain(error)
            if isinstance(error, _BrokenValue):
                at = error.column + (0 if error.lines else column)
                where = f"{source.name}:{line + error.lines} (item {number})"
                detail = f"{error.message} at column {at}"
            if opening is None:
                detail = f"{detail}; the rest of the list cannot be read"
            yield Loss("broken JSON", where, detail)
            position, intact = opening.end() if opening else len(text), False
    if source.cut:
        reason, detail, remedy = source.cut
        yield Loss(reason, f"{source.name}:{line}", detail, remedy)
    elif intact and inside:
        yield Loss("broken JSON", f"{source.name}:{line}", "the list has no end: ']' is missing")


def _decode_text(data: bytes) -> tuple[str, bool]:
    """The text, and whether it is UTF-8 throughout."""
    try:
        return data.decode(), True
    except UnicodeDecodeError:
        return data.decode(errors="surrogateescape"), False


class _BrokenValue(ValueError):
    """Where a value is broken: how many lines below its first line, and at which column."""

    def __init__(self, message: str, lines: int, column: int):
        super().__init__(message)
        self.message, self.lines, self.column = message, lines, column


def _lines_to(text: str, start: int, position: int) -> tuple[int, int]:
    lines = text.count("\n", start, position)
    return lines, position - (text.rfind("\n", start, position) if lines else start - 1)


def _decode_value(text: str, start: int) -> tuple[Any, int]:
    """The value at `start`, and where it ends. Raises _BrokenValue, ValueError, RecursionError.

    On failure, Python's decoder counts the lines from the beginning of its input: so it is given
    little more than the value.
    """
    decode, size = json.JSONDecoder().raw_decode, PIECE
    while True:
        piece = text[start : start + size]
        last = start + len(piece) >= len(text)
        try:
            value, end = decode(piece)
            if last or end < len(piece):  # otherwise a number may continue
                return value, start + end
        except json.JSONDecodeError as error:
            # A piece that is cut off is broken near its end, or has a string without an end.
            cut_off = error.pos >= len(piece) - 16 or error.msg.startswith("Unterminated")
            if last or not cut_off:
                raise _BrokenValue(error.msg, error.lineno - 1, error.colno) from None
        size *= 4


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, or a byte that surrogateescape kept
        return False
    return True
