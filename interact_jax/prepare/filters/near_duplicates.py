"""Conversations that are almost the same as an earlier one, by MinHash and banded LSH.

A conversation is the set of its word n-grams. Of each it notes a MinHash signature (Broder 1997;
`rensa`, which is MIT-licensed Rust), 16 bits a permutation: the share of equal entries of two
signatures estimates the Jaccard similarity of the sets, and two entries that differ agree by chance
once in 65,536. Only conversations that agree in a whole band of the signature are compared
(Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4): those whose hashes of a band are
equal, each with the one before it and with the first. So the pairs are at most two a conversation
and band, whatever is in the logs (`grouping`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
import rensa

from interact_jax.prepare.filtering import Dropped, Notes
from interact_jax.prepare.filters.grouping import copies
from interact_jax.prepare.filters.settings import Settings, setting
from interact_jax.prepare.filters.texts import ALL, WHOSE, messages_of
from interact_jax.schema import Conversation

SEED = 1
TREE_BYTES = 8
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, kana and Han: words have no spaces between them, a letter is one."""
WORDS = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


@dataclasses.dataclass(frozen=True)
class NearDuplicates(Settings):
    """Conversations like an earlier one: their word n-grams have at least `threshold` of their
    union in common. What is left out is like an earlier one that is kept. Texts without a word
    are like nothing, and paths of one message tree, which share turns, are not compared.

    Disk: twice `permutations` and 8 bytes a conversation, and while it is decided about 130 more,
    and as much again for each pair that is compared. Memory: 6 bytes.
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

    def decide(self, notes: Notes) -> Iterator[tuple[int, Dropped]]:
        reason = "almost a copy of an earlier conversation"
        for records in copies(notes, self.threshold, self.permutations):
            for place, first, equal in records.tolist():
                share = equal / self.permutations
                yield place, Dropped(reason, f"number {first + 1:,}, similarity about {share:.2f}")


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
