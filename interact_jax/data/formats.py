"""The formats that conversations come in: one small function each, from a record to Conversations.

A reader takes the records of one file and yields what it made of them, in order: Conversations,
and a Loss for what it could not use. `FORMATS` names the readers; a new format is one function
here, or in `preferences` if it is about pairs of replies, and one entry there.
"""

from __future__ import annotations

import dataclasses
import itertools
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from interact_jax.data.messages import (
    NATIVE,
    Fault,
    an_object,
    conversation_of,
    find_name,
    keys_of,
    need,
    need_name,
    read_message,
    read_messages,
    read_openai,
)
from interact_jax.data.preferences import (
    hh_rlhf,
    is_hh_rlhf,
    is_preference,
    native_preferences,
    preference,
    ultrafeedback,
)
from interact_jax.data.records import NOTHING_WRONG, Loss, Record
from interact_jax.schema import Conversation, Message

Reader = Callable[[Iterable[Record | Loss]], Iterator[Conversation | Loss]]

# What formats call the roles; NATIVE and OPENAI are in `messages`.
OASST = {"prompter": "user", "assistant": "assistant"}
SHAREGPT = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "assistant"),
    "system": "system",
}


# ------------------------------------------------------------------------- one record, one dialogue


def native(record: Record) -> Iterator[Conversation | Loss]:
    """Ours: an id, messages, optionally the user, what a sampler produced, and preferences."""
    identity, turns = need_name(record.value, "id"), need(record.value, "messages", list)
    messages = read_messages(turns, "messages", "role", "content", NATIVE)
    user = find_name(record.value, "user")
    preferences, losses = native_preferences(record, messages)
    yield from losses
    yield conversation_of(record, messages, identity, user, preferences)


def openai(record: Record) -> Iterator[Conversation]:
    """OpenAI's fine-tuning files: no id is needed, and content may be a list of texts."""
    messages = read_openai(need(record.value, "messages", list), "messages")
    identity, user = find_name(record.value, "id"), find_name(record.value, "user")
    yield conversation_of(record, messages, identity, user)


def sharegpt(record: Record) -> Iterator[Conversation]:
    """ShareGPT, FastChat, Vicuna: conversations of from and value."""
    turns = need(record.value, "conversations", list)
    messages = read_messages(turns, "conversations", "from", "value", SHAREGPT)
    yield conversation_of(record, messages, find_name(record.value, "id"))


def wildchat(record: Record) -> Iterator[Conversation]:
    """allenai/WildChat and its larger editions, exported as JSON.

    `conversation_hash` is a hash of the content, the same for the same words; `turn_identifier`
    tells them apart (dataset card of WildChat-1M). The first edition has a `conversation_id`.
    """
    turns = need(record.value, "conversation", list)
    messages = read_messages(turns, "conversation", "role", "content", NATIVE)
    identity = find_name(record.value, "conversation_hash", "conversation_id", "id")
    turn = find_name(turns[0], "turn_identifier") if turns else ""
    if identity and turn:
        identity = f"{identity}.{turn}"
    yield conversation_of(record, messages, identity, find_name(record.value, "hashed_ip"))


def wildfeedback(record: Record) -> Iterator[Conversation]:
    """microsoft/WildFeedback, subset `wildfeedback`: ShareGPT's turns, then a preference pair.

    `chosen` and `rejected` answer the last turn, and no user answers them: they are left out. Also
    reads rows that have a `conversation` as WildChat has it.
    """
    return sharegpt(record) if "conversations" in record.value else wildchat(record)


# ---------------------------------------------------------------------------------- message trees


def oasst_tree(record: Record) -> Iterator[Conversation | Loss]:
    """OpenAssistant's trees: a `prompt` with nested `replies`."""
    prompt = need(record.value, "prompt", dict)
    name = find_name(record.value, "message_tree_id") or record.name
    root = dataclasses.replace(record, value=prompt)

    def replies_of(node: Record) -> list[Record]:
        replies = node.value.get("replies") or []
        if not isinstance(replies, list):
            raise Fault("wrong type", f"'replies' is {reprlib.repr(replies)}, expected a list")
        return [dataclasses.replace(record, value=reply) for reply in replies]

    yield from _paths(name, root, replies_of, prompt | record.value)


def oasst_flat(items: Iterable[Record | Loss]) -> Iterator[Conversation | Loss]:
    """OpenAssistant's messages, one a record, each with the id of its parent."""
    nodes: dict[str, Record] = {}
    parents: dict[str, str] = {}  # "" where there is none: a first message
    replies: dict[str, list[str]] = {"": []}  # in file order
    for item in items:
        if isinstance(item, Loss):
            yield item
            continue
        try:
            message = an_object(item.value)
            key = "user_message_id" if "user_message_id" in message else "message_id"
            name = need_name(message, key)
            parent = find_name(message, "parent_id", "parent_message_id")
            if name in nodes:
                raise Fault("duplicate id", f"message {name!r} is at {nodes[name].where} too")
        except Fault as fault:
            yield _misfit(fault, item, "oasst_flat")
        else:
            nodes[name] = dataclasses.replace(item, name=name)
            parents[name] = parent
            replies.setdefault(parent, []).append(name)

    def replies_of(node: Record) -> list[Record]:
        return [nodes[reply] for reply in replies.get(node.name, ())]

    for name in replies[""]:
        yield from _paths(name, nodes[name], replies_of, nodes[name].value)

    waiting, rooted = list(replies[""]), set(replies[""])
    while waiting:
        below = replies.get(waiting.pop(), ())
        rooted.update(below)
        waiting += below
    for name, node in nodes.items():
        if name not in rooted:
            parent = parents[name]
            what = "leads to no first message" if parent in nodes else "is not in the file"
            yield Loss("parent not found", node.where, f"parent {parent!r} of {name!r} {what}")


@dataclasses.dataclass(eq=False)
class _Turn:
    """A message in its place in a tree."""

    node: Record
    message: Message
    told: bool = False  # stands in a path that was handed out


def _paths(
    name: str,
    root: Record,
    replies_of: Callable[[Record], list[Record]],
    about: Mapping[str, Any],
) -> Iterator[Conversation | Loss]:
    """Every path from the root to a leaf, depth first in file order, as name.0, name.1, ...

    An interaction belongs to the first path that holds it:

        u1 - y1 - u2 - y2      name.0 owns y1, followed by u2
               \\- u3 - y3      name.1 owns y1, followed by u3
                    \\- y4      name.2 owns nothing

    A message that is deleted or cannot be used falls with all that hangs below it.
    """
    meta = {key: about[key] for key in ("message_tree_id", "tree_state", "lang") if key in about}
    leaves = 0
    found, losses = _usable([root], None)
    yield from losses
    waiting: list[tuple[_Turn, ...]] = [(turn,) for turn in found]
    while waiting:
        path = waiting.pop()
        last = path[-1]
        try:
            found, losses = _usable(replies_of(last.node), last.message)
        except Fault as fault:
            found, losses = [], [Loss(fault.reason, last.node.where, fault.detail)]
        yield from losses
        for turn in reversed(found):
            joined = turn.message.role == last.message.role  # and so takes the place of the last
            waiting.append((*(path[:-1] if joined else path), turn))
        if not found:
            messages = tuple(turn.message for turn in path)
            owned = frozenset(y for y, o in enumerate(path[1:]) if not o.told)
            for turn in path:
                turn.told = True
            where = last.node.where
            yield Conversation(f"{name}.{leaves}", messages, "", where, meta, owned)
            leaves += 1


def _usable(nodes: list[Record], before: Message | None) -> tuple[list[_Turn], list[Loss]]:
    """The nodes that can follow a message, as turns; and what became of the others.

    In trees, and only there, a speaker who replies to himself has cut one turn in two, as in
    OpenAssistant's seed data: the parts are joined, and counted.
    """
    turns, losses = [], []
    for node in nodes:
        label = "message"
        try:
            value = an_object(node.value)
            label = f"message {find_name(value, 'message_id', 'user_message_id')!r}"
            if value.get("deleted"):
                detail = f"{label} is marked as deleted, and falls with all replies below it"
                losses.append(Loss("deleted message", node.where, detail, NOTHING_WRONG))
                continue
            message = read_message(value, "role", "text", OASST)
        except Fault as fault:
            losses.append(Loss(fault.reason, node.where, f"{label}: {fault.detail}"))
            continue
        if before and before.role == message.role:
            detail = f"{label} goes on where its parent, of the same role, ends"
            losses.append(Loss("joined to its parent", node.where, detail, NOTHING_WRONG))
            message = Message(message.role, f"{before.content}\n{message.content}")
        turns.append(_Turn(node, message))
    return turns, losses


# ------------------------------------------------------------------------------- choosing a format


def auto(items: Iterable[Record | Loss]) -> Iterator[Conversation | Loss]:
    """The format that the first record of the file looks like, for the whole file."""
    items = iter(items)
    for item in items:
        if isinstance(item, Loss):
            yield item
        elif not isinstance(item.value, dict):
            yield Loss("not an object", item.where, f"found {reprlib.repr(item.value)}")
        elif name := recognise(item.value):
            yield from FORMATS[name].read(itertools.chain([item], items))
        else:
            known = "; ".join(f"{name} {form.shape}" for name, form in FORMATS.items() if form.sign)
            detail = f"found the keys {keys_of(item.value)}. Known formats: {known}"
            yield Loss("unknown format", item.where, detail)


def recognise(value: Mapping[str, Any]) -> str | None:
    """The name of the first format, in the order of FORMATS, that a record looks like."""
    for name, form in FORMATS.items():
        if form.sign and form.sign(value):
            return name
    return None


def _each(parse: Callable[[Record], Iterable[Conversation | Loss]]) -> Reader:
    """The reader of a format in which every record stands for itself."""

    def read(items: Iterable[Record | Loss]) -> Iterator[Conversation | Loss]:
        for item in items:
            if isinstance(item, Loss):
                yield item
                continue
            try:
                an_object(item.value)
                yield from parse(item)
            except Fault as fault:
                yield _misfit(fault, item, parse.__name__)

    return read


def _misfit(fault: Fault, record: Record, format: str) -> Loss:
    """The loss of a record; where it looks like another format than the one named, that is said."""
    detail, value, sign = fault.detail, record.value, FORMATS[format].sign
    if isinstance(value, dict) and sign and not sign(value) and (other := recognise(value)):
        detail = f"{detail}; it is read as {format} but looks like {other}, see data.format"
    return Loss(fault.reason, record.where, detail)


@dataclasses.dataclass(frozen=True)
class Format:
    """A reader, how its records look (for people), and the sign by which `auto` knows them."""

    read: Reader
    shape: str
    sign: Callable[[Mapping[str, Any]], bool] | None = None


FORMATS = {
    "auto": Format(auto, "as the first record of each file looks"),
    "preference": Format(  # before those with `messages`: some of its rows have them too
        _each(preference),
        '{"prompt", "chosen", "rejected"}, texts or [{"role", "content"}]',
        is_preference,
    ),
    "native": Format(
        _each(native),
        '{"id", "messages": [{"role", "content"}]}',
        lambda record: "messages" in record and "id" in record,
    ),
    "openai": Format(
        _each(openai),
        '{"messages": [{"role", "content"}]}',
        lambda record: "messages" in record,
    ),
    "wildfeedback": Format(
        _each(wildfeedback),
        '{"conversations": [{"from", "value"}], "chosen", "rejected"}',
        lambda record: "conversations" in record and "chosen" in record,
    ),
    "sharegpt": Format(
        _each(sharegpt),
        '{"conversations": [{"from", "value"}]}',
        lambda record: "conversations" in record,
    ),
    "wildchat": Format(
        _each(wildchat),
        '{"conversation": [{"role", "content"}]}',
        lambda record: "conversation" in record,
    ),
    "hh_rlhf": Format(
        _each(hh_rlhf),
        '{"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ..."}',
        is_hh_rlhf,
    ),
    "ultrafeedback": Format(
        _each(ultrafeedback),
        '{"instruction", "completions": [{"response", "overall_score"}]}',
        lambda record: "instruction" in record and "completions" in record,
    ),
    "oasst_tree": Format(
        _each(oasst_tree),
        '{"message_tree_id", "prompt": {"role", "text", "replies"}}',
        lambda record: isinstance(record.get("prompt"), dict),
    ),
    "oasst_flat": Format(
        oasst_flat,
        '{"message_id", "parent_id", "role", "text"}',
        lambda record: "text" in record and ("message_id" in record or "user_message_id" in record),
    ),
}
