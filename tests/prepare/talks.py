"""Conversations for the tests of filters."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np

from interact_jax.prepare.deciding import Remaining, Stored
from interact_jax.prepare.filtering import Changed, Dropped
from interact_jax.prepare.job import Job, Settings
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
    found = decided(filter, notes_of(b"".join(notes), filter.width), cuts)
    return [found.get(place) for place in range(len(notes))]


def notes_of(data, width):
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def decided(filter, notes, cuts=(), stays=None):
    """{place: Dropped}, for notes [N, width] on disk;
    `stays` says which of them are still there."""
    stays = np.ones(len(notes), bool) if stays is None else stays
    edges = [0, *cuts, len(notes)]
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Settings(""), Path(folder), len(edges) - 1, (filter,))
        job.folder.mkdir()
        (job.folder / "scratch").mkdir()
        for part, (start, end) in enumerate(itertools.pairwise(edges)):
            job.file(part, "note-0").write_bytes(notes[start:end].tobytes())
        counts = [end - start for start, end in itertools.pairwise(edges)]
        stored = Stored(job, "note-0", filter.width, counts)
        remaining = Remaining(stored, stays, job.folder / "scratch")
        found = list(filter.decide(remaining))
    order = [place for place, _ in found]
    assert order == sorted(set(order)) and set(order) <= set(range(len(remaining)))
    return dict(found)


def kept(filter, conversations, cuts=()):
    """The places of those that are kept."""
    return [n for n, out in enumerate(survey(filter, conversations, cuts)) if out is None]
