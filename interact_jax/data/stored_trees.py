"""Trees of many conversations as a sequence: sizes are known, and a tree is made, or read from
disk, when somebody looks at it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from interact_jax.data.forest import Forest, Measured
from interact_jax.data.tree import Tree
from interact_jax.data.tree_index import Sizes


class StoredTrees(Measured):
    """The trees of some conversations; `read` returns those of one by its number."""

    def __init__(self, read: Callable[[int], Forest], indices: Sequence[int], sizes: Sizes):
        self._read, self._indices, self._sizes = read, indices, sizes
        self._ends_C = np.cumsum(sizes.trees_C)
        self._last = -1, Forest.of([])  # the last conversation that was read

    @property
    def sizes_Nx5(self) -> np.ndarray:
        """The sizes of the trees: T, P, Q, R, J."""
        return self._sizes.trees_Nx5

    @property
    def given(self) -> Collection[str]:
        """The names of all given log-probabilities."""
        if not self._sizes.given:
            return ()
        return {name for index in self._indices for name in self._of(index).given}

    def __len__(self) -> int:
        return len(self.sizes_Nx5)

    def tree(self, number: int) -> Tree:
        place = int(np.searchsorted(self._ends_C, number, side="right"))
        return self._of(self._indices[place])[number - int(self._ends_C[place])]

    def _of(self, conversation: int) -> Forest:
        if self._last[0] != conversation:
            self._last = conversation, self._read(conversation)
        return self._last[1]
