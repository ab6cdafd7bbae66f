"""The arithmetic that every family shares: RMS norm and rotary positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from interact_jax.models.families import DecoderConfig


def rms_norm(x_BxLxD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis; the mean of squares is taken in float32."""
    x32 = x_BxLxD.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    scale = scale_D.reshape((1,) * (x32.ndim - 1) + (-1,))
    return normed.astype(x_BxLxD.dtype) * scale


def rope_frequencies(config: DecoderConfig) -> np.ndarray:
    """Radians per position of each of the K / 2 rotated pairs, float32.

    With Llama 3.1's scaling a pair that turns more than `high_freq_factor` times within the
    original length keeps its frequency, one that turns less than `low_freq_factor` times is slowed
    by `factor`, those between are interpolated (Hugging Face: `_compute_llama3_parameters`).
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


def rope_angles(position_BxL: jax.Array, config: DecoderConfig) -> tuple[jax.Array, jax.Array]:
    """cos and sin of every pair's angle, each float32 [B, L, 1, K / 2] (1 = any head)."""
    frequencies = jnp.asarray(rope_frequencies(config))[None, None, :]
    angle = position_BxL.astype(jnp.float32)[:, :, None] * frequencies
    return jnp.cos(angle)[:, :, None, :], jnp.sin(angle)[:, :, None, :]


def rotate(x_BxLxHxK: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pairs (k, k + K/2) of every head by their angle, Hugging Face's pairing."""
    cos, sin = (a.astype(x_BxLxHxK.dtype) for a in angles)
    first, second = jnp.split(x_BxLxHxK, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
