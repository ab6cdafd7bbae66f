"""Conversations as a chat template can tell them: what it does not take is mended, or left out.

    system message, none taken        put before the user's first message, as families advise
    greeting, refused                 left out
    calls and results of tools,       left out up to the user's next turn, where history begins anew
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
    """Whether every chat template takes it: user and assistant in turns, and nothing but words."""
    messages = conversation.messages
    if not messages or messages[0].role != "user" or conversation.tools:
        return False
    return not any(m.fields or m.role not in ("user", "assistant") for m in messages)


def fit(
    conversation: Conversation, abilities: Abilities, repair: str, counts: Counts
) -> Conversation | None:
    """The conversation for a template; None where `repair` is "drop" and all of it has to go.

    `counts` collects what was done, by reason. Raises InputError where something is to be done and
    `repair` is "stop".
    """
    messages = conversation.messages
    turns = [message for message in messages if message.role != "system"]
    missing = {n for n, message in enumerate(messages) if not _shown(message, abilities)}
    flaws = {
        NO_SYSTEM: len(turns) < len(messages) and not abilities.system,
        NO_GREETING: turns[0].role == "assistant" and not abilities.greeting,
        NO_TOOLS: bool(missing),
    }
    found = [flaw for flaw, there in flaws.items() if there]
    if found and repair == "stop":
        raise InputError(f"{conversation.source or conversation.id}: {'; '.join(found)}.")
    if flaws[NO_SYSTEM] and repair == "drop":
        counts["conversations dropped: the chat template takes no system message"] += 1
        return None
    counts.update(found)
    if missing:
        conversation = without(conversation, missing)
    _count_fields(conversation, abilities, counts)
    if conversation.tools and not abilities.tools:
        counts[f"tools {NOT_SHOWN}"] += 1
        conversation = dataclasses.replace(conversation, tools=())
    return conversation


def _shown(message: Message, abilities: Abilities) -> bool:
    if message.role == "tool":
        return abilities.results
    return bool(message.content.strip()) or abilities.calls


def _count_fields(conversation: Conversation, abilities: Abilities, counts: Counts) -> None:
    shown = {"tool_calls": abilities.calls, "reasoning_content": abilities.reasoning}
    for message in conversation.messages:
        for name, able in shown.items():
            if name in message.fields and not able:
                counts[f"{name} {NOT_SHOWN}"] += 1


def count_learned(conversation: Conversation, counts: Counts) -> None:
    """Count what is not learned of replies: all but their words, and their reasoning, of which
    `encode` says what became of it."""
    for _, index in conversation.replies():
        for name in conversation.messages[index].fields.keys() - {KEY}:
            counts[f"replies learned without their {name}: words alone are"] += 1


def without(conversation: Conversation, missing: Collection[int]) -> Conversation:
    """The conversation less some messages, and what stands between each and the user's next."""
    kept: list[int] = []
    restarts = set()
    lost, begun = False, False
    for index, message in enumerate(conversation.messages):
        lost |= index in missing
        if lost and (message.role != "user" or index in missing):
            continue
        if (lost and begun) or index in conversation.restarts:
            restarts.add(len(kept))
        lost, begun = False, begun or message.role != "system"
        kept.append(index)
    place = {index: position for position, index in enumerate(kept)}
    places, owned, preferences = conversation.places, conversation.owned, conversation.preferences
    if owned is not None:
        owned = frozenset(place[index] for index in owned if index in place)
    if preferences is not None:
        preferences = tuple(
            dataclasses.replace(pair, index=place[pair.index - 1] + 1)
            for pair in preferences
            if pair.index - 1 in place
        )
    return dataclasses.replace(
        conversation,
        messages=tuple(conversation.messages[index] for index in kept),
        places=tuple(index if places is None else places[index] for index in kept),
        restarts=frozenset(restarts),
        owned=owned,
        preferences=preferences,
    )
