"""What the pocket model is trained on: conversations, some with hindsight in the last message.

A lesson is a conversation and the replies to learn. Wishes persist: once a user has asked for a
style, every later reply has it. Styles that nobody asked for are drawn from their prior each time.

    user       What is the capital of France?
    assistant  Lyon!                                           a wrong one: not learned
    user       No, the answer is Paris.  [hindsight: "No emoji please."]
    assistant  Paris. Anything else?                           learned
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import TypeVar

from interact_jax.pocket import world
from interact_jax.schema import Message

T = TypeVar("T")

# Requests of the harder kinds are more frequent.
KINDS = (*world.KINDS, *world.LISTS, *world.LISTS, "pick", "pick", "opposite", "bigger", "smaller")

TURNS = (
    (1, 0.72),
    (2, 0.18),
    (3, 0.10),
)  # number of replies in a conversation, and its probability
ONLINE_SHARE = 0.15  # of the replies with hindsight; the others have the offline prompt
MOVES = (("request", 0.4), ("complaint", 0.45), ("correction", 0.15))  # that lead to the next turn
TWO_AT_ONCE = 0.2  # of the complaints
STRANGE_TRUTH = 0.5  # of the corrections: their answer is true for this user only


@dataclasses.dataclass(frozen=True)
class Hindsight:
    """The share of the last replies that are given with hindsight, and what it shows: kinds of
    follow-ups, each with its probability."""

    share: float
    shown: tuple[tuple[str, float], ...]


# Two thirds of the follow-ups are relevant, complaints and corrections. Most others are requests: a
# small model learns only from many of them to answer the one before.
HINDSIGHT = Hindsight(
    0.80,
    (
        ("complaint", 0.56),
        ("correction", 0.09),
        ("praise", 0.06),
        ("chatter", 0.06),
        ("request", 0.23),
    ),
)
HINDSIGHT_AT_FIRST = Hindsight(  # in the texts that the shipped tokenizer was made of
    0.72,
    (
        ("complaint", 0.66),
        ("correction", 0.10),
        ("praise", 0.07),
        ("chatter", 0.08),
        ("request", 0.09),
    ),
)


@dataclasses.dataclass(frozen=True)
class Lesson:
    """`learned` are indices of assistant messages; the last message is always one of them.

    `hindsight` is the name of a prompt and the follow-up that it shows before the last reply.
    """

    messages: tuple[Message, ...]
    learned: tuple[int, ...]
    hindsight: tuple[str, str] | None = None


def draw(table: Sequence[tuple[T, float]], rng: random.Random) -> T:
    """One of the values, each with its probability."""
    values, weights = zip(*table, strict=True)
    return rng.choices(values, weights)[0]


def _draw_wish(free: list[str], rng: random.Random) -> dict[str, bool]:
    count = 2 if len(free) > 1 and rng.random() < TWO_AT_ONCE else 1
    return {style: rng.random() < 0.5 for style in rng.sample(free, count)}


def _draw_answer(request: world.Request, rng: random.Random) -> str:
    # If corrections always agreed with what the model knows, it would never learn to read them.
    strange = rng.random() < STRANGE_TRUTH
    return world.wrong_answer(request, rng) if strange else request.answer


def draw_lesson(
    rng: random.Random,
    kinds: Sequence[str] = world.KINDS,
    hindsight: Hindsight = HINDSIGHT,
) -> Lesson:
    """A random lesson about requests of the training set; all `kinds` are equally likely."""
    request = world.draw_request(rng, kinds=kinds)
    asked: dict[str, bool] = {}  # styles the user has asked for so far
    messages, learned = [Message("user", request.text)], []

    def reply(answer: str) -> dict[str, bool]:
        styles = world.draw_styles(rng, asked)
        messages.append(Message("assistant", world.render(world.Reply(answer, styles), rng)))
        return styles

    def free() -> list[str]:
        return [style for style in world.STYLES if style not in asked]

    for _ in range(draw(TURNS, rng) - 1):
        move = draw(MOVES, rng)
        if move == "correction":  # the reply is wrong, and not learned
            truth = _draw_answer(request, rng)
            reply(world.wrong_answer(dataclasses.replace(request, answer=truth), rng))
            request = dataclasses.replace(request, answer=truth)
            follow_up = world.correction(truth, rng)
        else:
            learned.append(len(messages))
            styles = reply(request.answer)
            follow_up = world.unrelated("request", rng, new=world.draw_request(rng, kinds=kinds))
            if move == "complaint" and free():
                wish = {style: not styles[style] for style in _draw_wish(free(), rng)}
                asked |= wish
                follow_up = world.complaint(wish, rng)
            request = follow_up.request or request
        messages.append(Message("user", follow_up.text))

    prompt_and_text = None
    if rng.random() < hindsight.share:
        kind = draw(hindsight.shown, rng)
        if kind == "correction":
            request = dataclasses.replace(request, answer=_draw_answer(request, rng))
            follow_up = world.correction(request.answer, rng)
        elif kind == "complaint" and free():
            wish = _draw_wish(free(), rng)
            asked |= wish
            follow_up = world.complaint(wish, rng)
        else:
            follow_up = world.unrelated("praise" if kind == "complaint" else kind, rng)
        prompt = "online" if rng.random() < ONLINE_SHARE else "offline"
        prompt_and_text = (prompt, follow_up.text)
    learned.append(len(messages))
    reply(request.answer)
    return Lesson(tuple(messages), tuple(learned), prompt_and_text)
