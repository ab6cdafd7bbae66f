"""Users with many conversations."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from interact_jax.prepare.filtering import Dropped
from interact_jax.prepare.filters.notes import gather, groups_of, in_parts
from interact_jax.prepare.filters.settings import Settings, setting
from interact_jax.schema import Conversation


@dataclasses.dataclass(frozen=True)
class Users(Settings):
    """Users with more than `most` conversations: their first ones are kept, or none. Conversations
    without a user are kept. Memory: 16 bytes a conversation, about 100 while it is decided."""

    name: ClassVar[str] = "users"
    width: ClassVar[int] = 16  # of a digest; zeros where there is no user
    most: int = setting(100, "conversations of a user", least=1)
    over: str = setting("first", "what is kept of a user with more", ("first", "none"))

    def note(self, conversation: Conversation) -> bytes:
        if not conversation.user:
            return bytes(self.width)
        return hashlib.blake2b(conversation.user.encode(), digest_size=self.width).digest()

    def decide(self, notes_NxW: Iterable[np.ndarray]) -> Iterator[list[Dropped | None]]:
        notes, lengths = gather(notes_NxW, self.width)
        _, before_N, size_N = groups_of(notes)
        over_N = (before_N if self.over == "first" else size_N - 1) >= self.most
        over_N &= notes.any(axis=1)

        def answer(index: int) -> Dropped | None:
            if not over_N[index]:
                return None
            reason = f"of a user with more than {self.most:,} conversations"
            return Dropped(reason, f"the user has {size_N[index]:,}")

        return in_parts(lengths, answer)
