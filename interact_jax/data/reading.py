"""What batches are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from interact_jax.data.forest import Forest
from interact_jax.data.limits import Member
from interact_jax.data.tree import Tree
from interact_jax.data.tree_index import Sizes

Read = Callable[[Sequence[int]], Sequence[Sequence[Tree]]]
"""The trees of each of these conversations."""


class Data(Protocol):
    """What batches are made of: conversations by number, all in memory (`dataset.Dataset`) or read
    as they are drawn (`stored.StoredDataset`)."""

    @property
    def interactions(self) -> Sequence[int] | np.ndarray:
        """Of each conversation."""

    @property
    def users(self) -> np.ndarray:
        """Of each conversation, "" or 0 where nobody is named."""

    @property
    def weights(self) -> np.ndarray:
        """Of each conversation."""

    @property
    def prints(self) -> dict[str, str]:
        """Digests of all that is learned, as `fingerprint`."""

    def __len__(self) -> int: ...

    def trees_of(self, indices: Sequence[int]) -> Sequence[Tree]:
        """The trees of these conversations."""

    def members(self, indices: Sequence[int], trees: Sequence[Sequence[Tree]]) -> list[Member]:
        """These conversations, whose trees are at hand, as `Limits` sees them."""

    def follow(self, *orders: Iterator[int]) -> Read:
        """A function that returns the trees of the next conversations: `orders` has the numbers of
        those of each data set, in it."""

    def summary(self) -> Mapping[str, int]:
        """Everything that was lost or mended, by reason."""


class Stored(Data, Protocol):
    """Data whose trees are in stores (`stored.StoredDataset`, `mixed.MixedDataset`)."""

    def sizes(self, indices: Sequence[int]) -> Sizes | None:
        """The sizes of the trees of these conversations; None where some are not stored."""

    def forests_of(self, indices: Sequence[int], counted: Collection[int]) -> Sequence[Forest]:
        """The trees of each of these conversations, in any order. What is lost of those `counted`
        is counted."""

    def count_elsewhere(self, indices: Sequence[int]) -> None:
        """From here on do not count what is lost of these conversations: others have."""
