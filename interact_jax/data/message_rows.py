"""Rows that are a message each: those of one session are a conversation, in the order of time.

    chat,created_at,role,text
    a,2024-05-01T10:00:00+02:00,user,Hi
    b,1714550405,user,Hello                          conversations a and b
    a,2024-05-01T08:00:02Z,assistant,Good morning

Rows of a session may stand anywhere. Those of one time, and those without, stay behind the row that
is above them. A row that cannot be read leaves a gap, as a broken turn does in any format.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
import reprlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from interact_jax.data.columns import NEEDED, Columns
from interact_jax.data.dialogues import Outcome, build_conversation, system_beside
from interact_jax.data.losses import MEND_LINE, NOTHING_WRONG, Loss, Note, Record
from interact_jax.data.mending import mend
from interact_jax.data.messages import (
    Fault,
    Unclean,
    as_float,
    check_text,
    faults_at,
    keys_of,
    require_object,
)
from interact_jax.data.turns import NAMES, ROLE_OF, Turn, read_turn

PARENTS = ("parent_id", "parent_message_id", "parentId")  # keys of messages of a tree
WHOLE = ("messages", "conversations")  # keys of whole conversations
SCALARS = (str, int, float)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
SECOND = 10**9  # nanoseconds
MOST_SECONDS = 10**11  # numbers from there on are milliseconds; a thousand times that, microseconds
LONGEST_TIME = 64  # characters
LARGEST_TIME = 10**25
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)
ZONE = re.compile(r"\s*(?:(Z|UTC|GMT)|([+-]\d\d:?\d\d))$", re.IGNORECASE)
TIMES = "ISO 8601 (2024-05-01T10:00:00+02:00; without a zone, UTC) or seconds or ms since 1970"


Misfit = Callable[[Fault, Record], Loss]


def is_message_row(value: Mapping[str, Any]) -> bool:
    """Whether a record looks like a message with the session it belongs to."""
    if any(key in value for key in (*PARENTS, *WHOLE)):
        return False
    found = Columns().among(list(value))
    if not set(NEEDED) <= found.keys():
        return False
    session, role, text = (value[found[field]] for field in NEEDED)
    return type(session) in (str, int) and isinstance(role, str) and isinstance(text, str)


def read_rows(
    items: Iterable[Record | Loss],
    repair: str,
    columns: Columns,
    misfit: Misfit,
) -> Iterator[Outcome]:
    """The conversations, in the order of their first rows, and what is lost. Raises InputError
    where the columns that are needed, or that a file names, are not there."""
    sessions: dict[str, list[_Row]] = {}
    tables: dict[tuple[str, ...], dict[str, str]] = {}
    seen: dict[str, None] = {}  # the keys of records that come without columns
    where = ""
    for item in items:
        if isinstance(item, Loss):
            yield item
            continue
        try:
            value = require_object(item.value)
            keys = item.columns or tuple(value)
            if keys not in tables:
                if item.columns:
                    columns.check(keys, item.where.rpartition(":")[0])
                else:
                    seen, where = {**seen, **dict.fromkeys(keys)}, where or item.where
                tables[keys] = columns.among(keys)
            row = _Row(item, tables[keys])
            sessions.setdefault(row.session(), []).append(row)
        except Fault as fault:
            yield misfit(fault, item)
    if seen and columns.file:
        columns.check(list(seen), where.rpartition(":")[0])
    for name, rows in sessions.items():
        yield from _conversation(name, rows, repair, columns, misfit)


@dataclasses.dataclass(slots=True)
class _Row:
    """A row, and its columns by what they hold."""

    record: Record
    columns: Mapping[str, str]

    def value(self, field: str) -> Any:
        """What the row holds, None for nothing."""
        return self.record.value.get(self.columns.get(field))

    def session(self) -> str:
        """The name of its session. Raises Fault."""
        value, key = self._required("session"), self.columns["session"]
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # as where a table has gaps
        if type(value) not in (str, int) or value == "":
            shown = "empty" if value in (None, "") else reprlib.repr(value)
            detail = f"column {key!r} is {shown}, expected the name of a session"
            raise Fault("no session", detail)
        return check_text(str(value), f"column {key!r}")

    def moment(self) -> int | None:
        """When it was said, in nanoseconds since 1970. Raises Fault."""
        value = self.value("time")
        if value is None or value == "":
            return None
        if (moment := moment_of(value)) is None:
            key, shown = self.columns["time"], reprlib.repr(value)
            raise Fault("bad time", f"column {key!r} is {shown}, expected {TIMES}")
        return moment

    def turn(self, index: int, columns: Columns) -> Turn:
        """Its turn, with a Fault where it cannot be read."""
        role = ""
        try:
            name = self._role(columns)
            role = ROLE_OF[name]
            self.moment()
            return self._message(name, index)
        except Fault as fault:
            return Turn(index, self._label, role, fault=fault)

    @property
    def _label(self) -> str:
        place = self.record.where.rpartition(":")[2]
        return f"line {place}" if place[:1].isdigit() else place

    def _role(self, columns: Columns) -> str:
        value = self._required("role")
        name = columns.role_of(value) if isinstance(value, str | int) else None
        if name is None:
            expected = "; ".join(f"{role} ({names})" for role, names in NAMES.items())
            raise Fault(
                "unknown role",
                f"column {self.columns['role']!r} is {reprlib.repr(value)}, expected {expected}; "
                "what other names mean can be said under [roles] in the file of data.mapping",
            )
        return name

    def _message(self, role: str, index: int) -> Turn:
        value = self._required("text")
        if not isinstance(value, str | list | dict | None):
            detail = f"column {self.columns['text']!r} is {reprlib.repr(value)}, expected a text"
            raise Fault("wrong type", detail)
        with faults_at(f"column {self.columns['text']!r}"):
            return read_turn({"role": role, "content": value}, index, self._label)

    def _required(self, field: str) -> Any:
        """What the row holds; None where its table has nothing there. Raises Fault."""
        key, row = self.columns.get(field), self.record.value
        if key is None or (key not in row and key not in self.record.columns):
            missing = f"column for the {field}" if key is None else repr(key)
            raise Fault("missing key", f"no {missing}, found {keys_of(row)}")
        return row.get(key)


def _conversation(
    name: str, rows: Sequence[_Row], repair: str, columns: Columns, misfit: Misfit
) -> Iterator[Outcome]:
    """The conversation of a session's rows, and what is lost or mended."""
    where, rows = rows[0].record.where, _in_order(rows)
    turns = [row.turn(index, columns) for index, row in enumerate(rows)]
    losses = []
    for turn, row in zip(turns, rows, strict=True):
        if turn.fault and turn.role == "system":
            detail = f"{turn.fault.detail}; every reply of session {name!r} depends on it"
            yield misfit(Fault(turn.fault.reason, detail), row.record)
            return
        if turn.fault:
            losses.append(misfit(turn.fault, row.record))
    meta, notes = _beside(rows, where)
    try:
        dialogue = mend([*system_beside(meta), *turns], where, repair)
        dialogue.losses = losses  # at their rows, not at the first one of the session
        dialogue.notes += notes
        record = Record(meta, where, name)
        yield from build_conversation(record, dialogue, name, _user_of(rows, turns))
    except Unclean as fault:
        remedy = MEND_LINE if repair == "stop" else NOTHING_WRONG
        yield Loss(fault.reason, where, fault.detail, remedy)
    except Fault as fault:
        yield Loss(fault.reason, where, fault.detail)


def _in_order(rows: Sequence[_Row]) -> list[_Row]:
    """By time; a row without one stays behind the row that is above it."""
    last, timed = -math.inf, list[tuple[float, _Row]]()
    for row in rows:
        try:
            moment = row.moment()
        except Fault:
            moment = None
        last = last if moment is None else moment
        timed.append((last, row))
    return [row for _, row in sorted(timed, key=lambda pair: pair[0])]


def _user_of(rows: Sequence[_Row], turns: Sequence[Turn]) -> str:
    """The user of the first message of a user that names one: an agent may have a name there."""
    for row, turn in zip(rows, turns, strict=True):
        value = row.value("user")
        if _role_of(turn) == "user" and type(value) in (str, int) and value != "":
            return check_text(str(value), f"column {row.columns['user']!r}")
    return ""


def _role_of(turn: Turn) -> str:
    return turn.message.role if turn.message else turn.role


def _beside(rows: Sequence[_Row], where: str) -> tuple[dict[str, Any], list[Note]]:
    """What the rows say beside their messages: the mean of the ratings, and what is the same in all
    rows; and notes on the rest."""
    values: dict[str, list[Any]] = {}
    for row in rows:
        used = row.columns.values()
        for key, value in row.record.value.items():
            if key not in used and value is not None and value != "":
                values.setdefault(key, []).append(value)
    meta, notes = dict[str, Any](), list[Note]()
    for key, found in values.items():
        same = all(value == found[0] for value in found) and isinstance(found[0], SCALARS)
        if same and key not in ("id", "user"):
            meta[key] = found[0]
        else:
            reason = f"field {reprlib.repr(key)} not used"
            notes.append(Note(reason, where, "of the rows", True, len(found)))
    ratings = [value for row in rows if (value := row.value("rating")) not in (None, "")]
    numbers = [number for value in ratings if (number := _number(value)) is not None]
    if numbers:
        meta["rating"] = statistics.fmean(numbers)
    if others := len(ratings) - len(numbers):
        notes.append(Note("rating that is no number", where, "of the rows", True, others))
    timeless = sum(row.value("time") in (None, "") for row in rows)
    if timeless and timeless < len(rows):
        detail = "it stays behind the row above it"
        notes.append(Note("row without a time", where, detail, times=timeless))
    return meta, notes


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return as_float(number) if math.isfinite(number) else None


# ----------------------------------------------------------------------------------------- times


def moment_of(value: Any) -> int | None:
    """A time in nanoseconds since 1970, None where it is none.

    2024-05-01T10:00:00+02:00, 2024-05-01 08:00:00 UTC, 2024-05-01       without a zone in UTC
    1714550400, "1714550400.25", 1714550400000                          seconds; large: ms, µs, ns
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str):
        text = value.strip()
        if len(text) > LONGEST_TIME:
            return None
        if not NUMBER.fullmatch(text):
            return _moment_of_date(text)
        value = float(text) if "." in text else int(text)
    if not abs(value) < LARGEST_TIME:
        return None
    size, scale = abs(value), SECOND
    while size >= MOST_SECONDS and scale > 1:
        size, scale = size / 1000, scale // 1000
    return int(value * scale)


def _moment_of_date(text: str) -> int | None:
    if found := ZONE.search(text):
        text = text[: found.start()] + (found[2] or "+00:00")
    try:
        date = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    try:
        return (date - EPOCH) // datetime.timedelta(microseconds=1) * 1000
    except OverflowError:
        return None
