"""Attention over keys and values in pages, for sampling: no gradient.

    out, pool = attend(q, k, v, place_BxL, table_BxM, pool, layer, window, backend)

A page has W slots for the keys and values of W consecutive tokens of a sequence, in every layer.
The table of a row lists its pages in order, so the token at place p (its position in the sequence;
-1 = padding) lies in slot p % W of page table[p // W]. Rows may list the same pages: what sequences
begin with is kept once. New tokens are written first, then each attends to its sequence up to
itself; so several rows may be consecutive parts of one sequence.

Letters beyond the alphabet: U pages of a pool, W slots of a page, M pages of a row's table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from interact_jax import foreign, sharding
from interact_jax.models.attention.dense import NOTHING
from interact_jax.models.attention.native import LANES
from interact_jax.models.families import DecoderConfig

SLOTS = 32  # of a page; a multiple of LANES
BLOCK = 256  # keys that `xla` reads at a time
UNLIMITED = jnp.iinfo(jnp.int32).max // 2  # the window of a layer that sees everything


@flax.struct.dataclass
class Pool:
    """Pages of keys and values of all layers. Under a mesh every device with rows of its own has
    U pages of its own, and tables count from the first of them."""

    keys_NxUxGxKxW: jax.Array
    values_NxUxGxWxK: jax.Array

    @classmethod
    def empty(cls, config: DecoderConfig, pages: int, dtype: Any, backend: str) -> Pool:
        K = config.head_width
        if backend == "native":
            K, dtype = -(-K // LANES) * LANES, jnp.float32
        lead = (config.layers, pages, config.kv_heads)
        return cls(jnp.zeros((*lead, K, SLOTS), dtype), jnp.zeros((*lead, SLOTS, K), dtype))


def shared_out(mesh: AbstractMesh) -> bool:
    """Whether this mesh has several devices."""
    return not mesh.empty and mesh.size > 1


def pool_spec(mesh: Mesh | AbstractMesh, kv_heads: int) -> PartitionSpec:
    """How the arrays of a pool are sharded: pages with rows; heads, if the mesh divides them."""
    rows, tensor = sharding.LETTERS["B"], sharding.LETTERS["G"]
    heads = tensor if kv_heads % sharding.axis_size(mesh, tensor) == 0 else None
    return PartitionSpec(None, rows, heads, None, None)


def copy_pages(pool: Pool, source_B: jax.Array, target_B: jax.Array) -> Pool:
    """The pool with some pages copied; a target beyond its pages is dropped."""

    def copy(pages: jax.Array, source_B: jax.Array, target_B: jax.Array) -> jax.Array:
        return pages.at[:, target_B].set(pages[:, source_B], mode="drop")

    mesh = jax.sharding.get_abstract_mesh()
    if shared_out(mesh):
        spec = pool_spec(mesh, pool.keys_NxUxGxKxW.shape[2])
        rows = PartitionSpec(spec[1])
        copy = jax.shard_map(copy, in_specs=(spec, rows, rows), out_specs=spec, check_vma=False)
    return jax.tree.map(lambda pages: copy(pages, source_B, target_B), pool)


def targets() -> dict[str, str]:
    """The handler of the native kernel. Raises foreign.Unavailable."""
    return foreign.load(Path(__file__).with_suffix(".cc"), ("paged_attention",))


def attend(
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    place_BxL: jax.Array,
    table_BxM: jax.Array,
    pool: Pool,
    layer: jax.Array,
    window: jax.Array,
    backend: str,
) -> tuple[jax.Array, Pool]:
    """Output [B, L, H, K], finite where a token is padding, and the pool with the new tokens.

    A token sees the `window` last tokens up to itself. Under a mesh each device computes its own
    rows and heads.
    """
    function = _native if backend == "native" else _xla
    out, keys, values = _on_each_device(function, k_BxLxGxK.shape[2], tokens=3, out=1, numbers=2)(
        q_BxLxHxK,
        k_BxLxGxK,
        v_BxLxGxK,
        place_BxL,
        table_BxM,
        pool.keys_NxUxGxKxW,
        pool.values_NxUxGxWxK,
        layer,
        window,
    )
    return out, Pool(keys, values)


def write(
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    place_BxL: jax.Array,
    table_BxM: jax.Array,
    pool: Pool,
    layer: jax.Array,
) -> Pool:
    """The pool with the keys and values of new tokens that attend to nothing."""
    width = pool.keys_NxUxGxKxW.shape[3]  # the native backend's pages are padded
    return Pool(
        *_on_each_device(_write, k_BxLxGxK.shape[2], tokens=2, out=0, numbers=1)(
            _widen(k_BxLxGxK, width),
            _widen(v_BxLxGxK, width),
            place_BxL,
            table_BxM,
            pool.keys_NxUxGxKxW,
            pool.values_NxUxGxWxK,
            layer,
        )
    )


def _on_each_device(
    function: Callable[..., Any], kv_heads: int, tokens: int, out: int, numbers: int
) -> Callable[..., Any]:
    """A function of `tokens` arrays of tokens' heads, places, table, keys, values and `numbers`
    that hold for all, which returns `out` arrays of heads, keys and values: run by each device of a
    mesh on its own rows and heads."""
    mesh = jax.sharding.get_abstract_mesh()
    if not shared_out(mesh):
        return function
    pages = pool_spec(mesh, kv_heads)
    _, rows, heads, *_ = pages
    token, of_row = PartitionSpec(rows, None, heads, None), PartitionSpec(rows, None)
    return jax.shard_map(
        function,
        in_specs=(*[token] * tokens, of_row, of_row, pages, pages, *[PartitionSpec()] * numbers),
        out_specs=(*[token] * out, pages, pages),
        check_vma=False,
    )


def _native(q, k, v, place, table, keys, values, layer, window):
    K, padded = q.shape[3], keys.shape[3]
    widen = functools.partial(_widen, width=padded)
    shapes = ((*q.shape[:3], padded), keys.shape, values.shape)
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    call = jax.ffi.ffi_call(
        targets()["paged_attention"], results, input_output_aliases={7: 1, 8: 2}
    )
    out, keys, values = call(
        *(widen(x.astype(jnp.float32)) for x in (q, k, v)),
        place,
        table,
        layer.reshape(1),
        window.reshape(1),
        keys,
        values,
        scale=np.float32(K**-0.5),
    )
    return out[..., :K].astype(q.dtype), keys, values


def _widen(x: jax.Array, width: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])


def _write(k, v, place, table, keys, values, layer):
    page = jnp.take_along_axis(table, jnp.maximum(place, 0) // SLOTS, axis=1)
    page = jnp.where(place >= 0, page, keys.shape[1])  # no such page: padding is dropped
    slot = place % SLOTS
    keys = keys.at[layer, page, :, :, slot].set(k.astype(keys.dtype), mode="drop")
    values = values.at[layer, page, :, slot].set(v.astype(values.dtype), mode="drop")
    return keys, values


def _xla(q, k, v, place, table, keys, values, layer, window):
    keys, values = _write(k, v, place, table, keys, values, layer)
    B, L, H, K = q.shape
    G, J = k.shape[2], BLOCK // SLOTS
    table = jnp.pad(table, ((0, 0), (0, -table.shape[1] % J)))
    queries = q.reshape(B, L, G, H // G, K)
    earliest = jnp.where(place >= 0, place, UNLIMITED).min() - window + 1

    def visit(block, state):
        out, largest, total = state
        pages = jax.lax.dynamic_slice_in_dim(table, block * J, J, axis=1)
        logits = jnp.einsum(
            "BLGrK,BJGKW->BGrLJW", queries, keys[layer, pages], preferred_element_type=jnp.float32
        )
        index = (block * BLOCK + jnp.arange(BLOCK))[None, None, :]
        seen = (index <= place[:, :, None]) & (index > place[:, :, None] - window)
        logits = logits.reshape(*logits.shape[:4], BLOCK) * K**-0.5
        logits = jnp.where(seen[:, None, None], logits, NOTHING)
        highest = jnp.maximum(largest, logits.max(axis=-1))
        factor = jnp.exp(largest - highest)
        weights = jnp.where(seen[:, None, None], jnp.exp(logits - highest[..., None]), 0)
        total = total * factor + weights.sum(axis=-1)
        weights = weights.astype(values.dtype).reshape(*weights.shape[:4], J, SLOTS)
        more = jnp.einsum(
            "BGrLJW,BJGWK->BGrLK", weights, values[layer, pages], preferred_element_type=jnp.float32
        )
        return out * factor[..., None] + more, highest, total

    shape = (B, G, H // G, L)
    empty = jnp.zeros((*shape, K), jnp.float32), jnp.full(shape, NOTHING), jnp.zeros(shape)
    first, end = jnp.maximum(earliest, 0) // BLOCK, (place.max() + BLOCK) // BLOCK
    out, _, total = jax.lax.fori_loop(first, end, visit, empty)
    out = out / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)[..., None]
    return out.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K).astype(q.dtype), keys, values
