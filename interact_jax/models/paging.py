"""The decoder on new tokens of sequences whose keys and values are kept in pages: for sampling.

    pool = Pool.empty(decoder.config, 64, decoder.dtype, backend_of(decoder))
    pool = fill(decoder, params, id_BxL, place_BxL, table_BxM, pool)
    hidden_BxLxD, pool = extend(decoder, params, id_BxL, place_BxL, table_BxM, pool)

`fill` takes parts of prompts as rows, decoding is `extend` with a token in each row. Both read the
parameters that training uses, in their layout. `attention.paged` says what pool and table are. On
CPUs `native_layers` computes them, where it can.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from interact_jax.models import block, native_layers
from interact_jax.models.attention import paged
from interact_jax.models.attention.paged import Pool
from interact_jax.models.decoder import Decoder, head_DxV
from interact_jax.models.layers import rms_norm, rope_angles


def backend_of(decoder: Decoder) -> str:
    """The backend of attention over pages, by the one that the decoder has for training."""
    return "native" if decoder.attention == "native" else "xla"


def extend(
    decoder: Decoder,
    params: Any,
    id_BxL: jax.Array,
    place_BxL: jax.Array,
    table_BxM: jax.Array,
    pool: Pool,
) -> tuple[jax.Array, Pool]:
    """Hidden states [B, L, D] of new tokens (after the final norm), and the pool with their keys
    and values. place: their positions, consecutive in a row; -1 = padding, at its end."""
    hidden, pool = _run(decoder, params, id_BxL, place_BxL, table_BxM, pool, fill=False)
    return rms_norm(hidden, params["final_norm_D"], decoder.config.norm_eps), pool


def fill(
    decoder: Decoder,
    params: Any,
    id_BxL: jax.Array,
    place_BxL: jax.Array,
    table_BxM: jax.Array,
    pool: Pool,
) -> Pool:
    """The pool of `extend`. Nothing is made of these tokens but keys and values, so the last layer
    computes nothing else."""
    return _run(decoder, params, id_BxL, place_BxL, table_BxM, pool, fill=True)[1]


def logits(decoder: Decoder, params: Any, hidden_BxD: jax.Array) -> jax.Array:
    """Logits [B, V], float32, of hidden states from `extend`."""
    if native_layers.can_run(decoder, params):
        return native_layers.logits(params, hidden_BxD)
    head = head_DxV(params).astype(hidden_BxD.dtype)
    return jnp.dot(hidden_BxD, head, preferred_element_type=jnp.float32)


def _run(
    decoder: Decoder,
    params: Any,
    id_BxL: jax.Array,
    place_BxL: jax.Array,
    table_BxM: jax.Array,
    pool: Pool,
    fill: bool,
) -> tuple[jax.Array, Pool]:
    hidden = jnp.take(params["embedding_VxD"], id_BxL, axis=0).astype(decoder.dtype)
    # From shares of D to shares of rows by way of every device: these are few tokens, where the
    # decoder, which has many, gathers the embedding instead.
    hidden = nn.with_logical_constraint(hidden, (None, None, None))
    run = native_layers.run if native_layers.can_run(decoder, params) else _run_layers
    return run(decoder, params["layers"], hidden, place_BxL, table_BxM, pool, fill)


def _run_layers(
    decoder: Decoder,
    layers: Any,
    hidden: jax.Array,
    place_BxL: jax.Array,
    table_BxM: jax.Array,
    pool: Pool,
    fill: bool,
) -> tuple[jax.Array, Pool]:
    c, backend = decoder.config, backend_of(decoder)
    hidden = nn.with_logical_constraint(hidden, ("B", None, None))
    angles = rope_angles(jnp.maximum(place_BxL, 0), c)
    window_N = jnp.asarray([window or paged.UNLIMITED for window in c.windows], jnp.int32)

    def project(n: Any, hidden: jax.Array) -> tuple[block.Weights, tuple[jax.Array, ...]]:
        w = {
            name.rpartition("_")[0]: jax.lax.dynamic_index_in_dim(stacked, n, keepdims=False)
            for name, stacked in layers.items()
        }
        return w, block.project(hidden, w, angles, c)

    def layer(n: jax.Array, carry: tuple[jax.Array, Pool]) -> tuple[jax.Array, Pool]:
        hidden, pool = carry
        w, (q, k, v) = project(n, hidden)
        out, pool = paged.attend(q, k, v, place_BxL, table_BxM, pool, n, window_N[n], backend)
        hidden = block.add_output(hidden, out, w, c)
        return nn.with_logical_constraint(hidden, ("B", None, None)), pool

    hidden, pool = jax.lax.fori_loop(0, c.layers - fill, layer, (hidden, pool))
    if fill:
        _, (_, k, v) = project(c.layers - 1, hidden)
        pool = paged.write(k, v, place_BxL, table_BxM, pool, jnp.int32(c.layers - 1))
    return hidden, pool
