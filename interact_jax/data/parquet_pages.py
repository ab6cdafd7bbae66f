"""What a Parquet file says of its row groups and pages, checked before pyarrow reads them.

Where a page's header is damaged, pyarrow may ask for gigabytes of memory, and where a column's
statistics are, it may end the process. So footer and page headers, which are structs in Thrift's
compact protocol, are read here: every size has to fit the one around it.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

MAGIC = b"PAR1"
# Numbers of fields, from parquet.thrift.
ROW_GROUPS, COLUMNS, BYTES, ROWS, META = 4, 1, 2, 3, 3
VALUES, UNPACKED, PACKED, FIRST_PAGE, DICTIONARY_PAGE = 5, 6, 7, 9, 11
PAGE_UNPACKED, PAGE_PACKED, PAGE_VALUES = 2, 3, 1
DATA_PAGES = (5, 8)  # of the first and the second version
SLACK = 128  # bytes by which old writers are wrong about the size of a column
HEADERS = (1 << 10, 1 << 16, 1 << 22)  # bytes that are read for a page's header
DEEPEST = 16  # structs in structs


class BadPages(Exception):
    """The file says of itself what cannot be."""


@dataclasses.dataclass(frozen=True)
class Group:
    """A row group: its rows, its bytes when unpacked, and its columns as the footer has them."""

    rows: int
    size: int
    columns: Sequence[dict[int, Any]]

    @property
    def values(self) -> int:
        """The values of its longest column."""
        return max((column[VALUES] for column in self.columns), default=0)


def read_groups(file: BinaryIO) -> list[Group]:
    """The row groups by the footer. Raises BadPages, OSError."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 8, 0))
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != MAGIC or length > size - 12:
        raise BadPages("it does not end as Parquet does: it was cut off")
    file.seek(size - 8 - length)
    try:
        footer, _ = _struct(file.read(length), 0)
        return [_group(group) for group in footer[ROW_GROUPS]]
    except (LookupError, TypeError, ValueError):
        raise BadPages("its footer is not as Parquet has it") from None


def _group(fields: dict[int, Any]) -> Group:
    columns = [column[META] for column in fields[COLUMNS]]
    group = Group(fields[ROWS], fields[BYTES], columns)
    numbers = [column[key] for column in columns for key in (VALUES, UNPACKED, PACKED, FIRST_PAGE)]
    if min(group.rows, group.size, *numbers) < 0:
        raise ValueError("less than nothing")
    return group


def check_pages(file: BinaryIO, group: Group) -> None:
    """Raise BadPages where the headers of a row group's pages do not agree with the footer."""
    size = file.seek(0, io.SEEK_END)
    for column in group.columns:
        first = min(column[FIRST_PAGE], column.get(DICTIONARY_PAGE) or column[FIRST_PAGE])
        end = min(first + column[PACKED] + SLACK, size)
        values = 0
        if not column[VALUES]:
            continue
        try:
            for header in _pages(file, first, end, column[UNPACKED] + SLACK):
                values += sum(header[key][PAGE_VALUES] for key in DATA_PAGES if key in header)
                if values >= column[VALUES]:
                    break
        except (LookupError, TypeError, ValueError):
            raise BadPages("a page does not begin as pages do") from None
        if values != column[VALUES]:
            raise BadPages(f"a column has {values:,} values instead of {column[VALUES]:,}")


def _pages(file: BinaryIO, at: int, end: int, most: int) -> Iterator[dict[int, Any]]:
    """The headers of the pages from `at` on. Raises LookupError, TypeError, ValueError."""
    while at < end:
        header, length = _header(file, at)
        at += length + header[PAGE_PACKED]
        if header[PAGE_PACKED] < 0 or at > end or not 0 <= header[PAGE_UNPACKED] <= most:
            raise ValueError("a page larger than its column")
        if any(header[key][PAGE_VALUES] < 0 for key in DATA_PAGES if key in header):
            raise ValueError("less than nothing")
        yield header


def _header(file: BinaryIO, at: int) -> tuple[dict[int, Any], int]:
    for size in HEADERS:
        file.seek(at)
        data = file.read(size)
        try:
            return _struct(data, 0)
        except IndexError:
            if len(data) < size:
                raise
    raise ValueError("a header without an end")


# ------------------------------------------------------------------------------ compact protocol


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of a struct by their numbers, and where it ends. Raises IndexError, ValueError."""
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    fields, number = dict[int, Any](), 0
    while byte := data[at]:
        at += 1
        if byte >> 4:
            number += byte >> 4
        else:
            number, at = _integer(data, at)
        if byte & 15 in (1, 2):  # a truth value is in the type
            fields[number] = byte & 15 == 1
        else:
            fields[number], at = _value(data, at, byte & 15, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2, 3):
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        if at + length > len(data):
            raise IndexError
        return data[at : at + length], at + length
    if kind in (9, 10):
        size, inner, at = data[at] >> 4, data[at] & 15, at + 1
        if size == 15:
            size, at = _varint(data, at)
        items = []
        for _ in range(size):
            item, at = _value(data, at, inner, depth + 1)
            items.append(item)
        return items, at
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise ValueError("no such type in Parquet")


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number without an end")
