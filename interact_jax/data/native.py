"""Conversations in the native format as this package writes them: read back exactly, never mended.

line = json.dumps(to_record(conversation))
conversation = from_record(json.loads(line), "conversations.jsonl:3")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from interact_jax.data.turns import SAMPLED
from interact_jax.schema import ROLES, Conversation, InputError, Message


def to_record(conversation: Conversation) -> dict[str, Any]:
    """The JSON object of a conversation; its `meta` become fields of the record."""
    record: dict[str, Any] = {"id": conversation.id}
    if conversation.user:
        record["user"] = conversation.user
    return (
        record
        | dict(conversation.meta)
        | {"messages": [*map(message_record, conversation.messages)]}
    )


def message_record(message: Message) -> dict[str, Any]:
    """The JSON object of a message, with what a sampler produced, if one did."""
    sampled = {name: getattr(message, name) for name in SAMPLED}
    known = {name: list(values) for name, values in sampled.items() if values is not None}
    return {"role": message.role, "content": message.content, **known}


def from_record(record: Any, where: str) -> Conversation:
    """The conversation that `to_record` made an object of; `where` is its file and line.

    Raises InputError for anything else.
    """
    try:
        meta = {k: v for k, v in record.items() if k not in ("id", "user", "messages")}
        messages = tuple(_message(value) for value in record["messages"])
        return Conversation(str(record["id"]), messages, record.get("user", ""), where, meta)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: not a conversation as a run writes them ({type(error).__name__}: {error})."
        ) from error


def _message(value: Mapping[str, Any]) -> Message:
    role, content = value["role"], value["content"]
    if role not in ROLES or not isinstance(content, str):
        raise ValueError(f"a message of role {role!r}")
    message = Message(role, content)
    if "token_ids" not in value:
        return message
    ids = tuple(int(i) for i in value["token_ids"])
    logps, sampling_logps = (
        tuple(map(float, value[name])) if name in value else None for name in SAMPLED[1:]
    )
    if any(len(given) != len(ids) for given in (logps, sampling_logps) if given is not None):
        raise ValueError("as many log-probabilities as token_ids were expected")
    return dataclasses.replace(message, token_ids=ids, logps=logps, sampling_logps=sampling_logps)
