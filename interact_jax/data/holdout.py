"""Which conversations are held out: not learned from, so that learning can be measured on them.

A conversation is held out by a hash of its user or, if it has none, of its opening: the messages up
to the first user message. So all conversations of a user, all paths of a message tree and all
copies of a dialogue are on one side, and the content decides, not the order of the data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json

from interact_jax.data.dataset import Dataset
from interact_jax.schema import Conversation
from interact_jax.settings import Setting

FEWEST = 30  # conversations: fewer show little
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
    if share * len(dataset.conversations) < FEWEST:
        return dataset, []
    held_out = [is_held_out(conversation, share) for conversation in dataset.conversations]
    if all(held_out) or not any(held_out):
        return dataset, []
    kept = [not is_out for is_out in held_out]
    rest = dataclasses.replace(
        dataset,
        conversations=list(itertools.compress(dataset.conversations, kept)),
        trees=list(itertools.compress(dataset.trees, kept)),
        interactions=list(itertools.compress(dataset.interactions, kept)),
    )
    return rest, list(itertools.compress(dataset.conversations, held_out))


def describe(held: list[Conversation], rest: Dataset, share: float) -> str:
    """In words, what is held out."""
    count = len(rest.conversations) + len(held)
    if held:
        return f"held out, to measure by: {len(held):,} of {count:,} conversations"
    reason = (
        f"{share:g} of {count:,} conversations are fewer than {FEWEST}" if share else "as asked"
    )
    return f"held out, to measure by: nothing ({reason}; evaluation.holdout)"


def is_held_out(conversation: Conversation, share: float) -> bool:
    """Whether a conversation is in the `share` that is held out; a larger share includes it."""
    return hash_of(key_of(conversation)) < share


def key_of(conversation: Conversation) -> str:
    """What conversations that must be on one side have in common."""
    if conversation.user:
        return f"user {conversation.user}"
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
