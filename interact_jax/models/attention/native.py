"""Attention by a kernel in C++, for CPUs: what `blockwise` does, without its passes over memory.

A block of logits stays in the processor's cache between the product that computes it and the
product that uses it, so attention runs at nearly the speed of the products. `native.cc` has the
kernel. It computes in float32; inputs of other types are converted.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interact_jax import flops, foreign
from interact_jax.models.attention.sight import Sight

BLOCK_Q, BLOCK_K = 128, 96  # of a block: queries times heads of one key head, and keys
LANES = 16  # floats of the widest vector: heads are padded to a multiple of this
PRODUCTS = {
    "attention_forward": 2,
    "attention_backward": 5,
}  # matrix products of size queries x keys x K


def targets() -> dict[str, str]:
    """The handlers of the kernel. Raises foreign.Unavailable if they cannot be compiled."""
    targets = foreign.load(Path(__file__).with_suffix(".cc"), tuple(PRODUCTS))
    for handler, target in targets.items():
        flops.FOREIGN[target] = functools.partial(_flops, PRODUCTS[handler])
    return targets


def forward(
    q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, v_BxSxGxK: jax.Array, sight: Sight
) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, K] and log-sum-exp [B, H, L]; 0 and +inf where a query sees nothing."""
    B, L, H, K = q_BxLxHxK.shape
    q, k, v = map(_widen, (q_BxLxHxK, k_BxSxGxK, v_BxSxGxK))
    out, lse_BxHxL = _call(
        "attention_forward", (q.shape, (B, H, L)), q, k, v, _runs(sight), scale=K**-0.5
    )
    return out[..., :K].astype(q_BxLxHxK.dtype), lse_BxHxL


def backward(
    q_BxLxHxK: jax.Array,
    k_BxSxGxK: jax.Array,
    v_BxSxGxK: jax.Array,
    sight: Sight,
    out_BxLxHxK: jax.Array,
    lse_BxHxL: jax.Array,
    dout_BxLxHxK: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of q, k and v, each with the shape and type of its array."""
    K = q_BxLxHxK.shape[-1]
    inputs = (q_BxLxHxK, k_BxSxGxK, v_BxSxGxK)
    q, k, v, out, dout = map(_widen, (*inputs, out_BxLxHxK, dout_BxLxHxK))
    shapes = (q.shape, k.shape, v.shape)
    gradients = _call(
        "attention_backward", shapes, q, k, v, _runs(sight), out, lse_BxHxL, dout, scale=K**-0.5
    )
    return tuple(d[..., :K].astype(x.dtype) for d, x in zip(gradients, inputs, strict=True))


def _call(handler: str, shapes: tuple[Any, ...], *arrays: jax.Array, scale: float) -> Any:
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    settings = {
        "block_q": np.int32(_queries(arrays[0].shape[2], arrays[1].shape[2])),
        "block_k": np.int32(BLOCK_K),
        "scale": np.float32(scale),
    }
    return jax.ffi.ffi_call(targets()[handler], results)(*arrays, **settings)


def _queries(H: int, G: int) -> int:
    """Queries of a block; the H / G heads of each are computed together."""
    return max(LANES, BLOCK_Q * G // H // LANES * LANES)


def _runs(sight: Sight) -> jax.Array:
    """[runs, 2, B, L]: first and end of every run."""
    return jnp.stack([jnp.stack([span.first_BxL, span.end_BxL]) for span in sight])


def _flops(products: int, shapes: list[tuple[int, ...]], values: list[np.ndarray | None]) -> int:
    """A block of queries visits the keys from the first to the last that its runs touch."""
    (B, L, H, K), (_, S, G, _) = shapes[:2]
    block, runs = _queries(H, G), values[3]
    if runs is None:
        return 2 * products * B * L * S * H * K
    first, end = np.pad(runs, ((0, 0),) * 3 + ((0, -L % block),)).swapaxes(0, 1)
    first, end = (x.reshape(*x.shape[:2], -1, block) for x in (first, end))
    nonempty = first < end
    visited = np.where(nonempty, end, 0).max(-1) - np.where(nonempty, first, S).min(-1)
    return 2 * products * int(np.maximum(visited, 0).sum()) * block * H * K


def _widen(x: jax.Array) -> jax.Array:
    """The array in float32, its last axis padded with zeros to a multiple of LANES."""
    x = x.astype(jnp.float32)
    missing = -x.shape[-1] % LANES
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, missing),)) if missing else x
