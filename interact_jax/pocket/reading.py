"""Requests of the pocket world read back from their text, so that any prompts can be checked.

read_request("Capital of France?")     Request(kind="capital", answer="Paris", ...)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

from interact_jax.pocket import words, world
from interact_jax.schema import Message


def read_request(text: str) -> world.Request | None:
    """The request that has this text, with or without white space around it:
    `read_request(request.text) == request`; None where no request does."""
    text = text.strip()
    for pattern, kind in _patterns():
        match = pattern.fullmatch(text)
        if match and (request := _build(kind, text, match.groups())) is not None:
            return request
    return None


def request_in(prompt: Sequence[Message]) -> world.Request | None:
    """The request that a prompt waits for an answer to: the last that its user made; what follows
    it are complaints and chatter."""
    texts = (message.content for message in reversed(prompt) if message.role == "user")
    return next((request for text in texts if (request := read_request(text))), None)


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Every phrasing with its kind."""

    def all_phrasings() -> Iterator[tuple[str, str]]:
        for kind, phrasings in {
            **words.FACT_PHRASINGS,
            **words.LIST_PHRASINGS,
            "pick": words.PICK_PHRASINGS,
            **words.COMPARE_PHRASINGS,
        }.items():
            yield from ((phrasing, kind) for phrasing in phrasings)

    return tuple(
        (re.compile(re.escape(phrasing).replace(r"\{\}", "([A-Za-z]+)")), kind)
        for phrasing, kind in all_phrasings()
    )


def _build(kind: str, text: str, gaps: Sequence[str]) -> world.Request | None:
    """The request whose phrasing was filled with these words; None where they do not fit it."""
    answer = _answer(kind, gaps)
    if answer is None:
        return None
    if kind in words.FACT_PHRASINGS:
        phrasings = [phrasing.format(*gaps) for phrasing in words.FACT_PHRASINGS[kind]]
        return world.fact(kind, gaps[0], phrasings.index(text))
    return world.compose(kind, text, answer)


def _answer(kind: str, gaps: Sequence[str]) -> str | None:
    if kind in words.FACT_PHRASINGS:
        return world.FACTS[kind].get(gaps[0])
    if kind in words.COMPARE_PHRASINGS:
        if gaps[0] == gaps[1] or not {*gaps} <= {*words.NUMBERS}:
            return None
        return (max if kind == "bigger" else min)(gaps, key=words.NUMBERS.index)
    things = list(gaps[1:] if kind == "pick" else gaps)
    if not {*things} <= {*world.THINGS}:
        return None
    if kind != "pick":
        return things[world.LISTS.index(kind)]
    fitting = [thing for thing in things if thing in words.CATEGORIES.get(gaps[0], ())]
    return fitting[0] if len(fitting) == 1 else None
