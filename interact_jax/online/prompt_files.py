"""Prompts from files, in the formats that online runs take, and a report of what was left out.

    asked, report = read_prompt_files("tldr/batch*.json", "auto")

A format is a function from a record to what is asked; its filters are the paper's (arXiv
2603.12273, from its code). `FORMATS` names them.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from interact_jax.data.fitting import is_plain
from interact_jax.data.messages import Fault, check_text, keys_of, require, require_object
from interact_jax.data.records import (
    FIX_LINE,
    NOTHING_WRONG,
    Loss,
    Record,
    find_files,
    read_records,
)
from interact_jax.data.sources import MOST_BYTES
from interact_jax.generation.prompts import EXPECTED, prompt_of
from interact_jax.printable import count
from interact_jax.schema import Conversation, InputError, Message

LONGEST_POST = 1_023  # characters of a text to summarise
LONGEST_HELPSTEER = 2_048  # characters of a prompt, and of the response beside it
TURN_MARK = re.compile(r"<extra_id_\d+>")  # between the turns of HelpSteer2's prompts
SUMMARISE = (
    "Summarise the text that the user sends in one or two sentences. Begin your answer with "
    '"TL;DR:".'
)
MORE_THAN_TEXT = "more than a chat"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a record asks for. `system`: the format's own system message; None = it has none.
    `key`: records of one key are the same prompt; "" = nothing is compared. `notes`: what was
    mended or not used."""

    messages: tuple[Message, ...]
    where: str
    system: str | None = None
    key: str = ""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass
class Report:
    """What was read; what was dropped, and why; what was changed. `examples` has the first case of
    each reason."""

    files: int = 0
    records: int = 0
    formats: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    changed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)

    def drop(self, loss: Loss) -> None:
        self.dropped[loss.reason] += loss.times
        self.examples.setdefault(loss.reason, f"{loss.where}: {loss.detail}")

    def change(self, reason: str, where: str) -> None:
        self.changed[reason] += 1
        self.examples.setdefault(reason, where)

    def lines(self, prompts: int) -> list[str]:
        """The summary for a terminal; `prompts` are left."""
        formats = ", ".join(self.formats)
        read = f"{count(self.files, 'file')} ({formats or 'no prompts'})"
        lines = [f"read {read}, {count(self.records, 'record')}: {count(prompts, 'prompt')}"]
        for reason, times in [*self.dropped.most_common(), *self.changed.most_common()]:
            lines.append(f"  {times:,} x {reason}, such as {self.examples[reason]}")
        return lines


# --------------------------------------------------------------------------------------- formats


def plain(record: Record) -> Asked | Loss:
    """`{"prompt": "..."}` or `{"messages": [...]}`, of several turns if it likes. Raises Fault."""
    prompt = prompt_of(record)
    turns = prompt.messages[prompt.messages[0].role == "system" :]
    if not is_plain(Conversation("", turns, tools=prompt.tools)) or turns[-1].role != "user":
        detail = "tools, reasoning, or no user at its beginning or end, which users cannot go on"
        return Loss(MORE_THAN_TEXT, record.where, detail, NOTHING_WRONG)
    return Asked(prompt.messages, record.where, notes=prompt.notes)


def tldr(record: Record) -> Asked | Loss:
    """openai/summarize_from_feedback: a post, or an article, to be summarised. Raises Fault.

    Comparisons of several summaries repeat it: texts are the same if they differ in case and white
    space only.
    """
    info = require(require_object(record.value), "info", dict)
    if not {"post", "article"} & set(info):
        raise Fault("missing key", f"'info' has no 'post' and no 'article', found {keys_of(info)}")
    given = [key for key in ("post", "article") if info.get(key)]
    text = _text(info, given[0]) if given else ""
    if not text.strip():
        return Loss("no text", record.where, "post and article are empty", NOTHING_WRONG)
    if len(text) > LONGEST_POST:
        return _too_long(record, given[0], text, LONGEST_POST)
    same = hashlib.sha1(" ".join(text.lower().split()).encode()).hexdigest()
    return Asked((Message("user", text),), record.where, SUMMARISE, same)


def helpsteer2(record: Record) -> Asked | Loss:
    """nvidia/HelpSteer2: a prompt of a single turn, with a response of modest length. Raises Fault.

    The paper's runs on it have an empty system message.
    """
    value = require_object(record.value)
    texts = {key: _text(value, key) for key in ("prompt", "response")}
    prompt = texts["prompt"]
    if not prompt.strip():
        return Loss("no text", record.where, "the prompt is empty", NOTHING_WRONG)
    if mark := TURN_MARK.search(prompt):
        detail = f"{mark.group()} at character {mark.start() + 1}"
        return Loss("several turns", record.where, detail, NOTHING_WRONG)
    for key, text in texts.items():
        if len(text) > LONGEST_HELPSTEER:
            return _too_long(record, key, text, LONGEST_HELPSTEER)
    return Asked((Message("user", prompt),), record.where, "", prompt)


def _text(value: Mapping[str, Any], key: str) -> str:
    return check_text(require(value, key, str), repr(key))


def _too_long(record: Record, key: str, text: str, most: int) -> Loss:
    detail = f"{len(text):,} characters, at most {most:,}"
    return Loss(f"{key} too long", record.where, detail, NOTHING_WRONG)


@dataclasses.dataclass(frozen=True)
class Format:
    """A reader, what it expects, and the sign by which `auto` knows it."""

    read: Callable[[Record], Asked | Loss]
    expected: str
    sign: Callable[[Mapping[str, Any]], bool]


FORMATS = {
    "tldr": Format(
        tldr,
        'expected {"info": {"post": "..."}} as in openai/summarize_from_feedback',
        lambda value: isinstance(value.get("info"), dict),
    ),
    "helpsteer2": Format(
        helpsteer2,
        'expected {"prompt": "...", "response": "..."} as in nvidia/HelpSteer2',
        lambda value: {"prompt", "response", "helpfulness"} <= set(value),
    ),
    "prompts": Format(plain, EXPECTED, lambda value: True),
}
"""In the order in which `auto` tries them on the first record of a file."""


# --------------------------------------------------------------------------------------- reading


def read_prompt_files(
    path: str, format: str = "auto", on_error: str = "stop", max_bytes: int = MOST_BYTES
) -> tuple[list[Asked], Report]:
    """Every prompt of a file, a directory or a glob, in order, and what was left out.

    With `on_error="stop"` the first record that is no prompt raises InputError, with file and line;
    with "skip" it is counted. Raises InputError for a path that matches nothing.
    """
    report, found, first = Report(), list[Asked](), dict[str, str]()
    for file, stem in find_files(path).items():
        report.files += 1
        for item in _read_file(read_records(file, stem, max_bytes), format, report):
            if isinstance(item, Asked) and item.key in first:
                detail = f"it is also at {first[item.key]}"
                item = Loss("the same prompt again", item.where, detail, NOTHING_WRONG)
            if isinstance(item, Asked):
                found.append(item)
                if item.key:
                    first[item.key] = item.where
                for note in item.notes:
                    report.change(note, item.where)
            elif item.remedy and on_error == "stop":
                raise InputError(f"{item}. {item.remedy}.")
            else:
                report.drop(item)
    return found, report


def _read_file(
    items: Iterator[Record | Loss], format: str, report: Report
) -> Iterator[Asked | Loss]:
    name, items = (format, items) if format != "auto" else _recognise(items)
    form = FORMATS[name]
    for item in items:
        report.records += isinstance(item, Record) or item.remedy == FIX_LINE
        if isinstance(item, Loss):
            yield item
            continue
        report.formats[name] += 1
        try:
            yield form.read(item)
        except Fault as fault:
            detail = f"{fault.detail}; {form.expected} (online.format={format})"
            yield Loss(fault.reason, item.where, detail)


def _recognise(items: Iterable[Record | Loss]) -> tuple[str, Iterator[Record | Loss]]:
    """The format of a file's first object, and all of its items."""
    items, before = iter(items), list[Record | Loss]()
    for item in items:
        before.append(item)
        if isinstance(item, Record) and isinstance(item.value, dict):
            value = item.value
            break
    else:
        value = {}
    name = next(name for name, form in FORMATS.items() if form.sign(value))
    return name, itertools.chain(before, items)
