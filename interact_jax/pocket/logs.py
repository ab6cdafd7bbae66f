"""Conversations of simulated users with the pocket model: the logs that the project ships."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

from interact_jax import places
from interact_jax.generation import Completion
from interact_jax.pocket import world
from interact_jax.pocket.speaker import Speaker
from interact_jax.schema import Conversation, Message

TURNS = ((1, 2, 3), (0.55, 0.3, 0.15))  # replies in a conversation, and how often
USERS = 64  # with the same preference


@dataclasses.dataclass
class _Dialogue:
    """A conversation in progress; its last message is the user's."""

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
    """Conversations with at least so many interactions in all, about requests of the training side.

    `turns` are the numbers of replies in a conversation, and how often. All conversations run in
    parallel: in every round the model answers all users who wait, in one batch.
    """
    rng = random.Random(f"logs {seed}")
    dialogues: list[_Dialogue] = []
    planned = 0
    while planned < interactions:
        own_rng = random.Random(rng.random())
        request = world.draw_request(own_rng)
        dialogue = _Dialogue(
            own_rng, own_rng.choices(*turns)[0], request, [Message("user", request.text)]
        )
        planned += dialogue.turns
        dialogues.append(dialogue)
    for turn in range(max(turns[0])):
        waiting = [dialogue for dialogue in dialogues if dialogue.turns > turn]
        prompts = [speaker.chat.prompt(dialogue.messages) for dialogue in waiting]
        for dialogue, reply in zip(waiting, _replies(speaker, prompts, seed + turn), strict=True):
            text = speaker.text(reply)
            logps = tuple(round(logp, 4) for logp in reply.logps)
            dialogue.messages.append(Message("assistant", text, tuple(reply.ids), logps))
            follow_up = user.respond(
                dialogue.request, text, dialogue.rng, last=turn == dialogue.turns - 1
            )
            dialogue.messages.append(Message("user", follow_up.text))
            dialogue.request = follow_up.request or dialogue.request
    return [
        Conversation(
            f"c{index:04}", tuple(dialogue.messages), f"u{dialogue.rng.randrange(USERS):02}"
        )
        for index, dialogue in enumerate(dialogues)
    ]


def _replies(speaker: Speaker, prompts: list[list[int]], seed: int) -> list[Completion]:
    # Rarely a reply ends at once. Logs have no empty messages, so it is sampled again.
    replies = speaker.replies(prompts, seed)
    while empty := [i for i, reply in enumerate(replies) if not speaker.text(reply).strip()]:
        seed += 1000
        again = speaker.replies([prompts[i] for i in empty], seed)
        for index, reply in zip(empty, again, strict=True):
            replies[index] = reply
    return replies


def write_logs(conversations: list[Conversation], path: str | Path) -> None:
    """Write them in the native format, gzipped; equal conversations give equal bytes."""
    lines = []
    for conversation in conversations:
        messages = []
        for message in conversation.messages:
            row: dict[str, object] = {"role": message.role, "content": message.content}
            if message.token_ids is not None:
                row |= {"token_ids": list(message.token_ids), "logps": list(message.logps or ())}
            if message.sampling_logps is not None:
                row["sampling_logps"] = list(message.sampling_logps)
            if message.weight != 1:
                row["weight"] = message.weight
            messages.append(row)
        record = {"id": conversation.id, "user": conversation.user, "messages": messages}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    places.write(path, gzip.compress("".join(lines).encode(), mtime=0))
