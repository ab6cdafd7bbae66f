"""All layers of a decoder in one call of a kernel in C++, for sampling on CPUs: no gradient.

XLA's loop over layers copies each layer's weights out of their stack, three times the traffic of
reading them, and one token is a hundred small operations for it. The kernel
(`attention/decode.cc`) reads the stacked parameters in place, computes only tokens that are no
padding, and needs float32 throughout; everything else is computed by XLA (`paging`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interact_jax import foreign
from interact_jax.models.attention import paged
from interact_jax.models.attention.paged import Pool
from interact_jax.models.decoder import Decoder
from interact_jax.models.layers import rope_angles

WEIGHTS = (
    "attention_norm_D",
    "q_DxHxK",
    "k_DxGxK",
    "v_DxGxK",
    "q_bias_HxK",
    "k_bias_GxK",
    "v_bias_GxK",
    "q_norm_K",
    "k_norm_K",
    "o_HxKxD",
    "o_bias_D",
    "mlp_norm_D",
    "gate_DxF",
    "up_DxF",
    "down_FxD",
)
"""The parameters of a layer in the order of the kernel's `Weights`; a family may lack some."""


def targets() -> dict[str, str]:
    """The handlers of the kernel. Raises foreign.Unavailable."""
    source = Path(paged.__file__).with_name("decode.cc")
    return foreign.load(source, ("decoder_layers", "decoder_head"))


def can_run(decoder: Decoder, params: Any) -> bool:
    """Whether the kernel computes this decoder: on one CPU device, in float32."""
    if decoder.attention != "native" or paged.shared_out(jax.sharding.get_abstract_mesh()):
        return False
    types = {jnp.dtype(decoder.dtype), *(x.dtype for x in jax.tree.leaves(params))}
    return types == {jnp.dtype("float32")}


def run(
    decoder: Decoder,
    layers: Any,
    hidden_BxLxD: jax.Array,
    place_BxL: jax.Array,
    table_BxM: jax.Array,
    pool: Pool,
    fill: bool = False,
) -> tuple[jax.Array, Pool]:
    """Hidden states [B, L, D] after the last layer, 0 where a token is padding, and the pool with
    the keys and values of the tokens. `layers`: the stacked parameters. With `fill`, of the last
    layer only keys and values are computed, and hidden states are those before it."""
    assert set(layers) <= set(WEIGHTS), "the kernel knows all weights of a layer"
    cosine, sine = rope_angles(jnp.maximum(place_BxL, 0), decoder.config)
    windows = [window or paged.UNLIMITED for window in decoder.config.windows]
    shapes = (hidden_BxLxD.shape, pool.keys_NxUxGxKxW.shape, pool.values_NxUxGxWxK.shape)
    call = jax.ffi.ffi_call(
        targets()["decoder_layers"],
        [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        input_output_aliases={6: 1, 7: 2},
    )
    hidden_BxLxD, keys, values = call(
        hidden_BxLxD,
        place_BxL,
        table_BxM,
        cosine,
        sine,
        jnp.asarray(windows, jnp.int32),
        pool.keys_NxUxGxKxW,
        pool.values_NxUxGxWxK,
        *(layers.get(name, jnp.zeros(0, jnp.float32)) for name in WEIGHTS),
        eps=np.float32(decoder.config.norm_eps),
        fill=fill,
    )
    return hidden_BxLxD, Pool(keys, values)


def logits(params: Any, hidden_BxD: jax.Array) -> jax.Array:
    """Logits [B, V] of hidden states after the final norm; the head is read in place."""
    tied = "head_DxV" not in params
    head = params["embedding_VxD"] if tied else params["head_DxV"]
    shape = (len(hidden_BxD), head.shape[0 if tied else 1])
    call = jax.ffi.ffi_call(targets()["decoder_head"], jax.ShapeDtypeStruct(shape, jnp.float32))
    return call(hidden_BxD, head, tied=tied)
