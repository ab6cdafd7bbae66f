"""Conversations that occur again, word by word."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from interact_jax.data.copies import digest_of
from interact_jax.prepare.buckets import Seen
from interact_jax.prepare.filtering import Dropped, Notes
from interact_jax.prepare.filters.notes import KEYED, Answers, by_key
from interact_jax.prepare.filters.settings import Settings, setting
from interact_jax.schema import Conversation, Message


@dataclasses.dataclass(frozen=True)
class Duplicates(Settings):
    """Copies of an earlier conversation, whatever its id and user: equal are messages, tools and
    pairs of replies (`data.copies.digest_of`). Disk: 16 bytes a conversation, and
    40 more while it is decided."""

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

    def decide(self, notes: Notes) -> Iterator[tuple[int, Dropped]]:
        answers, keyed = Answers(notes), by_key(notes)
        for bucket in keyed.filled():
            seen = Seen(KEYED["key"])
            for records in keyed.read(bucket):
                first_N, _, before_N = seen.add(records["key"], records["place"])
                again = before_N > 0
                answers.add(records["place"][again], first_N[again])
        for place, first in answers:
            yield place, Dropped("copy of an earlier conversation", f"of number {first + 1:,}")
