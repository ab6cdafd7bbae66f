"""The bytes of a file, unpacked if gzip or zstd, as far as they can be read; and its lines."""

from __future__ import annotations

import codecs
import functools
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

from interact_jax import places
from interact_jax.data.unpacking import (
    GZIP_MAGIC,
    ZSTD_MAGIC,
    Broken,
    Cut,
    gunzip,
    unzstd,
)

CHUNK = 1 << 16  # bytes read at a time
MOST_BYTES = 1 << 32  # of a file, unpacked: conversations stay in memory, where they take more
LONGEST = 1 << 28  # bytes of a line; longer ones are not kept

PARQUET_MAGIC = b"PAR1"
KNOWN_KINDS = "JSON Lines, JSON, CSV and TSV are read, plain, .gz or .zst, and Parquet as it is"
GROUP = 'docs/data.md, "From a table", shows how to name the columns of rows with a message each'
RAISE_BOUND = (
    "Set --config.data.max_bytes higher if the file is what it should be, or data.on_error=skip to "
    "use what stands before"
)


KINDS = (
    (PARQUET_MAGIC, "Parquet"),
    (b"ARROW1", "Arrow"),
    (GZIP_MAGIC, "gzip"),
    (ZSTD_MAGIC, "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"PK\x03\x04", "zip"),
    (b"SQLite format 3", "SQLite"),
)
"""Files that are not text, or not once they are unpacked: their first bytes, and their kind."""


class Span(NamedTuple):
    """A stretch of a plain file of JSON lines, from the beginning of a line to the end of one."""

    start: int
    end: int
    line: int  # the number of its first line in the file


class Source:
    """Iterates over the bytes of a file, or of a `span` of it, unpacked if gzip or zstd (by magic
    bytes or by name).

    If a packed file is damaged, or a file is longer than `max_bytes`, everything before that point
    is yielded, and `cut` says what is wrong once the iteration has ended.
    """

    def __init__(self, path: str, max_bytes: int = MOST_BYTES, span: Span | None = None):
        self.path, self.name, self.max_bytes = path, places.input_name(path), max_bytes
        self.span = span
        self.cut: Cut | None = None

    def __iter__(self) -> Iterator[bytes]:
        with places.reading(self.path, self.max_bytes) as file:
            if self.span is not None:
                yield from self._limit(_stretch(file, self.span))
                return
            unpack = _unpacker(file.peek(4)[:4], self.path)
            try:
                yield from self._limit(unpack(iter(functools.partial(file.read, CHUNK), b"")))
            except Broken as broken:
                self.cut = broken.cut

    def _limit(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        left = self.max_bytes
        for chunk in chunks:
            yield chunk[:left]
            left -= len(chunk)
            if left < 0:
                self.cut = too_large(self.max_bytes)
                return


def too_large(max_bytes: int) -> Cut:
    """Why no more of a file is read."""
    detail = f"it has more than data.max_bytes={max_bytes:,} bytes, unpacked"
    return Cut("file too large", detail, RAISE_BOUND)


def _stretch(file: BinaryIO, span: Span) -> Iterator[bytes]:
    file.seek(span.start)
    left = span.end - span.start
    while left > 0 and (chunk := file.read(min(left, CHUNK))):
        yield chunk
        left -= len(chunk)


def _unpacker(head: bytes, path: str) -> Callable[[Iterable[bytes]], Iterable[bytes]]:
    """What unpacks a file that begins with `head`; its name decides where that says nothing."""
    known = ((GZIP_MAGIC, ".gz", gunzip), (ZSTD_MAGIC, ".zst", unzstd))
    by_magic = [unpack for magic, _, unpack in known if head.startswith(magic)]
    by_name = [unpack for _, ending, unpack in known if path.lower().endswith(ending)]
    return next(iter(by_magic + by_name), _as_it_is)


def _as_it_is(chunks: Iterable[bytes]) -> Iterable[bytes]:
    return chunks


def other_kind(path: str, head: bytes) -> Cut | None:
    """Why a file that, unpacked, begins with `head` cannot be read, if its kind is known."""
    for magic, kind in KINDS:
        if head.startswith(magic):
            remedy = f"Unpack or convert it: {KNOWN_KINDS}"
            return Cut(f"{kind} file", f"it is of the kind {kind}, not text", remedy)
    marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    one_bad_line = b"\n{" in head  # before good ones: in UTF-16 these two are apart
    if marked and not one_bad_line and head[:64].count(0) > len(head[:64]) / 3:
        start = f"0x{head[0]:02x} 0x{head[1]:02x}"
        remedy = f"Convert it, `iconv -f UTF-16 -t UTF-8 {shlex.quote(path)} > logs.jsonl`"
        return Cut("not UTF-8", f"it begins with {start}, as UTF-16 does", remedy)
    return None


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    """The lines; None stands for one that is longer than LONGEST.

    Only b"\\n" ends a line: U+2028 and the like may occur inside a message.
    """
    line = _Line()
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line.add(end)
            yield line.take()
        line.add(rest)
    yield line.take()


class _Line:
    """A line that is assembled from pieces, in time linear in its length."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= LONGEST:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def take(self) -> bytes | None:
        line = b"".join(self._pieces) if self._size <= LONGEST else None
        self._pieces, self._size = [], 0
        return line
