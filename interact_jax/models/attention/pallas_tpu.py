"""Blockwise attention as TPU kernels (Pallas, Mosaic): what `blockwise` computes, block by block.

A step of a kernel is one pair of blocks, of queries and of keys, in which some query sees some key
in one of its runs. The pairs are listed outside (`pairs`) and prefetched, so that the grid is as
long as the list: pairs in which nothing is seen are neither fetched nor stepped over. Where every
query sees every key, as in most pairs of a long trunk, the step makes no mask.

    queries  a a a b b b        pairs with block size 3 where two trees a, b share a row:
    keys     a a a b b b        (0, 0) (1, 1)

A pair that is seen in two runs (trunk and own branch) is listed twice, once for each.

There are three kernels: the output; the gradient of the queries; the gradients of keys and values,
which sum over the query heads of a key head. All of them hold logits as [keys, queries]: values per
query (run, log-sum-exp) are then rows that broadcast over sublanes, and the softmax reduces over
sublanes, vector register against vector register. Logits, softmax and sums are float32; products
have the type of their inputs, float32 in full precision.

It is compiled for TPU v5e, v5p and v6e by libtpu, and interpreted on CPU, where the tests compare
it with the dense formula; it has not run on a TPU yet.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from interact_jax.models.attention.pairs import ALL, NONE, SOME, Pairs
from interact_jax.models.attention.sight import Sight

# Tokens at most; half as many of float32, whose products take longer. The compiler's v5e schedule
# for a pair and head (bfloat16, K = 128; output, dq, dk and dv; nothing masked) has 1,417, 1,428
# and 1,816 instructions with 512 x 512; up to 6% less for the same work with one side doubled;
# 4, 27 and 8% more with 256 x 256. Masked pairs take 2 to 6% more.
BLOCK_Q, BLOCK_K = 512, 512
HEADS = 7  # query heads of a step at most: they share keys, mask and the overhead of a step
QUERY_BYTES = 1 << 20  # of an array of queries in a step, at most: 16 MiB hold all arrays, twice
LANES = 128  # block sizes are multiples of this
NOTHING = -1e30  # logit of unseen keys; finite, so that the difference of two is not NaN
LOG2_E = math.log2(math.e)  # the vector unit has only powers of two


def forward(
    q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, v_BxSxGxK: jax.Array, sight: Sight
) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, K] and log-sum-exp [B, H, L]; 0 and +inf where a query sees nothing."""
    blocks = _Blocks(q_BxLxHxK, k_BxSxGxK, sight)
    pairs = Pairs(blocks.seen(sight))
    specs = _specs(blocks, pairs, by_query=True)
    out, lse = _call(
        functools.partial(_forward_kernel, pairs, blocks.scale),
        blocks,
        pairs,
        products=2,
        grid=(blocks.H // blocks.heads, pairs.steps),
        in_specs=[specs["queries"], specs["keys"], specs["keys"], specs["runs"]],
        out_specs=[specs["queries"], specs["statistics"]],
        out_shape=[blocks.queries_shape(q_BxLxHxK.dtype), blocks.statistics_shape()],
        scratch_shapes=[
            pltpu.VMEM((blocks.heads, blocks.q), jnp.float32),
            pltpu.VMEM((blocks.heads, blocks.q), jnp.float32),
            pltpu.VMEM((blocks.heads, blocks.K, blocks.q), jnp.float32),
        ],
    )(
        blocks.queries(q_BxLxHxK),
        blocks.keys(k_BxSxGxK),
        blocks.keys(v_BxSxGxK),
        blocks.runs(sight),
    )
    return blocks.tokens(out), lse.reshape(blocks.B, blocks.H, -1)[:, :, : blocks.L]


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
    blocks = _Blocks(q_BxLxHxK, k_BxSxGxK, sight)
    f32 = jnp.float32
    delta_BxLxH = jnp.sum(out_BxLxHxK.astype(f32) * dout_BxLxHxK.astype(f32), axis=-1)
    args = (
        blocks.queries(q_BxLxHxK),
        blocks.keys(k_BxSxGxK),
        blocks.keys(v_BxSxGxK),
        blocks.runs(sight),
        blocks.statistics(lse_BxHxL * LOG2_E, jnp.inf),
        blocks.queries(dout_BxLxHxK),
        blocks.statistics(delta_BxLxH.swapaxes(1, 2), 0.0),
    )
    names = ["queries", "keys", "keys", "runs", "statistics", "queries", "statistics"]
    seen = blocks.seen(sight)
    chunks = blocks.H // blocks.heads

    pairs = Pairs(seen)
    specs = _specs(blocks, pairs, by_query=True)
    dq = _call(
        functools.partial(_dq_kernel, pairs, blocks.scale),
        blocks,
        pairs,
        products=3,
        grid=(chunks, pairs.steps),
        in_specs=[specs[name] for name in names],
        out_specs=specs["queries"],
        out_shape=blocks.queries_shape(q_BxLxHxK.dtype),
        scratch_shapes=[pltpu.VMEM((blocks.heads, blocks.K, blocks.q), f32)],
    )(*args)

    pairs = Pairs(seen.swapaxes(1, 3))
    specs = _specs(blocks, pairs, by_query=False)
    dk, dv = _call(
        functools.partial(_dkv_kernel, pairs, blocks.scale),
        blocks,
        pairs,
        products=4,
        grid=(blocks.G, pairs.steps, chunks // blocks.G),
        in_specs=[specs[name] for name in names],
        out_specs=[specs["keys"], specs["keys"]],
        out_shape=[blocks.keys_shape(k_BxSxGxK.dtype)] * 2,
        scratch_shapes=[pltpu.VMEM((blocks.k, blocks.K), f32)] * 2,
    )(*args)
    dk, dv = (x.swapaxes(1, 2)[:, : blocks.S] for x in (dk, dv))
    return blocks.tokens(dq), dk, dv


class _Blocks:
    """How the arrays of one device are cut: n blocks of q queries, m blocks of k keys; `heads`
    query heads of one key head are computed together."""

    def __init__(self, q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, sight: Sight):
        self.B, self.L, self.H, self.K = q_BxLxHxK.shape
        self.S, self.G = k_BxSxGxK.shape[1:3]
        self.spans = len(sight)
        halves = q_BxLxHxK.dtype.itemsize // 2
        self.n, self.q = _cut(self.L, BLOCK_Q // halves)
        self.m, self.k = _cut(self.S, BLOCK_K // halves)
        r, head_bytes = self.H // self.G, self.q * self.K * q_BxLxHxK.dtype.itemsize
        most = max(1, min(HEADS, QUERY_BYTES // head_bytes))
        self.heads = max(size for size in range(1, most + 1) if r % size == 0)
        self.scale = self.K**-0.5

    def queries(self, x_BxLxHxK: jax.Array) -> jax.Array:
        """[B, H, n * q, K]"""
        pad = self.n * self.q - self.L
        return jnp.pad(x_BxLxHxK, ((0, 0), (0, pad), (0, 0), (0, 0))).swapaxes(1, 2)

    def queries_shape(self, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.B, self.H, self.n * self.q, self.K), dtype)

    def tokens(self, x_BxHxLxK: jax.Array) -> jax.Array:
        """[B, L, H, K], back from `queries`."""
        return x_BxHxLxK.swapaxes(1, 2)[:, : self.L]

    def keys(self, x_BxSxGxK: jax.Array) -> jax.Array:
        """[B, G, m * k, K]"""
        pad = self.m * self.k - self.S
        return jnp.pad(x_BxSxGxK, ((0, 0), (0, pad), (0, 0), (0, 0))).swapaxes(1, 2)

    def keys_shape(self, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.B, self.G, self.m * self.k, self.K), dtype)

    def statistics(self, x_BxHxL: jax.Array, fill: float) -> jax.Array:
        """[B, H / heads, heads, n * q]"""
        pad = self.n * self.q - self.L
        x = jnp.pad(x_BxHxL, ((0, 0), (0, 0), (0, pad)), constant_values=fill)
        return x.reshape(self.statistics_shape().shape)

    def statistics_shape(self) -> jax.ShapeDtypeStruct:
        shape = (self.B, self.H // self.heads, self.heads, self.n * self.q)
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def runs(self, sight: Sight) -> jax.Array:
        """[B, spans, 2, n * q]: first and end, both 0 for padding, which sees nothing."""
        runs = jnp.stack([jnp.stack([s.first_BxL, s.end_BxL], axis=1) for s in sight], axis=1)
        pad = self.n * self.q - self.L
        return jnp.pad(runs, ((0, 0), (0, 0), (0, 0), (0, pad)))

    def seen(self, sight: Sight) -> jax.Array:
        """[B, n, spans, m]: NONE, SOME or ALL of each pair of blocks in each run."""
        runs = self.runs(sight).reshape(self.B, self.spans, 2, self.n, self.q, 1)
        first, end = runs[:, :, 0], runs[:, :, 1]
        start = (jnp.arange(self.m) * self.k).reshape(1, 1, 1, 1, self.m)
        partly = (first < end) & (first < start + self.k) & (start < end)
        wholly = (first <= start) & (start + self.k <= end)
        seen = jnp.where(wholly.all(axis=3), ALL, jnp.where(partly.any(axis=3), SOME, NONE))
        return seen.swapaxes(1, 2)


def _cut(tokens: int, largest: int) -> tuple[int, int]:
    """Number and size of the blocks: as few as `largest` allows, equal, with little padding."""
    number = -(-tokens // largest)
    unit = min(LANES, largest)
    size = -(-tokens // (number * unit)) * unit
    return -(-tokens // size), size


def _specs(blocks: _Blocks, pairs: Pairs, by_query: bool) -> dict[str, pl.BlockSpec]:
    """The part of each kind of array that a step has in fast memory.

    Grids are (chunk of heads, step) where blocks of queries are written, and (key head, step, chunk
    of its query heads) where blocks of keys are written.
    """
    chunks = blocks.H // blocks.heads // blocks.G

    def spec(shape: tuple[int | None, ...], index: Callable[..., Any]) -> pl.BlockSpec:
        def of_step(*args: Any) -> Any:
            *ids, numbers = args
            row, own, run, other, _ = pairs.fields(numbers[ids[1]])
            if by_query:
                return index(row, ids[0], ids[0] // chunks, run, own, other)
            return index(row, ids[0] * chunks + ids[2], ids[0], run, other, own)

        return pl.BlockSpec(shape, of_step)

    def queries(row, chunk, key_head, run, i, j):
        return row, chunk, i, 0

    def keys(row, chunk, key_head, run, i, j):
        return row, key_head, j, 0

    def runs(row, chunk, key_head, run, i, j):
        return row, run, 0, i

    def statistics(row, chunk, key_head, run, i, j):
        return row, chunk, 0, i

    return {
        "queries": spec((None, blocks.heads, blocks.q, blocks.K), queries),
        "keys": spec((None, None, blocks.k, blocks.K), keys),
        "runs": spec((None, None, 2, blocks.q), runs),
        "statistics": spec((None, None, blocks.heads, blocks.q), statistics),
    }


def _call(
    kernel: functools.partial[None],
    blocks: _Blocks,
    pairs: Pairs,
    products: int,
    grid: tuple[Any, ...],
    out_shape: Any,
    **specs: Any,
) -> Callable[..., Any]:
    """The kernel over the pairs: compiled if it is lowered for a TPU, interpreted on a CPU.

    Only the device knows the number of pairs; the cost estimate assumes half of all logits.
    """
    heads, *rest = grid
    static = [d for d in rest if isinstance(d, int)]
    semantics = (pltpu.PARALLEL, *[pltpu.ARBITRARY] * len(rest))
    logits = blocks.B * blocks.H * blocks.L * blocks.S // 2

    def run(steps: jax.Array, numbers: jax.Array, *args: jax.Array, interpret: bool) -> Any:
        moved = [*args, *jax.tree.leaves(out_shape)]
        return pl.pallas_call(
            kernel,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=1, grid=(heads, steps, *static), **specs
            ),
            out_shape=out_shape,
            compiler_params=pltpu.CompilerParams(dimension_semantics=semantics),
            cost_estimate=pl.CostEstimate(
                flops=2 * products * logits * blocks.K,
                transcendentals=logits,
                bytes_accessed=sum(math.prod(x.shape) * x.dtype.itemsize for x in moved),
            ),
            interpret=interpret,
            name=kernel.func.__name__.strip("_"),
        )(numbers, *args)

    def on_any(*args: jax.Array) -> Any:
        return jax.lax.platform_dependent(
            pairs.steps,
            pairs.numbers,
            *args,
            tpu=functools.partial(run, interpret=False),
            cpu=functools.partial(run, interpret=True),
        )

    return on_any


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """The product that sums over one axis of each, in float32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a,
        b,
        (((axis_a,), (axis_b,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def _mask(runs: Any, j: jax.Array, k: int) -> jax.Array:
    """[k, q]: which keys of block j each query sees in the run."""
    first, end = (runs[row : row + 1, :] - j * k for row in range(2))
    index = jax.lax.broadcasted_iota(jnp.int32, (k, runs.shape[1]), 0)
    return (first <= index) & (index < end)


def _visit_if_seen(kind: jax.Array, visit: Callable[[bool], None]) -> None:
    """Call visit(masked) if anything is seen."""
    pl.when(kind == SOME)(functools.partial(visit, True))
    pl.when(kind == ALL)(functools.partial(visit, False))


def _forward_kernel(
    pairs, scale, numbers, q, k, v, runs, out, lse, largest_hxq, total_hxq, out_hxKxq
):
    """Online softmax over the visits of a block of queries; logits in units of log 2."""
    first, last, pair = pairs.visit(numbers, pl.program_id(1))

    @pl.when(first)
    def _():
        largest_hxq[...] = jnp.full(largest_hxq.shape, NOTHING, jnp.float32)
        total_hxq[...] = jnp.zeros(total_hxq.shape, jnp.float32)
        out_hxKxq[...] = jnp.zeros(out_hxKxq.shape, jnp.float32)

    def visit(masked: bool) -> None:
        seen = _mask(runs, pair.other, k.shape[0]) if masked else None
        for h in range(q.shape[0]):
            row = slice(h, h + 1)
            logits = _dot(k[...], q[h], 1, 1) * (scale * LOG2_E)
            if seen is not None:
                logits = jnp.where(seen, logits, NOTHING)
            old = largest_hxq[row, :]
            new = jnp.maximum(old, logits.max(axis=0, keepdims=True))
            largest_hxq[row, :] = new
            # The weights of a query that has seen nothing so far must be 0, not 2^0.
            base = jnp.where(new == NOTHING, 0.0, new)
            weights = jnp.exp2(logits - base)
            keep = jnp.exp2(old - base)
            total_hxq[row, :] = total_hxq[row, :] * keep + weights.sum(axis=0, keepdims=True)
            out_hxKxq[h] = out_hxKxq[h] * keep + _dot(v[...], weights.astype(v.dtype), 0, 0)

    _visit_if_seen(pair.kind, visit)

    @pl.when(last)
    def _():
        for h in range(q.shape[0]):
            row = slice(h, h + 1)
            nonempty = total_hxq[row, :] > 0
            total = jnp.where(nonempty, total_hxq[row, :], 1.0)
            out[h] = (out_hxKxq[h] / total).T.astype(out.dtype)
            logsumexp = largest_hxq[row, :] / LOG2_E + jnp.log(total)
            lse[row, :] = jnp.where(nonempty, logsumexp, jnp.inf)


def _weights(scale, q_qxK, k_kxK, v_kxK, lse_1xq, dout_qxK, delta_1xq, seen):
    """[k, q]: the recomputed weights, and the gradients of the logits without the scale."""
    logits = _dot(k_kxK, q_qxK, 1, 1) * (scale * LOG2_E)
    if seen is not None:
        logits = jnp.where(seen, logits, NOTHING)
    weights = jnp.exp2(logits - lse_1xq)
    return weights, weights * (_dot(v_kxK, dout_qxK, 1, 1) - delta_1xq)


def _dq_kernel(pairs, scale, numbers, q, k, v, runs, lse, dout, delta, dq, dq_hxKxq):
    first, last, pair = pairs.visit(numbers, pl.program_id(1))

    @pl.when(first)
    def _():
        dq_hxKxq[...] = jnp.zeros(dq_hxKxq.shape, jnp.float32)

    def visit(masked: bool) -> None:
        seen = _mask(runs, pair.other, k.shape[0]) if masked else None
        for h in range(q.shape[0]):
            row = slice(h, h + 1)
            _, dlogits = _weights(
                scale, q[h], k[...], v[...], lse[row, :], dout[h], delta[row, :], seen
            )
            dq_hxKxq[h] += _dot(k[...], dlogits.astype(k.dtype), 0, 0)

    _visit_if_seen(pair.kind, visit)

    @pl.when(last)
    def _():
        for h in range(q.shape[0]):
            dq[h] = (dq_hxKxq[h] * scale).T.astype(dq.dtype)


def _dkv_kernel(pairs, scale, numbers, q, k, v, runs, lse, dout, delta, dk, dv, dk_kxK, dv_kxK):
    first, last, pair = pairs.visit(numbers, pl.program_id(1))
    chunk = pl.program_id(2)

    @pl.when(first & (chunk == 0))
    def _():
        dk_kxK[...] = jnp.zeros(dk_kxK.shape, jnp.float32)
        dv_kxK[...] = jnp.zeros(dv_kxK.shape, jnp.float32)

    def visit(masked: bool) -> None:
        seen = _mask(runs, pair.own, k.shape[0]) if masked else None
        for h in range(q.shape[0]):
            row = slice(h, h + 1)
            weights, dlogits = _weights(
                scale, q[h], k[...], v[...], lse[row, :], dout[h], delta[row, :], seen
            )
            dk_kxK[...] += _dot(dlogits.astype(q.dtype), q[h], 1, 0)
            dv_kxK[...] += _dot(weights.astype(dout.dtype), dout[h], 1, 0)

    _visit_if_seen(pair.kind, visit)

    @pl.when(last & (chunk == pl.num_programs(2) - 1))
    def _():
        dk[...] = (dk_kxK[...] * scale).astype(dk.dtype)
        dv[...] = dv_kxK[...].astype(dv.dtype)
