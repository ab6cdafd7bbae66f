"""The order in which a run goes through its data."""

from __future__ import annotations

import functools

import numpy as np

from interact_jax.data.permutation import Permutation

PIECE = 1 << 16  # numbers of an epoch that are computed at a time
KEPT = 8  # such pieces: each number is asked for several times
SMALL = 32  # below this, an epoch is numpy's permutation, as it has always been


class Order:
    """Indices below `count` without end: `order[n]` is the n-th, and every epoch has each once."""

    def __init__(self, count: int, seed: int | None):
        """Every epoch is in a new random order, which depends on the seed alone; without a seed,
        all are in the order 0, 1, ..."""
        self.count, self.seed = count, seed
        # What grain's shuffle derives from the seed of its source, which is one node above it.
        derived = np.random.SeedSequence([0 if seed is None else seed, 1])
        self._first = int(derived.generate_state(1, np.uint32)[0])
        self._piece = functools.lru_cache(KEPT)(self._make_piece)
        self._shuffled = functools.lru_cache(2)(Permutation)

    def __getitem__(self, n: int) -> int:
        epoch, place = divmod(n, self.count)
        return int(self._piece(epoch, place // PIECE)[place % PIECE])

    def take(self, start: int, count: int) -> np.ndarray:
        """`count` of them from the start-th on."""
        parts, end = [np.zeros(0, np.int64)], start + count
        while start < end:
            epoch, place = divmod(start, self.count)
            piece = self._piece(epoch, place // PIECE)[place % PIECE :][: end - start]
            parts.append(piece)
            start += len(piece)
        return np.concatenate(parts)

    def _make_piece(self, epoch: int, number: int) -> np.ndarray:
        """Numbers [at most PIECE] of an epoch."""
        places = np.arange(number * PIECE, min(self.count, (number + 1) * PIECE))
        if self.seed is None:
            return places
        if self.count < SMALL:
            return np.random.default_rng((self.seed, epoch)).permutation(self.count)
        return self._shuffled(self.count, (self._first + epoch) % 2**32)(places)
