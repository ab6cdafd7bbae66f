"""From a record to its dialogue, and from that to a Conversation: what formats have in common."""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from interact_jax.data.mending import Dialogue, mend
from interact_jax.data.messages import Fault, need, within
from interact_jax.data.records import Loss, Note, Record
from interact_jax.data.turns import Turn, read_turn, read_turns
from interact_jax.schema import Conversation, Preference

SYSTEM_KEYS = ("system", "system_prompt", "system_message")
"""Where a system prompt stands beside the turns."""
Found = Conversation | Loss | Note
"""What comes of records: conversations, what was lost of them, what was mended and not used."""


def read_dialogue(
    record: Record, key: str, repair: str, known: Collection[str] = (), turns: Any = None
) -> Dialogue:
    """The dialogue under a key, or `turns` in place of it. `known` are fields of its turns that the
    format uses. Raises Fault."""
    said = need(record.value, key, list) if turns is None else turns
    read = [*_system_beside(record.value), *read_turns(said, key, known)]
    if len(read) > 1 and read[0].index < 0 and read[0].message == read[1].message:
        del read[0]  # it stands in both places
    return mend(read, record.where, repair)


def _system_beside(value: Mapping[str, Any]) -> Iterator[Turn]:
    for key in SYSTEM_KEYS:
        if isinstance(value.get(key), str | list) and value[key]:
            with within(key):
                turn = read_turn({"role": "system", "content": value[key]}, -1, repr(key))
            if turn.message is not None and turn.message.content.strip():
                yield dataclasses.replace(turn, left_out=(), unused=turn.left_out)


def found(
    record: Record,
    dialogue: Dialogue,
    identity: str,
    user: str = "",
    preferences: tuple[Preference, ...] | None = None,
    known: Collection[str] = (),
) -> Iterator[Found]:
    """The conversation of a record, under the record's own name where it brings no id, and what
    there is to be told of it.

    What the record says in single values goes along: language, toxicity, model, time. What is not
    single is counted as not used, but for `known`; those are what the reader has read.
    """
    yield from dialogue.losses
    yield from dialogue.notes
    tools, read = tools_of(record.value), ("id", "user", *SYSTEM_KEYS, *known)
    meta = {}
    for key, value in record.value.items():
        if key in read or (key == "tools" and tools):
            continue
        if isinstance(value, str | int | float):
            meta[key] = value
        elif value:
            reason = f"field {reprlib.repr(key)} not used"
            yield Note(reason, record.where, "of the record", unused=True)
    yield Conversation(
        identity or record.name,
        dialogue.messages,
        user,
        record.where,
        meta,
        preferences=preferences,
        places=dialogue.moved,
        restarts=dialogue.restarts,
        tools=tools,
    )


def tools_of(value: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the assistant could call, as chat templates are told it: a list of objects, or that as
    JSON in a text; nothing where it is anything else."""
    tools = value.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return ()
    try:
        json.dumps(tools, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Fault("wrong type", "'tools' holds what is no text, or is nested too deep") from None
    return tuple(tools)
