"""What the surveys share: notes of all conversations divided by their keys, answers in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interact_jax.prepare import buckets
from interact_jax.prepare.buckets import Buckets, blocks_of, buckets_for, in_order
from interact_jax.prepare.filtering import Notes

KEY_BYTES = 16  # of a digest
KEYED = np.dtype([("key", f"S{KEY_BYTES}"), ("place", "<u8")])
"""Bytes of one length are equal as texts where they are equal: zeros at the end do not count, and
both have as many."""
ANSWER = np.dtype([("place", "<u8"), ("number", "<u8")])


def by_key(notes: Notes) -> Buckets:
    """The notes as keys with their places, equal ones in one bucket, without notes of zeros."""
    count = buckets_for(len(notes))
    keyed = Buckets(notes.scratch / "keys", KEYED, count)
    for block, notes_NxW in enumerate(notes):
        (own_N,) = np.nonzero(notes_NxW.any(axis=1))
        own_NxW = np.ascontiguousarray(notes_NxW[own_N])
        records_N = np.empty(len(own_N), KEYED)
        records_N["key"] = own_NxW.view(f"S{KEY_BYTES}")[:, 0]
        records_N["place"] = block * buckets.BLOCK + own_N
        keyed.add(records_N, own_NxW.view("<u8")[:, 0] % np.uint64(count))
    return keyed


class Answers:
    """A number for each of some places, found in any order."""

    def __init__(self, notes: Notes):
        self._found = Buckets(notes.scratch / "answers", ANSWER, blocks_of(len(notes)))

    def add(self, places_N: np.ndarray, numbers_N: np.ndarray) -> None:
        records_N = np.empty(len(places_N), ANSWER)
        records_N["place"], records_N["number"] = places_N, numbers_N
        self._found.add(records_N, records_N["place"] // buckets.BLOCK)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(place, number), by place."""
        for records_N in in_order(self._found):
            yield from zip(records_N["place"].tolist(), records_N["number"].tolist(), strict=True)
