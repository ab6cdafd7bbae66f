"""Hidden states at the reply tokens -> per-token quantities, a chunk of tokens at a time.

There is never a [tokens, vocabulary] array for a whole row: the logits of one chunk are computed
for every source, the quantities are computed from them, and they are dropped; the backward pass
recomputes them.

    source     whose weights, in which view: ("policy", "plain")
    role       an objective's name for a distribution, "student" or "teacher": made of sources
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from interact_jax.logits import ROWS, SAVED, VOCABULARY, Logits, Quantity, Roles
from interact_jax.models.decoder import BranchStream, Decoder, head_DxV
from interact_jax.models.layers import linear
from interact_jax.schema import Array, Batch, TokenStream

CHUNK = 512  # C: the most reply tokens of a row whose logits exist at a time, for two sources; with
# more sources, fewer. Much fewer would leave an accelerator waiting for the head: v6e computes 560
# FLOPs in the time it reads a byte.


class Source(NamedTuple):
    """Whose weights, in which view."""

    model: str
    view: str


def _alone(logits: jax.Array) -> jax.Array:
    return logits


@dataclasses.dataclass(frozen=True)
class Role:
    """A distribution over the vocabulary: the log-softmax of what `combine` makes of the logits
    [..., V] of these sources, in their order."""

    sources: tuple[Source, ...]
    combine: Callable[..., jax.Array] = _alone


@flax.struct.dataclass
class Seen:
    """The reply tokens as a source sees them: predictors' hidden states and the output head."""

    hidden_BxRxD: jax.Array
    head_DxV: jax.Array


# --------------------------------------------------------------- hidden states in every view wanted

Hiddens = dict[str, jax.Array]  # by view, [B, R, D]


def one_pass(
    decoder: Decoder, params: Any, batch: Batch, views: Collection[str], differentiated: bool = True
) -> Hiddens:
    """All views from one pass over trunk and branches (`sharing=tree`); kinds of branches that no
    view needs are left out."""
    live, frozen = _divide_views(batch, views)
    branches = []
    if live and batch.live.id_BxL.shape[1]:
        branches.append(BranchStream(batch.live, differentiated))
    if frozen:
        branches.append(BranchStream(batch.frozen, differentiated=False))
    outputs: Any = decoder.apply({"params": params}, batch.trunk, branches, batch.branches)
    trunk, hiddens = outputs
    of_live = jnp.concatenate([trunk, *hiddens[: len(branches) - bool(frozen)]], axis=1)
    return _at_replies(batch, views, of_live, hiddens[-1] if frozen else None)


def two_passes(
    decoder: Decoder, params: Any, batch: Batch, views: Collection[str], differentiated: bool = True
) -> Hiddens:
    """A full forward for each sequence (`sharing=none`): a tree is one unit and shares nothing, so
    its branches are complete sequences, side by side."""
    live, frozen = _divide_views(batch, views)
    of_live = of_frozen = None
    if live:
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), batch.trunk, batch.live)
        of_live, _ = decoder.apply({"params": params}, _as_trunk(both))
    if frozen:
        frozen_params = jax.lax.stop_gradient(params)
        of_frozen, _ = decoder.apply({"params": frozen_params}, _as_trunk(batch.frozen))
    return _at_replies(batch, views, of_live, of_frozen)


FORWARD = {"tree": one_pass, "none": two_passes}
"""How views are computed, by the value of the setting `sharing`."""


def _divide_views(batch: Batch, views: Collection[str]) -> tuple[list[str], list[str]]:
    """`views` divided into those of live branches and those of frozen ones."""
    frozen = [view for view in views if view in batch.frozen_views]
    return [view for view in views if view not in frozen], frozen


def _as_trunk(stream: TokenStream) -> TokenStream:
    return dataclasses.replace(stream, branch_BxL=jnp.zeros_like(stream.branch_BxL))


def _at_replies(
    batch: Batch, views: Collection[str], live: jax.Array | None, frozen: jax.Array | None
) -> Hiddens:
    def rows(view: str) -> jax.Array:
        hidden_BxLxD = frozen if view in batch.frozen_views else live
        assert hidden_BxLxD is not None  # `_kinds` has included the stream of this view
        index_BxR = batch.replies.predictor[view]
        return jnp.take_along_axis(hidden_BxLxD, index_BxR[:, :, None], axis=1)

    return {view: rows(view) for view in views}


def look(
    forward: Callable[..., Hiddens],
    decoder: Decoder,
    models: Mapping[str, Any],
    batch: Batch,
    sources: Collection[Source],
    trained: str = "policy",
) -> dict[Source, Seen]:
    """The reply tokens as every source sees them: for each model one pass over the views needed of
    it. Only live views of the `trained` model carry a gradient."""
    seen_by = {}
    for name in sorted({source.model for source in sources}):
        views = sorted(source.view for source in sources if source.model == name)
        live = name == trained
        params = models[name] if live else jax.lax.stop_gradient(models[name])
        hiddens = forward(decoder, params, batch, views, live)
        head = head_DxV(params)
        for view in views:
            seen = Seen(hiddens[view], head)
            # Nothing of other models carries a gradient, and their views share one head.
            is_frozen = live and view in batch.frozen_views
            seen_by[Source(name, view)] = jax.lax.stop_gradient(seen) if is_frozen else seen
    return seen_by


# ------------------------------------------------------------------- logits of a chunk, and no more


def score(
    seen: Mapping[Source, Seen],
    roles: Mapping[str, Role],
    target_BxR: Array,
    want: Mapping[str, Quantity],
    chunk: int = CHUNK,
) -> dict[str, jax.Array]:
    """Per-token quantities [B, R] by their names; float32 logits of `chunk` tokens at a time.

    Under a mesh the vocabulary is sharded, and a chunk's hidden states are sent to every shard.
    They are small; bringing the head to the tokens would move all of it for every chunk, and its
    whole gradient back.
    """
    B, R = target_BxR.shape
    chunk = -(-R // -(-R * max(2, len(seen)) // (2 * chunk)))  # chunks of nearly equal length
    tail = -R % chunk

    def chunks(x: Array) -> jax.Array:  # [B, R, ...] -> [R / C, B, C, ...]
        x = jnp.pad(x, [(0, 0), (0, tail)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(B, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    heads_by_id = {id(x.head_DxV): x.head_DxV for x in seen.values()}
    heads_by_id = {key: _over_vocabulary(head) for key, head in heads_by_id.items()}
    heads = {source: heads_by_id[id(x.head_DxV)] for source, x in seen.items()}

    def score_chunk(hidden: dict[Source, jax.Array], target_BxC: jax.Array) -> dict[str, jax.Array]:
        logits = {}
        for source, x_BxCxD in hidden.items():
            x = _constrain_layout(x_BxCxD, ROWS, None, None)
            x = linear(x, heads[source], jnp.float32)
            logits[source] = _constrain_layout(x, ROWS, None, VOCABULARY)
        by_role = Roles(
            {
                name: Logits(role.combine(*(logits[source] for source in role.sources)))
                for name, role in roles.items()
            }
        )
        return {name: quantity(by_role, target_BxC) for name, quantity in want.items()}

    # Without recomputation the scan would keep every chunk's logits for the backward pass.
    body = jax.checkpoint(score_chunk, policy=jax.checkpoint_policies.save_only_these_names(SAVED))
    hidden = {source: chunks(x.hidden_BxRxD) for source, x in seen.items()}
    _, quantities = jax.lax.scan(
        lambda carry, xs: (carry, body(*xs)), None, (hidden, chunks(target_BxR))
    )
    return {name: x.swapaxes(0, 1).reshape(B, -1)[:, :R] for name, x in quantities.items()}


def _over_vocabulary(head_DxV: jax.Array) -> jax.Array:
    """The head in shares of the vocabulary. In two steps, first over the axes that shared it
    before: in one, with a sequence axis, the partitioner would gather all of it on every device,
    and its gradient as well."""
    *before, last = VOCABULARY
    assert last == "sequence"
    return _constrain_layout(_constrain_layout(head_DxV, None, tuple(before)), None, VOCABULARY)


def _constrain_layout(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Constrain x's dimensions to these axes of the mesh, if there is one."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
