"""The language that people write in.

`py3langid` (BSD) tells 139 languages by the n-grams of bytes of a text. Its model comes with it:
nothing is downloaded. It was trained on whole texts, and is unsure of short ones (docs/filters.md
has figures).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import ClassVar

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from interact_jax.prepare.filtering import Dropped, Outcome
from interact_jax.prepare.filters.settings import KEEP_OR_DROP, Settings, setting
from interact_jax.prepare.filters.texts import WHOSE, messages_of
from interact_jax.schema import Conversation

LOOKED_AT = 2_000  # characters of each message, and of all of them ten times that
MESSAGES = 10
NO_LANGUAGE = re.compile(r"```.*?(?:```|\Z)|https?://\S+|(?<!\S)\S+@\S+", re.DOTALL)
"""Blocks of code and addresses, which are in no language."""


@dataclasses.dataclass(frozen=True)
class Language(Settings):
    """Conversations whose likeliest language is one of `languages`, with at least a probability of
    `least`. Looked at is the beginning of the first messages, without blocks of code."""

    name: ClassVar[str] = "language"
    languages: tuple[str, ...] = setting(("en",), "codes of the languages to keep (ISO 639)")
    least: float = setting(0.5, "least probability of the language", least=0, most=1)
    of: str = setting("user", "whose messages are looked at", WHOSE)
    shortest: int = setting(20, "letters below which no language is told", least=1)
    short: str = setting("keep", "conversations with fewer letters", KEEP_OR_DROP)

    def __post_init__(self) -> None:
        super().__post_init__()
        for language in self.languages:
            if language not in labels():
                raise self.refuse("languages", f"codes among {', '.join(labels())}")

    def __call__(self, conversation: Conversation) -> Outcome:
        text = text_of(conversation, self.of)
        letters = sum(map(str.isalpha, text))
        if letters < self.shortest:
            if self.short == "keep":
                return conversation
            return Dropped("too short to tell its language", f"{letters} letters")
        language, probability = identify(text)
        detail = f"{language}, probability {probability:.2f}, {letters:,} letters"
        if language not in self.languages:
            return Dropped(f"language {language}", detail)
        if probability < self.least:
            return Dropped(f"language {language}, but not surely", detail)
        return conversation


def text_of(conversation: Conversation, whose: str) -> str:
    """What the language is told from."""
    texts = [message.content for _, message in messages_of(conversation, whose)][:MESSAGES]
    return "\n".join(NO_LANGUAGE.sub(" ", text[:LOOKED_AT]) for text in texts)


@functools.cache
def _identifier() -> LanguageIdentifier:
    """Half a second, once in a process."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.cache
def labels() -> tuple[str, ...]:
    """The codes of all languages that are told."""
    return tuple(sorted(_identifier().labels))


def identify(text: str) -> tuple[str, float]:
    """The likeliest language of a text, and its probability among all languages."""
    language, probability = _identifier().classify(text)
    return str(language), float(probability)
