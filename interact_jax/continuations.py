"""Log-probabilities of continuations: what a model gives to texts that it did not write.

    score_continuations(decoder, params, [(context, "yes"), (context, "no")], mesh)
    -> [Score(logp=-0.7, greedy=True), Score(logp=-1.2, greedy=False)]        with ids, not text

The continuations of one context, such as the choices of a question, are the branches of one tree:
the context is computed once. Trees are packed into rows like those of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from interact_jax.data.examples import Example, Target, as_ids
from interact_jax.data.recipes import PLAIN
from interact_jax.data.tree import Tree, grow
from interact_jax.models.decoder import Decoder
from interact_jax.signal import LIKELIEST, LOGP, quantities_of

Pair = tuple[Sequence[int], Sequence[int]]
"""Context and continuation, as ids; neither is empty."""


class Score(NamedTuple):
    """The sum of the log-probabilities of a continuation (nats), and whether greedy decoding would
    have written it."""

    logp: float
    greedy: bool


def score_continuations(
    decoder: Decoder,
    params: Any,
    pairs: Sequence[Pair],
    mesh: jax.sharding.Mesh,
    **options: Any,
) -> list[Score]:
    """The score of every pair, in order. `options` are `row_tokens` and `rows` of
    `signal.quantities_of`. The model's positions must hold context and continuation but for the
    last token, which is only ever a target."""
    if not pairs:
        return []
    trees = grow_trees(pairs)
    want = {LOGP: (LOGP, PLAIN), LIKELIEST: (LIKELIEST, PLAIN)}
    found = quantities_of(decoder, params, trees, mesh, want, **options)
    names = (int(reply.target.id) for tree in trees for reply in tree.replies)
    scores = {
        name: Score(float(values[LOGP].sum(dtype=np.float64)), bool(values[LIKELIEST].all()))
        for name, values in zip(names, found, strict=True)
    }
    return [scores[name] for name in range(len(pairs))]


def grow_trees(pairs: Sequence[Pair]) -> list[Tree]:
    """A tree for every context, with all its continuations; targets have their pair's number as
    id."""
    windows: dict[bytes, list[list[Example]]] = {}
    for number, (context, continuation) in enumerate(pairs):
        name, x = str(number), as_ids(context)
        window = windows.setdefault(x.tobytes(), [])
        target = Target(name, as_ids(continuation), name, name)
        window.append([Example(target, {PLAIN: x})])
    return [tree for window in windows.values() for tree in grow(window, frozenset())]
