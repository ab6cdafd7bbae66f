"""From a record to its dialogue and on to a Conversation: what the formats have in common."""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from interact_jax.data.mending import Dialogue, mend
from interact_jax.data.messages import Fault, faults_at, require
from interact_jax.data.moderation import moderation_of
from interact_jax.data.records import Loss, Note, Record
from interact_jax.data.turns import Turn, read_turn, read_turns
from interact_jax.schema import Conversation, Preference

SYSTEM_KEYS = ("system", "system_prompt", "system_message")
"""Keys of a system prompt that stands beside the turns."""
Outcome = Conversation | Loss | Note
"""What readers make of records: conversations, losses, and notes on repairs and unused fields."""


def read_dialogue(
    record: Record, key: str, repair: str, known: Collection[str] = (), turns: Any = None
) -> Dialogue:
    """The dialogue under a key, or `turns` in its place. `known` are fields of turns that the
    format uses. Raises Fault."""
    values = require(record.value, key, list) if turns is None else turns
    parsed = [*system_beside(record.value), *read_turns(values, key, known)]
    if len(parsed) > 1 and parsed[0].index < 0 and parsed[0].message == parsed[1].message:
        del parsed[0]  # the record has it twice
    return mend(parsed, record.where, repair)


def system_beside(value: Mapping[str, Any]) -> Iterator[Turn]:
    """The system prompts that stand beside the turns. Raises Fault."""
    for key in SYSTEM_KEYS:
        if isinstance(value.get(key), str | list) and value[key]:
            with faults_at(key):
                turn = read_turn({"role": "system", "content": value[key]}, -1, repr(key))
            if turn.message is not None and turn.message.content.strip():
                yield dataclasses.replace(turn, left_out=(), unused=turn.left_out)


def build_conversation(
    record: Record,
    dialogue: Dialogue,
    identity: str,
    user: str = "",
    preferences: tuple[Preference, ...] | None = None,
    known: Collection[str] = (),
) -> Iterator[Outcome]:
    """The conversation of a record, named after the record where it has no id, and the losses and
    notes on it.

    Scalar values of the record become its meta data: language, toxicity, model, time; and so does
    what `moderation` makes of nested results. Other values are counted as not used, except `known`,
    which the reader has used: its turns stand under one of these.
    """
    yield from dialogue.losses
    yield from dialogue.notes
    turns = (turn for key in known for turn in _list(record.value, key))
    meta, moderation = moderation_of(record.value, turns)
    tools, used = tools_of(record.value), {"id", "user", *SYSTEM_KEYS, *known, *moderation}
    for key, value in record.value.items():
        if key in used or (key == "tools" and tools):
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
        places=dialogue.moved_places,
        restarts=dialogue.restarts,
        tools=tools,
    )


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    """The list under a key, empty where there is none."""
    found = value.get(key)
    return found if isinstance(found, list) else []


def tools_of(value: Mapping[str, Any]) -> tuple[Any, ...]:
    """The tools on offer, as passed to chat templates: from a list of objects, or from such a list
    as JSON text; nothing for anything else."""
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
        raise Fault("wrong type", "'tools' is not text, or nested too deeply") from None
    return tuple(tools)
