"""Conversations that occur again, word by word."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from interact_jax.data.copies import digest_of
from interact_jax.prepare.filtering import Dropped
from interact_jax.prepare.filters.notes import gather, groups_of, in_parts
from interact_jax.prepare.filters.settings import Settings, setting
from interact_jax.schema import Conversation, Message


@dataclasses.dataclass(frozen=True)
class Duplicates(Settings):
    """Copies of an earlier conversation, whatever its id and user: equal are messages, tools and
    pairs of replies (`data.copies.digest_of`). Memory: 16 bytes a conversation, about 100 while it
    is decided."""

    name: ClassVar[str] = "duplicates"
    width: ClassVar[int] = 16
    ignore_case: bool = setting(False, "upper and lower case are the same")
    ignore_space: bool = setting(False, "white space of any kind and length is the same")

    def note(self, conversation: Conversation) -> bytes:
        messages = tuple(self._normalised(message) for message in conversation.messages)
        return digest_of(dataclasses.replace(conversation, messages=messages))

    def _normalised(self, message: Message) -> Message:
        text = message.content
        if self.ignore_case:
            text = text.casefold()
        if self.ignore_space:
            text = " ".join(text.split())
        return dataclasses.replace(message, content=text)

    def decide(self, notes_NxW: Iterable[np.ndarray]) -> Iterator[list[Dropped | None]]:
        notes, lengths = gather(notes_NxW, self.width)
        first_N, before_N, _ = groups_of(notes)

        def answer(index: int) -> Dropped | None:
            if not before_N[index]:
                return None
            return Dropped("copy of an earlier conversation", f"of number {first_N[index] + 1:,}")

        return in_parts(lengths, answer)
