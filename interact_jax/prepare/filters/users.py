"""Users with many conversations."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import ClassVar

from interact_jax.prepare.buckets import Seen
from interact_jax.prepare.filtering import Dropped, Notes
from interact_jax.prepare.filters.notes import KEYED, Answers, by_key
from interact_jax.prepare.filters.settings import Settings, setting
from interact_jax.schema import Conversation


@dataclasses.dataclass(frozen=True)
class Users(Settings):
    """Users with more than `most` conversations: their first ones are kept, or none. Conversations
    without a user are kept. Disk: 16 bytes a conversation, and 40 more while it is decided."""

    name: ClassVar[str] = "users"
    width: ClassVar[int] = 16  # of a digest; zeros where there is no user
    most: int = setting(100, "conversations of a user", least=1)
    over: str = setting("first", "what is kept of a user with more", ("first", "none"))

    def note(self, conversation: Conversation) -> bytes:
        if not conversation.user:
            return bytes(self.width)
        return hashlib.blake2b(conversation.user.encode(), digest_size=self.width).digest()

    def decide(self, notes: Notes) -> Iterator[tuple[int, Dropped]]:
        answers, keyed = Answers(notes), by_key(notes)
        for bucket in keyed.filled():
            users, again = Seen(KEYED["key"]), Seen(KEYED["key"])
            for records in keyed.read(bucket):
                users.add(records["key"], records["place"])
            for records in keyed.read(bucket):
                size_N = users.times(records["key"])
                *_, before_N = again.add(records["key"], records["place"])
                over_N = (before_N if self.over == "first" else size_N - 1) >= self.most
                answers.add(records["place"][over_N], size_N[over_N])
        reason = f"of a user with more than {self.most:,} conversations"
        for place, size in answers:
            yield place, Dropped(reason, f"the user has {size:,}")
