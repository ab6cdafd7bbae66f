"""What a filter is.

Most filters look at one conversation: they are called with it, and return it, a `Changed` version
of it, or `Dropped`. Others have to have seen all conversations before they can decide about one
(`Survey`): duplicates, users with too many of them. These note a few bytes of each first, which are
kept on disk, and read in blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
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


class Notes(Protocol):
    """What a survey has noted of the conversations that are still there. Their places are 0, 1, 2
    ... in the order of the input; blocks are of `buckets.BLOCK` places."""

    @property
    def scratch(self) -> Path:
        """An empty folder for what does not fit into memory; it is removed."""

    def __len__(self) -> int:
        """How many there are."""

    def block(self, number: int) -> np.ndarray:
        """The notes [n, width] (uint8) of one block."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """All blocks in turn, as often as it is asked for."""


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

    def decide(self, notes: Notes) -> Iterator[tuple[int, Dropped]]:
        """What is dropped, by place: the later ones of those that are alike."""
