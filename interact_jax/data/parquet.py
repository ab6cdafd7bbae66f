"""The rows of a Parquet file as records, a batch at a time, row group by row group.

    {"conversation": [{"content": "Hi", "timestamp": "2023-04-09T00:02:53+00:00"}], "model": ...}

Structs are objects, nulls are left out, times are ISO 8601 in UTC. For a binary value stands an
object that no format uses, so it is counted. Where a page is damaged, the rest of its row group is
lost; the groups behind it are read.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from interact_jax import places
from interact_jax.data.losses import FIX_LINE, Loss, Record
from interact_jax.data.parquet_pages import BadPages, Group, check_pages, read_groups
from interact_jax.data.sources import PARQUET_MAGIC, too_large
from interact_jax.data.unpacking import FIX_FILE, Broken, Cut

ENDING, KIND = ".parquet", "damaged Parquet"
MOST_ROWS = 1024  # of a batch
BATCH_BYTES = 1 << 23  # of a batch, about
BUFFER = 1 << 20  # bytes of a column that are read at a time
LEAST_BYTES = 4  # that a value takes in memory; only truth values take less
LONGEST_ERROR = 200  # characters
BINARY = {"type": "binary"}
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # of a second
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def is_parquet(path: str, max_bytes: int) -> bool:
    """Whether it is Parquet, by its first bytes or by its name. Raises OSError."""
    with places.reading(path, max_bytes) as file:
        return file.peek(4)[:4] == PARQUET_MAGIC or path.lower().endswith(ENDING)


def read_parquet(path: str, stem: str, max_bytes: int) -> Iterator[Record | Loss]:
    """The rows, until they have taken `max_bytes` in memory, and what cannot be read. Raises
    OSError."""
    name = places.input_name(path)
    with places.reading(path, max_bytes) as file:
        try:
            table, groups = _open(file)
        except Broken as broken:
            reason, detail, remedy = broken.cut
            yield Loss(reason, name, detail, remedy)
            return
        yield from _Reader(file, table, groups, name, stem, max_bytes).items()


def _open(file: BinaryIO) -> tuple[pq.ParquetFile, list[Group]]:
    """The file and its row groups. Raises Broken."""
    try:
        groups = read_groups(file)
        # By default whole columns of a row group would be read ahead.
        table = pq.ParquetFile(
            file, pre_buffer=False, buffer_size=BUFFER, page_checksum_verification=True
        )
        columns = table.schema_arrow.names
        if len(groups) != table.num_row_groups or len(set(columns)) < len(columns):
            raise BadPages("it has two columns of one name, or two numbers of row groups")
        if (rows := sum(group.rows for group in groups)) != table.metadata.num_rows:
            raise BadPages(f"it has {table.metadata.num_rows:,} rows, but {rows:,} in its groups")
    except Exception as error:  # pyarrow raises a dozen kinds
        raise _damage("it cannot be opened", error) from None
    return table, groups


class _Reader:
    """Reads row group by row group; `_left` bytes may still come."""

    def __init__(
        self,
        file: BinaryIO,
        table: pq.ParquetFile,
        groups: Sequence[Group],
        name: str,
        stem: str,
        max_bytes: int,
    ):
        self._file, self._table, self._groups = file, table, groups
        self._name, self._stem = name, stem
        self._max_bytes = self._left = max_bytes
        self._columns = tuple(table.schema_arrow.names)
        self._next = 1  # the row that comes next, counted from 1

    def items(self) -> Iterator[Record | Loss]:
        """Every row, or its loss."""
        end = 1
        for group, about in enumerate(self._groups):
            end += about.rows
            try:
                for batch in self._batches(group):
                    yield from self._rows(batch)
                if self._next < end:
                    raise _damage("it ends too early")
            except Broken as broken:
                reason, detail, remedy = broken.cut
                where, rows = f"{self._name}:row {self._next}", end - self._next
                if reason != KIND:  # more than was asked for
                    yield Loss(reason, where, detail, remedy)
                    return
                detail = f"row group {group}, {detail}; its rows up to {end - 1:,} are lost"
                yield Loss(reason, where, detail, remedy, max(rows, 1))
            self._next = end

    def _batches(self, group: int) -> Iterator[pa.RecordBatch]:
        """Some rows at a time. Raises Broken."""
        about = self._groups[group]
        try:
            check_pages(self._file, about)
            if about.values * LEAST_BYTES > self._left:
                raise Broken(too_large(self._max_bytes))
            size = max(1, min(MOST_ROWS, BATCH_BYTES * about.rows // max(about.size, 1)))
            yield from self._table.iter_batches(size, [group], use_threads=False)
        except Broken:
            raise
        except Exception as error:  # pyarrow raises a dozen kinds
            raise _damage("it cannot be read", error) from None

    def _rows(self, batch: pa.RecordBatch) -> Iterator[Record | Loss]:
        """The rows of a batch. Raises Broken where they take more memory than is left."""
        fits = batch.nbytes <= self._left
        for i in range(batch.num_rows):
            self._left -= batch.slice(i, 1).nbytes if not fits else 0
            if self._left < 0:
                raise Broken(too_large(self._max_bytes))
            where, name = f"{self._name}:row {self._next}", f"{self._stem}.{self._next}"
            self._next += 1
            try:
                value = _object(self._columns, [column[i] for column in batch.columns])
            except UnicodeDecodeError:
                yield Loss("not UTF-8", where, "the row holds bytes that are not UTF-8", FIX_LINE)
            else:
                yield Record(value, where, name, self._columns)
        self._left -= batch.nbytes if fits else 0


def _object(names: Sequence[str], values: Sequence[pa.Scalar[Any]]) -> dict[str, Any]:
    pairs = zip(names, values, strict=True)
    return {name: plain for name, value in pairs if (plain := _plain(value)) is not None}


def _plain(value: Any) -> Any:
    """An Arrow scalar as JSON has it; None where it is null. Raises UnicodeDecodeError."""
    if not value.is_valid:
        return None
    if isinstance(value, pa.StringScalar | pa.BooleanScalar | pa.Int32Scalar | pa.Int64Scalar):
        return value.as_py()
    if isinstance(value, pa.StructScalar):
        items = value.items()
        return {name: plain for name, each in items if (plain := _plain(each)) is not None}
    if isinstance(value, pa.MapScalar):
        return {str(_plain(pair[0])): _plain(pair[1]) for pair in value.values}
    if isinstance(value, pa.ListScalar):
        return [_plain(each) for each in value.values]
    if isinstance(value, pa.DictionaryScalar | pa.ExtensionScalar | pa.UnionScalar):
        return _plain(value.value)
    if isinstance(value, pa.BinaryScalar):
        return BINARY
    if isinstance(value, pa.TimestampScalar):
        return _iso(value.value, value.type.unit)
    return _as_json(value)


def _iso(count: int, unit: str) -> str:
    """A time as ISO 8601 in UTC, which also those without a zone are taken to be in."""
    try:
        return (EPOCH + datetime.timedelta(microseconds=count * 10**6 // UNITS[unit])).isoformat()
    except OverflowError:
        return f"{count} {unit} after 1970"


def _as_json(value: Any) -> Any:
    """Numbers, dates and what is rarer."""
    try:
        plain = value.as_py()
    except (ValueError, OverflowError, ImportError):  # a date beyond Python's, nanoseconds
        return str(value.value)
    if isinstance(plain, decimal.Decimal):
        return int(plain) if plain == plain.to_integral_value() else float(plain)
    if isinstance(plain, datetime.date | datetime.time):
        return plain.isoformat()
    return plain if isinstance(plain, bool | int | float | str) else str(plain)


def _damage(what: str, error: Exception | None = None) -> Broken:
    words = " ".join(str(error or "").split())[:LONGEST_ERROR]
    return Broken(Cut(KIND, f"{what} ({words})" if words else what, FIX_FILE))
