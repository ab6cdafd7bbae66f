"""A judge: says which of two replies to a prompt is better.

    verdicts = judge.compare([Comparison(prompt, "Paris.", "It is Paris!")])
    verdicts[0].choice                                   FIRST, SECOND or NEITHER

It sees one order at a time and does not know whose reply stands first. An answer that cannot be
read is UNPARSABLE and no answer at all is FAILED: neither is a verdict, and neither is a tie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from interact_jax.schema import Message

FIRST, SECOND, NEITHER = "first", "second", "neither"
UNPARSABLE, FAILED = "unparsable", "failed"
CHOICES = (FIRST, SECOND, NEITHER, UNPARSABLE, FAILED)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two replies to a prompt, in the order in which the judge sees them."""

    prompt: tuple[Message, ...]
    first: str
    second: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a judge makes of a comparison: one of CHOICES, and its answer as it was given. `error`
    says why there is none."""

    choice: str
    answer: str = ""
    error: str = ""


class Judge(Protocol):
    """What compares replies, many at a time.

    `name` stands in every result. `settings` is JSON that holds everything its verdicts depend on:
    a verdict that was given under the same settings need not be asked for again.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def check(self, prompts: Mapping[str, Sequence[Message]]) -> None:
        """Raise InputError for a prompt (by its source, "prompts.jsonl:3") that it cannot judge
        replies to."""
        ...

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """A verdict on each comparison, in order."""
        ...

    def measure(
        self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
    ) -> dict[str, float]:
        """What it can say about replies without comparing them, one reply for each prompt; {} where
        it can only compare."""
        ...
