"""How long messages are, and how many there are."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from interact_jax.prepare.filtering import Dropped, Outcome
from interact_jax.prepare.filters.settings import Settings, setting
from interact_jax.prepare.filters.texts import ALL, WHOSE, messages_of
from interact_jax.schema import Conversation


@dataclasses.dataclass(frozen=True)
class Length(Settings):
    """Characters (code points) and words of messages, or of all of them together; words are what
    white space separates, which says nothing of languages without it. An empty message, such as a
    call of a tool, has no length."""

    name: ClassVar[str] = "length"
    of: str = setting(ALL, "whose messages", WHOSE)
    per: str = setting("message", "what is measured", ("message", "conversation"))
    least: int | None = setting(None, "characters at least", least=0)
    most: int | None = setting(None, "characters at most", least=0)
    least_words: int | None = setting(None, "words at least", least=0)
    most_words: int | None = setting(None, "words at most", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order(self, "least", "most")
        _check_order(self, "least_words", "most_words")

    def __call__(self, conversation: Conversation) -> Outcome:
        places = list(messages_of(conversation, self.of))
        texts = [(f"message {index}", m.content) for index, m in places if m.content]
        units = [
            ("characters", self.least, self.most, len),
            ("words", self.least_words, self.most_words, lambda text: len(text.split())),
        ]
        for unit, least, most, measure in units:
            if least is None and most is None:
                continue
            sizes = [(place, measure(text)) for place, text in texts]
            if self.per == "conversation":
                sizes = [("the conversation", sum(size for _, size in sizes))]
            for place, size in sizes:
                if least is not None and size < least:
                    return Dropped(f"fewer than {least:,} {unit}", f"{place} has {size:,}")
                if most is not None and size > most:
                    return Dropped(f"more than {most:,} {unit}", f"{place} has {size:,}")
        return conversation


@dataclasses.dataclass(frozen=True)
class Turns(Settings):
    """The number of interactions, or of messages, of a conversation."""

    name: ClassVar[str] = "turns"
    of: str = setting("interactions", "what is counted", ("interactions", "messages"))
    least: int | None = setting(1, "at least so many", least=0)
    most: int | None = setting(None, "at most so many", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order(self, "least", "most")

    def __call__(self, conversation: Conversation) -> Outcome:
        counted = conversation.messages if self.of == "messages" else conversation.replies()
        size = sum(1 for _ in counted)
        if self.least is not None and size < self.least:
            return Dropped(f"fewer than {self.least:,} {self.of}", f"{size:,}")
        if self.most is not None and size > self.most:
            return Dropped(f"more than {self.most:,} {self.of}", f"{size:,}")
        return conversation


def _check_order(filter: Settings, low: str, high: str) -> None:
    least, most = getattr(filter, low), getattr(filter, high)
    if least is not None and most is not None and least > most:
        raise filter.refuse(high, f"at least {low}={least}")
