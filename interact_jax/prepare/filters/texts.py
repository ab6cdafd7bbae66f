"""What filters look at in a conversation."""

from __future__ import annotations

from collections.abc import Iterator

from interact_jax.schema import ROLES, Conversation, Message

ALL = "all"
WHOSE = (ALL, *ROLES)


def messages_of(conversation: Conversation, whose: str) -> Iterator[tuple[int, Message]]:
    """(index, message) of the messages of one role, or of all of them."""
    for index, message in enumerate(conversation.messages):
        if whose in (ALL, message.role):
            yield index, message
