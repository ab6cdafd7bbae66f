"""Surveys decided in memory: what the ones on disk are compared with."""

from __future__ import annotations

import dataclasses

import numpy as np

from interact_jax.prepare.filters.duplicates import Duplicates
from interact_jax.prepare.filters.grouping import ROUNDS, bands_for, hash_of
from interact_jax.prepare.filters.near_duplicates import NearDuplicates
from interact_jax.prepare.filters.paper import Sample
from interact_jax.prepare.filters.users import Users

CHUNK = 1 << 16  # pairs whose signatures are compared at once


def decide(survey, notes_NxW):
    """{place: detail} of those that a survey drops."""
    return DECIDE[type(survey)](survey, np.ascontiguousarray(notes_NxW))


def duplicates(survey, notes_NxW):
    first_N, before_N, _ = groups_of(notes_NxW)
    return {n: f"of number {first_N[n] + 1:,}" for n in np.flatnonzero(before_N).tolist()}


def users(survey, notes_NxW):
    _, before_N, size_N = groups_of(notes_NxW)
    over_N = (before_N if survey.over == "first" else size_N - 1) >= survey.most
    over_N &= notes_NxW.any(axis=1)
    return {n: f"the user has {size_N[n]:,}" for n in np.flatnonzero(over_N).tolist()}


def sample(survey, notes_NxW):
    interactions_N = notes_NxW.view("<u4")[:, 0]
    order_N = np.random.default_rng(survey.seed).permutation(len(notes_NxW))
    kept = set(order_N[: survey._size(interactions_N[order_N])].tolist())
    return {n: f"of seed {survey.seed}" for n in range(len(notes_NxW)) if n not in kept}


def near_duplicates(survey, notes_NxW):
    columns = notes_NxW.view("<u2")
    sketches = Sketches(columns[:, : survey.permutations], columns[:, survey.permutations :])
    first_N = first_alike(sketches, survey.threshold)
    found = {}
    for place in np.flatnonzero(first_N != np.arange(len(first_N))).tolist():
        one, other = sketches.signatures_NxP[[place, first_N[place]]]
        similarity = f"similarity about {np.mean(one == other):.2f}"
        found[place] = f"number {first_N[place] + 1:,}, {similarity}"
    return found


DECIDE = {
    Duplicates: duplicates,
    Users: users,
    Sample: sample,
    NearDuplicates: near_duplicates,
}


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


@dataclasses.dataclass(frozen=True)
class Sketches:
    """What is known of N conversations: signatures of P entries, and of which tree they are paths;
    zeros where they are of none."""

    signatures_NxP: np.ndarray
    trees_Nx4: np.ndarray

    def __len__(self) -> int:
        return len(self.signatures_NxP)

    def at(self, places: np.ndarray) -> Sketches:
        """Those at some places."""
        return Sketches(self.signatures_NxP[places], self.trees_Nx4[places])

    def alike(self, one: np.ndarray, other: np.ndarray, threshold: float) -> np.ndarray:
        """Whether at least so large a share of their entries is equal, pair by pair."""
        alike = np.zeros(len(one), bool)
        least = threshold * self.signatures_NxP.shape[1]
        for start in range(0, len(one), CHUNK):
            part = slice(start, start + CHUNK)
            a, b = one[part], other[part]
            equal = self.signatures_NxP[a] == self.signatures_NxP[b]
            tree = self.trees_Nx4[a]
            siblings = (tree == self.trees_Nx4[b]).all(axis=1) & tree.any(axis=1)
            alike[part] = (np.count_nonzero(equal, axis=1) >= least) & ~siblings
        return alike


def first_alike(sketches: Sketches, threshold: float) -> np.ndarray:
    """Of each conversation the index of an earlier one that is kept and that it is like; its own
    where it is kept.

    Of each group the first is kept, those like it are not, and the others, at the far ends of
    chains, are grouped again. After ROUNDS they are kept.
    """
    first_N, rest = np.arange(len(sketches)), np.arange(len(sketches))
    for _ in range(ROUNDS):
        among = sketches if len(rest) == len(sketches) else sketches.at(rest)
        first = rest[group(among, threshold)]
        rest, first = rest[first != rest], first[first != rest]
        alike = sketches.alike(first, rest, threshold)
        first_N[rest[alike]] = first[alike]
        rest = rest[~alike]
    return first_N


def group(sketches: Sketches, threshold: float) -> np.ndarray:
    """Of each conversation the index of the first one of its group: chains of alike ones."""
    count, permutations = sketches.signatures_NxP.shape
    bands, rows = bands_for(threshold, permutations)
    first_N = np.arange(count)
    empty_N = (sketches.signatures_NxP == 0xFFFF).all(axis=1)
    for band in range(bands):
        key_N = hash_of(sketches.signatures_NxP[:, band * rows : (band + 1) * rows])
        earlier, later = _candidates(key_N, first_N, empty_N)
        alike = sketches.alike(earlier, later, threshold)
        _join(first_N, earlier[alike], later[alike])
    return first_N


def _candidates(
    key_N: np.ndarray, first_N: np.ndarray, empty_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of equal keys that are not of one group yet: each with the one before it of those that
    are equal, and with their first."""
    order_N = np.argsort(key_N, kind="stable")
    key_N = key_N[order_N]
    same = np.append(False, key_N[1:] == key_N[:-1])
    start_N = np.maximum.accumulate(np.where(same, 0, np.arange(len(key_N))))
    (place,) = np.nonzero(same)
    later = np.concatenate([order_N[place], order_N[place]])
    earlier = np.concatenate([order_N[place - 1], order_N[start_N[place]]])
    new = (first_N[earlier] != first_N[later]) & ~empty_N[later]
    return earlier[new], later[new]


def _join(first_N: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Join the groups of a and b, pair by pair, in place."""
    while len(a):
        one, other = first_N[a], first_N[b]
        np.minimum.at(first_N, np.maximum(one, other), np.minimum(one, other))
        while (first_N != (shorter := first_N[first_N])).any():
            first_N[:] = shorter
        apart = first_N[a] != first_N[b]
        a, b = a[apart], b[apart]
