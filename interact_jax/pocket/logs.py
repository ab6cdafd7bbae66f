"""Conversations of simulated users with the pocket model: what the project ships as logs."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

from interact_jax import places
from interact_jax.generation.sampler import Completion
from interact_jax.pocket import world
from interact_jax.pocket.speaker import Speaker
from interact_jax.schema import Conversation, Message

TURNS = ((1, 2, 3), (0.55, 0.3, 0.15))  # replies in a conversation, and how often
USERS = 64  # they all want the same


@dataclasses.dataclass
class _Talk:
    """A conversation under way; its last message is the user's."""

    rng: random.Random
    turns: int
    request: world.Request
    messages: list[Message]


def converse(
    speaker: Speaker,
    user: world.User,
    interactions: int,
    seed: int,
    turns: tuple[Sequence[int], Sequence[float]] = TURNS,
) -> list[Conversation]:
    """Conversations with at least so many interactions, about requests of the training side.

    `turns` are the replies that a conversation may have, and how often. All talk at once: every
    round the model answers whoever waits, in one batch.
    """
    rng = random.Random(f"logs {seed}")
    talks: list[_Talk] = []
    planned = 0
    while planned < interactions:
        own = random.Random(rng.random())
        request = world.draw_request(own)
        talk = _Talk(own, own.choices(*turns)[0], request, [Message("user", request.text)])
        planned += talk.turns
        talks.append(talk)
    for turn in range(max(turns[0])):
        waiting = [talk for talk in talks if talk.turns > turn]
        prompts = [speaker.chat.prompt(talk.messages) for talk in waiting]
        for talk, said in zip(waiting, _replies(speaker, prompts, seed + turn), strict=True):
            text = speaker.text(said)
            logps = tuple(round(logp, 4) for logp in said.logps)
            talk.messages.append(Message("assistant", text, tuple(said.ids), logps))
            follow_up = user.respond(talk.request, text, talk.rng, last=turn == talk.turns - 1)
            talk.messages.append(Message("user", follow_up.text))
            talk.request = follow_up.request or talk.request
    return [
        Conversation(f"c{index:04}", tuple(talk.messages), f"u{talk.rng.randrange(USERS):02}")
        for index, talk in enumerate(talks)
    ]


def _replies(speaker: Speaker, prompts: list[list[int]], seed: int) -> list[Completion]:
    # Rarely a reply ends at once. No log holds an empty message, so it is drawn again.
    said = speaker.replies(prompts, seed)
    while empty := [i for i, reply in enumerate(said) if not speaker.text(reply).strip()]:
        seed += 1000
        again = speaker.replies([prompts[i] for i in empty], seed)
        for index, reply in zip(empty, again, strict=True):
            said[index] = reply
    return said


def write_logs(conversations: list[Conversation], path: str | Path) -> None:
    """Native format, gzip; the same conversations make the same bytes."""
    lines = []
    for conversation in conversations:
        messages = []
        for message in conversation.messages:
            row: dict[str, object] = {"role": message.role, "content": message.content}
            if message.token_ids is not None:
                row |= {"token_ids": list(message.token_ids), "logps": list(message.logps or ())}
            messages.append(row)
        record = {"id": conversation.id, "user": conversation.user, "messages": messages}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    places.write(path, gzip.compress("".join(lines).encode(), mtime=0))
