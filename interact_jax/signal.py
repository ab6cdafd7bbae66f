"""The signal of conversations: log-probabilities of every reply token, student and teacher."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.stages import Wrapped

from interact_jax import progress, scoring, sharding
from interact_jax.data.dataset import Dataset
from interact_jax.data.first_steps import LOOK_AHEAD
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.data.rows import Packing
from interact_jax.data.tree import Tree
from interact_jax.logits import Quantity, logp
from interact_jax.models.decoder import Decoder
from interact_jax.schema import Batch, Interaction
from interact_jax.scoring import Role, Source

PORTION = 512  # trees that are packed together


@dataclasses.dataclass(frozen=True)
class Scored:
    """One reply token by token, [R] each: ids of y with EOS, and their log-probabilities (nats);
    `reasoning` as in `Target.reasoning`."""

    id: str
    y: np.ndarray
    logp_student: np.ndarray
    logp_teacher: np.ndarray
    reasoning: str = ""

    @property
    def signal(self) -> np.ndarray:
        """log pi(y_t | x, o, y_<t) - log pi(y_t | x, y_<t), per token."""
        return self.logp_teacher - self.logp_student


def score_trees(
    decoder: Decoder,
    params: Any,
    trees: Sequence[Tree],
    mesh: jax.sharding.Mesh,
    **options: Any,
) -> list[Scored]:
    """Score every reply of these trees without and with hindsight, in the order of the trees.
    `options` are those of `quantities_of`."""
    views = (PLAIN, HINDSIGHT)
    logps = logps_of(decoder, params, trees, mesh, views, **options)
    replies = (reply.target for tree in trees for reply in tree.replies)
    return [
        Scored(target.id, target.y, by_view[PLAIN], by_view[HINDSIGHT], target.reasoning)
        for target, by_view in zip(replies, logps, strict=True)
    ]


def logps_of(
    decoder: Decoder,
    params: Any,
    trees: Sequence[Tree],
    mesh: jax.sharding.Mesh,
    views: Sequence[str],
    **options: Any,
) -> list[dict[str, np.ndarray]]:
    """Log-probabilities [R] of every reply's tokens in each view, in the order of the trees.
    `options` are those of `quantities_of`."""
    want = {view: (LOGP, view) for view in views}
    return quantities_of(decoder, params, trees, mesh, want, **options)


@progress.of("scoring replies")
def quantities_of(
    decoder: Decoder,
    params: Any,
    trees: Sequence[Tree],
    mesh: jax.sharding.Mesh,
    want: Mapping[str, tuple[str, str]],
    *,
    sharing: str = "tree",
    row_tokens: int = 512,
    rows: int = 1,
) -> list[dict[str, np.ndarray]]:
    """Quantities [R] of every reply's tokens by their names, in the order of the trees; `want` has
    the kind (of QUANTITIES) and the view of each.

    `sharing` says how the trees were grown, and how they are computed: "tree" or "none".
    """
    # The time to pack trees into rows grows faster than their number.
    portions = [trees[i : i + PORTION] for i in range(0, len(trees), PORTION)]
    height = rows * sharding.row_shards(mesh)
    packing = Packing.for_trees(trees, row_tokens, height, steps=portions[:LOOK_AHEAD])
    compute = _scorer(decoder, mesh, tuple(want.items()), sharing)
    by_id: dict[str, dict[str, np.ndarray]] = {}
    with sharding.on(mesh):
        batches = (packing.batches(portion) for portion in portions)
        for batch, placed in itertools.chain.from_iterable(batches):
            found = jax.device_get(compute(params, sharding.place_rows(batch, mesh)))
            for place in placed:
                span = (place.row, slice(place.start, place.start + place.length))
                by_id[place.id] = {name: values[span] for name, values in found.items()}
    return [by_id[reply.target.id] for tree in trees for reply in tree.replies]


def _is_likeliest(view: str) -> Quantity:
    """Whether the target is the likeliest token."""
    return lambda roles, target_BxC: roles[view].logits_BxCxV.argmax(axis=-1) == target_BxC


LOGP, LIKELIEST = "logp", "likeliest"
QUANTITIES: dict[str, Callable[[str], Quantity]] = {LOGP: logp, LIKELIEST: _is_likeliest}


@functools.lru_cache(maxsize=8)
def _scorer(
    decoder: Decoder,
    mesh: jax.sharding.Mesh,
    wanted: tuple[tuple[str, tuple[str, str]], ...],
    sharing: str,
) -> Wrapped:
    """(params, batch) -> quantities by name; cached, since runs are measured repeatedly."""
    views = {view for _, (_, view) in wanted}
    roles = {view: Role((Source("policy", view),)) for view in sorted(views)}
    want = {name: QUANTITIES[kind](view) for name, (kind, view) in wanted}
    sources = [source for role in roles.values() for source in role.sources]

    def quantities(params: Any, batch: Batch) -> dict[str, jax.Array]:
        seen = scoring.look(scoring.FORWARD[sharing], decoder, {"policy": params}, batch, sources)
        return scoring.score(seen, roles, batch.replies.target_BxR, want)

    return jax.jit(quantities, out_shardings=sharding.replicated(mesh))


def interactions_by_id(dataset: Dataset) -> dict[str, Interaction]:
    """Every interaction of a dataset under its id, to show beside its score."""
    return {i.id: i for c in dataset.conversations for i in c.interactions()}
