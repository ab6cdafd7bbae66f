"""The order in which a run goes through its data."""

from __future__ import annotations

import functools
from collections.abc import Callable

import grain
import numpy as np

KNOWN = 1 << 16  # numbers of a shuffled index that are kept: each is asked for several times
SMALL = 32
"""Grain shuffles 2^16 numbers and walks through them until one is below the count: 4 ms for an
index of 12, 1 ms for one of 32."""


class Order:
    """Indices below `count` without end: `order[n]` is the n-th, and every epoch has each once."""

    def __init__(self, count: int, seed: int | None):
        """Every epoch is in a new random order, which depends on the seed alone; without a seed,
        all are in the order 0, 1, ..."""
        self.count, self.seed = count, seed
        self._large: Callable[[int], int] | None = None
        if seed is not None and count >= SMALL:
            shuffled = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
            self._large = functools.lru_cache(KNOWN)(lambda n: int(shuffled[n]))
        self._epoch: tuple[int, np.ndarray] | None = None  # the last one that was asked for

    def __getitem__(self, n: int) -> int:
        if self._large is not None:
            return self._large(n)
        epoch, place = divmod(n, self.count)
        if self.seed is None:
            return place
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._epoch = epoch, rng.permutation(self.count)
        return int(self._epoch[1][place])
