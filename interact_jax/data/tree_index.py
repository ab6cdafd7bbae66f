"""Where the trees of each conversation are stored, and how large they are: 48 bytes for each.

A plan of a step's rows needs no more than this. An entry has a checksum, with the number of its
conversation: one that was half written, or is damaged, counts as missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from interact_jax.data.forest import Forest

ENTRY = np.dtype(
    [
        ("place", "<u8"),  # number of the file, from 1, and the offset of the record there
        ("weight", "<f8"),  # of all units
        ("size", "<u4", 5),  # of all trees together: T, P, Q, R, J
        ("units", "<u4"),
        ("length", "<u4"),  # of the record in bytes, and flags
        ("check", "<u4"),
    ]
)
OFFSET_BITS = 40  # of a place
SEVERAL, GIVEN = 1 << 31, 1 << 30  # flags: not one tree; log-probabilities are given
MOST = GIVEN - 1  # bytes of a record
_ODD = np.random.default_rng(0).integers(1 << 62, 1 << 63, 8, np.uint64) | np.uint64(1)
_CHECK = np.uint64(0xFFFFFFFF)


class Sizes(NamedTuple):
    """Sizes of the trees N of conversations C, one conversation behind the other."""

    trees_Nx5: np.ndarray  # T, P, Q, R, J
    trees_C: np.ndarray  # how many trees
    units_C: np.ndarray
    weight_C: np.ndarray  # of all units
    given: bool  # whether log-probabilities are given with some reply

    @classmethod
    def of(cls, forests: Sequence[Forest]) -> Sizes:
        """Of conversations with these trees."""
        facts = [forest.facts for forest in forests]
        return cls(
            np.concatenate([np.zeros((0, 5), np.int64), *(x.sizes_Nx5 for x in forests)]),
            np.array([len(forest) for forest in forests], np.int64),
            np.array([of_one.units for of_one in facts], np.int64),
            np.array([of_one.weight for of_one in facts], np.float64),
            any(forest.given for forest in forests),
        )


class TreeIndex:
    """The entries of `count` conversations, in a file that is mapped into memory."""

    def __init__(self, file: Path, count: int):
        # What is empty cannot be mapped.
        self._entry_N = (
            np.memmap(file, ENTRY, "r+", shape=(count,)) if count else np.empty(0, ENTRY)
        )

    def find(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The entries of these conversations, and whether each is there and whole."""
        index_C = np.asarray(indices, np.int64)
        entry_C = np.array(self._entry_N[index_C])
        return entry_C, (entry_C["place"] > 0) & (_checks(entry_C, index_C) == entry_C["check"])

    def held(self) -> int:
        """How many conversations have an entry, damaged or not."""
        return int(np.count_nonzero(self._entry_N["place"]))

    def put(self, index: int, number: int, offset: int, length: int, forest: Forest) -> None:
        """Name the record of a conversation, which is complete: its file, its place there and its
        bytes."""
        entry_1 = np.zeros(1, ENTRY)
        entry_1["place"] = number << OFFSET_BITS | offset
        _, entry_1["units"], entry_1["weight"] = forest.facts
        entry_1["size"] = forest.sizes_Nx5.sum(axis=0)
        flags = SEVERAL * (len(forest) != 1) | GIVEN * bool(forest.kind.given)
        entry_1["length"] = length | flags
        entry_1["check"] = _checks(entry_1, np.array([index]))
        self._entry_N[index] = entry_1[0]

    def drop(self, index: int) -> None:
        """The record of a conversation is damaged."""
        self._entry_N["place"][index] = 0


def _checks(entry_C: np.ndarray, index_C: np.ndarray) -> np.ndarray:
    """The checksums of entries and of the numbers of their conversations."""
    word_Cx6 = entry_C.view(np.uint64).reshape(-1, 6).copy()
    word_Cx6[:, 5] &= _CHECK
    mixed_C = (word_Cx6 * _ODD[:6]).sum(axis=1) + index_C.astype(np.uint64) * _ODD[6]
    mixed_C ^= mixed_C >> np.uint64(29)
    return ((mixed_C * _ODD[7]) >> np.uint64(32)).astype(np.uint32)
