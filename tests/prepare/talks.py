"""Conversations for the tests of filters."""

from __future__ import annotations

import itertools

import numpy as np

from interact_jax.prepare.filtering import Changed, Dropped
from interact_jax.schema import Conversation, Message


def talk(*texts, user="", first="user", **meta):
    """A conversation in which user and assistant take turns."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    said = tuple(Message(roles[n % 2], text) for n, text in enumerate(texts))
    return Conversation("c", said, user, "log.jsonl:1", meta)


def reason(outcome):
    """Why a conversation is left out; "" where it is kept as it is."""
    assert not isinstance(outcome, Changed)
    return outcome.reason if isinstance(outcome, Dropped) else ""


def survey(filter, conversations, cuts=()):
    """What becomes of each conversation; `cuts` are where one part ends and the next begins."""
    notes = [filter.note(conversation) for conversation in conversations]
    assert {len(note) for note in notes} <= {filter.width}
    edges = [0, *cuts, len(notes)]
    parts = [
        np.frombuffer(b"".join(notes[a:b]), np.uint8).reshape(-1, filter.width)
        for a, b in itertools.pairwise(edges)
    ]
    decided = list(filter.decide(iter(parts)))
    assert [len(part) for part in decided] == [len(part) for part in parts]
    return [outcome for part in decided for outcome in part]


def kept(filter, conversations, cuts=()):
    """The places of those that are kept."""
    return [n for n, out in enumerate(survey(filter, conversations, cuts)) if out is None]
