"""What a filter is.

Most filters look at one conversation: they are called with it, and return it, a `Changed` version
of it, or `Dropped`. Others have to have seen all conversations before they can decide about one
(`Survey`): duplicates, users with too many of them. These note a few bytes of each first; what they
note is all that is kept in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np

from interact_jax.schema import Conversation


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A conversation is left out: a short reason, which is counted, and what it was in this one."""

    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Changed:
    """A conversation is kept in another form; `counts`: what was changed how often, by reason."""

    conversation: Conversation
    counts: Mapping[str, int]


Outcome = Conversation | Changed | Dropped


class Filter(Protocol):
    """A frozen dataclass whose fields are its settings: picklable, and without state."""

    @property
    def name(self) -> str:
        """As in FILTERS and on the command line."""

    def __call__(self, conversation: Conversation) -> Outcome:
        """What becomes of this conversation, whatever the others are."""


class Survey(Protocol):
    """A filter that decides when it has seen all conversations; a frozen dataclass as well."""

    @property
    def name(self) -> str:
        """As in FILTERS and on the command line."""

    @property
    def width(self) -> int:
        """Bytes of a note."""

    def note(self, conversation: Conversation) -> bytes:
        """What has to be known of this conversation, `width` bytes."""

    def decide(self, notes_NxW: Iterable[np.ndarray]) -> Iterator[list[Dropped | None]]:
        """For the notes [n, width] (uint8) of each part in turn, in the order of the input, what is
        dropped: the later ones of those that are alike. `notes_NxW` is read once."""
