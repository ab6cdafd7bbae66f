"""Splits of prepared data, such as train=0.98,validation=0.01,test=0.01.

Which split a conversation is in depends on a hash of its user or, without one, of its opening, by
the rule of `data.holdout`, and on nothing else: it stays where it is when the data grow, and all
conversations of a user, paths of a tree and copies are in one split. The first split is the one to
learn from; the others take the low end of the hashes, the last one first, so that a `test=0.03` at
the end has the conversations that `evaluation.holdout=0.03` holds out of the same logs.
"""

from __future__ import annotations

import math
import re

from interact_jax.data.holdout import hash_of, key_of
from interact_jax.schema import Conversation, InputError

NAME = re.compile(r"[a-z][a-z0-9_]*")  # as TFDS wants it
Splits = tuple[tuple[str, float], ...]
DEFAULT: Splits = (("train", 0.98), ("validation", 0.01), ("test", 0.01))


def format_splits(splits: Splits) -> str:
    """As on the command line."""
    return ",".join(f"{name}={share!r}" for name, share in splits)


def parse_splits(text: str) -> Splits:
    """The names and shares of "train=0.98,test=0.02". Raises InputError."""
    splits = []
    for item in text.split(","):
        name, equals, share = (piece.strip() for piece in item.partition("="))
        if not equals or not NAME.fullmatch(name) or not _is_share(share):
            raise InputError(
                f"--splits {text}: {item.strip()!r} is not NAME=SHARE. Expected names of small "
                f"letters, digits and _, and shares from 0 to 1, such as {format_splits(DEFAULT)}."
            )
        splits.append((name, float(share)))
    names, total = [name for name, _ in splits], math.fsum(share for _, share in splits)
    if len(set(names)) < len(names):
        raise InputError(f"--splits {text}: a name occurs twice. Give each split one share.")
    if "all" in names:
        raise InputError(f"--splits {text}: TFDS calls all splits together `all`. Choose a name.")
    if abs(total - 1) > 1e-9:
        raise InputError(f"--splits {text}: the shares sum to {total:g}, expected 1.")
    return tuple(splits)


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def split_of(conversation: Conversation, splits: Splits) -> int:
    """The index of the split that a conversation is in."""
    place, bound = hash_of(key_of(conversation)), 0.0
    for index in range(len(splits) - 1, 0, -1):
        bound += splits[index][1]
        if place < bound:
            return index
    return 0
