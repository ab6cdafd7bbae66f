"""Drawing a token from logits, each row with its own temperature, top-k, top-p and min-p.

The sets are found without sorting the vocabulary. Weights are exp((logit - largest) / temperature),
in (0, 1]; what is kept are all tokens whose weight is at least a threshold, and the threshold is
found by bisection over the bits of a float32, whose order is that of the numbers: 30 sums over the
vocabulary give it exactly. Tokens of equal weight are kept or left out together.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from interact_jax.schema import Array

ONE = 0x3F800000  # the bits of 1.0
BLOCK = 512  # tokens whose weights are summed before one of them is chosen


@flax.struct.dataclass
class Settings:
    """`engine.SamplingParams` of each row, and the two words of its random key at every token."""

    temperature_B: Array
    top_k_B: Array
    top_p_B: Array
    min_p_B: Array
    key_Bx2: Array


def draw(
    logits_BxV: jax.Array, count_B: jax.Array, settings: Settings, vocabulary: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """An id below `vocabulary` per row, and its log-probability: that of the model, and that of the
    distribution it was drawn from (0 at temperature 0). count: the tokens drawn for the row before.
    """
    logits_BxV = logits_BxV.astype(jnp.float32)
    within_1xV = jax.lax.broadcasted_iota(jnp.int32, (1, logits_BxV.shape[1]), 1) < vocabulary
    allowed_BxV = jnp.where(within_1xV, logits_BxV, -jnp.inf)
    likeliest_B = _first_of_largest(allowed_BxV)
    random_B = settings.temperature_B > 0

    def sample() -> tuple[jax.Array, jax.Array]:
        temperature_Bx1 = jnp.where(random_B, settings.temperature_B, 1.0)[:, None]
        largest_Bx1 = allowed_BxV.max(axis=1, keepdims=True)
        weight_BxV = jnp.exp((allowed_BxV - largest_Bx1) / temperature_Bx1)
        weight_BxV = _keep_likely(weight_BxV, settings)
        id_B, total_B = _choose(weight_BxV, count_B, settings)
        weight_B = jnp.take_along_axis(weight_BxV, id_B[:, None], axis=1)[:, 0]
        logp_B = jnp.log(weight_B) - jnp.log(total_B)
        return jnp.where(random_B, id_B, likeliest_B), jnp.where(random_B, logp_B, 0.0)

    def take_likeliest() -> tuple[jax.Array, jax.Array]:
        return likeliest_B, jnp.zeros_like(settings.temperature_B)

    id_B, sampling_logp_B = jax.lax.cond(random_B.any(), sample, take_likeliest)
    logp_B = jnp.take_along_axis(logits_BxV, id_B[:, None], axis=1)[:, 0]
    return id_B, logp_B - jax.nn.logsumexp(logits_BxV, axis=1), sampling_logp_B


def _first_of_largest(x_BxV: jax.Array) -> jax.Array:
    """argmax, by two plain reductions: on CPUs XLA takes a third of the time for them."""
    V = x_BxV.shape[1]
    index_BxV = jax.lax.broadcasted_iota(jnp.int32, x_BxV.shape, 1)
    is_largest_BxV = x_BxV == x_BxV.max(axis=1, keepdims=True)
    return jnp.where(is_largest_BxV, index_BxV, V - 1).min(axis=1)  # V - 1 where it is NaN


def _keep_likely(weight_BxV: jax.Array, settings: Settings) -> jax.Array:
    """The weights, 0 where top-k, top-p or min-p leave a token out."""

    def keep_k(weight_BxV: jax.Array) -> jax.Array:
        least_B = jnp.where(settings.top_k_B > 0, settings.top_k_B, 0)
        enough = lambda kept_BxV: kept_BxV.sum(axis=1) >= least_B  # noqa: E731
        return _cut(weight_BxV, _threshold(weight_BxV, enough))

    def keep_p(weight_BxV: jax.Array) -> jax.Array:
        least_B = settings.top_p_B * weight_BxV.sum(axis=1)
        enough = lambda kept_BxV: jnp.where(kept_BxV, weight_BxV, 0).sum(axis=1) >= least_B  # noqa: E731
        threshold_B = _threshold(weight_BxV, enough)
        return _cut(weight_BxV, jnp.where(settings.top_p_B < 1, threshold_B, 0.0))

    limits_k, limits_p = settings.top_k_B > 0, settings.top_p_B < 1
    unchanged = lambda weight_BxV: weight_BxV  # noqa: E731
    by_k = jax.lax.cond(limits_k.any(), keep_k, unchanged, weight_BxV)
    weight_BxV = jnp.where(limits_k[:, None], by_k, weight_BxV)
    weight_BxV = jax.lax.cond(limits_p.any(), keep_p, unchanged, weight_BxV)
    return _cut(weight_BxV, settings.min_p_B)  # the largest weight is 1


def _cut(weight_BxV: jax.Array, threshold_B: Array) -> jax.Array:
    return jnp.where(weight_BxV >= threshold_B[:, None], weight_BxV, 0.0)


def _threshold(weight_BxV: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The largest threshold [B] for which the weights that reach it are enough."""

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low_B, high_B = bounds  # enough at low, not above high
        middle_B = low_B + (high_B - low_B + 1) // 2
        threshold_B = jax.lax.bitcast_convert_type(middle_B, jnp.float32)
        good_B = enough(weight_BxV >= threshold_B[:, None])
        return jnp.where(good_B, middle_B, low_B), jnp.where(good_B, high_B, middle_B - 1)

    zero_B = jnp.zeros(len(weight_BxV), jnp.int32)
    low_B, _ = jax.lax.fori_loop(0, ONE.bit_length(), halve, (zero_B, zero_B + ONE))
    return jax.lax.bitcast_convert_type(low_B, jnp.float32)


def _choose(
    weight_BxV: jax.Array, count_B: jax.Array, settings: Settings
) -> tuple[jax.Array, jax.Array]:
    """An id per row, drawn in proportion to its weight, and the sum of the weights: first a block
    of the vocabulary, then one of its tokens."""
    key_B = jax.vmap(jax.random.wrap_key_data)(jnp.asarray(settings.key_Bx2))
    key_B = jax.vmap(jax.random.fold_in)(key_B, count_B)
    u_Bx2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(key_B)
    padded = jnp.pad(weight_BxV, ((0, 0), (0, -weight_BxV.shape[1] % BLOCK)))
    blocks = padded.reshape(len(padded), -1, BLOCK)
    block_B, total_B = _pick(blocks.sum(axis=2), u_Bx2[:, 0])
    within = jnp.take_along_axis(blocks, block_B[:, None, None], axis=1)[:, 0]
    index_B, _ = _pick(within, u_Bx2[:, 1])
    return (block_B * BLOCK + index_B).astype(jnp.int32), total_B


def _pick(weight_BxN: jax.Array, u_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An index per row, by the inverse of the cumulative sum; and the sum of the row.

    The target is below the sum whatever the rounding, so what is picked has a positive weight.
    """
    sums_BxN = jnp.cumsum(weight_BxN, axis=1)
    total_B = sums_BxN[:, -1]
    target_B = jnp.minimum(u_B * total_B, jnp.nextafter(total_B, jnp.zeros_like(total_B)))
    return jnp.argmax(sums_BxN > target_B[:, None], axis=1), total_B
