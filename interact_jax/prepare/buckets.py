"""Records that do not fit into memory: divided among files, and read one file after the other.

    buckets = Buckets(folder, dtype, count)
    buckets.add(records_N, bucket_N)
    for number in buckets.filled():
        for records_N in buckets.read(number): ...
    buckets.remove()

Equal keys are put into one bucket by a hash, and looked for there (`Seen`). What was found out of
order is put into a bucket for each BLOCK of places, and sorted there (`in_order`). Either way,
memory holds a bucket's distinct keys or a block's places, however many conversations there are.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 1 << 16  # neighbouring places whose records are in memory at a time
PORTION = 1 << 17  # records of a bucket that are read at a time
PER_BUCKET = 1 << 18  # records of a bucket, on average
MOST_BUCKETS = 256  # files that a batch of records is divided among


def buckets_for(count: int) -> int:
    """How many buckets so many records are divided among by their keys."""
    return max(1, min(MOST_BUCKETS, -(-count // PER_BUCKET)))


def blocks_of(count: int) -> int:
    """How many blocks so many places are."""
    return -(-count // BLOCK)


class Buckets:
    """Records of one dtype, in a file for each bucket, in the order in which they were added."""

    def __init__(self, folder: Path, dtype: Any, count: int):
        folder.mkdir()
        self._folder, self._dtype = folder, np.dtype(dtype)
        self._sizes = np.zeros(count, np.int64)

    def __len__(self) -> int:
        """How many records there are."""
        return int(self._sizes.sum())

    def add(self, records_N: np.ndarray, bucket_N: np.ndarray) -> None:
        """Add records to the buckets with these numbers."""
        small = len(self._sizes) <= 1 << 16  # numpy sorts numbers of 16 bits by radix
        order_N = np.argsort(bucket_N.astype(np.uint16 if small else np.int64), kind="stable")
        sizes = np.bincount(bucket_N.astype(np.int64), minlength=len(self._sizes))
        ends = np.cumsum(sizes)
        for number in np.flatnonzero(sizes).tolist():
            own = records_N[order_N[ends[number] - sizes[number] : ends[number]]]
            with open(self._folder / str(number), "ab") as file:
                file.write(own.astype(self._dtype, copy=False).view(np.uint8).data)
        self._sizes += sizes

    def filled(self) -> list[int]:
        """The numbers of the buckets that have records."""
        return [int(number) for number in np.flatnonzero(self._sizes)]

    def read(self, number: int, portion: int | None = None) -> Iterator[np.ndarray]:
        """The records of a bucket, a portion at a time."""
        portion = portion or PORTION
        for start in range(0, int(self._sizes[number]), portion):
            at = start * self._dtype.itemsize
            yield np.fromfile(self._folder / str(number), self._dtype, portion, offset=at)

    def remove(self) -> None:
        shutil.rmtree(self._folder)


def in_order(found: Buckets) -> Iterator[np.ndarray]:
    """The records of each block, sorted by their field `place`."""
    for block in found.filled():
        records_N = np.concatenate([*found.read(block)])
        yield records_N[np.argsort(records_N["place"], kind="stable")]


class Seen:
    """The distinct keys of a bucket so far: where each was first, where last, and how often."""

    def __init__(self, dtype: Any):
        self._keys_K = np.zeros(0, dtype)
        self._first_K, self._last_K, self._times_K = (np.zeros(0, np.int64) for _ in range(3))
        self._new: tuple[np.ndarray, ...] | None = None  # not in the arrays yet

    def add(
        self, keys_N: np.ndarray, places_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each key the place of the first one that is equal and of the last one before it (its
        own where there is none), and how many equal ones come before it.

        key   a b a a      ->      first   0 1 0 0      previous  0 1 0 2     before  0 0 1 2
        """
        self._insert()
        count = len(keys_N)
        order_N = np.argsort(keys_N, kind="stable")
        key_N, place_N = keys_N[order_N], places_N[order_N].astype(np.int64)
        begins_N = np.append(True, key_N[1:] != key_N[:-1])[:count]
        (head_K,) = np.nonzero(begins_N)
        group_N = np.cumsum(begins_N) - 1
        size_K = np.diff(np.append(head_K, count))
        first_K, last_K, times_K = self._look_up(key_N[head_K], place_N[head_K])

        first, previous, before = (np.empty(count, np.int64) for _ in range(3))
        previous_N = np.append(0, place_N[:-1])[:count]
        previous_N[head_K] = last_K
        first[order_N] = first_K[group_N]
        previous[order_N] = previous_N
        before[order_N] = times_K[group_N] + np.arange(count) - head_K[group_N]
        self._new = (key_N[head_K], first_K, place_N[head_K + size_K - 1], times_K + size_K)
        return first, previous, before

    def times(self, keys_N: np.ndarray) -> np.ndarray:
        """How often each of these keys was added."""
        self._insert()
        return self._look_up(keys_N, np.zeros(len(keys_N), np.int64))[2]

    def _look_up(
        self, keys_N: np.ndarray, places_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First and last place, and times; these places and 0 where a key is new."""
        at_N, known_N = self._find(keys_N)
        at_N = at_N[known_N]
        first_N, last_N = places_N.copy(), places_N.copy()
        times_N = np.zeros(len(keys_N), np.int64)
        first_N[known_N], last_N[known_N] = self._first_K[at_N], self._last_K[at_N]
        times_N[known_N] = self._times_K[at_N]
        return first_N, last_N, times_N

    def _find(self, keys_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where keys are in the table or would be, and whether they are."""
        if not len(self._keys_K):
            return np.zeros(len(keys_N), np.int64), np.zeros(len(keys_N), bool)
        at_N = np.searchsorted(self._keys_K, keys_N)
        return at_N, self._keys_K[np.minimum(at_N, len(self._keys_K) - 1)] == keys_N

    def _insert(self) -> None:
        """Merge the keys of the last portion into the table. Most buckets have one portion only,
        and need no table."""
        if self._new is None:
            return
        keys_N, first_N, last_N, times_N = self._new
        self._new = None
        at_N, known_N = self._find(keys_N)
        self._last_K[at_N[known_N]] = last_N[known_N]
        self._times_K[at_N[known_N]] = times_N[known_N]
        at_N, new_N = at_N[~known_N], ~known_N
        self._keys_K = np.insert(self._keys_K, at_N, keys_N[new_N])
        self._first_K = np.insert(self._first_K, at_N, first_N[new_N])
        self._last_K = np.insert(self._last_K, at_N, last_N[new_N])
        self._times_K = np.insert(self._times_K, at_N, times_N[new_N])
