"""Packed bytes, gzip or zstd, unpacked as far as they can be: all that stands before the damage.

    try:
        for piece in gunzip(chunks): ...
    except Broken as broken:
        print(broken.cut.detail)

zstd is taken apart into its blocks (RFC 8878), of at most 128 KiB unpacked, which are unpacked one
by one: so the last good one comes through, and no piece is large, however well it was packed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import zstandard

GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
GZIP_WBITS = 16 + zlib.MAX_WBITS  # tells zlib to expect a gzip header and to verify the checksum
LARGEST_WINDOW = 1 << 27  # bytes of zstd's window, which stay in memory; as of the program zstd
SKIPPED = range(0x184D2A50, 0x184D2A60)  # magic numbers of zstd's frames that hold no data
LONGEST_HEADER = 18  # bytes of a frame's header
RUN = 1  # the type of a block that repeats one byte

BEYOND = "it cannot be unpacked beyond this point"
CUT_OFF = "it ends too early: the file was cut off"
FIX_FILE = "Replace the file, or set --config.data.on_error=skip to use what else can be read"


class Cut(NamedTuple):
    """Why reading stopped before the end of a file."""

    reason: str
    detail: str
    remedy: str


class Broken(Exception):
    """Nothing more can be unpacked."""

    def __init__(self, cut: Cut):
        super().__init__(cut)
        self.cut = cut


# ------------------------------------------------------------------------------------------ gzip


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of all members of a gzip file. Raises Broken after those before the damage."""
    # Not gzip.open: on damage it drops the part of the last block that it has unpacked.
    unpacker, inside, between = zlib.decompressobj(GZIP_WBITS), False, False
    for chunk in chunks:
        while chunk := chunk.lstrip(b"\0") if between else chunk:  # zeros there are padding
            before, inside, between = unpacker.copy(), True, False
            try:
                yield unpacker.decompress(chunk)
            except zlib.error as error:
                yield _salvage(before, chunk)
                raise _damage("gzip", f"{BEYOND} ({error})") from None
            chunk = b""
            if unpacker.eof:  # another member may follow
                chunk = unpacker.unused_data
                unpacker, inside, between = zlib.decompressobj(GZIP_WBITS), False, True
    if inside:
        raise _damage("gzip", CUT_OFF)


def _salvage(unpacker: Any, chunk: bytes) -> bytes:
    """What comes out of `chunk` before the byte at which unpacking fails."""
    out = []
    for index in range(len(chunk)):
        try:
            out.append(unpacker.decompress(chunk[index : index + 1]))
        except zlib.error:
            break
    return b"".join(out)


# ------------------------------------------------------------------------------------------ zstd


def unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of all frames of a zstd file. Raises Broken after those before the damage."""
    packed = _Pieces(chunks)
    try:
        while magic := packed.peek(4):
            if len(magic) == 4 and int.from_bytes(magic, "little") in SKIPPED:
                packed.take(4)
                packed.skip(int.from_bytes(packed.take(4), "little"))
            else:
                yield from _frame(packed)
    except EOFError:
        raise _damage("zstd", CUT_OFF) from None
    except zstandard.ZstdError as error:
        raise _damage("zstd", f"{BEYOND} ({error})") from None


def _frame(packed: _Pieces) -> Iterator[bytes]:
    """The blocks of a frame. Raises EOFError, ZstdError, Broken."""
    head = packed.peek(LONGEST_HEADER)
    if len(head) < 4 and ZSTD_MAGIC.startswith(head):
        raise EOFError
    if not head.startswith(ZSTD_MAGIC):
        raise zstandard.ZstdError("no frame begins here")
    try:
        size, frame = zstandard.frame_header_size(head), zstandard.get_frame_parameters(head)
    except zstandard.ZstdError:
        if len(head) < LONGEST_HEADER:
            raise EOFError from None
        raise
    _check_needs(frame)
    unpacker = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).decompressobj()
    unpacker.decompress(packed.take(size))
    last = False
    while not last:
        header = packed.take(3)
        number = int.from_bytes(header, "little")
        last, kind, length = bool(number & 1), number >> 1 & 3, number >> 3
        yield unpacker.decompress(header + packed.take(1 if kind == RUN else length))
    if frame.has_checksum:
        unpacker.decompress(packed.take(4))


def _check_needs(frame: zstandard.FrameParameters) -> None:
    if frame.window_size > LARGEST_WINDOW:
        detail = (
            f"to unpack it takes a window of {frame.window_size:,} bytes in memory, and at most "
            f"{LARGEST_WINDOW:,} are used"
        )
        remedy = "Pack it anew, `zstd -d --long=31 -c FILE | gzip > logs.jsonl.gz`"
        raise Broken(Cut("zstd window too large", detail, remedy))
    if frame.dict_id:
        detail = f"it was packed with a dictionary, number {frame.dict_id}, which is not in it"
        raise Broken(Cut("zstd with a dictionary", detail, "Pack it anew, without one"))


class _Pieces:
    """Bytes in chunks, taken in pieces of any size."""

    def __init__(self, chunks: Iterable[bytes]):
        self._chunks, self._held = iter(chunks), b""

    def peek(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        if len(self._held) < size:
            held, length = [self._held], len(self._held)
            while length < size and (chunk := next(self._chunks, None)) is not None:
                held.append(chunk)
                length += len(chunk)
            self._held = b"".join(held)
        return self._held[:size]

    def take(self, size: int) -> bytes:
        """The next bytes. Raises EOFError where there are fewer."""
        piece = self.peek(size)
        if len(piece) < size:
            raise EOFError
        self._held = self._held[size:]
        return piece

    def skip(self, size: int) -> None:
        """Go on behind the next bytes. Raises EOFError where there are fewer."""
        while size > 0:
            step = min(size, 1 << 16)
            self.take(step)
            size -= step


def _damage(kind: str, detail: str) -> Broken:
    return Broken(Cut(f"damaged {kind}", detail, FIX_FILE))
