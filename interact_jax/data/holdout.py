"""Which conversations are held out: not learned from, so that learning can be measured on them.

A conversation is held out by a hash of its user or, if it has none, of its opening: the messages up
to the first user message. So all conversations of a user, all paths of a message tree and all
copies of a dialogue are on one side, and the content decides, not the order of the data. Where a
few users wrote most of a log, their hashes would hold out nothing, or half of it: then the opening
decides for everybody. A copy of a conversation, with another user, goes where the first of them is.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import operator
from collections.abc import Callable

from interact_jax.data.copies import digest_of_messages
from interact_jax.data.dataset import Dataset
from interact_jax.printable import count_reason
from interact_jax.schema import Conversation
from interact_jax.settings import Setting

FEWEST = 30  # conversations: fewer show little
TOLERANCE = 2  # a split by users may hold out so many times more or fewer than the share
MOVED = "conversations held out or learned with an earlier copy, not with others of their user"
SETTINGS = {
    "evaluation.holdout": Setting(
        0.03,
        "share of the conversations to hold out and measure on, chosen by a hash of the user or, "
        f"without one, of the opening; none if they would be fewer than {FEWEST}; 0 = none",
        least=0,
        most=0.9,
        before=0.0,
    ),
}


def split(dataset: Dataset, share: float) -> tuple[Dataset, list[Conversation]]:
    """The data to learn from, and the conversations held out: none where there are too few of them,
    or where nothing else would be left."""
    expected = share * len(dataset.conversations)
    if expected < FEWEST:
        return dataset, []
    held_out = _select(dataset.conversations, share, key_of)
    if not expected / TOLERANCE <= sum(held_out) <= expected * TOLERANCE:
        held_out = _select(dataset.conversations, share, opening_of)
    before, held_out = held_out, _join_copies(dataset.conversations, held_out)
    if all(held_out) or not any(held_out):
        return dataset, []
    kept = [not is_out for is_out in held_out]
    moved = sum(map(operator.ne, before, held_out))
    rest = dataclasses.replace(
        dataset,
        counts=dataset.counts + collections.Counter({MOVED: moved}),
        conversations=list(itertools.compress(dataset.conversations, kept)),
        trees=list(itertools.compress(dataset.trees, kept)),
        interactions=list(itertools.compress(dataset.interactions, kept)),
    )
    return rest, list(itertools.compress(dataset.conversations, held_out))


def _select(
    conversations: list[Conversation], share: float, key: Callable[[Conversation], str]
) -> list[bool]:
    return [hash_of(key(conversation)) < share for conversation in conversations]


def _join_copies(conversations: list[Conversation], held_out: list[bool]) -> list[bool]:
    """`held_out`, where copies of a conversation are on the side of the first of them."""
    sides: dict[bytes, bool] = {}
    return [
        sides.setdefault(digest_of_messages(conversation.messages), is_out)
        for conversation, is_out in zip(conversations, held_out, strict=True)
    ]


def describe(held: list[Conversation], rest: Dataset, share: float) -> str:
    """In words, what is held out."""
    count = len(rest.conversations) + len(held)
    if held:
        text = f"held out, to measure by: {len(held):,} of {count:,} conversations"
        if rest.counts[MOVED]:
            return f"{text}; {count_reason(rest.counts[MOVED], MOVED)}"
        both = {c.user for c in held} & {c.user for c in rest.conversations} - {""}
        note = "; too few users to hold out whole ones: other conversations of theirs are learned"
        return text + note * bool(both)
    if not share:
        reason = "as asked"
    elif share * count < FEWEST:
        reason = f"{share:g} of {count:,} conversations are fewer than {FEWEST}"
    else:
        reason = f"nearly all of the {count:,} conversations begin alike"
    return f"held out, to measure by: nothing ({reason}; evaluation.holdout)"


def key_of(conversation: Conversation) -> str:
    """What conversations that must be on one side have in common."""
    return f"user {conversation.user}" if conversation.user else opening_of(conversation)


def opening_of(conversation: Conversation) -> str:
    """The messages up to the first user message, which copies and paths of a tree share."""
    opening: list[tuple[str, str]] = []
    for message in conversation.messages:
        opening.append((message.role, message.content))
        if message.role == "user":
            break
    return f"opening {json.dumps(opening)}"


def hash_of(text: str) -> float:
    """A pseudo-random number from 0 to 1, the same everywhere."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
