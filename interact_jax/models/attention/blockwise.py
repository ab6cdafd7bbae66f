"""Blockwise attention in plain XLA: memory grows with the row, work with what is seen.

Queries are cut into blocks. A block of queries visits only the keys of its runs, block by block
from the first one on: trees packed into one row do not pay for each other, and the future of a
trunk costs nothing. The softmax is computed online (Milakov and Gimelshein, arXiv 1805.02867) over
all runs together, so no separate merge is needed; the backward pass recomputes the weights of a
block from the log-sum-exp over all runs (Dao, FlashAttention-2, arXiv 2307.08691, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from interact_jax.models.attention import dense
from interact_jax.models.attention.sight import Sight

BLOCK_Q, BLOCK_K = 256, 512  # tokens; the fastest of 128 to 1,024 on 2 CPU cores
ALIGNED = 8  # block sizes are multiples of this many tokens
LEAST = -1e30  # initial value of the largest logit: finite, so that -inf minus it is -inf, not NaN


def forward(
    q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, v_BxSxGxK: jax.Array, sight: Sight
) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, K] and log-sum-exp [B, H, L]; 0 and +inf where a query sees nothing."""
    _, L, H, _ = q_BxLxHxK.shape
    S, G = k_BxSxGxK.shape[1:3]
    if L <= BLOCK_Q and S <= BLOCK_K:  # one block: nothing to skip, so no loops to compile
        return dense.forward(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, sight)
    blocks = _Blocks(L, S, H // G)

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
    """Gradients of q, k and v, each with the shape and type of its array."""
    _, L, H, _ = q_BxLxHxK.shape
    S, G = k_BxSxGxK.shape[1:3]
    if L <= BLOCK_Q and S <= BLOCK_K:
        return dense.backward(
            q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, sight, out_BxLxHxK, lse_BxHxL, dout_BxLxHxK
        )
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
            *(grad_GxKxS[:, :, :S].transpose(2, 0, 1).astype(k.dtype) for grad_GxKxS in (dk, dv)),
        )

    args = (q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, _runs(sight), lse_BxHxL, dout_BxLxHxK, delta_BxLxH)
    return jax.lax.map(row, args)


def _runs(sight: Sight) -> list[tuple[jax.Array, jax.Array]]:
    return [(span.first_BxL, span.end_BxL) for span in sight]


class _Blocks:
    """How one row is cut into n blocks of queries, each with the r = H / G heads of a key head one
    after the other: [n, G, r * q, K]."""

    def __init__(self, L: int, S: int, r: int):
        self.L, self.r = L, r
        self.n = -(-L // BLOCK_Q)
        self.q = _round_up(-(-L // self.n))
        self.k = min(BLOCK_K, _round_up(S))

    def queries(self, x_LxHxK: jax.Array) -> jax.Array:
        """[n, G, r * q, K]"""
        _, H, K = x_LxHxK.shape
        x = jnp.pad(x_LxHxK, ((0, self.n * self.q - self.L), (0, 0), (0, 0)))
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
        x = jnp.pad(x_HxL, ((0, 0), (0, self.n * self.q - self.L)), constant_values=fill)
        x = x.reshape(H // self.r, self.r, self.n, self.q).transpose(2, 0, 1, 3)
        return x.reshape(self.n, H // self.r, self.r * self.q)

    def per_head(self, x: jax.Array) -> jax.Array:
        """[H, L], back from [n, G, r * q]."""
        n, G, _ = x.shape
        x = x.reshape(n, G, self.r, self.q).transpose(1, 2, 0, 3)
        return x.reshape(G * self.r, n * self.q)[:, : self.L]

    def keys(self, x_SxGxK: jax.Array) -> jax.Array:
        """[G, S + k, K]: padded, so that a block may begin at any key."""
        return jnp.pad(x_SxGxK, ((0, self.k), (0, 0), (0, 0))).swapaxes(0, 1)

    def tables(self, runs: list[tuple[jax.Array, jax.Array]]) -> list[tuple[jax.Array, ...]]:
        """For every run: first and end of each query [n, q]; for each block of queries, the first
        key that it visits and the number of blocks of keys, [n]."""
        tables: list[tuple[jax.Array, ...]] = []
        for first_L, end_L in runs:
            first, end = (
                jnp.pad(x, (0, self.n * self.q - self.L)).reshape(self.n, self.q)
                for x in (first_L, end_L)
            )
            nonempty = first < end
            low = jnp.where(nonempty, first, jnp.iinfo(jnp.int32).max).min(axis=1)
            length = jnp.maximum(jnp.where(nonempty, end, 0).max(axis=1) - low, 0)
            tables.append((first, end, low, (length + self.k - 1) // self.k))
        return tables

    def visit(self, table: tuple[jax.Array, ...], body: Callable[..., Any], carry: Any) -> Any:
        """carry = body(start, seen, carry) for each block of keys of a block of queries; `seen`
        [1, r * q, k] says which of these keys each query sees."""
        first_q, end_q, low, count = table

        def step(j: jax.Array, carry: Any) -> Any:
            start = low + j * self.k
            index = start + jnp.arange(self.k)[None, :]
            seen = (first_q[:, None] <= index) & (index < end_q[:, None])
            seen = jnp.broadcast_to(seen[None], (self.r, self.q, self.k))
            return body(start, seen.reshape(1, self.r * self.q, self.k), carry)

        return jax.lax.fori_loop(0, count, step, carry)

    def at(self, x: jax.Array, start: jax.Array, axis: int) -> jax.Array:
        """The block of keys that begins at `start`."""
        return jax.lax.dynamic_slice_in_dim(x, start, self.k, axis)


def _round_up(n: int) -> int:
    return -(-n // ALIGNED) * ALIGNED


def _logits(q: jax.Array, k_GxKxk: jax.Array, seen: jax.Array) -> jax.Array:
    return jnp.where(seen, _dot("GqK,GKk->Gqk", q, k_GxKxk) * q.shape[-1] ** -0.5, -jnp.inf)


def _dot(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(spec, a, b.astype(a.dtype), preferred_element_type=jnp.float32)


# Operands are laid out so that every product contracts the last axis of one with the second to last
# of the other: XLA's CPU backend is up to twice as fast then, so some arrays exist in both layouts.


def _row_forward(blocks, q, k, v, tables):
    kT = k.swapaxes(1, 2)

    def queries(_, xs):
        q, tables = xs

        def body(start, seen, carry):
            largest, total, out = carry
            logits = _logits(q, blocks.at(kT, start, 2), seen)
            new = jnp.maximum(largest, logits.max(axis=-1))
            weights = jnp.exp(logits - new[:, :, None])
            keep = jnp.exp(largest - new)
            total = total * keep + weights.sum(axis=-1)
            values = _dot("Gqk,GkK->GqK", weights.astype(v.dtype), blocks.at(v, start, 1))
            return new, total, out * keep[:, :, None] + values

        shape = q.shape[:2]
        carry = (
            jnp.full(shape, LEAST, jnp.float32),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros(q.shape, jnp.float32),
        )
        for table in tables:
            carry = blocks.visit(table, body, carry)
        largest, total, out = carry
        nonempty = total > 0
        total = jnp.where(nonempty, total, 1.0)
        lse = jnp.where(nonempty, largest + jnp.log(total), jnp.inf)
        return None, ((out / total[:, :, None]).astype(q.dtype), lse)

    return jax.lax.scan(queries, None, (q, tables))[1]


def _row_backward(blocks, q, k, v, tables, lse, dout, delta):
    scale = q.shape[-1] ** -0.5
    kT, vT, qT, doutT = (x.swapaxes(-1, -2) for x in (k, v, q, dout))

    def queries(gradients, xs):
        q, qT, tables, lse, dout, doutT, delta = xs

        def body(start, seen, carry):
            dq, dkT, dvT = carry
            weights = jnp.exp(_logits(q, blocks.at(kT, start, 2), seen) - lse[:, :, None])
            dweights = _dot("GqK,GKk->Gqk", dout, blocks.at(vT, start, 2))
            dlogits = (weights * (dweights - delta[:, :, None]) * scale).astype(q.dtype)

            def add(total, a, b):
                new = blocks.at(total, start, 2) + _dot("GKq,Gqk->GKk", a, b)
                return jax.lax.dynamic_update_slice_in_dim(total, new, start, 2)

            dq = dq + _dot("Gqk,GkK->GqK", dlogits, blocks.at(k, start, 1))
            return dq, add(dkT, qT, dlogits), add(dvT, doutT, weights)

        carry = (jnp.zeros(q.shape, jnp.float32), *gradients)
        for table in tables:
            carry = blocks.visit(table, body, carry)
        dq, *gradients = carry
        return tuple(gradients), dq.astype(q.dtype)

    zero = jnp.zeros(kT.shape, jnp.float32)
    (dk, dv), dq = jax.lax.scan(queries, (zero, zero), (q, qT, tables, lse, dout, doutT, delta))
    return dq, dk, dv
