"""Blockwise attention as GPU kernels (Pallas, Triton): what `blockwise` computes, block by block.

A program owns a block of queries, or of keys, and visits the blocks of the other side in which some
query sees some key. The visits are listed outside (`pairs.visits_of`): first those in which every
query sees every key, which need no mask, then the others. So work is in proportion to what is seen,
and a kernel is two loops over a list, one without masks.

    queries  a a a b b b        visits of the blocks of queries, with block size 3, where two trees
    keys     a a a b b b        a, b share a row:  0: 0    1: 1

There are three kernels: output and log-sum-exp; the gradient of the queries; the gradients of keys
and values, whose programs sum over the query heads of a key head. Every element is written by one
program, so results do not depend on the order in which programs run. Arrays are read where they
lie, [B, L, H, K], without copies: blocks that reach beyond an end are masked as they are loaded.
Logits, softmax and sums are float32; products have the type of their inputs, float32 in full
precision.

It is compiled for NVIDIA GPUs and interpreted on CPU, where the tests compare it with the dense
formula. An earlier version, with other blocks, was right on an H200 in bfloat16 with heads of 128
numbers; this one is lowered, never run.
"""

from __future__ import annotations

import functools
import importlib
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from interact_jax import flops
from interact_jax.foreign import Unavailable
from interact_jax.models.attention.pairs import kinds_of, visits_of
from interact_jax.models.attention.sight import Sight
from interact_jax.schema import InputError


def _import_triton() -> Any:
    """JAX's interface to Triton, None where this jax has none."""
    try:
        return importlib.import_module("jax.experimental.pallas.triton")
    except ImportError:
        return None


plgpu = _import_triton()


class Blocks(NamedTuple):
    """How a kernel is cut: queries and keys of a block (powers of two), warps of a program, and how
    many visits are in flight (the loads of the next ones run beside the products)."""

    q: int
    k: int
    warps: int
    stages: int


class Kernels(NamedTuple):
    """The blocks of each kernel."""

    forward: Blocks
    dq: Blocks
    dkv: Blocks


BLOCKS = {
    (64, 2): Kernels(Blocks(128, 64, 4, 3), Blocks(128, 64, 8, 3), Blocks(64, 128, 8, 3)),
    (128, 2): Kernels(Blocks(64, 64, 4, 2), Blocks(64, 64, 4, 2), Blocks(64, 64, 4, 2)),
    (256, 2): Kernels(Blocks(64, 64, 4, 2), Blocks(64, 32, 8, 2), Blocks(32, 64, 8, 2)),
    (64, 4): Kernels(Blocks(64, 32, 4, 2), Blocks(32, 32, 4, 2), Blocks(32, 32, 4, 2)),
    (128, 4): Kernels(Blocks(32, 32, 4, 2), Blocks(32, 32, 4, 2), Blocks(32, 32, 4, 2)),
    (256, 4): Kernels(Blocks(32, 16, 4, 2), Blocks(16, 16, 4, 2), Blocks(16, 16, 4, 2)),
}
"""By the width of a head, rounded up, and the bytes of an element: for 163 KiB of shared memory.
Those for 128 numbers of bfloat16 were the fastest that were tried on an H200 (docs/performance.md);
the others are chosen by the registers that they take."""

SMALL = BLOCKS | {
    (128, 2): Kernels(Blocks(64, 64, 4, 2), Blocks(64, 32, 4, 2), Blocks(32, 64, 4, 2)),
    (256, 2): Kernels(Blocks(64, 32, 4, 2), Blocks(32, 32, 4, 2), Blocks(16, 32, 4, 2)),
}
"""The same for 99 KiB."""
SMALL_CAPABILITIES = ("8.6", "8.9", "12.0", "12.1")  # of GPUs that have so little

CAPABILITY = 8.0  # of the GPU, at least: earlier ones have no products of bfloat16
LEAST = 16  # rows and columns of an operand of a product, at least
NOTHING = -1e30  # logit of unseen keys; finite, so that the difference of two is not NaN
LOG2_E = math.log2(math.e)  # the hardware has only powers of two


def check(device: Any) -> None:
    """Raises foreign.Unavailable if the kernels are not for this GPU, or this jax. It compiles
    nothing."""
    if plgpu is None:
        raise Unavailable("this jax has no Triton")
    capability = str(getattr(device, "compute_capability", "unknown"))
    if not capability.replace(".", "", 1).isdigit() or float(capability) < CAPABILITY:
        raise Unavailable(
            f"its kernels are for NVIDIA GPUs of compute capability {CAPABILITY} or more; that of "
            f"{getattr(device, 'device_kind', 'this GPU')} is {capability}"
        )


def forward(
    q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, v_BxSxGxK: jax.Array, sight: Sight
) -> tuple[jax.Array, jax.Array]:
    """Output [B, L, H, K] and log-sum-exp [B, H, L]; 0 and +inf where a query sees nothing."""
    B, L, H, _ = q_BxLxHxK.shape
    cut = _cut(q_BxLxHxK, k_BxSxGxK, blocks_for(q_BxLxHxK).forward, by_query=True)
    return _call(
        _forward_kernel,
        2,
        cut,
        sight,
        [("queries", q_BxLxHxK), ("keys", k_BxSxGxK), ("keys", v_BxSxGxK)],
        [
            ("queries", q_BxLxHxK),
            ("statistics", jax.ShapeDtypeStruct((B, H, L), jnp.float32)),
        ],
    )


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
    blocks = blocks_for(q_BxLxHxK)
    q, k, v = ("queries", q_BxLxHxK), ("keys", k_BxSxGxK), ("keys", v_BxSxGxK)
    out, dout, lse = ("queries", out_BxLxHxK), ("queries", dout_BxLxHxK), ("statistics", lse_BxHxL)
    cut = _cut(q_BxLxHxK, k_BxSxGxK, blocks.dq, by_query=True)
    dq, delta_BxHxL = _call(_dq_kernel, 3, cut, sight, [q, k, v, lse, dout, out], [q, lse])
    cut = _cut(q_BxLxHxK, k_BxSxGxK, blocks.dkv, by_query=False)
    delta = ("statistics", delta_BxHxL)
    dk, dv = _call(_dkv_kernel, 4, cut, sight, [q, k, v, lse, dout, delta], [k, v])
    return dq, dk, dv


def blocks_for(q_BxLxHxK: jax.Array) -> Kernels:
    """The blocks of the kernels for heads of this width and type. Raises InputError if there are
    none."""
    size, K, blocks = q_BxLxHxK.dtype.itemsize, q_BxLxHxK.shape[-1], table()
    widths = [width for width, of in blocks if of == size and width >= K]
    if not widths:
        raise InputError(
            f"attention=triton: heads of {K} numbers of type {q_BxLxHxK.dtype}; it has kernels for "
            "up to 256 of float32, bfloat16 or float16. attention=xla computes any."
        )
    return blocks[min(widths), size]


def table() -> dict[tuple[int, int], Kernels]:
    """The blocks for the GPUs of this process."""
    capability = getattr(jax.local_devices()[0], "compute_capability", None)
    return SMALL if capability in SMALL_CAPABILITIES else BLOCKS


class _Cut(NamedTuple):
    """The arrays of one device, as the programs of a kernel share them out: each has a block of
    queries of one query head (`by_query`), or a block of keys of one key head."""

    B: int
    L: int
    S: int
    H: int
    G: int
    K: int
    blocks: Blocks
    by_query: bool
    interpret: bool = False

    @property
    def r(self) -> int:
        """Query heads of a key head."""
        return self.H // self.G

    @property
    def width(self) -> int:
        """K, rounded up to what a product takes."""
        return max(LEAST, pl.next_power_of_2(self.K))

    @property
    def scale(self) -> float:
        return self.K**-0.5

    def own(self, o: Any) -> Any:
        """The block of the program with this number. The longest lists of a causal row come first,
        so that the short ones fill what is left of the GPU."""
        return pl.cdiv(self.L, self.blocks.q) - 1 - o if self.by_query else o

    def spec(self, kind: str) -> pl.BlockSpec:
        """What a program is given of an array: all tokens of its row and heads. It reads what it
        needs of them."""
        r, heads = self.r, None if self.by_query else self.r
        if kind == "queries":
            return pl.BlockSpec((None, self.L, heads, self.width), lambda h, b, o: (b, 0, h, 0))
        if kind == "statistics":
            return pl.BlockSpec((None, heads, self.L), lambda h, b, o: (b, h, 0))
        assert kind == "keys", kind
        shape = (None, self.S, None, self.width)
        if self.by_query:
            return pl.BlockSpec(shape, lambda h, b, o: (b, 0, jax.lax.div(h, jnp.int32(r)), 0))
        return pl.BlockSpec(shape, lambda g, b, o: (b, 0, g, 0))


def _cut(q_BxLxHxK: jax.Array, k_BxSxGxK: jax.Array, blocks: Blocks, by_query: bool) -> _Cut:
    """Blocks are smaller where there are fewer tokens."""
    (B, L, H, K), (_, S, G, _) = q_BxLxHxK.shape, k_BxSxGxK.shape
    q, k = (
        min(most, max(LEAST, pl.next_power_of_2(tokens)))
        for most, tokens in ((blocks.q, L), (blocks.k, S))
    )
    return _Cut(B, L, S, H, G, K, blocks._replace(q=q, k=k), by_query)


def _call(
    kernel: Callable[..., None],
    products: int,
    cut: _Cut,
    sight: Sight,
    given: list[tuple[str, jax.Array]],
    wanted: list[tuple[str, Any]],
) -> Any:
    """The results of the kernel, shaped and typed as `wanted`: compiled if it is lowered for an
    NVIDIA GPU, interpreted on a CPU. A visit takes so many matrix products."""
    name = f"attention{kernel.__name__.removesuffix('_kernel')}_{cut.blocks.q}x{cut.blocks.k}"
    flops.FOREIGN[name] = functools.partial(_flops, products, cut)
    kinds_BxNxM = kinds_of(sight, cut.S, cut.blocks.q, cut.blocks.k)
    visits_BxOxV = visits_of(kinds_BxNxM if cut.by_query else kinds_BxNxM.swapaxes(1, 2))
    _, own, length = visits_BxOxV.shape
    runs = [x_BxL for span in sight for x_BxL in (span.first_BxL, span.end_BxL)]
    in_specs = [
        pl.BlockSpec((None, None, length), lambda h, b, o: (b, cut.own(o), 0)),
        *[pl.BlockSpec((None, cut.L), lambda h, b, o: (b, 0))] * len(runs),
        *(cut.spec(kind) for kind, _ in given),
    ]

    def run(*args: jax.Array, interpret: bool) -> Any:
        called = functools.partial(kernel, cut._replace(interpret=interpret))

        def program(visits: Any, *refs: Any) -> None:
            called(cut.own(pl.program_id(2)), visits, refs[: len(runs)], *refs[len(runs) :])

        program.__name__ = name  # by which profilers call it
        return pl.pallas_call(
            program,
            grid=(cut.H if cut.by_query else cut.G, cut.B, own),
            in_specs=in_specs,
            out_specs=[cut.spec(kind) for kind, _ in wanted],
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for _, x in wanted],
            compiler_params=plgpu.CompilerParams(
                num_warps=cut.blocks.warps, num_stages=cut.blocks.stages
            ),
            interpret=interpret,
            name=name,
        )(*args)

    return jax.lax.platform_dependent(
        visits_BxOxV,
        *runs,
        *(x for _, x in given),
        cuda=functools.partial(run, interpret=False),
        cpu=functools.partial(run, interpret=True),
    )


def _flops(
    products: int, cut: _Cut, shapes: list[tuple[int, ...]], values: list[np.ndarray | None]
) -> int:
    """Every query head visits what the lists have; all pairs of blocks, if they are not known."""
    B, own, length = shapes[0]
    pairs = B * own * (length - 2) if values[0] is None else int(values[0][:, :, -2:].sum())
    return 2 * products * pairs * cut.blocks.q * cut.blocks.k * cut.H * cut.K


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """The product that sums over one axis of each, in float32, whatever the default precision."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        a,
        b,
        (((axis_a,), (axis_b,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def _exp2(cut: _Cut, x: jax.Array) -> jax.Array:
    """2^x by the instruction that there is for it. XLA would surround it with others, for results
    below 2^-126; as weights these are as good as 0."""
    if cut.interpret:
        return jnp.exp2(x)
    (result,) = plgpu.elementwise_inline_asm(
        "ex2.approx.ftz.f32 $0, $1;",
        args=[x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
    )
    return result


def _within(start: Any, size: int, tokens: int) -> jax.Array | None:
    """[size]: which tokens of a block exist, None if all blocks are whole."""
    return None if tokens % size == 0 else start + jnp.arange(size) < tokens


def _tokens(cut: _Cut, view: Any, exists: jax.Array | None) -> jax.Array:
    """[tokens, width] of a view of queries or keys; 0 beyond the ends of the array."""
    mask = _mask(cut, exists)
    return plgpu.load(view) if mask is None else plgpu.load(view, mask=mask, other=0.0)


def _put(cut: _Cut, view: Any, x: jax.Array, exists: jax.Array | None) -> None:
    plgpu.store(view, x.astype(view.dtype), mask=_mask(cut, exists))


def _mask(cut: _Cut, exists: jax.Array | None) -> jax.Array | None:
    """Which elements of a block exist: [tokens, 1], [1, width] or both."""
    is_head = None if cut.width == cut.K else (jnp.arange(cut.width) < cut.K)[None, :]
    if exists is None or is_head is None:
        return is_head if exists is None else exists[:, None]
    return exists[:, None] & is_head


def _values(view: Any, exists: jax.Array | None, fill: float) -> jax.Array:
    """[queries] of a view of one value per query; `fill` beyond the end."""
    return plgpu.load(view) if exists is None else plgpu.load(view, mask=exists, other=fill)


def _ranges(runs: Any, block: Any, exists: jax.Array | None) -> list[jax.Array]:
    """First and end of the runs of a block of queries, empty where there is no query."""
    return [_values(ref.at[block], exists, 0) for ref in runs]


def _seen(cut: _Cut, ranges: list[jax.Array], start: Any, queries_axis: int) -> jax.Array:
    """Which keys of the block that begins at `start` the queries see: [queries, keys] or, if
    `queries_axis` is 1, [keys, queries]."""
    axis = 1 - queries_axis
    index = start + jnp.expand_dims(jnp.arange(cut.blocks.k), queries_axis)
    ranges = [jnp.expand_dims(x, axis) for x in ranges]
    seen = functools.reduce(
        operator.or_,
        (
            (first <= index) & (index < end)
            for first, end in zip(ranges[::2], ranges[1::2], strict=True)
        ),
    )
    return seen if cut.S % cut.blocks.k == 0 else seen & (index < cut.S)


def _visit(
    cut: _Cut,
    visits: Any,
    repeats: int,
    step: Callable[[bool, Any, Any, Any], Any],
    carry: Any,
) -> Any:
    """carry = step(masked, block, repeat, carry) for every block in the list of the program; all of
    it `repeats` times over, which is the innermost loop's affair: so loads run ahead of products
    from the first visit to the last. For the same reason the next block is looked up a visit ahead.
    """
    blocks, zero = visits.shape[0] - 2, jnp.int32(0)
    whole, partly = visits[blocks], visits[blocks + 1]

    def loop(masked: bool, offset: Any, count: Any, carry: Any) -> Any:
        def body(_: Any, state: Any) -> Any:
            at, repeat, block, carry = state
            carry = step(masked, block, repeat, carry)
            at += 1
            if repeats > 1:
                over = at == count
                at, repeat = jnp.where(over, 0, at), jnp.where(over, repeat + 1, repeat)
            return at, repeat, visits[offset + at], carry

        start = (zero, zero, visits[offset], carry)  # of an empty list: what follows it, unused
        return jax.lax.fori_loop(0, repeats * count, body, start)[-1]

    return loop(True, whole, partly, loop(False, zero, whole, carry))


def _forward_kernel(cut, i, visits, runs, q_ref, k_ref, v_ref, out_ref, lse_ref):
    """Online softmax over the visits of a block of queries."""
    own = pl.ds(i * cut.blocks.q, cut.blocks.q)
    exists = _within(own.start, cut.blocks.q, cut.L)
    q = _tokens(cut, q_ref.at[own, :], exists)
    ranges = _ranges(runs, own, exists)
    unit = cut.scale * LOG2_E

    def step(masked, j, _, carry):
        largest, total, out = carry
        keys = pl.ds(j * cut.blocks.k, cut.blocks.k)
        exists = _within(keys.start, cut.blocks.k, cut.S) if masked else None
        logits = _dot(q, _tokens(cut, k_ref.at[keys, :], exists), 1, 1)
        if masked:
            logits = jnp.where(_seen(cut, ranges, keys.start, 0), logits, NOTHING)
        new = jnp.maximum(largest, logits.max(axis=1))
        # The weights of a query that has seen nothing so far must be 0, not 2^0.
        base = jnp.where(new == NOTHING, 0.0, new) if masked else new
        weights = _exp2(cut, logits * unit - (base * unit)[:, None])
        keep = _exp2(cut, (largest - base) * unit)
        v = _tokens(cut, v_ref.at[keys, :], exists)
        out = out * keep[:, None] + _dot(weights.astype(v.dtype), v, 1, 0)
        return new, total * keep + weights.sum(axis=1), out

    largest, total, out = _visit(
        cut,
        visits,
        1,
        step,
        (
            jnp.full(cut.blocks.q, NOTHING, jnp.float32),
            jnp.zeros(cut.blocks.q, jnp.float32),
            jnp.zeros((cut.blocks.q, cut.width), jnp.float32),
        ),
    )
    nonempty = total > 0
    total = jnp.where(nonempty, total, 1.0)
    _put(cut, out_ref.at[own, :], out / total[:, None], exists)
    lse = jnp.where(nonempty, largest * cut.scale + jnp.log(total), jnp.inf)
    plgpu.store(lse_ref.at[own], lse, mask=exists)


def _weights(cut, logits, lse, seen):
    """The recomputed weights; 0 where a key is not seen."""
    if seen is not None:
        logits = jnp.where(seen, logits, NOTHING)
    return _exp2(cut, logits * (cut.scale * LOG2_E) - lse * LOG2_E)


def _dq_kernel(
    cut, i, visits, runs, q_ref, k_ref, v_ref, lse_ref, dout_ref, out_ref, dq_ref, delta_ref
):
    """The gradient of a block of queries; and `delta`, the sum of out * dout of each query."""
    own = pl.ds(i * cut.blocks.q, cut.blocks.q)
    exists = _within(own.start, cut.blocks.q, cut.L)
    q, dout, out = (_tokens(cut, ref.at[own, :], exists) for ref in (q_ref, dout_ref, out_ref))
    delta = (out.astype(jnp.float32) * dout.astype(jnp.float32)).sum(axis=1)
    plgpu.store(delta_ref.at[own], delta, mask=exists)
    lse = _values(lse_ref.at[own], exists, jnp.inf)
    ranges = _ranges(runs, own, exists)

    def step(masked, j, _, dq):
        keys = pl.ds(j * cut.blocks.k, cut.blocks.k)
        exists = _within(keys.start, cut.blocks.k, cut.S) if masked else None
        k, v = (_tokens(cut, ref.at[keys, :], exists) for ref in (k_ref, v_ref))
        seen = _seen(cut, ranges, keys.start, 0) if masked else None
        weights = _weights(cut, _dot(q, k, 1, 1), lse[:, None], seen)
        dlogits = weights * (_dot(dout, v, 1, 1) - delta[:, None])
        return dq + _dot(dlogits.astype(k.dtype), k, 1, 0)

    dq = _visit(cut, visits, 1, step, jnp.zeros((cut.blocks.q, cut.width), jnp.float32))
    _put(cut, dq_ref.at[own, :], dq * cut.scale, exists)


def _dkv_kernel(
    cut, j, visits, runs, q_ref, k_ref, v_ref, lse_ref, dout_ref, delta_ref, dk_ref, dv_ref
):
    """The gradients of a block of keys and values. Logits are [keys, queries]: so weights are what
    the products with them need on their left."""
    own = pl.ds(j * cut.blocks.k, cut.blocks.k)
    exists = _within(own.start, cut.blocks.k, cut.S)
    k, v = (_tokens(cut, ref.at[own, :], exists) for ref in (k_ref, v_ref))

    def step(masked, i, h, carry):
        dk, dv = carry
        block = pl.ds(i * cut.blocks.q, cut.blocks.q)
        exists = _within(block.start, cut.blocks.q, cut.L) if masked else None
        q, dout = (_tokens(cut, ref.at[block, h, :], exists) for ref in (q_ref, dout_ref))
        lse = _values(lse_ref.at[h, block], exists, jnp.inf)[None, :]
        delta = _values(delta_ref.at[h, block], exists, 0.0)[None, :]
        seen = _seen(cut, _ranges(runs, block, exists), own.start, 1) if masked else None
        weights = _weights(cut, _dot(k, q, 1, 1), lse, seen)
        dv += _dot(weights.astype(dout.dtype), dout, 1, 0)
        dlogits = weights * (_dot(v, dout, 1, 1) - delta)
        return dk + _dot(dlogits.astype(q.dtype), q, 1, 0), dv

    zero = jnp.zeros((cut.blocks.k, cut.width), jnp.float32)
    dk, dv = _visit(cut, visits, cut.r, step, (zero, zero))
    _put(cut, dk_ref.at[own, :], dk * cut.scale, exists)
    _put(cut, dv_ref.at[own, :], dv, exists)
