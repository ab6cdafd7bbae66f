"""What the surveys share: notes of all parts as one array, groups among them, answers in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from interact_jax.prepare.filtering import Dropped


def gather(notes_NxW: Iterable[np.ndarray], width: int) -> tuple[np.ndarray, list[int]]:
    """All notes [N, width], and how many each part has."""
    parts = [np.asarray(part, np.uint8).reshape(-1, width) for part in notes_NxW]
    lengths = [len(part) for part in parts]
    together = np.concatenate(parts) if parts else np.zeros((0, width), np.uint8)
    return np.ascontiguousarray(together), lengths


def in_parts(
    lengths: Sequence[int], answer: Callable[[int], Dropped | None]
) -> Iterator[list[Dropped | None]]:
    """The answers for conversations 0, 1, 2, ... of all parts, part by part."""
    start = 0
    for length in lengths:
        yield [answer(index) for index in range(start, start + length)]
        start += length


def groups_of(notes_NxW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each note: the index of the first one that is equal, how many equal ones come before it,
    and how many there are in all.

    notes   a b a a      ->      first   0 1 0 0      before   0 0 1 2      size   3 1 3 3
    """
    count, width = notes_NxW.shape
    keys_N = notes_NxW.view(f"V{width}").reshape(count)
    order_N = np.argsort(keys_N, kind="stable")
    sorted_N = notes_NxW[order_N]
    begins_N = np.ones(count, bool)
    begins_N[1:] = (sorted_N[1:] != sorted_N[:-1]).any(axis=1)
    start_N = np.maximum.accumulate(np.where(begins_N, np.arange(count), 0))
    size_N = np.diff(np.append(np.flatnonzero(begins_N), count))
    group_N = np.cumsum(begins_N) - 1
    first, before, size = (np.empty(count, np.int64) for _ in range(3))
    first[order_N] = order_N[start_N]
    before[order_N] = np.arange(count) - start_N
    size[order_N] = size_N[group_N]
    return first, before, size
