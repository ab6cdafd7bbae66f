"""The bytes of a file, unpacked if it is gzip, as far as they can be read; and its lines."""

from __future__ import annotations

import codecs
import functools
import shlex
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from interact_jax import places

CHUNK = 1 << 16  # bytes read at a time
GZIP_MAGIC = b"\x1f\x8b"
GZIP_WBITS = 16 + zlib.MAX_WBITS  # tells zlib to expect a gzip header and to verify the checksum
MOST_BYTES = 1 << 32  # of a file, unpacked: conversations stay in memory, where they take more
LONGEST = 1 << 28  # bytes of a line; longer ones are not kept

FIX_FILE = "Replace the file, or set --config.data.on_error=skip to use what else can be read"
FIX_JSON = "conversations are read from JSON Lines or JSON, plain or .gz"
GROUP = 'docs/data.md, "From a table", shows how to group messages by conversation'
RAISE_BOUND = (
    "Set --config.data.max_bytes higher if the file is what it should be, or data.on_error=skip to "
    "use what stands before"
)


KINDS = (
    (b"PAR1", "Parquet", "pandas.read_parquet({!r})"),
    (b"ARROW1", "Arrow", "pandas.read_feather({!r})"),
    (b"\x28\xb5\x2f\xfd", "zstd", ""),
    (b"BZh", "bzip2", ""),
    (b"\xfd7zXZ", "xz", ""),
    (b"PK\x03\x04", "zip", ""),
    (b"SQLite format 3", "SQLite", ""),
)
"""Files that are not text: their first bytes, their kind, and how to read them in Python."""
TABLES = {".csv": "pandas.read_csv({!r})", ".tsv": "pandas.read_csv({!r}, sep='\\t')"}


class Cut(NamedTuple):
    """Why reading stopped before the end of a file."""

    reason: str
    detail: str
    remedy: str


class Span(NamedTuple):
    """A stretch of a plain file of JSON lines, from the beginning of a line to the end of one."""

    start: int
    end: int
    line: int  # the number of its first line in the file


class Source:
    """Iterates over the bytes of a file, or of a `span` of it, unpacked if it is gzip (by magic
    bytes or by name).

    If a gzip file is damaged, or a file is longer than `max_bytes`, everything before that point is
    yielded, and `cut` says what is wrong once the iteration has ended.
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
            is_gzip = file.peek(2)[:2] == GZIP_MAGIC or self.path.endswith(".gz")
            chunks = iter(functools.partial(file.read, CHUNK), b"")
            yield from self._limit(self._unpack(chunks) if is_gzip else chunks)

    def _limit(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        left = self.max_bytes
        for chunk in chunks:
            yield chunk[:left]
            left -= len(chunk)
            if left < 0:
                detail = f"it has more than data.max_bytes={self.max_bytes:,} bytes, unpacked"
                self.cut = Cut("file too large", detail, RAISE_BOUND)
                return

    def _unpack(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        # Not gzip.open: on damage it drops the part of the last block that it has unpacked.
        unpacker, inside, between = zlib.decompressobj(GZIP_WBITS), False, False
        for chunk in chunks:
            while chunk := chunk.lstrip(b"\0") if between else chunk:  # zeros there are padding
                before, inside, between = unpacker.copy(), True, False
                try:
                    yield unpacker.decompress(chunk)
                except zlib.error as error:
                    detail = f"it cannot be unpacked beyond this point ({error})"
                    self.cut = Cut("damaged gzip", detail, FIX_FILE)
                    yield _salvage(before, chunk)
                    return
                chunk = b""
                if unpacker.eof:  # another member may follow
                    chunk = unpacker.unused_data
                    unpacker, inside, between = zlib.decompressobj(GZIP_WBITS), False, True
        if inside:
            self.cut = Cut("damaged gzip", "it ends too early: the file was cut off", FIX_FILE)


def _stretch(file: BinaryIO, span: Span) -> Iterator[bytes]:
    file.seek(span.start)
    left = span.end - span.start
    while left > 0 and (chunk := file.read(min(left, CHUNK))):
        yield chunk
        left -= len(chunk)


def _salvage(unpacker: Any, chunk: bytes) -> bytes:
    """What comes out of `chunk` before the byte at which unpacking fails."""
    out = []
    for index in range(len(chunk)):
        try:
            out.append(unpacker.decompress(chunk[index : index + 1]))
        except zlib.error:
            break
    return b"".join(out)


def other_kind(path: str, head: bytes) -> Cut | None:
    """Why a file that begins with `head` is not JSON, if its kind is known."""
    for magic, kind, read in KINDS:
        if head.startswith(magic):
            remedy = _convert(read, path) if read else f"Unpack or convert it: {FIX_JSON}"
            return Cut(f"{kind} file", f"it is of the kind {kind}, not JSON", remedy)
    marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if marked and head[:64].count(0) > len(head[:64]) / 3:  # not one bad line before good ones
        start = f"0x{head[0]:02x} 0x{head[1]:02x}"
        remedy = f"Convert it, `iconv -f UTF-16 -t UTF-8 {shlex.quote(path)} > logs.jsonl`"
        return Cut("not UTF-8", f"it begins with {start}, as UTF-16 does", remedy)
    ending = next((ending for ending in TABLES if path.lower().endswith(ending)), None)
    if ending and not head.lstrip().startswith((b"{", b"[")):
        remedy = f"{_convert(TABLES[ending], path)}. If a row is a single message: {GROUP}"
        return Cut("table", f"it is a table ({ending}), not JSON", remedy)
    return None


def _convert(read: str, path: str) -> str:
    return (
        f"Convert it in Python, {read.format(path)}.to_json('logs.jsonl', orient='records', "
        "lines=True), and give that file"
    )


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
