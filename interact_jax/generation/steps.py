"""What the sampler runs on the devices: filling pages with prompts, and drawing tokens.

Both are jitted once per shape, take the training parameters as they are, and give back the pool
they were given, changed in place.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from interact_jax.generation.draw import Settings, draw
from interact_jax.models import paging
from interact_jax.models.attention.paged import Pool, copy_pages
from interact_jax.models.decoder import Decoder
from interact_jax.schema import Array


@flax.struct.dataclass
class Rows:
    """The sequences that are sampled, one a row; rows that are not live are padding.

    `last` is the token to be fed, at `place` in its sequence; `count` tokens were drawn before, and
    `limit` is how many may be."""

    live_B: Array
    last_B: Array
    place_B: Array
    count_B: Array
    limit_B: Array
    table_BxM: Array
    settings: Settings


@flax.struct.dataclass
class Drawn:
    """What was drawn: the first `new` tokens of each row; `ended` with an EOS."""

    new_B: jax.Array
    ended_B: jax.Array
    id_BxN: jax.Array  # N here: the steps of one call
    logp_BxN: jax.Array
    sampling_logp_BxN: jax.Array


def continue_rows(
    decoder: Decoder,
    eos_ids: tuple[int, ...],
    vocabulary: int,
    width: int,
    params: Any,
    pool: Pool,
    rows: Rows,
    steps: jax.Array,
    until_one_ends: jax.Array,
) -> tuple[Drawn, Pool]:
    """Draw up to `steps` <= `width` tokens for every live row, fewer once all rows have ended or,
    with `until_one_ends`, one has."""
    B = len(rows.live_B)

    def more(state: tuple[Any, ...]) -> jax.Array:
        step, rows_now, _, _ = state
        ended = (rows.live_B & ~rows_now.live_B).any()
        return (step < steps) & rows_now.live_B.any() & ~(until_one_ends & ended)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, now, drawn, pool = state
        place_Bx1 = jnp.where(now.live_B, now.place_B, -1)[:, None]
        hidden_Bx1xD, pool = paging.extend(
            decoder, params, now.last_B[:, None], place_Bx1, now.table_BxM, pool
        )
        logits_BxV = paging.logits(decoder, params, hidden_Bx1xD[:, 0])
        id_B, logp_B, sampling_logp_B = draw(logits_BxV, now.count_B, now.settings, vocabulary)
        ended_B = now.live_B & jnp.isin(id_B, jnp.asarray(eos_ids))
        count_B = now.count_B + now.live_B

        def record(old_BxN: jax.Array, value_B: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(old_BxN, value_B[:, None], step, axis=1)

        drawn = Drawn(
            drawn.new_B + now.live_B,
            drawn.ended_B | ended_B,
            record(drawn.id_BxN, id_B),
            record(drawn.logp_BxN, logp_B),
            record(drawn.sampling_logp_BxN, sampling_logp_B),
        )
        now = now.replace(
            live_B=now.live_B & ~ended_B & (count_B < now.limit_B),
            last_B=id_B,
            place_B=now.place_B + now.live_B,
            count_B=count_B,
        )
        return step + 1, now, drawn, pool

    nothing = Drawn(
        jnp.zeros(B, jnp.int32),
        jnp.zeros(B, bool),
        jnp.zeros((B, width), jnp.int32),
        jnp.zeros((B, width), jnp.float32),
        jnp.zeros((B, width), jnp.float32),
    )
    _, _, drawn, pool = jax.lax.while_loop(more, step, (jnp.int32(0), rows, nothing, pool))
    return drawn, pool


@functools.lru_cache(maxsize=8)
def jit_steps(
    decoder: Decoder, eos_ids: tuple[int, ...], vocabulary: int, width: int
) -> tuple[Any, Any, Any]:
    """(fill, copy_pages, continue_rows) for this decoder, jitted; the pool is donated. Samplers of
    equal decoders share them: nothing is traced again for every measurement of a run."""
    return (
        jax.jit(functools.partial(paging.fill, decoder), donate_argnums=4),
        jax.jit(copy_pages, donate_argnums=0),
        jax.jit(
            functools.partial(continue_rows, decoder, eos_ids, vocabulary, width), donate_argnums=1
        ),
    )
