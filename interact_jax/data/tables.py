"""The rows of a CSV or TSV file as records: a text under the name of every column.

    chat,role,text
    a,user,"Two              {"chat": "a", "role": "user", "text": "Two\\nlines"}
    lines"

A quote that is not closed swallows the rows below it. Such a row is lost by itself: reading goes on
at the line after its first.
"""

from __future__ import annotations

import collections
import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from interact_jax.data.losses import Loss, Record
from interact_jax.data.sources import LONGEST, Source, lines_of
from interact_jax.data.unpacking import FIX_FILE

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PACKED = re.compile(r"\.(gz|zst)$", re.IGNORECASE)
MARK = "\ufeff"  # byte order mark


def delimiter_of(path: str) -> str | None:
    """What separates the cells of a file, by its name; None if it is no table."""
    name = PACKED.sub("", path).lower()
    return next((mark for ending, mark in DELIMITERS.items() if name.endswith(ending)), None)


def read_table(
    source: Source, chunks: Iterable[bytes], stem: str, delimiter: str
) -> Iterator[Record | Loss]:
    """Every row below the first, which names the columns. A line that is repeated from there is
    passed over, as where files were put together."""
    csv.field_size_limit(LONGEST)
    lines = _Lines(chunks)
    rows = _rows(lines, source, csv.reader(lines, delimiter=delimiter, strict=True))
    header = next(rows, None)
    if header is None or isinstance(header, Loss):
        yield from filter(None, [header])
    elif fault := _fault_of_header(header, delimiter):
        yield Loss("bad header", f"{source.name}:{lines.first}", fault, FIX_FILE)
        return
    else:
        yield from _records(header, rows, lines, source, stem)
    if source.cut:
        reason, detail, remedy = source.cut
        yield Loss(reason, f"{source.name}:{max(lines.first - 1, 1)}", detail, remedy)


def _fault_of_header(header: Sequence[str], delimiter: str) -> str:
    """What is wrong with the names of the columns, if anything."""
    if len(header) == 1 and any(mark in header[0] for mark in ";,\t|"):
        return f"one column, {header[0]!r}; cells are expected to be separated by {delimiter!r}"
    twice = [name for name, times in collections.Counter(header).items() if times > 1 and name]
    return f"two columns have the name {twice[0]!r}" if twice else ""


def _records(
    header: Sequence[str],
    rows: Iterable[list[str] | Loss],
    lines: _Lines,
    source: Source,
    stem: str,
) -> Iterator[Record | Loss]:
    columns = tuple(name or f"column {i}" for i, name in enumerate(header, 1))
    for row in rows:
        if isinstance(row, Loss):
            yield row
        elif len(row) == len(columns):
            if row != header:
                where, name = f"{source.name}:{lines.first}", f"{stem}.{lines.first}"
                yield Record(dict(zip(columns, row, strict=True)), where, name, columns)
        else:
            detail = f"{len(row)} cells, but the first row names {len(columns)} columns"
            yield _spoiled("ragged row", f"{detail}: a quote or a comma is amiss", lines, source)


def _rows(lines: _Lines, source: Source, reader: Iterator[list[str]]) -> Iterator[list[str] | Loss]:
    """The cells of every row that has any, and what cannot be told apart into cells."""
    while True:
        lines.begin()
        detail, row = "", list[str]()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            detail = f"a quote is not closed, or not doubled inside of quotes ({error})"
        if source.cut and lines.ended and not (detail and len(lines.taken) > 1):
            continue  # the row in which the file was cut: reported once, with the cut
        if detail:
            yield _spoiled("broken row", detail, lines, source)
        elif lines.flaw:
            reason, detail = lines.flaw
            yield Loss(reason, f"{source.name}:{lines.first}", detail)
        elif any(row):
            row[0] = row[0].removeprefix(MARK)
            yield row


def _spoiled(reason: str, detail: str, lines: _Lines, source: Source) -> Loss:
    """The loss of the first line of the row that was read last; the others are read again."""
    lines.give_back()
    return Loss(reason, f"{source.name}:{lines.first}", detail)


class Line(NamedTuple):
    """A line with its end, and what is wrong with it: reason and detail of a loss."""

    text: str
    flaw: tuple[str, str] | None


_END = b"end"  # told from lines by its identity
_ENDED_BY_RETURN = re.compile(r"[^\r]*\r\n?|[^\r]+")


class _Lines:
    """The lines of a table, with their ends. `taken` are those of a row, `first` is the number of
    the first of them, `flaw` says what is wrong with one, and `ended` whether it is the last."""

    def __init__(self, chunks: Iterable[bytes]):
        self._coming = _decoded(lines_of(chunks))
        self._ahead = collections.deque[Line]()
        self.first, self.taken = 1, list[Line]()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._ahead.popleft() if self._ahead else next(self._coming)
        if not self._ahead and (following := next(self._coming, None)) is not None:
            self._ahead.append(following)
        self.taken.append(line)
        return line.text

    @property
    def ended(self) -> bool:
        return not self._ahead

    @property
    def flaw(self) -> tuple[str, str] | None:
        return next((line.flaw for line in self.taken if line.flaw), None)

    def begin(self) -> None:
        """The next line begins a row."""
        self.first += len(self.taken)
        self.taken.clear()

    def give_back(self) -> None:
        """Let all lines of the row but the first come again: at most once each, for a quote is not
        closed before the next one that stands alone."""
        self._ahead.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _decoded(lines: Iterable[bytes | None]) -> Iterator[Line]:
    """The text of every line, with its end; a carriage return ends one too."""
    for line, following in itertools.pairwise(itertools.chain(lines, [_END])):
        end = "" if following is _END else "\n"
        if line is None:
            yield Line(end, ("line too long", f"it has more than {LONGEST:,} bytes"))
            continue
        text, flaw = _decode(line)
        for piece in _ENDED_BY_RETURN.findall(text + end) or [""]:
            yield Line(piece, flaw)


def _decode(line: bytes) -> tuple[str, tuple[str, str] | None]:
    try:
        return line.decode(), None
    except UnicodeDecodeError as error:
        detail = (
            f"byte 0x{line[error.start]:02x} at byte {error.start + 1} of a line; if all of the "
            "file is in an older encoding, `iconv -f latin1 -t UTF-8` converts it"
        )
        return line.decode(errors="surrogateescape"), ("not UTF-8", detail)
