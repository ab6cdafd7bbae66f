"""Conversations from disk, in any of the formats, and a report of what was lost and why.

    conversations, report = read_conversations("logs/*.jsonl.gz", on_error="skip")
    print("\\n".join(report.lines()))

`records` turns files into JSON records; `formats` turns records into conversations with the help of
`messages`; what they cannot use they pass on as a `Loss`. Only this module decides whether a loss
stops the program.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import itertools
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator

from interact_jax.data.columns import load_columns
from interact_jax.data.copies import COPIES, digest_of
from interact_jax.data.dialogues import Outcome
from interact_jax.data.formats import FORMATS, ROWS, Reader, rows_with
from interact_jax.data.mending import LEFT_OUT, REPAIR
from interact_jax.data.records import (
    FIX_LINE,
    MEND_LINE,
    NOTHING_WRONG,
    Loss,
    Note,
    Record,
    find_files,
    read_records,
)
from interact_jax.data.sources import MOST_BYTES, Span
from interact_jax.places import input_name
from interact_jax.printable import count
from interact_jax.schema import Conversation, InputError

ON_ERROR = ("stop", "skip")
INTERACTION = "at least one user message, an assistant's reply to it, and the user's next message"


FIELDS_SHOWN = 12  # unused fields in a summary


@dataclasses.dataclass
class ReadReport:
    """How much was read; what was lost, and why; what was mended; which conversations occur again
    (`copies`); which fields were not used, and which `data.weigh` alone can use (`meta`).

    `lost` counts by reason: lines ("broken JSON"), messages ("unknown role"), conversations ("no
    follow-up"). `examples` has the first case of each reason, with file and line. `interactions`
    counts the units to learn from, as the caller of `read_conversations` defines them.
    """

    files: int = 0
    records: int = 0
    conversations: int = 0
    interactions: int = 0
    lost: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    mended: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    copies: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    unused: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    meta: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)

    def note(self, counter: collections.Counter[str], item: Loss | Note) -> None:
        """Count a loss or a note, and keep the first of its kind as an example."""
        counter[item.reason] += item.times
        self.examples.setdefault(item.reason, f"{item.where}: {item.detail}")

    def lines(self) -> list[str]:
        """The summary for a terminal."""
        files = f"read {count(self.files, 'file')}, {count(self.records, 'record')}"
        lines = [
            f"{files if self.files else 'prepared'}: {count(self.conversations, 'conversation')}, "
            f"{count(self.interactions, 'interaction')}"
        ]
        shown = self.unused.most_common(FIELDS_SHOWN)
        losses = [*self.lost.most_common(), *self.mended.most_common(), *self.copies.most_common()]
        for reason, times in [*losses, *shown]:
            lines.append(f"  {times:,} x {reason}, such as {self.examples[reason]}")
        if len(self.unused) > FIELDS_SHOWN:
            lines.append(f"  and {len(self.unused) - FIELDS_SHOWN:,} more fields not used")
        if self.meta:
            most = self.meta.most_common(FIELDS_SHOWN)
            fields = ", ".join(f"{reprlib.repr(name)} ({times:,})" for name, times in most)
            more = f" and {len(self.meta) - len(most):,} more" if len(self.meta) > len(most) else ""
            lines.append(f"  fields that nothing but data.weigh uses: {fields}{more}")
        return lines


def count_interactions(conversation: Conversation) -> int:
    """The number of interactions of a conversation."""
    return sum(1 for _ in conversation.replies())


def read_conversations(
    path: str,
    format: str = "auto",
    on_error: str = "stop",
    count_units: Callable[[Conversation], int] = count_interactions,
    expected: str = INTERACTION,
    repair: str = "join",
    max_bytes: int = MOST_BYTES,
    copies: str = "keep",
    mapping: str = "",
) -> tuple[list[Conversation], ReadReport]:
    """Read every conversation with something to learn from: at least one interaction.

    To learn from something else, pass `count_units`, which counts it in a conversation, and in
    `expected` what a conversation needs, to follow "Expected" in messages.

    `path` is a file, a directory, a glob, or "-"; `format` a name in FORMATS. `mapping` is a file
    that names the columns of rows that are a message each (see `columns`). With
    `on_error="stop"`, the first thing that cannot be read raises InputError with file, line and
    remedy; with "skip", it and what contains it are left out and counted. Input that can be read
    but is not clean is mended as `repair` says (`mending.REPAIR`) and counted. A conversation
    without a follow-up and a deleted message are not errors: they are counted either way. So are
    conversations that occur again, which are read again or left out, as `copies` says. At most
    `max_bytes` of a file are read, after unpacking.

    Ids are unique over all files: a number is appended to an id that is taken. Raises InputError,
    whatever `on_error` is, for a path that matches nothing, and where there is no interaction (or
    nothing that `count_units` counts) at all.
    """
    _check_choice("data.format", format, FORMATS)
    _check_choice("data.on_error", on_error, ON_ERROR)
    _check_choice("data.repair", repair, REPAIR)
    _check_choice("data.copies", copies, COPIES)
    read, format = _reader_of(format, mapping)
    report = ReadReport()
    collector = _Collector(report, count_units, expected, on_error, repair, copies)
    for records in _records_together(path, format, max_bytes, report):
        for item in read(records, repair):
            collector.take(item)
    report.conversations = len(collector.conversations)
    if not collector.conversations:
        missing = "no interaction" if count_units is count_interactions else "nothing"
        headline = f"{input_name(path)}: {missing} to learn from. Expected {expected}."
        raise InputError("\n".join([headline, *report.lines()]))
    return collector.conversations, report


def read_outcomes(
    file: str,
    stem: str,
    report: ReadReport,
    format: str = "auto",
    repair: str = "join",
    max_bytes: int = MOST_BYTES,
    span: Span | None = None,
    mapping: str = "",
) -> Iterator[Outcome]:
    """What one file, or a `span` of it, holds, in order: Conversations, whether there is something
    to learn from in them or not, Losses and Notes. Nothing is kept, and nothing raised; `report`
    counts the records."""
    read, _ = _reader_of(format, mapping)
    records = _count_records(read_records(file, stem, max_bytes, span), report)
    return read(records, repair)


def _reader_of(format: str, mapping: str) -> tuple[Reader, str]:
    """The reader of a format, and the format. Raises InputError for a mapping that does not go with
    it."""
    if mapping and format not in ("auto", ROWS):
        raise InputError(
            f"data.mapping={mapping} names columns of rows, but data.format is {format!r}: set one "
            "of them only."
        )
    if mapping or format == ROWS:
        return rows_with(load_columns(mapping)), ROWS
    return FORMATS[format].read, format


def _records_together(
    path: str, format: str, max_bytes: int, report: ReadReport
) -> Iterable[Iterator[Record | Loss]]:
    """The records that a reader is given at once: those of a file, or of all files where a session
    may go on in the next."""

    def records_of(file: str, stem: str) -> Iterator[Record | Loss]:
        report.files += 1
        yield from _count_records(read_records(file, stem, max_bytes), report)

    each = itertools.starmap(records_of, find_files(path).items())
    return [itertools.chain.from_iterable(each)] if format == ROWS else each


def _count_records(items: Iterable[Record | Loss], report: ReadReport) -> Iterator[Record | Loss]:
    """Count the records as they pass, including those that could not be decoded."""
    for item in items:
        report.records += isinstance(item, Record) or item.remedy == FIX_LINE
        yield item


@dataclasses.dataclass
class _Collector:
    """Collects the conversations, and reports the rest."""

    report: ReadReport
    count_units: Callable[[Conversation], int]
    expected: str
    on_error: str
    repair: str
    copies: str
    conversations: list[Conversation] = dataclasses.field(default_factory=list)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)  # where each id was read
    times: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    firsts: dict[bytes, str] = dataclasses.field(default_factory=dict)  # where each was read first
    last_loss: str = ""  # where something was lost last

    def take(self, item: Outcome) -> None:
        """Keep what can be used and count the rest. Raises InputError for the first error."""
        if isinstance(item, Note):
            self.report.note(self.report.unused if item.unused else self.report.mended, item)
        elif isinstance(item, Loss):
            self._lose(item)
        else:
            self._keep(item)

    def _lose(self, loss: Loss) -> None:
        if loss.remedy and self.on_error == "stop":
            raise InputError(f"{loss}. {loss.remedy}.")
        if loss.remedy:
            self.last_loss = loss.where
        self.report.note(self.report.lost, loss)

    def _keep(self, conversation: Conversation) -> None:
        units, duplicate = self.count_units(conversation), conversation.id in self.sources
        if duplicate and self.repair != "join":
            self._refuse_id(conversation)
            return
        if units and self._is_copy(conversation) and self.copies == "drop":
            return
        if duplicate:
            self.take(Note("duplicate id", conversation.source, self._other(conversation)))
            conversation = dataclasses.replace(conversation, id=self._free_id(conversation.id))
        self.sources[conversation.id] = conversation.source
        if units:
            self.conversations.append(conversation)
            self.report.meta.update(conversation.meta.keys())
            self.report.interactions += units
        elif conversation.source != self.last_loss or conversation.owned is not None:
            # Otherwise the reason has been reported already; but paths of a tree have one place.
            self._lose(_unused_loss(conversation, self.count_units, self.expected))

    def _refuse_id(self, conversation: Conversation) -> None:
        detail = self._other(conversation)
        if self.repair == "stop":
            self._lose(Loss("duplicate id", conversation.source, detail, MEND_LINE))
        else:
            self.take(Note(f"{LEFT_OUT}duplicate id", conversation.source, detail))

    def _other(self, conversation: Conversation) -> str:
        """In words, where its id has been read before."""
        return f"conversation {conversation.id!r} is also at {self.sources[conversation.id]}"

    def _is_copy(self, conversation: Conversation) -> bool:
        """Whether it has been read before; counted if so."""
        source, digest = conversation.source, digest_of(conversation)
        if (first := self.firsts.get(digest)) is None:
            self.firsts[digest] = source
            return False
        detail = f"conversation {conversation.id!r} has the messages of that at {first}"
        if self.copies == "keep":
            detail += "; data.copies=drop reads it once"
        reason = f"{LEFT_OUT if self.copies == 'drop' else ''}copy of an earlier conversation"
        self.report.note(self.report.copies, Note(reason, source, detail))
        return True

    def _free_id(self, taken: str) -> str:
        """An unused id: `taken` with the first free number after it."""
        while True:
            self.times[taken] += 1
            if (name := f"{taken}~{self.times[taken] + 1}") not in self.sources:
                return name


def _unused_loss(
    conversation: Conversation, count_units: Callable[[Conversation], int], expected: str
) -> Loss:
    """The loss of a well-formed conversation, with the reason why it is not used."""
    whole = dataclasses.replace(conversation, owned=None)
    if next(whole.replies(), None) if count_units is count_interactions else count_units(whole):
        reason, detail = "only repeats", "every interaction of this path is in an earlier one"
    elif count_units is count_interactions:
        reason, detail = "no follow-up", "no reply that stands between two user messages"
        if conversation.preferences:
            detail += "; but a pair of replies, of which objective.name=dpo learns"
    else:
        reason, detail = "nothing to learn from", f"expected {expected}"
    detail = f"conversation {conversation.id!r}: {detail}"
    return Loss(reason, conversation.source, detail, NOTHING_WRONG)


def _check_choice(setting: str, given: str, choices: Collection[str]) -> None:
    if given not in choices:
        near = difflib.get_close_matches(given, choices, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{setting} is {given!r}, expected one of {', '.join(choices)}.{hint}")
