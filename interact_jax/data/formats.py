"""The formats of conversations: one small function each, from a record to Conversations.

A reader takes the records of one file and yields what it made of them, in order: Conversations,
a Loss for what it could not use, a Note for what it mended. `FORMATS` names the readers. A new
format is one entry and one function here, or in `preferences` and `alternatives` if it is about
pairs of replies, or in `message_trees` if it is about trees. Turns do not depend on the format:
`turns` reads them all.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from interact_jax.data import alternatives
from interact_jax.data.chat_exports import chatgpt, is_chatgpt, is_open_webui, open_webui
from interact_jax.data.columns import Columns
from interact_jax.data.dialogues import Outcome, build_conversation, read_dialogue
from interact_jax.data.message_rows import is_message_row, read_rows
from interact_jax.data.message_trees import oasst_flat, oasst_tree
from interact_jax.data.messages import Fault, Unclean, find_name, keys_of, require_object
from interact_jax.data.moderation import TURN_MARKS
from interact_jax.data.preferences import (
    hh_rlhf,
    is_hh_rlhf,
    is_preference,
    native_preferences,
    preference,
    ultrafeedback,
)
from interact_jax.data.records import FIX_LINE, MEND_LINE, NOTHING_WRONG, Loss, Record
from interact_jax.data.sources import GROUP
from interact_jax.data.turns import ROLE_KEYS, TEXT_KEYS

Reader = Callable[[Iterable[Record | Loss], str], Iterator[Outcome]]
ROWS = "rows"  # the format of tables with a row for every message
SAMPLE = 100  # records that decide the format of a file
MOST_PENDING = 1000  # records and losses that are held back meanwhile, at most


# ------------------------------------------------------------------------- one record, one dialogue


def native(record: Record, repair: str) -> Iterator[Outcome]:
    """Our own format and OpenAI's fine-tuning files: messages, optionally an id, the user, sampled
    ids, and pairs of replies: preferences, and alternatives to messages."""
    dialogue = read_dialogue(record, "messages", repair, alternatives.KEYS)
    identity, user = find_name(record.value, "id"), _user_of(record)
    given, losses = native_preferences(record, dialogue)
    at_turns, told = alternatives.native_alternatives(record, dialogue)
    yield from (*losses, *told)
    pairs = None if given is at_turns is None else (*(given or ()), *(at_turns or ()))
    yield from build_conversation(
        record, dialogue, identity, user, pairs, ("messages", "preferences")
    )


def sharegpt(record: Record, repair: str) -> Iterator[Outcome]:
    """ShareGPT, FastChat, Vicuna: `conversations` of turns with `from` and `value`."""
    dialogue = read_dialogue(record, "conversations", repair, TURN_MARKS)
    identity, user = find_name(record.value, "id"), _user_of(record)
    yield from build_conversation(record, dialogue, identity, user, known=("conversations",))


def _user_of(record: Record) -> str:
    """Who spoke: `user` or, as many logs have it, `user_id`, unless that is no name."""
    user = find_name(record.value, "user")
    if not user and type(record.value.get("user_id")) in (str, int):
        user = find_name(record.value, "user_id")
    return user


def wildchat(record: Record, repair: str) -> Iterator[Outcome]:
    """allenai/WildChat and its larger editions, exported as JSON.

    `conversation_hash` is a hash of the content, the same for the same words; `turn_identifier`
    tells them apart (dataset card of WildChat-1M). The first edition has a `conversation_id`.
    """
    known = ("turn_identifier", *TURN_MARKS)
    dialogue = read_dialogue(record, "conversation", repair, known)
    identity = find_name(record.value, "conversation_hash", "conversation_id", "id")
    first = next(iter(record.value["conversation"]), None)
    turn = find_name(first, "turn_identifier") if isinstance(first, dict) else ""
    if identity and turn:
        identity = f"{identity}.{turn}"
    user = find_name(record.value, "hashed_ip")
    yield from build_conversation(record, dialogue, identity, user, known=("conversation",))


def wildfeedback(record: Record, repair: str) -> Iterator[Outcome]:
    """microsoft/WildFeedback, subset `wildfeedback`: ShareGPT's turns, then a preference pair.

    `chosen` and `rejected` answer the last turn, and no follow-up answers them: they are left out.
    Rows with a `conversation` as in WildChat are read as well.
    """
    parse = sharegpt if "conversations" in record.value else wildchat
    return parse(record, repair)


# ------------------------------------------------------------------------------- choosing a format


def auto(items: Iterable[Record | Loss], repair: str) -> Iterator[Outcome]:
    """Read the whole file in the format that most of its first records look like."""
    items = iter(items)
    pending, votes = _take_sample(items)
    while pending and not votes:
        yield from map(_unknown_format, pending)
        pending, votes = _take_sample(items)
    if not pending:
        return
    most = max(votes.values())
    name = next(name for name, times in votes.items() if times == most)
    pending.reverse()  # so that items are taken from the end
    while pending and (isinstance(pending[-1], Loss) or _format_of(pending[-1]) is None):
        yield _unknown_format(pending.pop())
    yield from FORMATS[name].read(itertools.chain(reversed(pending), items), repair)


def _take_sample(
    items: Iterator[Record | Loss],
) -> tuple[list[Record | Loss], collections.Counter[str]]:
    """The items of the sample, and how many records look like each format; formats with one reader
    are counted as the first of them."""
    pending: list[Record | Loss] = []
    votes: collections.Counter[str] = collections.Counter()
    first_of: dict[Reader, str] = {}
    for item in items:
        pending.append(item)
        if isinstance(item, Record) and (name := _format_of(item)):
            votes[first_of.setdefault(FORMATS[name].read, name)] += 1
        if votes.total() == SAMPLE or len(pending) == MOST_PENDING:
            break
    return pending, votes


def _format_of(record: Record) -> str | None:
    return recognise(record.value) if isinstance(record.value, dict) else None


def _unknown_format(item: Record | Loss) -> Loss:
    """The loss of an item that is read before any record looks like a format."""
    if isinstance(item, Loss):
        return item
    value = item.value
    if not isinstance(value, dict):
        detail = f"found {reprlib.repr(value)}"
        if isinstance(value, list) and value and all(map(_is_message, value)):
            detail += '; a list of messages is a record as {"messages": [...]}'
        return Loss("not an object", item.where, detail)
    if _is_message(value):
        detail = (
            f"it is a single message, with the keys {keys_of(value)}; a record is a whole "
            f"conversation, {FORMATS['openai'].shape}. {GROUP}"
        )
        return Loss("unknown format", item.where, detail)
    known = "; ".join(f"{name} {form.shape}" for name, form in FORMATS.items() if form.sign)
    detail = f"found the keys {keys_of(value)}. Known formats: {known}"
    return Loss("unknown format", item.where, detail)


def _is_message(value: Any) -> bool:
    """Whether a value looks like a turn by itself."""
    return (
        isinstance(value, dict)
        and any(key in value for key in ROLE_KEYS)
        and any(key in value for key in TEXT_KEYS)
    )


def recognise(value: Mapping[str, Any]) -> str | None:
    """The name of the first format, in the order of FORMATS, that a record looks like."""
    for name, form in FORMATS.items():
        if form.sign and form.sign(value):
            return name
    return None


def _reader_of(parse: Callable[[Record, str], Iterable[Outcome]]) -> Reader:
    """The reader of a format in which every record is independent of the others."""

    def read(items: Iterable[Record | Loss], repair: str) -> Iterator[Outcome]:
        for item in items:
            if isinstance(item, Loss):
                yield item
                continue
            try:
                require_object(item.value)
                yield from parse(item, repair)
            except Unclean as fault:
                remedy = MEND_LINE if repair == "stop" else NOTHING_WRONG
                yield Loss(fault.reason, item.where, fault.detail, remedy)
            except Fault as fault:
                yield _misfit(fault, item, parse.__name__)

    return read


def _read_oasst_flat(items: Iterable[Record | Loss], repair: str) -> Iterator[Outcome]:
    return oasst_flat(items, repair, lambda fault, item: _misfit(fault, item, "oasst_flat"))


def rows_with(columns: Columns) -> Reader:
    """The reader of rows that are a message each, with these columns."""

    def read(items: Iterable[Record | Loss], repair: str) -> Iterator[Outcome]:
        return read_rows(items, repair, columns, lambda fault, item: _misfit(fault, item, ROWS))

    return read


def _misfit(fault: Fault, record: Record, format: str) -> Loss:
    """The loss of a record, which mentions another format if the record looks like that one."""
    detail, value, sign = fault.detail, record.value, FORMATS[format].sign
    if isinstance(value, dict) and sign and not sign(value) and (other := recognise(value)):
        detail = f"{detail}; it is read as {format} but looks like {other}, see data.format"
    return Loss(fault.reason, record.where, detail, FIX_LINE)


@dataclasses.dataclass(frozen=True)
class Format:
    """A reader, the shape of its records (for people), and the sign by which `auto` knows them."""

    read: Reader
    shape: str
    sign: Callable[[Mapping[str, Any]], bool] | None = None


_read_messages = _reader_of(native)
FORMATS = {
    "auto": Format(auto, "as most of the first records of each file look"),
    ROWS: Format(
        rows_with(Columns()),
        '{"session", "role", "text"}, a row for every message',
        is_message_row,
    ),
    "preference": Format(  # before those with `messages`, which some of its rows have as well
        _reader_of(preference),
        '{"prompt", "chosen", "rejected"}, texts or [{"role", "content"}]',
        is_preference,
    ),
    "native": Format(
        _read_messages,
        '{"id", "messages": [{"role", "content"}]}',
        lambda record: "messages" in record and "id" in record,
    ),
    "openai": Format(
        _read_messages,
        '{"messages": [{"role", "content"}]}',
        lambda record: "messages" in record,
    ),
    "aloe": Format(  # before those with `conversations`, of turns
        _reader_of(alternatives.aloe),
        '{"conversations": [{"user", "assistant": {"preferred", "rejected"}, "chosen"}]}',
        alternatives.is_aloe,
    ),
    "wildfeedback": Format(
        _reader_of(wildfeedback),
        '{"conversations": [{"from", "value"}], "chosen", "rejected"}',
        lambda record: "conversations" in record and "chosen" in record,
    ),
    "sharegpt": Format(
        _reader_of(sharegpt),
        '{"conversations": [{"from", "value"}]}',
        lambda record: "conversations" in record,
    ),
    "wildchat": Format(
        _reader_of(wildchat),
        '{"conversation": [{"role", "content"}]}',
        lambda record: "conversation" in record,
    ),
    "hh_rlhf": Format(
        _reader_of(hh_rlhf),
        '{"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ..."}',
        is_hh_rlhf,
    ),
    "ultrafeedback": Format(
        _reader_of(ultrafeedback),
        '{"instruction", "completions": [{"response", "overall_score"}]}',
        lambda record: "instruction" in record and "completions" in record,
    ),
    "chatgpt": Format(
        _reader_of(chatgpt),
        '{"mapping": {id: {"message", "parent", "children"}}}',
        is_chatgpt,
    ),
    "open_webui": Format(
        _reader_of(open_webui),
        '{"chat": {"history": {"messages": {id: {"role", "content", "parentId"}}}}}',
        is_open_webui,
    ),
    "oasst_tree": Format(
        _reader_of(oasst_tree),
        '{"message_tree_id", "prompt": {"role", "text", "replies"}}',
        lambda record: isinstance(record.get("prompt"), dict),
    ),
    "oasst_flat": Format(
        _read_oasst_flat,
        '{"message_id", "parent_id", "role", "text"}',
        lambda record: "text" in record and ("message_id" in record or "user_message_id" in record),
    ),
}
