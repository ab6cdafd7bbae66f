"""Changes of settings and slice that may make a run fit, tried one after the other."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from interact_jax import config, memory, run_state, sharding
from interact_jax.methods import method_of
from interact_jax.models.attention import backend_for
from interact_jax.optim import make_optimiser
from interact_jax.plan.compiler import HERE, SLICES, devices_of
from interact_jax.plan.step import Plan, chip_of, decoder_of, make_plan, mesh_on
from interact_jax.plan.work import Work, rows_of, synthetic_work, work_of
from interact_jax.schema import InputError

log = logging.getLogger(__name__)

Change = dict[str, Any]  # settings by their full name, and "topology"


def first_that_fits(
    cfg: ConfigDict, work: Work, topology: str
) -> tuple[Change, Plan] | tuple[None, None]:
    """The first change of settings or slice with which the run fits, and its plan; (None, None) if
    there is none.

    Changes with which state, gradients and the saved inputs of layers alone do not fit are not
    compiled.
    """
    for change in changes(cfg, work, topology):
        other = cfg.copy_and_resolve_references().unlock()
        for name, value in change.items():
            if name != "topology":
                config.override(other, f"{name}={value}")
        where = change.get("topology", topology)
        trees = (
            work if other.batch.row_tokens == cfg.batch.row_tokens else shorten_work(other, work)
        )
        try:
            least, limit = least_bytes(other, trees, where)
            if least > limit:
                log.info("%s: needs at least %s", format_change(change), memory.format_bytes(least))
                continue
            plan = make_plan(other.lock(), trees, where)
        except InputError as refused:  # such as a mesh that does not divide the model
            log.info("%s: %s", format_change(change), refused)
            continue
        sizes = [memory.format_bytes(x) for x in (plan.needed, plan.limit)]
        log.info("%s: %s of %s", format_change(change), *sizes)
        if plan.fits:
            return change, plan
    return None, None


def shorten_work(cfg: ConfigDict, work: Work) -> Work:
    """The same work with conversations no longer than the row of `cfg`."""
    return synthetic_work(cfg, work.model, work.name) if work.synthetic else work_of(cfg)


def changes(cfg: ConfigDict, work: Work, topology: str) -> Iterator[Change]:
    """The changes to try, the cheapest for the run first; most include those before them."""
    kept: Change = {}
    if cfg.remat != "full":
        kept = {**kept, "remat": "full"}
        yield kept
    devices = len(devices_of(topology))  # of a slice
    if topology == HERE:
        devices //= cfg.mesh.slices
    if cfg.mesh.sequence > 1:
        kept = {**kept, "mesh.sequence": 1}
    if cfg.mesh.fsdp not in (-1, devices):
        kept = {**kept, "mesh.data": 1, "mesh.fsdp": devices, "mesh.tensor": 1}
        yield kept
    if cfg.batch.rows > 1:
        kept = {**kept, "batch.rows": 1}
        yield kept
    for tensor in (2, 4, 8):
        if tensor < devices and work.model.kv_heads % tensor == 0:
            yield {**kept, "mesh.data": 1, "mesh.fsdp": devices // tensor, "mesh.tensor": tensor}
    for divisor in (2, 4):
        tokens = cfg.batch.row_tokens // divisor
        if tokens >= 512:
            yield {**kept, "batch.row_tokens": tokens, "data.max_length": tokens}
    family = topology.partition(":")[0]
    larger = (s for s in SLICES.get(family, ()) if math.prod(map(int, s.split("x"))) > devices)
    for slice_ in itertools.islice(larger, 4):
        spread = {"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": 1}
        yield {**kept, **spread, "topology": f"{family}:{slice_}"}
    narrow = {f"model.{name}": "bfloat16" for name in ("dtype", "param_dtype")}
    if cfg.model.param_dtype != "bfloat16":
        kept = {**kept, **narrow}
        yield kept
    if cfg.optim.name != "sgd":
        yield {**kept, "optim.name": "sgd"}


def least_bytes(cfg: ConfigDict, work: Work, topology: str) -> tuple[float, float]:
    """(lower bound of the bytes that a device needs, bytes that it has)."""
    mesh = mesh_on(cfg, topology)
    chip = chip_of(mesh, topology)
    with sharding.on(mesh):
        decoder = decoder_of(cfg, work.model, backend_for(cfg.attention, mesh))
        rules = method_of(cfg).rules
        abstract = run_state.abstract_state(decoder, make_optimiser(cfg.optim), mesh, rules)
    sums = memory.device_bytes(abstract.params) * 4 // jnp.dtype(cfg.model.param_dtype).itemsize
    row = rows_of(cfg, work, 1)
    tokens = cfg.batch.rows * (row.trunk.id_BxL.shape[1] + row.live.id_BxL.shape[1])
    inputs = work.model.layers * tokens * work.model.width * jnp.dtype(cfg.model.dtype).itemsize
    return memory.device_bytes(abstract) + sums + inputs, chip.memory * chip.usable


def format_change(change: Change) -> str:
    """A change as arguments of launch/plan.py and launch/train.py."""
    return " ".join(
        f"--topology {value}" if name == "topology" else f"--config.{name}={value}"
        for name, value in change.items()
    )
