"""Conversations that are almost the same as an earlier one, by MinHash and banded LSH.

A conversation is the set of its word n-grams. Of each it notes a MinHash signature (Broder 1997;
`rensa`, which is MIT-licensed Rust), 16 bits a permutation: the share of equal entries of two
signatures estimates the Jaccard similarity of the sets, and two entries that differ agree by chance
once in 65,536. Only conversations that agree in a whole band of the signature are compared
(Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4): every band is hashed and sorted, and
equal neighbours are pairs, as are the first and every other one of a run. So the pairs are at most
two a conversation and band, whatever is in the logs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
import rensa

from interact_jax.prepare.filtering import Dropped
from interact_jax.prepare.filters.notes import gather, in_parts
from interact_jax.prepare.filters.settings import Settings, setting
from interact_jax.prepare.filters.texts import ALL, WHOSE, messages_of
from interact_jax.schema import Conversation

SEED = 1
TREE_BYTES = 8
RECALL = 0.99  # of pairs at the threshold that share a band
ROUNDS = 10
CHUNK = 1 << 16  # pairs whose signatures are compared at once
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, kana and Han: words have no spaces between them, a letter is one."""
WORDS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in Fibonacci hashing


@dataclasses.dataclass(frozen=True)
class NearDuplicates(Settings):
    """Conversations like an earlier one: their word n-grams have at least `threshold` of their
    union in common. What is left out is like an earlier one that is kept. Texts without a word
    are like nothing, and paths of one message tree, which share turns, are not compared.

    Memory: twice `permutations` and 8 bytes a conversation, the same again while it is decided, and
    60 bytes more.
    """

    name: ClassVar[str] = "near_duplicates"
    threshold: float = setting(0.6, "least Jaccard similarity", least=0.3, most=1)
    shingle: int = setting(
        2, "words of an n-gram; without regard to case, and marks", least=1, most=20
    )
    permutations: int = setting(128, "entries of a signature, of 2 bytes", least=64, most=256)
    of: str = setting(ALL, "whose messages", WHOSE)

    @property
    def width(self) -> int:
        return 2 * self.permutations + TREE_BYTES

    def note(self, conversation: Conversation) -> bytes:
        sketch = rensa.RMinHash(self.permutations, SEED)
        texts = (message.content for _, message in messages_of(conversation, self.of))
        if not (found := shingles(texts, self.shingle)):
            return b"\xff\xff" * self.permutations + bytes(TREE_BYTES)
        sketch.update(found)
        entries = np.array(sketch.digest(), np.uint32)
        return (entries & 0xFFFF).astype("<u2").tobytes() + _tree_of(conversation)

    def decide(self, notes_NxW: Iterable[np.ndarray]) -> Iterator[list[Dropped | None]]:
        notes, lengths = gather(notes_NxW, self.width)
        columns = notes.view("<u2")
        sketches = Sketches(columns[:, : self.permutations], columns[:, self.permutations :])
        first_N = first_alike(sketches, self.threshold)

        def answer(index: int) -> Dropped | None:
            first = first_N[index]
            if first == index:
                return None
            one, other = sketches.signatures_NxP[[index, first]]
            detail = f"number {first + 1:,}, similarity about {np.mean(one == other):.2f}"
            return Dropped("almost a copy of an earlier conversation", detail)

        return in_parts(lengths, answer)


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


def _tree_of(conversation: Conversation) -> bytes:
    """The same for all paths of a message tree, which have one place in the log."""
    if conversation.owned is None:
        return bytes(TREE_BYTES)
    return hashlib.blake2b(conversation.source.encode(), digest_size=TREE_BYTES).digest()


def shingles(texts: Iterable[str], words: int) -> list[str]:
    """The n-grams of `words` words of all texts, or the whole of a text that has fewer words."""
    found: list[str] = []
    for text in texts:
        split = WORDS.findall(text.casefold())
        if 0 < len(split) < words:
            found.append(" ".join(split))
        found += map(" ".join, zip(*(split[start:] for start in range(words)), strict=False))
    return found


def bands_for(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows of each): the longest bands of which a pair at the threshold shares one with
    probability RECALL, 1 - (1 - threshold^rows)^bands."""
    for rows in range(permutations // 2, 1, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return permutations, 1


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
        key_N = _hash(sketches.signatures_NxP[:, band * rows : (band + 1) * rows])
        earlier, later = _candidates(key_N, first_N, empty_N)
        alike = sketches.alike(earlier, later, threshold)
        _join(first_N, earlier[alike], later[alike])
    return first_N


def _hash(rows_NxR: np.ndarray) -> np.ndarray:
    """64 bits of each row of a band."""
    key_N = np.zeros(len(rows_NxR), np.uint64)
    for column in rows_NxR.T:
        key_N = (key_N ^ column) * _MULTIPLIER
        key_N ^= key_N >> np.uint64(29)
    return key_N


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
