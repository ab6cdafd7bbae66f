"""Hidden states at the reply tokens -> per-token quantities, a chunk of tokens at a time.

There is never a [tokens, vocabulary] array for a whole row: the logits of one chunk are made from
every source, what is wanted of them is computed, and they are dropped; the backward pass makes them
again.

    source     whose weights, in which view: ("policy", "plain")
    role       what an objective calls a distribution, "student" or "teacher": a mixture of sources
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from interact_jax.logits import SAVED, VOCABULARY, Logits, Quantity, Roles
from interact_jax.models.decoder import BranchStream, Decoder, head_DxV
from interact_jax.models.layers import linear
from interact_jax.schema import Array, Batch, TokenStream

CHUNK = 512  # C: reply tokens of a row whose logits exist at a time, at most, of two sources; of
# more sources fewer. Much fewer would leave an accelerator waiting for the head: v6e makes 560
# FLOPs in the time it reads a byte.


class Source(NamedTuple):
    """Whose weights, in which view."""

    model: str
    view: str


Mixture = tuple[tuple[float, Source], ...]
"""A role: the log-softmax of the sum of weight times logits, over these (weight, source)."""


@flax.struct.dataclass
class Seen:
    """The reply tokens as a source sees them: predictors' hidden states and the head over them."""

    hidden_BxRxD: jax.Array
    head_DxV: jax.Array


# --------------------------------------------------------------- hidden states in every view wanted

Hiddens = dict[str, jax.Array]  # by view, [B, R, D]


def one_pass(
    decoder: Decoder, params: Any, batch: Batch, views: Collection[str], differentiated: bool = True
) -> Hiddens:
    """All views from one pass over trunk and branches (`sharing=tree`); kinds of branches that no
    view wants are left out."""
    live, frozen = _kinds(batch, views)
    branches = []
    if live and batch.live.id_BxL.shape[1]:
        branches.append(BranchStream(batch.live, differentiated))
    if frozen:
        branches.append(BranchStream(batch.frozen, differentiated=False))
    found: Any = decoder.apply({"params": params}, batch.trunk, branches, batch.branches)
    trunk, hiddens = found
    of_live = jnp.concatenate([trunk, *hiddens[: len(branches) - bool(frozen)]], axis=1)
    return _at_replies(batch, views, of_live, hiddens[-1] if frozen else None)


def two_passes(
    decoder: Decoder, params: Any, batch: Batch, views: Collection[str], differentiated: bool = True
) -> Hiddens:
    """By a full forward for each sequence (`sharing=none`): a tree is one unit and shares nothing,
    so its branches are sequences in full, side by side."""
    live, frozen = _kinds(batch, views)
    of_live = of_frozen = None
    if live:
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), batch.trunk, batch.live)
        of_live, _ = decoder.apply({"params": params}, _as_trunk(both))
    if frozen:
        still = jax.lax.stop_gradient(params)
        of_frozen, _ = decoder.apply({"params": still}, _as_trunk(batch.frozen))
    return _at_replies(batch, views, of_live, of_frozen)


FORWARD = {"tree": one_pass, "none": two_passes}
"""How views are computed, by the name of the setting `sharing`."""


def _kinds(batch: Batch, views: Collection[str]) -> tuple[list[str], list[str]]:
    """The views wanted: those of live branches, and those of frozen ones."""
    frozen = [view for view in views if view in batch.frozen_views]
    return [view for view in views if view not in frozen], frozen


def _as_trunk(stream: TokenStream) -> TokenStream:
    return dataclasses.replace(stream, branch_BxL=jnp.zeros_like(stream.branch_BxL))


def _at_replies(
    batch: Batch, views: Collection[str], live: jax.Array | None, frozen: jax.Array | None
) -> Hiddens:
    def rows(view: str) -> jax.Array:
        hidden_BxLxD = frozen if view in batch.frozen_views else live
        assert hidden_BxLxD is not None  # this view is one of those that made `_kinds` want it
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
    """The reply tokens as every source sees them: for each model one pass over the views that are
    wanted of it. Only live views of the `trained` model carry a gradient."""
    found = {}
    for name in sorted({source.model for source in sources}):
        views = sorted(source.view for source in sources if source.model == name)
        live = name == trained
        params = models[name] if live else jax.lax.stop_gradient(models[name])
        hiddens = forward(decoder, params, batch, views, live)
        head = head_DxV(params)
        for view in views:
            seen = Seen(hiddens[view], head)
            # Of other models nothing carries a gradient, and their views share one head.
            still = live and view in batch.frozen_views
            found[Source(name, view)] = jax.lax.stop_gradient(seen) if still else seen
    return found


# ------------------------------------------------------------------- logits of a chunk, and no more


def score(
    seen: Mapping[Source, Seen],
    roles: Mapping[str, Mixture],
    target_BxR: Array,
    want: Mapping[str, Quantity],
    chunk: int = CHUNK,
) -> dict[str, jax.Array]:
    """Per-token quantities [B, R] by their names; float32 logits of `chunk` tokens at a time.

    Under a mesh the vocabulary is shared out, and a chunk's hidden states go to every share of it.
    They are small; to bring the head to the tokens would move all of it for every chunk, and the
    whole gradient of it back.
    """
    B, R = target_BxR.shape
    chunk = -(-R // -(-R * max(2, len(seen)) // (2 * chunk)))  # chunks of nearly the same length
    tail = -R % chunk

    def chunks(x: Array) -> jax.Array:  # [B, R, ...] -> [R / C, B, C, ...]
        x = jnp.pad(x, [(0, 0), (0, tail)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(B, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    once = {id(x.head_DxV): x.head_DxV for x in seen.values()}
    once = {key: _laid_out(head, None, VOCABULARY) for key, head in once.items()}
    heads = {source: once[id(x.head_DxV)] for source, x in seen.items()}

    def one(hidden: dict[Source, jax.Array], target_BxC: jax.Array) -> dict[str, jax.Array]:
        logits = {}
        for source, x_BxCxD in hidden.items():
            x = _laid_out(x_BxCxD, "data", None, None)
            x = linear(x, heads[source], jnp.float32)
            logits[source] = _laid_out(x, "data", None, VOCABULARY)
        found = Roles({role: Logits(_mixed(mix, logits)) for role, mix in roles.items()})
        return {name: quantity(found, target_BxC) for name, quantity in want.items()}

    # Without recompute the scan would keep every chunk's logits for the backward pass.
    body = jax.checkpoint(one, policy=jax.checkpoint_policies.save_only_these_names(SAVED))
    hidden = {source: chunks(x.hidden_BxRxD) for source, x in seen.items()}
    _, found = jax.lax.scan(
        lambda carry, xs: (carry, body(*xs)), None, (hidden, chunks(target_BxR))
    )
    return {name: x.swapaxes(0, 1).reshape(B, -1)[:, :R] for name, x in found.items()}


def _mixed(mixture: Mixture, logits: Mapping[Source, jax.Array]) -> jax.Array:
    if len(mixture) == 1:  # a weight would be a temperature
        return logits[mixture[0][1]]
    return jnp.asarray(sum(weight * logits[source] for weight, source in mixture))


def _laid_out(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """x with its dimensions on these axes of the mesh, if there is one."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
