"""What the pocket model must be able to do, measured: the figures that come with its weights.

All replies are sampled at temperature 1, on held-out requests.
"""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from interact_jax import sharding
from interact_jax.data.chat import HINDSIGHT as PROMPTS
from interact_jax.data.chat import ChatFormat
from interact_jax.data.encode import EncodeSettings, encode
from interact_jax.data.recipes import HINDSIGHT
from interact_jax.data.tree import Tree, grow
from interact_jax.pocket import measure, world
from interact_jax.pocket.speaker import Speaker
from interact_jax.schema import Conversation, Message
from interact_jax.signal import Scored, score_trees

SIGNAL_REPLIES = 384  # scored under each kind of follow-up


def report(
    speaker: Speaker, *, replies: int = 2048, trials: int = 256, seed: int = 0
) -> dict[str, Any]:
    """Every figure of the gate: `replies` plain ones are sampled, and `trials` with hindsight for
    every style and every hindsight prompt."""
    found: dict[str, Any] = {"replies": replies, "trials": trials, "seed": seed}
    found |= plain(speaker, replies, seed)
    for name, text in PROMPTS.items():
        chat = dataclasses.replace(speaker.chat, hindsight=text)
        found[f"hindsight_{name}"] = obedience(speaker.with_hindsight(chat), trials, seed)
    found["correction_used"] = corrected(speaker, trials, seed)
    found["unmoved"] = unmoved(speaker, trials, seed)
    found["signal"] = signal(speaker, seed)
    return found


def plain(speaker: Speaker, count: int, seed: int) -> dict[str, Any]:
    """Replies to plain requests: correct answers, in all and by kind, and how often each style."""
    requests = world.held_out_requests(count, seed)
    prompts = [speaker.chat.prompt([Message("user", request.text)]) for request in requests]
    texts = [speaker.text(c) for c in speaker.replies(prompts, seed)]
    shares = measure.measure(texts, requests, measure.LOGGED_PREFERENCE)
    return {
        "correct": shares["correct"],
        "readable": shares["readable"],
        "correct_by_kind": measure.by_kind(texts, requests),
        "prior": prior(texts),
    }


def prior(texts: Sequence[str]) -> dict[str, float]:
    """Share of the readable replies that have each style."""
    read = [reply for text in texts if (reply := world.parse(text))]
    return {s: float(np.mean([r.styles[s] for r in read])) for s in world.STYLES if read}


def _shown(
    speaker: Speaker,
    requests: Sequence[world.Request],
    follow_ups: Sequence[world.FollowUp],
    seed: int,
) -> list[world.Reply | None]:
    prompts = [
        speaker.chat.prompt([Message("user", request.text)], follow_up.text)
        for request, follow_up in zip(requests, follow_ups, strict=True)
    ]
    return [world.parse(speaker.text(c)) for c in speaker.replies(prompts, seed)]


def obedience(speaker: Speaker, trials: int, seed: int) -> dict[str, Any]:
    """Shown a complaint about one style: how often the reply obeys, is right, and what the styles
    are that nobody spoke of. `trials` for every style, half of them for it, half against it."""
    rng = random.Random(f"obedience {seed}")
    both_ways = [(style, on) for style in world.STYLES for on in (True, False)]
    asked = [{style: on} for style, on in both_ways for _ in range(trials // 2)]
    requests = world.held_out_requests(len(asked), seed + 1)
    rng.shuffle(requests)
    read = _shown(speaker, requests, [world.complaint(a, rng) for a in asked], seed)
    by: dict[str, list[bool]] = collections.defaultdict(list)
    right, other = [], []
    for request, wish, reply in zip(requests, asked, read, strict=True):
        ((style, on),) = wish.items()
        by[f"{style} {'on' if on else 'off'}"].append(
            reply is not None and reply.styles[style] == on
        )
        right.append(reply is not None and reply.answer == request.answer)
        if reply:
            other += [reply.styles[s] for s in world.STYLES if s != style]
    obeyed = {name: float(np.mean(values)) for name, values in by.items()}
    return {
        "obeyed": {
            style: (obeyed[f"{style} on"] + obeyed[f"{style} off"]) / 2 for style in world.STYLES
        },
        "obeyed_each_way": obeyed,
        "correct": float(np.mean(right)),
        "other_styles": float(np.mean(other)),
    }


def corrected(speaker: Speaker, trials: int, seed: int) -> float:
    """Shown a correction that names another answer than the fact: how often the reply takes it."""
    rng = random.Random(f"corrections {seed}")
    requests = world.held_out_requests(trials, seed + 2)
    truths = [world.wrong_answer(request, rng) for request in requests]
    read = _shown(speaker, requests, [world.correction(t, rng) for t in truths], seed)
    right = [r is not None and r.answer == t for r, t in zip(read, truths, strict=True)]
    return float(np.mean(right))


def unmoved(speaker: Speaker, trials: int, seed: int) -> dict[str, Any]:
    """Shown a follow-up that asks for nothing: correct answers, and how often each style."""
    found = {}
    for kind in ("praise", "chatter", "request"):
        rng = random.Random(f"unmoved {kind} {seed}")
        requests = world.held_out_requests(trials, seed + 3)
        follow_ups = [world.unrelated(kind, rng, held_out=True) for _ in requests]
        read = _shown(speaker, requests, follow_ups, seed)
        right = [
            r is not None and r.answer == q.answer for r, q in zip(read, requests, strict=True)
        ]
        styles = [float(np.mean([r.styles[s] for r in read if r])) for s in world.STYLES]
        found[kind] = {
            "correct": float(np.mean(right)),
            "styles": dict(zip(world.STYLES, styles, strict=True)),
        }
    return found


def trees_of(conversations: Sequence[Conversation], chat: ChatFormat) -> list[Tree]:
    """The token trees of conversations, under the chat format's hindsight prompt."""
    counts: collections.Counter[str] = collections.Counter()
    return [
        tree
        for conversation in conversations
        for window in encode(conversation, chat, EncodeSettings(), counts)
        for tree in grow(window, {HINDSIGHT})
    ]


def score(speaker: Speaker, trees: Sequence[Tree]) -> list[Scored]:
    """Log-probabilities of every reply, with and without hindsight."""
    mesh = sharding.make_mesh()
    return score_trees(speaker.decoder, speaker.params, trees, mesh, row_tokens=256, rows=4)


def signal(speaker: Speaker, seed: int) -> dict[str, float]:
    """Mean |signal| per token (nats) of sampled replies under each kind of follow-up.

    `violated` complains about a style that the reply does not have as asked, `satisfied` asks for
    what it already has; the others ask for nothing.
    """
    rng = random.Random(f"signal {seed}")
    requests = world.held_out_requests(2 * SIGNAL_REPLIES, seed + 4)
    rng.shuffle(requests)
    prompts = [speaker.chat.prompt([Message("user", r.text)]) for r in requests]
    said = speaker.replies(prompts, seed)
    rows = [
        (request, completion, reply)
        for request, completion in zip(requests, said, strict=True)
        if (reply := world.parse(speaker.text(completion))) and reply.answer == request.answer
    ][:SIGNAL_REPLIES]
    found = {}
    for kind in ("violated", "satisfied", "praise", "chatter", "request"):
        conversations = []
        for index, (request, completion, reply) in enumerate(rows):
            if kind in ("violated", "satisfied"):
                style = rng.choice(world.STYLES)
                on = reply.styles[style] == (kind == "satisfied")
                follow_up = world.complaint({style: on}, rng)
            else:
                follow_up = world.unrelated(kind, rng, held_out=True)
            y = Message("assistant", speaker.text(completion), tuple(completion.ids))
            messages = (Message("user", request.text), y, Message("user", follow_up.text))
            conversations.append(Conversation(f"{kind}{index}", messages))
        scored = score(speaker, trees_of(conversations, speaker.chat))
        found[kind] = float(np.mean(np.abs(np.concatenate([one.signal for one in scored]))))
    return found
