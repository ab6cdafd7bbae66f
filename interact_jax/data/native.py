"""Conversations in the native format as this package writes them: read back exactly, never mended.

line = json.dumps(to_record(conversation))
conversation = from_record(json.loads(line), "conversations.jsonl:3")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from interact_jax.data.turns import FIELDS, SAMPLED
from interact_jax.schema import ROLES, Conversation, InputError, Message, Preference

SHOWN = (*FIELDS, "name")  # fields of messages that stand beside their text, as readers expect
NAMES = ("id", "user", "messages")
# Keys of what most conversations do not have. Earlier versions wrote meta data of these names
# beside the messages, as scalars: so only lists and objects are read as what is meant here.
LISTS = ("tools", "preferences", "owned", "places", "restarts")
RESERVED = {*NAMES, *LISTS, "meta"}


def to_record(conversation: Conversation) -> dict[str, Any]:
    """The JSON object of a conversation; its `meta` become fields of the record, but for names that
    mean something here: those stand under "meta". `source` is not in it."""
    record: dict[str, Any] = {"id": conversation.id}
    if conversation.user:
        record["user"] = conversation.user
    record |= {key: value for key, value in conversation.meta.items() if key not in RESERVED}
    record["messages"] = [*map(message_record, conversation.messages)]
    if conversation.tools:
        record["tools"] = list(conversation.tools)
    if conversation.preferences is not None:
        record["preferences"] = [*map(_preference_record, conversation.preferences)]
    if conversation.owned is not None:
        record["owned"] = sorted(conversation.owned)
    if conversation.places is not None:
        record["places"] = list(conversation.places)
    if conversation.restarts:
        record["restarts"] = sorted(conversation.restarts)
    if hidden := {k: v for k, v in conversation.meta.items() if k in RESERVED}:
        record["meta"] = hidden
    return record


def message_record(message: Message) -> dict[str, Any]:
    """The JSON object of a message, with what a sampler produced, if one did."""
    record: dict[str, Any] = {"role": message.role, "content": message.content}
    sampled = {name: getattr(message, name) for name in SAMPLED}
    record |= {name: list(values) for name, values in sampled.items() if values is not None}
    if message.weight != 1:
        record["weight"] = message.weight
    record |= {key: message.fields[key] for key in SHOWN if key in message.fields}
    if rest := {key: value for key, value in message.fields.items() if key not in SHOWN}:
        record["fields"] = rest
    return record


def _preference_record(pair: Preference) -> dict[str, Any]:
    sides = {"chosen": message_record(pair.chosen), "rejected": message_record(pair.rejected)}
    return {"index": pair.index, **sides}


def from_record(record: Any, where: str) -> Conversation:
    """The conversation that `to_record` made an object of; `where` is its file and line.

    Raises InputError for anything else.
    """
    try:
        known = {key: record[key] for key in LISTS if isinstance(record.get(key), list)}
        hidden = record.get("meta") if isinstance(record.get("meta"), dict) else None
        used = {*NAMES, *known, *(["meta"] if hidden is not None else ())}
        return Conversation(
            id=str(record["id"]),
            messages=tuple(_message(value) for value in record["messages"]),
            user=record.get("user", ""),
            source=where,
            meta={k: v for k, v in record.items() if k not in used} | (hidden or {}),
            owned=frozenset(map(int, known["owned"])) if "owned" in known else None,
            preferences=(
                tuple(map(_preference, known["preferences"])) if "preferences" in known else None
            ),
            places=tuple(map(int, known["places"])) if "places" in known else None,
            restarts=frozenset(map(int, known.get("restarts", ()))),
            tools=tuple(known.get("tools", ())),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: not a conversation as a run writes them ({type(error).__name__}: {error})."
        ) from error


def _preference(value: Mapping[str, Any]) -> Preference:
    return Preference(int(value["index"]), _message(value["chosen"]), _message(value["rejected"]))


def _message(value: Mapping[str, Any]) -> Message:
    role, content = value["role"], value["content"]
    if role not in ROLES or not isinstance(content, str):
        raise ValueError(f"a message of role {role!r}")
    fields = {key: value[key] for key in SHOWN if key in value} | value.get("fields", {})
    message = Message(role, content, weight=float(value.get("weight", 1)), fields=fields)
    if "token_ids" not in value:
        return message
    ids = tuple(int(i) for i in value["token_ids"])
    logps, sampling_logps = (
        tuple(map(float, value[name])) if name in value else None for name in SAMPLED[1:]
    )
    if any(len(given) != len(ids) for given in (logps, sampling_logps) if given is not None):
        raise ValueError("as many log-probabilities as token_ids were expected")
    return dataclasses.replace(message, token_ids=ids, logps=logps, sampling_logps=sampling_logps)
