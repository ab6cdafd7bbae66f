"""A random permutation of 0, ..., count - 1 of which any part can be had by itself.

    Permutation(1_000_000, seed=7)(np.arange(10))      ten numbers, without the other 999,990

A block cipher permutes the numbers of 2 W bits; what it gives above `count - 1` is put in again
until it is below. Results are those of grain's `MapDataset.shuffle` (the cipher is Simon of
https://eprint.iacr.org/2013/404 with four rounds, its keys are what C++'s `std::seed_seq` makes of
the seed), which needs 8 microseconds a number: here it is a thirtieth.
"""

from __future__ import annotations

import functools

import numpy as np

ROUNDS = 4
LEAST_BITS = 16  # of a block; where it has no more, the whole table is made at once
WORD = 2**32 - 1


class Permutation:
    """Of 0, ..., count - 1; `seed` is a number of 32 bits."""

    def __init__(self, count: int, seed: int):
        self.count = count
        # As grain counts them, one too few where count - 1 is a power of two: there the last number
        # stays where it is. (In grain, it comes where the first one does, and that comes twice.)
        bits = max(LEAST_BITS, (count - 2).bit_length())
        self._width = (bits + 1) // 2
        self._mask = np.uint64(2**self._width - 1)
        self._keys = [np.uint64(key) & self._mask for key in seed_sequence(seed, ROUNDS)]

    def __call__(self, places_N: np.ndarray) -> np.ndarray:
        """What is at these places [N]."""
        if 2 * self._width == LEAST_BITS:
            return self._table[places_N]
        value_N = self._encrypt(places_N.astype(np.uint64))
        above = np.flatnonzero(value_N >= self.count)
        while len(above):
            value_N[above] = again = self._encrypt(value_N[above])
            above = above[again >= self.count]
        last = 2 ** (2 * self._width)  # beyond what the cipher permutes
        return np.where(places_N == last, last, value_N.astype(np.int64))

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """The whole of a small permutation. Of a handful of numbers, thousands of values in a row
        may be above: a value above leads to where two, four, eight, ... steps lead from it."""
        number = np.arange(2**LEAST_BITS)
        next_ = self._encrypt(number.astype(np.uint64)).astype(np.int64)
        small = min(self.count, 2**LEAST_BITS)
        found = next_[:small]
        leads = np.where(number < self.count, number, next_)
        while (found >= self.count).any():
            found, leads = leads[found], leads[leads]
        return np.concatenate([found, np.arange(small, self.count)])

    def _encrypt(self, block_N: np.ndarray) -> np.ndarray:
        left, right = block_N >> np.uint64(self._width) & self._mask, block_N & self._mask
        for key_left, key_right in zip(self._keys[::2], self._keys[1::2], strict=True):
            left = left ^ self._mix(right) ^ key_left
            right = right ^ self._mix(left) ^ key_right
        return left << np.uint64(self._width) | right

    def _mix(self, half_N: np.ndarray) -> np.ndarray:
        return self._rolled(half_N, 1) & self._rolled(half_N, 8) ^ self._rolled(half_N, 2)

    def _rolled(self, half_N: np.ndarray, bits: int) -> np.ndarray:
        back = np.uint64(self._width - bits)
        return (half_N << np.uint64(bits) | half_N >> back) & self._mask


def seed_sequence(seed: int, count: int) -> list[int]:
    """What `std::seed_seq{seed}` generates: `count` numbers of 32 bits, 2 <= count < 7 (section
    [rand.util.seedseq] of the C++ standard)."""
    assert 2 <= count < 7, "longer ones are mixed over more places"
    words = [0x8B8B8B8B] * count
    apart = (count - 1) // 2
    near = (count - apart) // 2
    far = near + apart

    def scrambled(value: int) -> int:
        return value ^ value >> 27

    for k in range(count):
        here, one, other = k % count, (k + near) % count, (k + far) % count
        mixed = 1664525 * scrambled(words[here] ^ words[one] ^ words[k - 1]) & WORD
        added = mixed + (1 if k == 0 else k % count + (seed if k == 1 else 0)) & WORD
        words[one] = words[one] + mixed & WORD
        words[other] = words[other] + added & WORD
        words[here] = added
    for k in range(count, 2 * count):
        here, one, other = k % count, (k + near) % count, (k + far) % count
        mixed = 1566083941 * scrambled(words[here] + words[one] + words[(k - 1) % count] & WORD)
        mixed &= WORD
        taken = mixed - here & WORD
        words[one] ^= mixed
        words[other] ^= taken
        words[here] = taken
    return words
