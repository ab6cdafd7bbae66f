"""How a user's wishes show in the way that the user writes, without ever being spoken.

A persona wants some styles of answering and not others (world.Styles, all six). Its messages are
requests with cues: for every style that it wants, with a probability, one that shows it.

    "Capital of France?"                            no cue
    "Great! Capital of France? Please. 😊"          exclamation, polite, emoji

A style that is not wanted never shows. So more and more of a persona shows in a conversation, and
what has not shown after many messages is probably not wanted.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Sequence

from interact_jax.pocket import words, world

SHOWN = 0.25  # probability that a message shows a style that its writer wants
UNWANTED = 0.2  # a style is taken for unwanted where the probability that it is wanted is lower

# In the order in which they stand behind a request. Chosen to be few tokens of the pocket model.
GREETINGS = ("Hi! ", "Great! ")
ENDINGS = {
    "polite": (" Please.", " Thank you."),
    "sentence": (" I need an answer.", " I want to see it."),
    "capitals": (" ANSWER ME.", " HELP ME."),
    "question": (" Can you help?", " Can I ask you?"),
    "emoji": words.EMOJIS,
}


def draw_persona(rng: random.Random) -> dict[str, bool]:
    """Every style wanted or not, each with a probability of 0.5."""
    return {style: rng.random() < 0.5 for style in world.STYLES}


def draw_shown(persona: world.Styles, rng: random.Random) -> set[str]:
    """The styles that a message of this persona shows."""
    return {style for style in world.STYLES if persona.get(style) and rng.random() < SHOWN}


def write(request: str, shown: Collection[str], rng: random.Random) -> str:
    """A message about a request (its text) that shows these styles."""
    greeting = rng.choice(GREETINGS) if "exclamation" in shown else ""
    endings = (rng.choice(texts) for style, texts in ENDINGS.items() if style in shown)
    return greeting + request + "".join(endings)


def read(text: str) -> tuple[str, frozenset[str]]:
    """The request's text and the styles shown: `read(write(request, shown, rng)) == (request,
    shown)`. A message without cues is returned as it is."""
    match = _PATTERN.fullmatch(text)
    assert match is not None, "the pattern's request takes any text"
    shown = (style for style in world.STYLES if match[style])
    return match["request"], frozenset(shown)


def infer(messages: Iterable[str]) -> dict[str, bool]:
    """What has shown of a persona in its messages: the styles shown are wanted; the others are not
    where so many messages lack them that the probability is below UNWANTED; of the rest nothing is
    known."""
    shown = [read(message)[1] for message in messages]
    seen = frozenset().union(*shown)
    absent = (1 - SHOWN) ** len(shown)  # probability of showing nothing, of what is wanted
    is_unwanted = absent / (absent + 1) < UNWANTED
    return {style: style in seen for style in world.STYLES if style in seen or is_unwanted}


def _pattern() -> re.Pattern[str]:
    def one_of(style: str, texts: Sequence[str]) -> str:
        return f"(?P<{style}>{'|'.join(map(re.escape, texts))})?"

    endings = "".join(one_of(style, texts) for style, texts in ENDINGS.items())
    return re.compile(f"{one_of('exclamation', GREETINGS)}(?P<request>.*?){endings}", re.DOTALL)


_PATTERN = _pattern()
