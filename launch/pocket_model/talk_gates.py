"""Measures of the second pocket model, which was trained on `talks`: what it does at the first and
at the tenth turn, without a system message, with hints in it, and with MIRROR.

All replies are sampled at temperature 1, on held-out requests. Earlier replies of a conversation
are written by programs, with styles at random: they neither obey the hint nor follow the cues.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from interact_jax.pocket import cues, world
from interact_jax.pocket.speaker import Speaker
from interact_jax.schema import Message
from pocket_model import talks

TURNS = (1, talks.MOST_TURNS)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A prompt, the request in its last message, and the styles that the reply should have."""

    messages: tuple[Message, ...]
    request: world.Request
    persona: world.Styles
    inferred: world.Styles  # from all the user's messages
    asked: world.Styles


KINDS = ("none", "one style named", "six styles named", "mirror")


def report(speaker: Speaker, *, trials: int = 256, seed: int = 0) -> dict[str, Any]:
    """All figures, each of `trials` replies."""
    measured = {
        f"turn {turn}, {kind}": measure(speaker, kind, turn, trials, seed)
        for turn in TURNS
        for kind in KINDS
    }
    return {"trials": trials, "seed": seed, **measured}


def measure(speaker: Speaker, kind: str, turn: int, trials: int, seed: int) -> dict[str, Any]:
    """The figures (`summarise`) of a turn where the system message is one of KINDS."""
    rng = random.Random(f"talks {kind} {turn} {seed}")
    drawn = [draw_trial(kind, turn, number, rng) for number in range(trials)]
    prompts = [speaker.chat.prompt(trial.messages) for trial in drawn]
    return summarise(drawn, [speaker.text(reply) for reply in speaker.replies(prompts, seed)])


def draw_trial(kind: str, turn: int, number: int, rng: random.Random) -> Trial:
    """A trial of one of KINDS; `number` chooses the style where one is named, and whether it is
    wanted, in turn."""
    both_ways = [(style, on) for style in world.STYLES for on in (True, False)]
    hint = {
        "one style named": dict([both_ways[number % len(both_ways)]]),
        "six styles named": cues.draw_persona(rng),
    }.get(kind, {})
    messages = talks.system_message("hint" if hint else kind, hint, rng)
    persona, strange = cues.draw_persona(rng), cues.draw_persona(rng)
    requests: list[world.Request] = []
    spoken: list[str] = []
    for _ in range(turn):
        request = world.draw_request(rng, held_out=True)
        requests.append(request)
        spoken.append(cues.write(request.text, cues.draw_shown(persona, rng), rng))
        messages.append(Message("user", spoken[-1]))
        styles = world.draw_styles(rng, rng.choice((strange, {})))
        text = world.render(world.Reply(request.answer, styles), rng)
        messages.append(Message("assistant", text))
    inferred = cues.infer(spoken)
    asked = inferred if kind == "mirror" else hint
    return Trial(tuple(messages[:-1]), requests[-1], persona, inferred, asked)


def summarise(trials: Sequence[Trial], texts: Sequence[str]) -> dict[str, Any]:
    """Shares of the replies: right and readable ones, asked styles that they have as asked (in all
    and by style), other styles that they have. `cues`: how much more often they have a style that
    is not asked for if its cue has been seen. `alignment`: wishes of the persona met, 1 to 5."""
    rows = [(trial, world.parse(text)) for trial, text in zip(trials, texts, strict=True)]
    read = [(trial, reply.styles) for trial, reply in rows if reply]
    obeyed = {
        style: _mean(on[style] == t.asked[style] for t, on in read if style in t.asked)
        for style in world.STYLES
    }
    other = {
        seen: _mean(
            on[style]
            for trial, on in read
            for style in world.STYLES
            if style not in trial.asked and (trial.inferred.get(style) is True) in seen
        )
        for seen in ((True,), (False,), (True, False))
    }
    met = [_mean(on[style] == t.persona[style] for style in world.STYLES) for t, on in read]
    figures: dict[str, Any] = {
        "correct": _mean(
            reply is not None and reply.answer == t.request.answer for t, reply in rows
        ),
        "readable": len(read) / len(rows),
        "alignment": 1 + 4 * _mean(met),
    }
    if any(trial.asked for trial in trials):
        pairs = [(on[style], asked) for t, on in read for style, asked in t.asked.items()]
        figures["obeyed"] = _mean(on == asked for on, asked in pairs)
        for wanted, name in ((True, "wanted"), (False, "not wanted")):
            figures[f"obeyed, {name}"] = _mean(
                on == asked for on, asked in pairs if asked == wanted
            )
        figures["obeyed by style"] = obeyed
    if any(len(trial.asked) < len(world.STYLES) for trial in trials):
        figures["other styles"] = other[True, False]
        figures["cues"] = other[True,] - other[False,]
    if not any(trial.asked for trial in trials):
        figures["prior"] = {style: _mean(on[style] for _, on in read) for style in world.STYLES}
    return {name: value for name, value in figures.items() if value == value}  # no NaN


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else float("nan")
