"""What comes out of a file: records, and what was lost or mended on the way."""

from __future__ import annotations

import dataclasses
from typing import Any

# What a person can do about a loss; without a remedy nothing is wrong.
FIX_LINE = "Fix the line, or set --config.data.on_error=skip to leave out what it spoils, counted"
MEND_LINE = f"{FIX_LINE}; data.repair=join mends it"
NOTHING_WRONG = ""


@dataclasses.dataclass(frozen=True)
class Record:
    """One JSON value of a file, or one row of a table as such.

    `where` is for people ("logs/chats.jsonl:17"); `name` serves as an id where there
    is none ("chats.17"), unique over the files that were read together. `columns` are those of the
    table, also those in which the row has nothing.
    """

    value: Any
    where: str
    name: str
    columns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Loss:
    """Something that could not be used: a line, a message, a conversation, part of a file."""

    reason: str  # the kind, by which it is counted: "broken JSON"
    where: str
    detail: str
    remedy: str = FIX_LINE
    times: int = 1  # rows that were lost at once

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class Note:
    """Something that was mended, or an unused field: reported, and never an error."""

    reason: str
    where: str
    detail: str
    unused: bool = False
    times: int = 1
