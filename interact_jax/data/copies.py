"""Copies of a conversation: the same messages, whatever its id and its user."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from interact_jax.schema import Conversation, Message

COPIES = ("keep", "drop")


def digest_of_messages(messages: Iterable[Message]) -> bytes:
    """A digest of roles, texts, and whatever else of messages a chat template may show."""
    return _digest([_facts(message) for message in messages])


def digest_of(conversation: Conversation) -> bytes:
    """A digest of all that is learned of a conversation: messages, tools and pairs of replies."""
    pairs = [
        [pair.index, _facts(pair.chosen), _facts(pair.rejected)]
        for pair in conversation.preferences or ()
    ]
    rest = [sorted(conversation.restarts), list(conversation.tools), pairs]
    return _digest([digest_of_messages(conversation.messages).hex(), *rest])


def _facts(message: Message) -> list[Any]:
    return [message.role, message.content, dict(message.fields)]


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).digest()
