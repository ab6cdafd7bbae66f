"""Attention over trunk and branches: one function, several backends, one gradient.

    attend(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, sight, backend)

`sight` says which keys a query sees (see `sight`): a run on the trunk and a run on its own branch.
A backend is a pair of functions over the whole arrays of one device: `forward` returns the output
and the log-sum-exp over all keys that a query sees, `backward` the gradients from those two. So the
gradient is that of the merged attention: public kernels that are merged by their log-sum-exp lose
the part of it that goes through the merge.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from interact_jax import sharding
from interact_jax.foreign import Unavailable
from interact_jax.models.attention import blockwise, dense, native, pallas_tpu, pallas_triton
from interact_jax.models.attention.sight import Sight
from interact_jax.schema import InputError
from interact_jax.settings import Setting

log = logging.getLogger(__name__)


class Backend(NamedTuple):
    """forward(q, k, v, sight) -> (out, lse), with the results of `blockwise`.

    backward(q, k, v, sight, out, lse, dout) -> (dq, dk, dv).
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]


BACKENDS = {
    "xla": Backend(blockwise.forward, blockwise.backward),
    "dense": Backend(dense.forward, dense.backward),
    "pallas": Backend(pallas_tpu.forward, pallas_tpu.backward),  # interpreted on a CPU, for tests
    "triton": Backend(pallas_triton.forward, pallas_triton.backward),  # interpreted on a CPU, too
    "native": Backend(native.forward, native.backward),  # only on CPUs
}
"""How attention is computed, by the value of the setting `attention`."""

FOR_PLATFORM = {"tpu": "pallas", "gpu": "triton", "cpu": "native"}
"""What `attention=auto` means, by the platform of the devices; `xla` elsewhere, on GPUs that
`triton` is not for, and where `native` cannot be compiled."""
RUNS_ON = {"pallas": ("tpu", "cpu"), "triton": ("gpu", "cpu"), "native": ("cpu",)}
"""The platforms of backends that do not run on all of them."""
SETTINGS = {
    "attention": Setting(
        "auto",
        "implementation of attention; auto = the best one for the devices",
        ("auto", *BACKENDS),
        free=True,
    ),
}


def backend_for(name: str, mesh: jax.sharding.Mesh) -> str:
    """The backend of this name; for "auto", the one for the devices of the mesh.

    Raises InputError if it cannot run on them.
    """
    device = mesh.devices.flat[0]
    platform = device.platform
    chosen = FOR_PLATFORM.get(platform, "xla") if name == "auto" else name
    runs_on = RUNS_ON.get(chosen, (platform,))
    if platform not in runs_on:
        raise InputError(
            f"attention={chosen} computes on {' and '.join(runs_on)} devices; here are {platform} "
            "devices. attention=auto takes what is best for them."
        )
    try:
        if chosen == "native":
            native.targets()
        if chosen == "triton" and platform == "gpu":
            pallas_triton.check(device)
    except Unavailable as reason:
        if name == chosen:
            raise InputError(
                f"attention={chosen}: {reason}. attention=auto works without it"
            ) from None
        log.warning("attention=xla, which is slower than %s would be: %s", chosen, reason)
        return "xla"
    return chosen


SAVED = "attention"  # the name by which a rematerialisation policy can keep output and lse


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(
    q_BxLxHxK: jax.Array,
    k_BxSxGxK: jax.Array,
    v_BxSxGxK: jax.Array,
    sight: Sight,
    backend: str = "xla",
) -> jax.Array:
    """Softmax attention [B, L, H, K] of every query over the keys it sees; 0 where it sees none.

    Query head h reads key head h // (H / G). Logits are q . k / sqrt(K). Logits, softmax and
    all sums are float32; products have the type of their inputs or a wider one. Under a mesh each
    device computes its own rows, heads and queries.
    """
    return _forward(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, sight, backend)[0]


def _forward(q, k, v, sight, backend):
    layout = _layout(q, k)
    run = _per_device(
        BACKENDS[backend].forward,
        (layout.queries, layout.keys, layout.keys, layout.sight),
        (layout.queries, layout.lse),
    )
    out, lse = (checkpoint_name(x, SAVED) for x in run(q, k, v, sight))
    return out, (q, k, v, sight, out, lse)


def _backward(backend, residuals, dout):
    layout = _layout(*residuals[:2])

    def backward(*arrays):
        dq, *of_keys = BACKENDS[backend].backward(*arrays)
        if layout.shared:  # each has what its own queries give
            of_keys = [
                jax.lax.psum(d.astype(jnp.float32), layout.shared).astype(d.dtype) for d in of_keys
            ]
        return dq, *of_keys

    run = _per_device(
        backward,
        (
            *(layout.queries, layout.keys, layout.keys, layout.sight),
            *(layout.queries, layout.lse, layout.queries),
        ),
        (layout.queries, layout.keys, layout.keys),
    )
    return *run(*residuals, dout), None


attend.defvjp(_forward, _backward)


class _Layout(NamedTuple):
    """How arrays are sharded; `shared` is the axis over which queries are, but keys are not."""

    queries: PartitionSpec
    keys: PartitionSpec
    lse: PartitionSpec
    sight: PartitionSpec
    shared: Any


def _layout(q: jax.Array, k: jax.Array) -> _Layout:
    """By rows, heads and queries, as far as the axes of the mesh divide them. Every device has all
    keys of its rows and heads: they are gathered, which takes little where several query heads read
    one key head."""
    mesh = jax.sharding.get_abstract_mesh()

    def axis(letter: str, size: int) -> Any:
        name = sharding.LETTERS[letter]
        is_divided = not mesh.empty and size % sharding.axis_size(mesh, name) == 0
        return name if is_divided else None

    rows, tokens, heads = axis("B", q.shape[0]), axis("L", q.shape[1]), axis("G", k.shape[2])
    return _Layout(
        PartitionSpec(rows, tokens, heads, None),
        PartitionSpec(rows, None, heads, None),
        PartitionSpec(rows, heads, tokens),
        PartitionSpec(rows, tokens),
        tokens if tokens and mesh.shape[tokens] > 1 else None,
    )


def _per_device(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` on the part of each device, for loops that differ in length and for kernels."""
    if jax.sharding.get_abstract_mesh().empty:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)
