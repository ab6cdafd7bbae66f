"""Blockwise attention in plain XLA: memory grows with the row, work with what is seen.

Queries and keys are cut into blocks. A block of queries visits the blocks of keys that its runs
touch, no others: trees packed into one row do not pay for each other, and the future of a trunk
costs nothing. The softmax is taken online (Milakov and Gimelshein, arXiv 1805.02867) over all runs
together, so their merge needs no step of its own; the backward pass makes a block's weights anew
from the log-sum-exp over all runs (Dao, FlashAttention-2, arXiv 2307.08691, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from interact_jax.models.attention.sight import Sight

BLOCK_Q, BLOCK_K = 256, 256  # tokens; on 2 CPU cores the fastest of 128 to 512
NOTHING = -1e30  # logit of what is not seen; finite, so that differences of two are no NaN


def forward(
    q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, v_BxSxGxK: jax.Array, sight: Sight
) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, K] and log-sum-exp [B, H, L]; 0 and +inf where a query sees nothing."""
    _, L, H, _ = q_BxLxHxK.shape
    blocks = _Blocks(L, k_BxSxGxK.shape[1], H // k_BxSxGxK.shape[2])

    def row(args: Any) -> tuple[jax.Array, jax.Array]:
        q, k, v, spans = args
        out, lse = _row_forward(
            blocks, blocks.queries(q), blocks.keys(k), blocks.keys(v), blocks.tables(spans)
        )
        return blocks.tokens(out, q.dtype), blocks.per_head(lse)

    return jax.lax.map(row, (q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, _runs(sight)))


def backward(
    q_BxLxHxK: jax.Array,
    k_BxSxGxK: jax.Array,
    v_BxSxGxK: jax.Array,
    sight: Sight,
    out_BxLxHxK: jax.Array,
    lse_BxHxL: jax.Array,
    dout_BxLxHxK: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of q, k and v, each shaped and typed as what it belongs to."""
    _, L, H, _ = q_BxLxHxK.shape
    S, G = k_BxSxGxK.shape[1:3]
    blocks = _Blocks(L, S, H // G)
    f32 = jnp.float32
    delta_BxLxH = jnp.sum(out_BxLxHxK.astype(f32) * dout_BxLxHxK.astype(f32), axis=-1)

    def row(args: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v, spans, lse_HxL, dout, delta_LxH = args
        dq, dk, dv = _row_backward(
            blocks,
            blocks.queries(q),
            blocks.keys(k),
            blocks.keys(v),
            blocks.tables(spans),
            blocks.statistics(lse_HxL, jnp.inf),
            blocks.queries(dout),
            blocks.statistics(delta_LxH.T, 0.0),
        )
        return (
            blocks.tokens(dq, q.dtype),
            *(grad_GxSxK[:, :S].swapaxes(0, 1).astype(k.dtype) for grad_GxSxK in (dk, dv)),
        )

    args = (q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, _runs(sight), lse_BxHxL, dout_BxLxHxK, delta_BxLxH)
    return jax.lax.map(row, args)


def _runs(sight: Sight) -> list[tuple[jax.Array, jax.Array]]:
    return [(span.first_BxL, span.end_BxL) for span in sight]


class _Blocks:
    """How one row is cut. A block of queries holds the r = H / G heads of a key head one behind the
    other, n blocks of them: [n, G, r * q, K]."""

    def __init__(self, L: int, S: int, r: int):
        self.L, self.r = L, r
        self.q, self.k = min(BLOCK_Q, L), min(BLOCK_K, S)
        self.n = -(-L // self.q)
        self.pad_q, self.pad_k = self.n * self.q - L, -S % self.k

    def queries(self, x_LxHxK: jax.Array) -> jax.Array:
        """[n, G, r * q, K]"""
        _, H, K = x_LxHxK.shape
        x = jnp.pad(x_LxHxK, ((0, self.pad_q), (0, 0), (0, 0)))
        x = x.reshape(self.n, self.q, H // self.r, self.r, K).transpose(0, 2, 3, 1, 4)
        return x.reshape(self.n, H // self.r, self.r * self.q, K)

    def tokens(self, x: jax.Array, dtype: Any) -> jax.Array:
        """[L, H, K], back from [n, G, r * q, K]."""
        n, G, _, K = x.shape
        x = x.reshape(n, G, self.r, self.q, K).transpose(0, 3, 1, 2, 4)
        return x.reshape(n * self.q, G * self.r, K)[: self.L].astype(dtype)

    def statistics(self, x_HxL: jax.Array, fill: float) -> jax.Array:
        """[n, G, r * q]"""
        H = x_HxL.shape[0]
        x = jnp.pad(x_HxL, ((0, 0), (0, self.pad_q)), constant_values=fill)
        x = x.reshape(H // self.r, self.r, self.n, self.q).transpose(2, 0, 1, 3)
        return x.reshape(self.n, H // self.r, self.r * self.q)

    def per_head(self, x: jax.Array) -> jax.Array:
        """[H, L], back from [n, G, r * q]."""
        n, G, _ = x.shape
        x = x.reshape(n, G, self.r, self.q).transpose(1, 2, 0, 3)
        return x.reshape(G * self.r, n * self.q)[:, : self.L]

    def keys(self, x_SxGxK: jax.Array) -> jax.Array:
        """[G, S rounded up, K]"""
        return jnp.pad(x_SxGxK, ((0, self.pad_k), (0, 0), (0, 0))).swapaxes(0, 1)

    def tables(self, runs: list[tuple[jax.Array, jax.Array]]) -> list[tuple[jax.Array, ...]]:
        """For every run: first and end of each query [n, q], and the blocks of keys that a block
        of queries visits, [low, high) [n]."""
        tables = []
        for first_L, end_L in runs:
            first, end = (
                jnp.pad(x, (0, self.pad_q)).reshape(self.n, self.q) for x in (first_L, end_L)
            )
            some = first < end
            low = jnp.where(some, first, jnp.iinfo(jnp.int32).max).min(axis=1) // self.k
            high = (jnp.where(some, end, 0).max(axis=1) + self.k - 1) // self.k
            tables.append((first, end, low, high))
        return tables

    def visit(self, table: tuple[jax.Array, ...], body: Callable[..., Any], carry: Any) -> Any:
        """carry = body(start, seen, carry) for each block of keys of a block of queries; `seen`
        [1, r * q, k] says which of its keys each query sees."""
        first_q, end_q, low, high = table

        def one(j: jax.Array, carry: Any) -> Any:
            start = j * self.k
            index = start + jnp.arange(self.k)[None, :]
            seen = (first_q[:, None] <= index) & (index < end_q[:, None])
            seen = jnp.broadcast_to(seen[None], (self.r, self.q, self.k))
            return body(start, seen.reshape(1, self.r * self.q, self.k), carry)

        return jax.lax.fori_loop(low, high, one, carry)


def _logits(q: jax.Array, k: jax.Array, seen: jax.Array) -> jax.Array:
    logits = jnp.einsum("GqK,GkK->Gqk", q, k, preferred_element_type=jnp.float32)
    return jnp.where(seen, logits * q.shape[-1] ** -0.5, NOTHING)


def _row_forward(blocks, q, k, v, tables):
    def at(x_GxSxK, start):
        return jax.lax.dynamic_slice_in_dim(x_GxSxK, start, blocks.k, axis=1)

    def queries(_, xs):
        q, tables = xs

        def body(start, seen, carry):
            largest, total, out = carry
            logits = _logits(q, at(k, start), seen)
            new = jnp.maximum(largest, logits.max(axis=-1))
            weights = jnp.where(seen, jnp.exp(logits - new[:, :, None]), 0.0)
            keep = jnp.exp(largest - new)
            total = total * keep + weights.sum(axis=-1)
            values = jnp.einsum(
                "Gqk,GkK->GqK",
                weights.astype(v.dtype),
                at(v, start),
                preferred_element_type=jnp.float32,
            )
            return new, total, out * keep[:, :, None] + values

        shape = q.shape[:2]
        carry = (
            jnp.full(shape, NOTHING, jnp.float32),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros(q.shape, jnp.float32),
        )
        for table in tables:
            carry = blocks.visit(table, body, carry)
        largest, total, out = carry
        some = total > 0
        total = jnp.where(some, total, 1.0)
        lse = jnp.where(some, largest + jnp.log(total), jnp.inf)
        return None, ((out / total[:, :, None]).astype(q.dtype), lse)

    return jax.lax.scan(queries, None, (q, tables))[1]


def _row_backward(blocks, q, k, v, tables, lse, dout, delta):
    scale = q.shape[-1] ** -0.5

    def queries(gradients, xs):
        q, tables, lse, dout, delta = xs

        def body(start, seen, carry):
            dq, dk, dv = carry
            k_, v_ = (jax.lax.dynamic_slice_in_dim(x, start, blocks.k, axis=1) for x in (k, v))
            weights = jnp.exp(_logits(q, k_, seen) - lse[:, :, None])
            dweights = jnp.einsum("GqK,GkK->Gqk", dout, v_, preferred_element_type=jnp.float32)
            dlogits = (weights * (dweights - delta[:, :, None]) * scale).astype(q.dtype)

            def add(total_GxSxK, a, b):
                new = jnp.einsum("Gqk,GqK->GkK", a, b, preferred_element_type=jnp.float32)
                old = jax.lax.dynamic_slice_in_dim(total_GxSxK, start, blocks.k, axis=1)
                return jax.lax.dynamic_update_slice_in_dim(total_GxSxK, old + new, start, axis=1)

            dq = dq + jnp.einsum("Gqk,GkK->GqK", dlogits, k_, preferred_element_type=jnp.float32)
            return dq, add(dk, dlogits, q), add(dv, weights.astype(dout.dtype), dout)

        carry = (jnp.zeros(q.shape, jnp.float32), *gradients)
        for table in tables:
            carry = blocks.visit(table, body, carry)
        dq, *gradients = carry
        return tuple(gradients), dq.astype(q.dtype)

    zero = jnp.zeros(k.shape, jnp.float32)
    (dk, dv), dq = jax.lax.scan(queries, (zero, zero), (q, tables, lse, dout, delta))
    return dq, dk, dv
