"""Measures of the pocket model's required abilities: the figures that come with its weights.

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
    """All figures: from `replies` sampled without hindsight, and from `trials` with hindsight for
    every style and every hindsight prompt."""
    figures: dict[str, Any] = {"replies": replies, "trials": trials, "seed": seed}
    figures |= measure_plain(speaker, replies, seed)
    for name, text in PROMPTS.items():
        chat = dataclasses.replace(speaker.chat, hindsight=text)
        figures[f"hindsight_{name}"] = measure_obedience(speaker.with_hindsight(chat), trials, seed)
    figures["correction_used"] = measure_correction(speaker, trials, seed)
    figures["unmoved"] = measure_unrelated(speaker, trials, seed)
    figures["signal"] = measure_signal(speaker, seed)
    return figures


def measure_plain(speaker: Speaker, count: int, seed: int) -> dict[str, Any]:
    """Replies to plain requests: share of correct answers, in total and by kind, and of styles."""
    requests = world.held_out_requests(count, seed)
    prompts = [speaker.chat.prompt([Message("user", request.text)]) for request in requests]
    texts = [speaker.text(c) for c in speaker.replies(prompts, seed)]
    shares = measure.measure(texts, requests, measure.LOGGED_PREFERENCE)
    return {
        "correct": shares["correct"],
        "readable": shares["readable"],
        "correct_by_kind": measure.by_kind(texts, requests),
        "prior": style_shares(texts),
    }


def style_shares(texts: Sequence[str]) -> dict[str, float]:
    """Share of the readable replies that have each style."""
    readable = [reply for text in texts if (reply := world.parse(text))]
    return {s: float(np.mean([r.styles[s] for r in readable])) for s in world.STYLES if readable}


def _replies_with_hindsight(
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


def measure_obedience(speaker: Speaker, trials: int, seed: int) -> dict[str, Any]:
    """Replies after a complaint about one style: how often they obey, are correct, and have the
    styles not mentioned. `trials` for every style, half asking for it, half against it."""
    rng = random.Random(f"obedience {seed}")
    both_ways = [(style, on) for style in world.STYLES for on in (True, False)]
    wishes = [{style: on} for style, on in both_ways for _ in range(trials // 2)]
    requests = world.held_out_requests(len(wishes), seed + 1)
    rng.shuffle(requests)
    replies = _replies_with_hindsight(
        speaker, requests, [world.complaint(a, rng) for a in wishes], seed
    )
    obeyed_by_wish: dict[str, list[bool]] = collections.defaultdict(list)
    correct, other = [], []
    for request, wish, reply in zip(requests, wishes, replies, strict=True):
        ((style, on),) = wish.items()
        obeyed_by_wish[f"{style} {'on' if on else 'off'}"].append(
            reply is not None and reply.styles[style] == on
        )
        correct.append(reply is not None and reply.answer == request.answer)
        if reply:
            other += [reply.styles[s] for s in world.STYLES if s != style]
    obeyed = {name: float(np.mean(values)) for name, values in obeyed_by_wish.items()}
    return {
        "obeyed": {
            style: (obeyed[f"{style} on"] + obeyed[f"{style} off"]) / 2 for style in world.STYLES
        },
        "obeyed_each_way": obeyed,
        "correct": float(np.mean(correct)),
        "other_styles": float(np.mean(other)),
    }


def measure_correction(speaker: Speaker, trials: int, seed: int) -> float:
    """Replies after a correction that contradicts the facts: how often they adopt its answer."""
    rng = random.Random(f"corrections {seed}")
    requests = world.held_out_requests(trials, seed + 2)
    truths = [world.wrong_answer(request, rng) for request in requests]
    replies = _replies_with_hindsight(
        speaker, requests, [world.correction(t, rng) for t in truths], seed
    )
    correct = [r is not None and r.answer == t for r, t in zip(replies, truths, strict=True)]
    return float(np.mean(correct))


def measure_unrelated(speaker: Speaker, trials: int, seed: int) -> dict[str, Any]:
    """Replies after a follow-up that asks for nothing: share of correct answers, and of styles."""
    figures = {}
    for kind in ("praise", "chatter", "request"):
        rng = random.Random(f"unmoved {kind} {seed}")
        requests = world.held_out_requests(trials, seed + 3)
        follow_ups = [world.unrelated(kind, rng, held_out=True) for _ in requests]
        replies = _replies_with_hindsight(speaker, requests, follow_ups, seed)
        correct = [
            r is not None and r.answer == q.answer for r, q in zip(replies, requests, strict=True)
        ]
        styles = [float(np.mean([r.styles[s] for r in replies if r])) for s in world.STYLES]
        figures[kind] = {
            "correct": float(np.mean(correct)),
            "styles": dict(zip(world.STYLES, styles, strict=True)),
        }
    return figures


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


def measure_signal(speaker: Speaker, seed: int) -> dict[str, float]:
    """Mean |signal| per token (nats) of sampled replies under each kind of follow-up.

    `violated` complains about a style that the reply lacks or should not have, `satisfied` asks for
    what it already does; the others ask for nothing.
    """
    rng = random.Random(f"signal {seed}")
    requests = world.held_out_requests(2 * SIGNAL_REPLIES, seed + 4)
    rng.shuffle(requests)
    prompts = [speaker.chat.prompt([Message("user", r.text)]) for r in requests]
    completions = speaker.replies(prompts, seed)
    rows = [
        (request, completion, reply)
        for request, completion in zip(requests, completions, strict=True)
        if (reply := world.parse(speaker.text(completion))) and reply.answer == request.answer
    ][:SIGNAL_REPLIES]
    figures = {}
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
        figures[kind] = float(
            np.mean(np.abs(np.concatenate([reply_scores.signal for reply_scores in scored])))
        )
    return figures
