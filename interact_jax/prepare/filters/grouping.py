"""Groups of alike conversations, found on disk, and which of them `near_duplicates` leaves out.

Every band of the signatures is hashed and divided among buckets by the hash; in a bucket, equal
keys are candidates: each conversation with the one before it, and with the first. Pairs are divided
by the block of the earlier one; where that block is read, its notes are written beside the pairs,
by the block of the later one, and compared where that one is read. So every file is read from front
to back. In memory are six bytes of each conversation: the first of its group, whether it is still
to be decided, whether it has no words.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from interact_jax.prepare import buckets
from interact_jax.prepare.buckets import Buckets, Seen, blocks_of, buckets_for, in_order
from interact_jax.prepare.filtering import Notes

RECALL = 0.99  # of pairs at the threshold that share a band
ROUNDS = 10
BANDS = 8  # that are on disk at a time, 16 bytes of each conversation
PAIRS = 1 << 13  # whose notes are compared at once
KEY = np.dtype([("key", "<u8"), ("place", "<u8")])
COPY = np.dtype([("place", "<u8"), ("first", "<u8"), ("equal", "<u2")])  # equal entries
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in Fibonacci hashing
_LATER = np.uint64(48)  # bits of the place of the later one of a pair


def bands_for(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows of each): the longest bands of which a pair at the threshold shares one with
    probability RECALL, 1 - (1 - threshold^rows)^bands."""
    for rows in range(permutations // 2, 1, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return permutations, 1


def copies(notes: Notes, threshold: float, permutations: int) -> Iterator[np.ndarray]:
    """The conversations that are like an earlier one that is kept, and which, as records of COPY,
    by place.

    Of each group the first is kept, those like it are not, and the others, at the far ends of
    chains, are grouped again. After ROUNDS they are kept.
    """
    groups = Groups(notes, threshold, permutations)
    found = Buckets(notes.scratch / "copies", COPY, blocks_of(len(notes)))
    for _ in range(ROUNDS):
        groups.join_alike()
        pairs = groups.with_first()
        if not len(pairs):
            break
        for records_N in groups.alike(pairs):
            found.add(records_N, records_N["place"] // buckets.BLOCK)
            groups.rest_N[records_N["place"]] = False
    return in_order(found)


class Groups:
    """Groups among the conversations that are still to be decided: chains of alike ones, known by
    the first of them."""

    def __init__(self, notes: Notes, threshold: float, permutations: int):
        self._notes, self._permutations = notes, permutations
        self._least = threshold * permutations
        self._bands, self._rows = bands_for(threshold, permutations)
        count = len(notes)
        self.first_N = np.arange(count, dtype=np.uint32 if count < 1 << 32 else np.uint64)
        self.rest_N = np.ones(count, bool)
        self._empty_N = np.zeros(count, bool)
        for block, notes_NxW in enumerate(notes):
            at = block * buckets.BLOCK
            empty = (self._signatures(notes_NxW) == 0xFFFF).all(axis=1)
            self._empty_N[at : at + len(notes_NxW)] = empty

    def _signatures(self, notes_NxW: np.ndarray) -> np.ndarray:
        return notes_NxW[:, : 2 * self._permutations].view("<u2")

    def _folder(self, name: str) -> Path:
        return self._notes.scratch / name

    def join_alike(self) -> None:
        """Find the groups of all that are left. Pairs are compared when there are many, and after
        some bands: each comparison reads the notes again."""
        for start in range(0, self._bands, BANDS):
            bands = range(start, min(start + BANDS, self._bands))
            keyed, pairs = self._keys(bands), self._no_pairs()
            for bucket in keyed.filled():
                self._find_candidates(keyed, bucket, pairs)
                if len(pairs) > len(self.first_N):
                    self._join(pairs)
                    pairs = self._no_pairs()
            self._join(pairs)
            keyed.remove()
            for at in range(0, len(self.first_N), buckets.BLOCK):
                own = slice(at, at + buckets.BLOCK)
                self.first_N[own] = first_of(self.first_N, self.first_N[own])

    def _no_pairs(self) -> Buckets:
        return Buckets(self._folder("pairs"), "<u8", blocks_of(len(self.first_N)))

    def _keys(self, bands: range) -> Buckets:
        """The hashes of some bands, each band in buckets of its own."""
        count = buckets_for(len(self.first_N))
        keyed = Buckets(self._folder("keys"), KEY, count * len(bands))
        for block, notes_NxW in enumerate(self._notes):
            at = block * buckets.BLOCK
            (own_N,) = np.nonzero(self.rest_N[at : at + len(notes_NxW)])
            signatures_NxP = self._signatures(notes_NxW)[own_N]
            records_N = np.empty(len(own_N), KEY)
            records_N["place"] = at + own_N
            for number, band in enumerate(bands):
                rows = slice(band * self._rows, (band + 1) * self._rows)
                key_N = hash_of(signatures_NxP[:, rows])
                records_N["key"] = key_N
                bucket_N = (key_N >> np.uint64(32)) % np.uint64(count)
                keyed.add(records_N, bucket_N + np.uint64(number * count))
        return keyed

    def _find_candidates(self, keyed: Buckets, bucket: int, pairs: Buckets) -> None:
        """Pairs of equal keys that are not of one group yet: each with the one before it of those
        that are equal, and with their first."""
        seen = Seen(KEY["key"])
        for records in keyed.read(bucket):
            first, previous, before = seen.add(records["key"], records["place"])
            again = (before > 0) & ~self._empty_N[records["place"]]
            later, first, previous = records["place"][again], first[again], previous[again]
            group = first_of(self.first_N, later)
            for earlier, new in ((previous, True), (first, first != previous)):
                new = (first_of(self.first_N, earlier) != group) & new
                add_pairs(pairs, earlier[new], later[new])

    def _join(self, pairs: Buckets) -> None:
        """Join the groups of those pairs that are alike."""
        for records in self.alike(pairs):
            join(self.first_N, records["first"], records["place"])

    def with_first(self) -> Buckets:
        """All that are not the first of their group, with their first one. Only they are left to
        be decided, and no group is known of them any more."""
        pairs = self._no_pairs()
        for at in range(0, len(self.first_N), buckets.BLOCK):
            own = slice(at, at + buckets.BLOCK)
            first_N = self.first_N[own]
            place_N = np.arange(at, at + len(first_N), dtype=np.uint64)
            later = self.rest_N[own] & (first_N != place_N)
            add_pairs(pairs, first_N[later], place_N[later])
            self.rest_N[own] = later
            first_N[:] = place_N
        return pairs

    def alike(self, pairs: Buckets) -> Iterator[np.ndarray]:
        """Of all pairs those that have enough entries in common, as records of COPY. Paths of one
        tree are not alike."""
        width = 2 * self._permutations
        carried = self._carry(pairs)
        for block in carried.filled():
            notes_NxW = self._notes.block(block)
            for pair in carried.read(block, PAIRS):
                own_NxW = notes_NxW[pair["later"] - np.uint64(block * buckets.BLOCK)]
                same = self._signatures(own_NxW) == self._signatures(pair["note"])
                equal_N = np.count_nonzero(same, axis=1)
                tree, other = own_NxW[:, width:], pair["note"][:, width:]
                siblings_N = (tree == other).all(axis=1) & tree.any(axis=1)
                alike_N = (equal_N >= self._least) & ~siblings_N
                found = np.empty(np.count_nonzero(alike_N), COPY)
                found["place"], found["first"] = pair["later"][alike_N], pair["earlier"][alike_N]
                found["equal"] = equal_N[alike_N]
                yield found
        carried.remove()

    def _carry(self, pairs: Buckets) -> Buckets:
        """The pairs with the notes of the earlier ones, by the block of the later one."""
        width = self._notes.block(0).shape[1] if len(pairs) else 0
        carry = np.dtype([("earlier", "<u8"), ("later", "<u8"), ("note", "u1", (width,))])
        carried = Buckets(self._folder("carried"), carry, blocks_of(len(self.first_N)))
        for block in pairs.filled():
            notes_NxW = self._notes.block(block)
            for codes in pairs.read(block):
                codes = np.unique(codes)  # two bands may have one pair
                for start in range(0, len(codes), PAIRS):
                    code = codes[start : start + PAIRS]
                    records = np.empty(len(code), carry)
                    records["later"] = code & ((np.uint64(1) << _LATER) - np.uint64(1))
                    records["earlier"] = (code >> _LATER) + np.uint64(block * buckets.BLOCK)
                    records["note"] = notes_NxW[code >> _LATER]
                    carried.add(records, records["later"] // np.uint64(buckets.BLOCK))
        pairs.remove()
        return carried


def add_pairs(pairs: Buckets, earlier: np.ndarray, later: np.ndarray) -> None:
    """Add pairs of places by the block of the earlier one, each as one number: its place in the
    block, and that of the later one."""
    block, offset = np.divmod(earlier.astype(np.uint64), np.uint64(buckets.BLOCK))
    pairs.add((offset << _LATER) | later.astype(np.uint64), block)


def hash_of(rows_NxR: np.ndarray) -> np.ndarray:
    """64 bits of each row of a band."""
    key_N = np.zeros(len(rows_NxR), np.uint64)
    for column in rows_NxR.T:
        key_N = (key_N ^ column) * _MULTIPLIER
        key_N ^= key_N >> np.uint64(29)
    return key_N


def first_of(first_N: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The first ones of the groups of some places: `first_N` leads to them, step by step."""
    found = first_N[places]
    while not np.array_equal(further := first_N[found], found):
        found = further
    return found


def join(first_N: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Join the groups of a and b, pair by pair, in place."""
    while len(a):
        one, other = first_of(first_N, a), first_of(first_N, b)
        first_N[a], first_N[b] = one, other  # later ways are shorter
        apart = one != other
        a, b, one, other = a[apart], b[apart], one[apart], other[apart]
        np.minimum.at(first_N, np.maximum(one, other), np.minimum(one, other))
