"""Random token trees for tests: conversations of random ids, with and without limbs of students."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interact_jax.data import shapes
from interact_jax.data.encode import Unit
from interact_jax.data.examples import PREFERRED, REJECTED, Example, Target, as_ids
from interact_jax.data.forest import sizes_of
from interact_jax.data.pack import Placed, pack
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.data.shapes import full_row
from interact_jax.data.tree import GROW, Size, Tree
from interact_jax.schema import Batch

FROZEN = {HINDSIGHT}


def example(name: str, x: list[int], xo: list[int], y: list[int]) -> Example:
    """An interaction with its plain context, its hindsight context and its reply."""
    target = Target(name, as_ids(y), name.partition("_")[0], name)
    return Example(target, {PLAIN: as_ids(x), HINDSIGHT: as_ids(xo)})


def grow(window: list[Unit], sharing: str = "tree") -> list[Tree]:
    """The trees of a window of interactions."""
    return GROW[sharing](window, FROZEN)


def random_window(
    rng: np.random.Generator,
    turns: int,
    vocab: int = 50,
    history_is: str = "same",
    name: str = "c",
) -> list[Unit]:
    """The interactions of one conversation. `history_is` says how a reply stands in later prompts:
    the "same" as it was generated; without the two tokens that its generation prompt ended in
    ("think", as Qwen3); or without its last token before EOS ("strip": white space, say)."""
    assert history_is in ("same", "think", "strip")

    def some(low: int, high: int) -> list[int]:
        return rng.integers(5, vocab, rng.integers(low, high)).tolist()

    history: list[int] = some(0, 3)
    window = []
    for turn in range(turns):
        user, y, o = some(2, 7), some(1, 8), some(0, 6)
        opening = [1, 3, 3] if history_is == "think" else [1]
        x = [*history, 0, *user, *opening]
        xo = [*history, 0, *user, *o, *opening]
        window.append([example(f"{name}_{2 * turn + 1}", x, xo, [*y, 2])])
        kept = y[:-1] if history_is == "strip" else y
        history = [*history, 0, *user, 1, *kept, 2]
    return window


def random_pairs(
    rng: np.random.Generator,
    turns: int,
    vocab: int = 50,
    name: str = "c",
    weight: float = 1.0,
) -> list[Unit]:
    """The pairs of one conversation, two replies of unequal length to each history. It goes on now
    with the preferred one and now with the other, and as it was generated."""

    def some(low: int, high: int) -> list[int]:
        return rng.integers(5, vocab, rng.integers(low, high)).tolist()

    history: list[int] = []
    window = []
    for turn in range(turns):
        x = [*history, 0, *some(2, 7), 1]
        unit = f"{name}_{turn}"
        replies = {PREFERRED: [*some(1, 8), 2], REJECTED: [*some(1, 8), 2]}
        window.append(
            [
                Example(
                    Target(f"{unit}{sign:+d}"[:-1], as_ids(y), name, unit, sign, weight),
                    {PLAIN: as_ids(x)},
                )
                for sign, y in replies.items()
            ]
        )
        history = [*x, *replies[(PREFERRED, REJECTED)[turn % 2]]]
    return window


def fill(trees: Sequence[Tree], capacity: Size) -> list[list[Tree]]:
    """Rows of these trees, as few as hold them."""
    return [[trees[n] for n in row] for row in shapes.fill(sizes_of(trees), capacity)]


def pack_windows(
    windows: Sequence[list[Unit]], row_tokens: int = 64, **how: Any
) -> tuple[Batch, Sequence[Placed]]:
    """Rows with the trees of these windows, and an empty one. `factors` are those of conversations'
    weights, 1 where there is none."""
    factors = how.pop("factors", {})
    trees = [tree for window in windows for tree in grow(window)]
    capacity = full_row(trees, row_tokens)
    rows = fill(trees, capacity)

    targets = [reply.target for row in rows for tree in row for reply in tree.replies]
    factor_M = [factors.get(target.conversation, 1.0) for target in targets]
    return pack(rows, capacity, len(rows) + 1, factor_M=factor_M, **how)
