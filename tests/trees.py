"""Random token trees for tests: conversations of random ids, with and without limbs of students."""

from __future__ import annotations

import numpy as np

from interact_jax.data.encode import Encoded


def random_window(
    rng: np.random.Generator,
    turns: int,
    vocab: int = 50,
    think: bool = False,
    name: str = "c",
) -> list[Encoded]:
    """The interactions of one conversation. `think`: a reply in history lacks the two tokens that
    the generation prompt ends in, so that only the last turn's student is on the trunk."""

    def some(low: int, high: int) -> list[int]:
        return rng.integers(5, vocab, rng.integers(low, high)).tolist()

    history: list[int] = some(0, 3)
    window = []
    for turn in range(turns):
        user, y, o = some(2, 7), some(1, 8), some(0, 6)
        opening = [1] + ([3, 3] if think else [])
        x = [*history, 0, *user, *opening]
        xo = [*history, 0, *user, *o, *opening]
        window.append(Encoded(f"{name}_{2 * turn + 1}", x, xo, [*y, 2]))
        history = [*history, 0, *user, 1, *y, 2]
    return window
