"""The arithmetic of a layer, on its weights by name: what training and sampling share.

    q, k, v = project(hidden, w, angles, config)
    hidden = add_output(hidden, attended, w, config)

`w` has the arrays of one layer. `attention/decode.cc` computes the same for sampling on CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from interact_jax.models.families import DecoderConfig
from interact_jax.models.layers import linear, rms_norm, rotate

Weights = Mapping[str, jax.Array]


def project(
    hidden_BxLxD: jax.Array, w: Weights, angles: tuple[jax.Array, jax.Array], c: DecoderConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [B, L, H, K], keys and values [B, L, G, K]; positions are rotated in."""
    x_BxLxD = rms_norm(hidden_BxLxD, w["attention_norm"], c.norm_eps)
    q, k, v = (linear(x_BxLxD, w[name]) for name in ("q", "k", "v"))
    if c.qkv_bias:
        q, k, v = (
            x + w[f"{name}_bias"].astype(x.dtype)[None, None]
            for name, x in (("q", q), ("k", k), ("v", v))
        )
    if c.qk_norm:
        q = rms_norm(q, w["q_norm"], c.norm_eps)
        k = rms_norm(k, w["k_norm"], c.norm_eps)
    return rotate(q, angles), rotate(k, angles), v


def add_output(
    hidden_BxLxD: jax.Array, attended_BxLxHxK: jax.Array, w: Weights, c: DecoderConfig
) -> jax.Array:
    """The hidden states after attention's output and the MLP are added."""
    out = linear(attended_BxLxHxK, w["o"], inputs=2)
    if c.o_bias:
        out = out + w["o_bias"].astype(out.dtype)[None, None]
    hidden_BxLxD = hidden_BxLxD + out
    x_BxLxD = rms_norm(hidden_BxLxD, w["mlp_norm"], c.norm_eps)
    gate = jax.nn.silu(linear(x_BxLxD, w["gate"]))
    return hidden_BxLxD + linear(gate * linear(x_BxLxD, w["up"]), w["down"])
