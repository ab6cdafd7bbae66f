"""The arithmetic that every family shares: RMS norm and rotary positions."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interact_jax.models.families import DecoderConfig
from interact_jax.schema import Array


def linear(x_BxLxD: jax.Array, w: jax.Array, dtype: Any = None, *, inputs: int = 1) -> jax.Array:
    """Contract the last `inputs` axes of x with the first ones of w; the other axes of w follow.

    Computed in the type of x, whatever that of w; the result has type `dtype`, by default that of
    x. The gradient of w is summed in float32, over tokens and over devices.

    Tokens are flattened to one axis for the product: with two axes (B, L) to sum over, the gradient
    of w would first transpose its operands, half the time of an MLP's backward pass on CPU.
    """
    lead, into = x_BxLxD.shape[: x_BxLxD.ndim - inputs], w.shape[inputs:]
    tokens = x_BxLxD.reshape(math.prod(lead), -1)
    product = _product(tokens, w.reshape(tokens.shape[1], -1), dtype or x_BxLxD.dtype)
    return product.reshape(*lead, *into)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
    return jnp.dot(x, w.astype(x.dtype), preferred_element_type=dtype)


def _product_backward(dtype, residuals, dy):
    x, w = residuals
    dy = dy.astype(x.dtype)
    dx = jnp.dot(dy, w.astype(x.dtype).T)
    dw = jnp.einsum("LD,LF->DF", x, dy, preferred_element_type=jnp.float32)
    return dx, dw.astype(w.dtype)


_product.defvjp(lambda x, w, dtype: (_product(x, w, dtype), (x, w)), _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x_BxLxD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis; the mean of squares is taken in float32.

    The gradient is written out because of that of `scale`, a sum over tokens: as a product with
    ones it takes a tenth of the time of XLA's reduction on CPU.
    """
    return _rms_norm_forward(x_BxLxD, scale_D, eps)[0]


def _rms_norm_forward(x, scale, eps):
    normed = _normalise(x, _inverse_rms(x, eps))
    return normed.astype(x.dtype) * _broadcast_last(scale.astype(x.dtype), x.ndim), (x, scale)


def _rms_norm_backward(eps, residuals, dy):
    x, scale = residuals
    inverse = _inverse_rms(x, eps)
    normed, dy32 = _normalise(x, inverse), dy.astype(jnp.float32)
    dnormed = dy32 * _broadcast_last(scale, x.ndim).astype(jnp.float32)
    dx = inverse * (dnormed - normed * jnp.mean(dnormed * normed, axis=-1, keepdims=True))
    terms = (dy32 * normed).reshape(-1, x.shape[-1])
    dscale = jnp.ones((1, terms.shape[0]), jnp.float32) @ terms
    return dx.astype(x.dtype), dscale[0].astype(scale.dtype)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def _inverse_rms(x: jax.Array, eps: float) -> jax.Array:
    x32 = x.astype(jnp.float32)
    return jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)


def _normalise(x: jax.Array, inverse: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) * inverse


def _broadcast_last(scale_D: jax.Array, ndim: int) -> jax.Array:
    return scale_D.reshape((1,) * (ndim - 1) + (-1,))


def rope_frequencies(config: DecoderConfig) -> np.ndarray:
    """Radians per position of each of the K / 2 rotated pairs, float32.

    With Llama 3.1's scaling, a pair that turns more than `high_freq_factor` times within the
    original length keeps its frequency, a pair that turns less than `low_freq_factor` times is
    slowed down by `factor`, and those between are interpolated (Hugging Face:
    `_compute_llama3_parameters`).
    """
    half = np.arange(0, config.head_width, 2, dtype=np.float32) / np.float32(config.head_width)
    frequencies = (1.0 / np.float32(config.rope_theta) ** half).astype(np.float32)
    if config.rope_scaling is None:
        return frequencies
    s = config.rope_scaling
    turns = s.original_length * frequencies / (2 * np.pi)
    smooth = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    smooth = np.clip(smooth, 0.0, 1.0)
    return (smooth * frequencies + (1 - smooth) * frequencies / s.factor).astype(np.float32)


def rope_angles(position_BxL: Array, config: DecoderConfig) -> tuple[jax.Array, jax.Array]:
    """cos and sin of every pair's angle, each float32 [B, L, 1, K / 2] (1 = any head).

    The barrier keeps XLA from recomputing them for every head.
    """
    frequencies = jnp.asarray(rope_frequencies(config))[None, None, :]
    angle = position_BxL.astype(jnp.float32)[:, :, None] * frequencies
    angles = jnp.cos(angle)[:, :, None, :], jnp.sin(angle)[:, :, None, :]
    return jax.lax.optimization_barrier(angles)


def rotate(x_BxLxHxK: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotate the pairs (k, k + K/2) of every head by their angles; Hugging Face's pairing."""
    cos, sin = (a.astype(x_BxLxHxK.dtype) for a in angles)
    first, second = jnp.split(x_BxLxHxK, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
