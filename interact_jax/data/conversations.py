"""Conversations from disk, whatever format they come in, and a report of what was lost and why.

    conversations, report = read_conversations("logs/*.jsonl.gz", on_error="skip")
    print("\\n".join(report.lines()))

`records` turns files into JSON records, `formats` turns records into conversations, with the help
of `messages`; what they cannot use they hand on as a `Loss`. Whether a loss stops the program is
decided here and nowhere else.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
from collections.abc import Callable, Collection, Iterable, Iterator

from interact_jax.data.formats import FORMATS
from interact_jax.data.records import (
    FIX_LINE,
    NOTHING_WRONG,
    Loss,
    Record,
    find_files,
    read_records,
)
from interact_jax.places import input_name
from interact_jax.schema import Conversation, InputError

ON_ERROR = ("stop", "skip")
INTERACTION = "at least one user message, an assistant's reply to it, and the user's next message"


@dataclasses.dataclass
class ReadReport:
    """How many came through, how many of each kind were lost, and why.

    `lost` counts by reason: lines ("broken JSON"), messages of trees ("deleted message"),
    conversations ("no follow-up"). `examples` has the first case of each, with file and line.
    `interactions` counts what can be learned from, as the caller of `read_conversations` does.
    """

    files: int = 0
    records: int = 0
    conversations: int = 0
    interactions: int = 0
    lost: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """The summary for a terminal."""
        lines = [
            f"read {self.files:,} file(s), {self.records:,} record(s): {self.conversations:,} "
            f"conversation(s) with {self.interactions:,} interaction(s)"
        ]
        for reason, count in self.lost.most_common():
            lines.append(f"  {count:,} x {reason}, such as {self.examples[reason]}")
        return lines


def count_interactions(conversation: Conversation) -> int:
    """How many interactions belong to a conversation."""
    return sum(1 for _ in conversation.interactions())


def read_conversations(
    path: str,
    format: str = "auto",
    on_error: str = "stop",
    usable: Callable[[Conversation], int] = count_interactions,
    expected: str = INTERACTION,
) -> tuple[list[Conversation], ReadReport]:
    """Read every conversation that there is something to learn from: at least one interaction.

    Who learns from something else gives `usable`, which counts it in a conversation, and says in
    `expected` what a conversation needs, to follow "Expected" in messages to people.

    `path` is a file, a directory, a glob, or "-"; plain or gzip; `format` a name in FORMATS. With
    `on_error="stop"` the first thing that cannot be used raises InputError with file, line and
    remedy; with "skip" it is counted and left out. A conversation that nobody followed up, or a
    deleted message, is no error: it is counted either way.

    Ids are unique over all files. Raises InputError, in both modes, for a path that matches
    nothing and where no interaction (or what `usable` counts) comes through at all.
    """
    _check_choice("data.format", format, FORMATS)
    _check_choice("data.on_error", on_error, ON_ERROR)
    report = ReadReport()
    conversations: list[Conversation] = []
    sources: dict[str, str] = {}  # conversation id -> where it was read
    for file, stem in find_files(path).items():
        report.files += 1
        for item in FORMATS[format].read(_counted(read_records(file, stem), report)):
            if isinstance(item, Conversation):
                loss = _reject(item, sources, usable, expected)
                if loss is None:
                    conversations.append(item)
                    report.interactions += usable(item)
                    continue
            else:
                loss = item
            if loss.remedy and on_error == "stop":
                raise InputError(f"{loss}. {loss.remedy}.")
            report.lost[loss.reason] += 1
            report.examples.setdefault(loss.reason, f"{loss.where}: {loss.detail}")
    report.conversations = len(conversations)
    if not conversations:
        what = "no interaction" if usable is count_interactions else "nothing"
        headline = f"{input_name(path)}: {what} to learn from. Expected {expected}."
        raise InputError("\n".join([headline, *report.lines()]))
    return conversations, report


def _counted(items: Iterable[Record | Loss], report: ReadReport) -> Iterator[Record | Loss]:
    """Count the records as they pass, those too that could not be decoded."""
    for item in items:
        report.records += isinstance(item, Record) or item.remedy == FIX_LINE
        yield item


def _reject(
    conversation: Conversation,
    sources: dict[str, str],
    usable: Callable[[Conversation], int],
    expected: str,
) -> Loss | None:
    """Why a well-formed conversation is not used; None where it is. Notes its id in `sources`."""
    if conversation.id in sources:
        detail = f"conversation {conversation.id!r} is at {sources[conversation.id]} too"
        return Loss("duplicate id", conversation.source, detail)
    sources[conversation.id] = conversation.source
    if usable(conversation):
        return None
    if usable(dataclasses.replace(conversation, owned=None)):
        reason, detail = "only repeats", "every interaction of this path is in an earlier one"
    elif usable is count_interactions:
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
