"""The paper's two selections of data, for WildFeedback and for WildChat (arXiv 2603.12273).

    paper                                     what WildFeedback was filtered by
    paper:data=wildchat, and then sample      what WildChat was filtered by

`Paper` is what one conversation alone decides; `Sample` is the shuffle, and where it stops. That
the paper's history is the last five messages, from a user's on, is no property of a conversation
but of each interaction: `data.history=reference` trains so. Lengths are characters (code points) of
the texts as they are read, without the system message.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from interact_jax.prepare import buckets
from interact_jax.prepare.filtering import Dropped, Notes, Outcome
from interact_jax.prepare.filters.settings import Settings, setting
from interact_jax.schema import Conversation

LEAST_MESSAGES = 3
MOST_CHARACTERS = 100_000  # of a conversation
MOST_IN_MESSAGE = 4_096  # characters; of the assistant's messages, of WildChat also the user's
LANGUAGE_FIELD, LANGUAGE = "language", "english"
WILDFEEDBACK, WILDCHAT = "wildfeedback", "wildchat"
LONG_ROLES = {WILDFEEDBACK: ("assistant",), WILDCHAT: ("assistant", "user")}


@dataclasses.dataclass(frozen=True)
class Paper(Settings):
    """The paper's conditions on a conversation of one of its two sources. In WildChat only
    conversations whose field `language` says English are kept."""

    name: ClassVar[str] = "paper"
    data: str = setting(WILDFEEDBACK, "the source whose conditions hold", tuple(LONG_ROLES))

    def __call__(self, conversation: Conversation) -> Outcome:
        said = [message for message in conversation.messages if message.role != "system"]
        if len(said) < LEAST_MESSAGES:
            return Dropped(f"fewer than {LEAST_MESSAGES} messages", f"{len(said)}")
        if said[0].role != "user":
            return Dropped("does not begin with a user's message", said[0].role)
        characters = sum(len(message.content) for message in said)
        if characters > MOST_CHARACTERS:
            return Dropped(f"more than {MOST_CHARACTERS:,} characters", f"{characters:,}")
        for message in said:
            if message.role in LONG_ROLES[self.data] and len(message.content) > MOST_IN_MESSAGE:
                reason = f"a message of the {message.role} over {MOST_IN_MESSAGE:,} characters"
                return Dropped(reason, f"{len(message.content):,}")
        if self.data == WILDCHAT:
            language = str(conversation.meta.get(LANGUAGE_FIELD, ""))
            if language.casefold() not in (LANGUAGE, "en"):
                return Dropped("not English", f"language is {language!r}")
        return conversation


@dataclasses.dataclass(frozen=True)
class Sample(Settings):
    """A random sample of conversations. In the order of a shuffle, it is complete with
    `conversations`, or as soon as it has both `enough_conversations` and `enough_interactions`. By
    default as the paper draws from WildChat."""

    name: ClassVar[str] = "sample"
    width: ClassVar[int] = 4
    conversations: int = setting(15_000, "conversations at most", least=1)
    enough_conversations: int | None = setting(
        14_000, "conversations that are enough with enough_interactions", least=1
    )
    enough_interactions: int | None = setting(
        50_000, "interactions that are enough with enough_conversations", least=1
    )
    seed: int = setting(
        42, "of numpy.random.default_rng, whose permutation is the shuffle", least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.enough_conversations is None) != (self.enough_interactions is None):
            raise self.refuse("enough_interactions", "none where enough_conversations is, too")

    def note(self, conversation: Conversation) -> bytes:
        return sum(1 for _ in conversation.replies()).to_bytes(self.width, "little")

    def decide(self, notes: Notes) -> Iterator[tuple[int, Dropped]]:
        order_N = np.random.default_rng(self.seed).permutation(len(notes))
        order_M = order_N[: self.conversations].copy()  # no more than these are ever taken
        del order_N
        interactions_M = self._interactions(notes, order_M)
        kept_N = np.zeros(len(notes), bool)
        kept_N[order_M[: self._size(interactions_M)]] = True
        drop = Dropped("not in the sample", f"of seed {self.seed}")
        for start in range(0, len(kept_N), buckets.BLOCK):
            for place in np.flatnonzero(~kept_N[start : start + buckets.BLOCK]).tolist():
                yield start + place, drop

    def _interactions(self, notes: Notes, places_M: np.ndarray) -> np.ndarray:
        """What was noted of some places."""
        found_M, order_M = np.zeros(len(places_M), np.uint32), np.argsort(places_M)
        sorted_M, start = places_M[order_M], 0
        for block, notes_NxW in enumerate(notes):
            end = int(np.searchsorted(sorted_M, (block + 1) * buckets.BLOCK))
            own = sorted_M[start:end] - block * buckets.BLOCK
            found_M[order_M[start:end]] = np.ascontiguousarray(notes_NxW[own]).view("<u4")[:, 0]
            start = end
        return found_M

    def _size(self, interactions_N: np.ndarray) -> int:
        """How many of the first conversations of the shuffle are taken."""
        if self.enough_conversations is None or self.enough_interactions is None:
            return self.conversations
        sum_N = np.cumsum(interactions_N, dtype=np.int64)
        enough = int(np.searchsorted(sum_N, self.enough_interactions)) + 1
        return min(self.conversations, max(self.enough_conversations, enough))
