"""Conversations as a chat template can show them: what it does not accept is changed or left out.

    system message, not accepted      put before the first user message, as families advise
    greeting, refused                 left out
    calls and results of tools,       left out up to the next user turn, where history restarts
      not shown

The first two are done where messages are rendered (`abilities.Abilities.fit`), since every window
of a long conversation has a first message; here they are counted.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection

from interact_jax.data.abilities import Abilities
from interact_jax.data.thinking import KEY
from interact_jax.schema import Conversation, InputError, Message

Counts = collections.Counter[str]
NO_SYSTEM = "system message put before the user's first: the chat template takes none"
NO_GREETING = "greeting left out: the chat template takes none"
NO_TOOLS = "calls and results of tools left out: the chat template does not show them"
NOT_SHOWN = "not shown by the chat template"


def is_plain(conversation: Conversation) -> bool:
    """Whether every chat template accepts it: user and assistant in turns, and nothing but text."""
    messages = conversation.messages
    if not messages or messages[0].role != "user" or conversation.tools:
        return False
    return not any(m.fields or m.role not in ("user", "assistant") for m in messages)


def fit(
    conversation: Conversation, abilities: Abilities, repair: str, counts: Counts
) -> Conversation | None:
    """The conversation for a template; None where `repair` is "drop" and nothing of it is left.

    `counts` collects the changes, by reason. Raises InputError where a change is needed and
    `repair` is "stop".
    """
    messages = conversation.messages
    turns = [message for message in messages if message.role != "system"]
    hidden = {n for n, message in enumerate(messages) if not _is_shown(message, abilities)}
    applies = {
        NO_SYSTEM: len(turns) < len(messages) and not abilities.system,
        NO_GREETING: turns[0].role == "assistant" and not abilities.greeting,
        NO_TOOLS: bool(hidden),
    }
    flaws = [flaw for flaw, present in applies.items() if present]
    if flaws and repair == "stop":
        raise InputError(f"{conversation.source or conversation.id}: {'; '.join(flaws)}.")
    if applies[NO_SYSTEM] and repair == "drop":
        counts["conversations dropped: the chat template takes no system message"] += 1
        return None
    counts.update(flaws)
    if hidden:
        conversation = remove_messages(conversation, hidden)
    _count_fields(conversation, abilities, counts)
    if conversation.tools and not abilities.tools:
        counts[f"tools {NOT_SHOWN}"] += 1
        conversation = dataclasses.replace(conversation, tools=())
    return conversation


def _is_shown(message: Message, abilities: Abilities) -> bool:
    if message.role == "tool":
        return abilities.results
    return bool(message.content.strip()) or abilities.calls


def _count_fields(conversation: Conversation, abilities: Abilities, counts: Counts) -> None:
    shown = {"tool_calls": abilities.calls, "reasoning_content": abilities.reasoning}
    for message in conversation.messages:
        for name, is_shown in shown.items():
            if name in message.fields and not is_shown:
                counts[f"{name} {NOT_SHOWN}"] += 1


def count_learned(conversation: Conversation, counts: Counts) -> None:
    """Count what is not learned of replies: all but their text and their reasoning, which `encode`
    counts."""
    for _, index in conversation.replies():
        for name in conversation.messages[index].fields.keys() - {KEY}:
            counts[f"replies learned as text alone, without {name}"] += 1


def remove_messages(conversation: Conversation, removed: Collection[int]) -> Conversation:
    """The conversation without some messages and all that follows each up to the next user turn."""
    kept: list[int] = []
    restarts = set()
    skipping, begun = False, False
    for index, message in enumerate(conversation.messages):
        skipping |= index in removed
        if skipping and (message.role != "user" or index in removed):
            continue
        if (skipping and begun) or index in conversation.restarts:
            restarts.add(len(kept))
        skipping, begun = False, begun or message.role != "system"
        kept.append(index)
    new_index = {old: new for new, old in enumerate(kept)}
    places, owned, preferences = conversation.places, conversation.owned, conversation.preferences
    if owned is not None:
        owned = frozenset(new_index[index] for index in owned if index in new_index)
    if preferences is not None:
        preferences = tuple(
            dataclasses.replace(pair, index=new_index[pair.index - 1] + 1)
            for pair in preferences
            if pair.index - 1 in new_index
        )
    return dataclasses.replace(
        conversation,
        messages=tuple(conversation.messages[index] for index in kept),
        places=tuple(index if places is None else places[index] for index in kept),
        restarts=frozenset(restarts),
        owned=owned,
        preferences=preferences,
    )
