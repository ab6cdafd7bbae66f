"""From files to JSON records: globs, gzip, JSON lines and JSON lists, one record at a time.

What cannot be read is not raised but handed on as a `Loss`, in its place among the records. So one
code path serves those who want to stop at the first fault and those who want everything else.
"""

from __future__ import annotations

import codecs
import collections
import dataclasses
import functools
import glob
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from interact_jax import places
from interact_jax.schema import InputError

SUFFIXES = (".json", ".jsonl", ".gz")
CHUNK = 1 << 16  # bytes read at a time
GZIP_MAGIC = b"\x1f\x8b"
GZIP_WBITS = 16 + zlib.MAX_WBITS  # tells zlib to expect a gzip header and to verify the checksum
_SPACE = re.compile(r"[ \t\r\n]*")

# What a person can do about a loss; with no remedy there is nothing wrong.
FIX_LINE = "Fix the line, or set --config.data.on_error=skip to drop such conversations"
FIX_FILE = "Replace the file, or set --config.data.on_error=skip to use what else can be read"
NOTHING_WRONG = ""


@dataclasses.dataclass(frozen=True)
class Record:
    """One JSON value of a file.

    `where` is for people ("logs/chats.jsonl:17"); `name` is an id for what brings none
    ("chats.17"), unique over the files that were read together.
    """

    value: Any
    where: str
    name: str


@dataclasses.dataclass(frozen=True)
class Loss:
    """Something that did not come through: a line, a message, a conversation, part of a file."""

    reason: str  # the kind, a key to count by: "broken JSON"
    where: str
    detail: str
    remedy: str = FIX_LINE

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}: {self.detail}"


def find_files(path: str) -> dict[str, str]:
    """The files that `path` (a file, a directory or a glob) stands for, sorted: file -> stem.

    A directory stands for every .json, .jsonl and .gz file below it; hidden ones are left out, as
    by any glob. "-" is standard input. Stems name the records: `logs/a/train.jsonl.gz` is "train"
    when read alone and "a/train" when read together with `logs/b/train.jsonl.gz`.
    Raises InputError where there is no such file.
    """
    if path == places.STANDARD:
        return {path: "stdin"}
    path = os.path.expanduser(path)
    found = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
    files: set[str] = set()
    for name in found:
        if os.path.isdir(name):
            below = glob.glob(os.path.join(glob.escape(name), "**", "*"), recursive=True)
            files.update(f for f in below if f.endswith(SUFFIXES) and os.path.isfile(f))
        else:
            files.add(name)
    if not files:
        raise InputError(
            f"{path or repr(path)}: no such file. Expected a file, a directory that holds "
            f"{', '.join(SUFFIXES)} files, or a quoted glob such as 'logs/*.jsonl.gz'; looked from "
            f"{os.getcwd()}."
        )
    ordered = sorted(files)
    top = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in ordered])
    full = [os.path.relpath(name, top) for name in ordered]
    stems = [re.sub(r"(\.(json|jsonl|gz))+$", "", name) for name in full]
    times = collections.Counter(stems)
    return {
        name: stem if times[stem] == 1 else whole
        for name, stem, whole in zip(ordered, stems, full, strict=True)
    }


def read_records(path: str, stem: str) -> Iterator[Record | Loss]:
    """The records of one file, plain or gzip, JSON lines or one JSON list, in order.

    Lines are streamed; a list is held in memory. Blank lines mean nothing and are passed over.
    """
    source = _Source(path)
    empty = True
    try:
        chunks = filter(None, source)
        head = b""
        while len(head) < 64 and (more := next(chunks, b"")):  # gzip members may be tiny
            head += more
        head = head.removeprefix(codecs.BOM_UTF8)
        read = _items if head.lstrip().startswith(b"[") else _lines
        for item in read(source, itertools.chain([head], chunks), stem):
            empty = False
            yield item
    except OSError as error:
        empty = False
        yield Loss("unreadable file", source.name, error.strerror or str(error), FIX_FILE)
    if empty:
        yield Loss("empty file", source.name, "there is no record in it", FIX_FILE)


def _lines(source: _Source, chunks: Iterable[bytes], stem: str) -> Iterator[Record | Loss]:
    number = 0
    for number, line in enumerate(_split(chunks), 1):
        if line.strip():
            item = _parse(line, f"{source.name}:{number}", f"{stem}.{number}")
            if isinstance(item, Loss) and source.damage:
                break  # the line at which a damaged file ends: reported once, below
            yield item
    if source.damage:
        yield Loss("damaged gzip", f"{source.name}:{number}", source.damage, FIX_FILE)


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines end with b"\\n" and nothing else: U+2028 and its like may stand inside a message."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    yield rest


def _parse(line: bytes, where: str, name: str) -> Record | Loss:
    try:
        return Record(json.loads(line.decode()), where, name)
    except UnicodeDecodeError as error:
        detail = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
        return Loss("not UTF-8", where, detail)
    except (ValueError, RecursionError) as error:
        expected = "expected one whole object a line (`jq -c` writes that), or one list of objects"
        return Loss("broken JSON", where, f"{_explain(error)}; {expected}")


def _explain(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)  # nested too deep, a number of thousands of digits


def _items(source: _Source, chunks: Iterable[bytes], stem: str) -> Iterator[Record | Loss]:
    """The items of a JSON list, decoded one by one, so that a bad one does not cost the others.

    Behind an item that cannot be decoded, the next one is the next line that opens an object no
    deeper than it; a list without line breaks ends there. So JSON lines whose first is bad and
    begins with "[" come through as well.
    """
    data = b"".join(chunks)
    try:
        text, clean = data.decode(), True
    except UnicodeDecodeError:
        text, clean = data.decode(errors="surrogateescape"), False
    decode = json.JSONDecoder().raw_decode
    text = text.rstrip()
    end = len(text) - text.endswith("]")
    position = _skip_space(text, text.index("[") + 1)
    line, counted, number, whole = 1, 0, 0, True
    while position < end:
        start, number = position, number + 1
        line += text.count("\n", counted, start)
        counted = start
        where = f"{source.name}:{line} (item {number})"
        try:
            value, position = decode(text, start)
            if clean or _is_unicode(text[start:position]):
                yield Record(value, where, f"{stem}.{number}")
            else:
                yield Loss("not UTF-8", where, "the item holds bytes that are not UTF-8")
            position = _skip_space(text, position)
            if text.startswith(",", position):
                position = _skip_space(text, position + 1)
            elif whole and position < end:  # behind a fault, commas are not asked for
                raise json.JSONDecodeError("Expecting ',' or the end", text, position)
        except (ValueError, RecursionError) as error:
            column = start - text.rfind("\n", 0, start) - 1
            opening = re.compile(rf"\n[ \t]{{0,{column}}}(?={{)").search(text, start)
            if opening is None and source.damage:
                break  # the item at which a damaged file ends: reported once, below
            where = f"{source.name}:{getattr(error, 'lineno', line)} (item {number})"
            detail = _explain(error)
            if opening is None:
                detail = f"{detail}; the rest of the list cannot be read"
            yield Loss("broken JSON", where, detail)
            position, whole = opening.end() if opening else end, False
    if source.damage:
        yield Loss("damaged gzip", f"{source.name}:{line}", source.damage, FIX_FILE)
    elif whole and not text.endswith("]"):
        yield Loss("broken JSON", f"{source.name}:{line}", "the list has no end: ']' is missing")


def _skip_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, or a byte that surrogateescape kept
        return False
    return True


class _Source:
    """Iterates over the bytes of a file, unpacked where it is gzip (by magic bytes or by name).

    Where a gzip file is damaged, everything before the damage is handed out, and `damage` says
    what is wrong once the iteration has ended.
    """

    def __init__(self, path: str):
        self.path, self.name = path, places.input_name(path)
        self.damage = ""

    def __iter__(self) -> Iterator[bytes]:
        with places.reading(self.path) as file:
            is_gzip = file.peek(2)[:2] == GZIP_MAGIC or self.path.endswith(".gz")
            chunks = iter(functools.partial(file.read, CHUNK), b"")
            yield from self._unpack(chunks) if is_gzip else chunks

    def _unpack(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        # Not gzip.open: on damage it drops what it has unpacked of the last block already.
        unpacker, inside = zlib.decompressobj(GZIP_WBITS), False
        for chunk in chunks:
            while chunk:
                before, inside = unpacker.copy(), True
                try:
                    yield unpacker.decompress(chunk)
                except zlib.error as error:
                    self.damage = f"it cannot be unpacked beyond this point ({error})"
                    yield _salvage(before, chunk)
                    return
                chunk = b""
                if unpacker.eof:  # another member may follow; zeros between members are padding
                    chunk = unpacker.unused_data.lstrip(b"\0")
                    unpacker, inside = zlib.decompressobj(GZIP_WBITS), False
        if inside:
            self.damage = "it ends too early: the file was cut off"


def _salvage(unpacker: Any, chunk: bytes) -> bytes:
    """What comes out of `chunk` before the byte at which unpacking fails."""
    out = []
    for index in range(len(chunk)):
        try:
            out.append(unpacker.decompress(chunk[index : index + 1]))
        except zlib.error:
            break
    return b"".join(out)
