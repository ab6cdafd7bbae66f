"""The pocket world as a judge: programs that see which styles a reply has, and whether it is right.

    judge = PocketJudge(parse_preference("sentence, polite, emoji, no question"))

The reply with more of the styles as wanted is better; where that is equal, the right one; else
neither. Without a preference only the answer counts. A reply that cannot be read loses against any
that can.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from interact_jax.judges.judge import FIRST, NEITHER, SECOND, Comparison, Verdict
from interact_jax.pocket import measure, words, world
from interact_jax.pocket.reading import request_in
from interact_jax.schema import InputError, Message

EXAMPLE = "sentence, polite, emoji, no question"


class PocketJudge:
    """Judges replies to requests of the pocket world, without a model; both orders agree."""

    name = "pocket"

    def __init__(self, preference: world.Styles | None = None):
        self._preference = world.check_preference(preference) if preference else {}

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"preference": dict(self._preference)}

    def check(self, prompts: Mapping[str, Sequence[Message]]) -> None:
        for source, prompt in prompts.items():
            if request_in(prompt) is None:
                raise InputError(
                    f"{source}: no request of the pocket world, such as 'Capital of France?', so "
                    "its checkers cannot judge replies to it. Take another judge, or "
                    "--prompts pocket."
                )

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        return [self._compare(comparison) for comparison in comparisons]

    def _compare(self, comparison: Comparison) -> Verdict:
        request = _request(comparison.prompt)
        first, second = (self._mark(x, request) for x in (comparison.first, comparison.second))
        choice = NEITHER if first == second else FIRST if first > second else SECOND
        return Verdict(choice, f"{self._describe(first)} | {self._describe(second)}")

    def _mark(self, text: str, request: world.Request) -> tuple[int, bool]:
        """(styles as wanted, right): the greater, the better. (-1, False): cannot be read."""
        reply = world.parse(text)
        if reply is None:
            return (-1, False)
        wanted = sum(reply.styles[style] == on for style, on in self._preference.items())
        return (wanted, reply.answer == request.answer)

    def _describe(self, mark: tuple[int, bool]) -> str:
        wanted, right = mark
        if wanted < 0:
            return "unreadable"
        styles = f"{wanted} of {len(self._preference)} styles, " if self._preference else ""
        return f"{styles}{'right' if right else 'wrong'}"

    def measure(
        self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
    ) -> dict[str, float]:
        """Shares of replies (`pocket.measure`); those of styles only with a preference."""
        requests = [_request(prompt) for prompt in prompts]
        shares = measure.measure(replies, requests, self._preference or measure.LOGGED_PREFERENCE)
        names = ["correct", "readable"]
        if self._preference:
            names = ["wanted_styles", "all_wanted", *names]
        return {name: shares[name] for name in names}


def _request(prompt: Sequence[Message]) -> world.Request:
    request = request_in(prompt)
    assert request is not None, "check() comes first"
    return request


def parse_preference(text: str) -> dict[str, bool]:
    """Styles by name, with "no" or "-" before those that are not wanted: "polite, no emoji". Raises
    InputError."""
    preference: dict[str, bool] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        if (read := world.read_style(part)) is None:
            near = difflib.get_close_matches(part.removeprefix("no "), world.STYLES, n=1)
            suggestion = f" Did you mean {near[0]}?" if near else ""
            raise InputError(
                f"--persona {part!r}: no style of the pocket world.{suggestion} Expected styles "
                f"with commas between, such as {EXAMPLE!r}; there are {', '.join(world.STYLES)}."
            )
        style, wanted = read
        if style in preference:
            raise InputError(f"--persona {text!r}: {style} is named twice.")
        preference[style] = wanted
    return preference


def in_words(preference: world.Styles) -> str:
    """The preference as a user of the world would put it, for a system prompt."""
    return " ".join(words.COMPLAINTS[style][on][0] for style, on in preference.items())
