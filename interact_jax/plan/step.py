"""The trainer's step on a slice: the bytes that it needs and the time that it takes."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from interact_jax import bench, chips, hlo, memory, progress, run_state, sharding, train
from interact_jax.methods import method_of
from interact_jax.models.attention import backend_for
from interact_jax.models.decoder import Decoder, precision_of
from interact_jax.models.families import DecoderConfig
from interact_jax.optim import learning_rate, make_optimiser
from interact_jax.plan.compiler import HERE, DoesNotFit, Program, compile_for, devices_of
from interact_jax.plan.work import Work, rows_of
from interact_jax.schema import Batch, InputError

log = logging.getLogger(__name__)

EFFICIENCY = 0.5  # share of the peak FLOP/s that large matrix products reach within a step
FLOAT32_PASSES = 6  # bfloat16 products per float32 product, at the precision of training
ASSUMPTIONS = (
    f"matrix products run at {EFFICIENCY:.0%} of the chip's peak in bfloat16; those of float32 are "
    f"{FLOAT32_PASSES} of them",
    "collectives send over both links of one axis of the interconnect, those between slices over "
    "the chip's share of its host's network; of the pieces of a step (compute, memory, "
    "collectives, network) the longest hides the others",
    "memory traffic is at least all arguments, outputs, temporaries and gathered weights, once "
    "written and once read",
    "every micro-batch is full; the host keeps up",
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs on a slice. Bytes are per device, FLOPs over all devices."""

    topology: str
    chip: chips.Chip
    work: Work
    cfg: ConfigDict
    mesh: dict[str, int]
    attention: str
    batch: Batch  # the largest micro-batch
    parameters: int
    state: int  # parameters, moments, counters
    sums: int  # of gradients, while a step goes through its micro-batches
    limit: float  # bytes that programs may use
    needed: float
    differentiate: Program | None  # None: the compiler ran out of memory
    update: Program | None
    flops: int  # of a micro-batch
    seconds: float  # the time to compile

    @property
    def fits(self) -> bool:
        return self.differentiate is not None and self.needed <= self.limit

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    def interactions(self) -> int:
        """The number of interactions in a full micro-batch."""
        return bench.count_interactions(self.batch)

    def micro_batches(self) -> int:
        """The number of full micro-batches that a step of the config needs, at least one."""
        return micro_batches(self.cfg, self.batch)

    def times(self) -> dict[str, float] | None:
        """Seconds of a micro-batch by bottleneck, and of a whole step; None if it does not fit, or
        for an unknown device."""
        if self.differentiate is None or self.update is None or math.isnan(self.chip.flops):
            return None
        a, u = self.differentiate, self.update
        gathered = sum(t.bytes for kind, t in a.collectives.items() if kind == "all-gather")
        passes = FLOAT32_PASSES if self.cfg.model.dtype == "float32" else 1
        micro = {
            "compute": passes * self.flops / self.devices / (EFFICIENCY * self.chip.flops),
            "memory": (a.arguments + a.outputs + 2 * (a.temporaries + gathered))
            / self.chip.bandwidth,
            "collectives": _bytes_sent(a.collectives) / self.chip.link,
        }
        if a.across:
            micro["network"] = _bytes_sent(a.across) / self.chip.network
        update = max(
            (u.arguments + u.outputs) / self.chip.bandwidth,
            _bytes_sent(u.collectives) / self.chip.link,
            _bytes_sent(u.across) / self.chip.network if u.across else 0.0,
        )
        longest = max(micro.values())
        return {
            **micro,
            "micro_batch": longest,
            "update": update,
            "step": self.micro_batches() * longest + update,
        }


def _bytes_sent(collectives: Mapping[str, hlo.Traffic]) -> int:
    return sum(traffic.bytes for traffic in collectives.values())


def chip_of(mesh: jax.sharding.Mesh, topology: str) -> chips.Chip:
    """The capabilities of a slice's device; of a present one (HERE), with the memory that is left
    for this run. Raises InputError for an unknown device."""
    device = mesh.devices.flat[0]
    chip = chips.chip_of(device.device_kind)
    if topology == HERE and (room := memory.room(mesh)):
        here = chip or chips.Chip(room.name, math.nan, 0, *[math.nan] * 3)
        return dataclasses.replace(here, memory=room.limit - room.taken, usable=1.0)
    if chip is None:
        raise InputError(f"{topology}: nothing is known of the chip {device.device_kind}.")
    return chip


def mesh_on(cfg: ConfigDict, topology: str) -> jax.sharding.Mesh:
    """The configured mesh, of the devices of as many slices as it has. Raises InputError where mesh
    or slice are impossible."""
    return sharding.make_mesh(**cfg.mesh, devices=devices_of(topology, cfg.mesh.slices))


def make_plan(cfg: ConfigDict, work: Work, topology: str) -> Plan:
    """Compile a step for a slice. Raises InputError where mesh or slice are impossible."""
    mesh = mesh_on(cfg, topology)
    chip = chip_of(mesh, topology)
    attention = backend_for(cfg.attention, mesh)
    decoder = decoder_of(cfg, work.model, attention)
    optimiser = make_optimiser(cfg.optim)
    shards = sharding.row_shards(mesh)
    rows = rows_of(cfg, work, cfg.batch.rows)
    batch = jax.tree.map(lambda x: np.concatenate([x] * shards), rows)
    begin = time.perf_counter()
    programs: dict[str, Program] = {}
    with sharding.on(mesh), jax.default_matmul_precision(precision_of(cfg.model.dtype)):
        abstract = run_state.abstract_state(decoder, optimiser, mesh, method_of(cfg).rules)
        differentiate, _ = train.jit_gradients(cfg, decoder, abstract)
        update = train.jit_update(cfg, optimiser, abstract, learning_rate(cfg.optim, 1000))
        layout = NamedSharding(mesh, PartitionSpec(sharding.ROWS))
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), batch
        )
        models = abstract.all_params()
        sums = sharding.with_layout(jax.eval_shape(differentiate, models, placed), mesh)
        state_bytes, sums_bytes = memory.device_bytes(abstract), memory.device_bytes(sums)
        several = micro_batches(cfg, batch) > 1
        beside = memory.beside_gradient(abstract, sums_bytes, several)
        needed, limit = 0.0, chip.memory * chip.usable
        for name, function, args, others in (
            ("differentiate", differentiate, (models, placed), beside),
            # The sums of the next step are allocated before those of the last one are freed.
            ("update", update, (abstract, sums), sums_bytes),
        ):
            log.info("compiling %s for %s", name, topology)
            try:
                with progress.of("compiling"):
                    compiled = compile_for(function, *args)
                program = Program.of(*compiled, mesh)
            except DoesNotFit as error:
                needed, limit = max(needed, error.needed + others), min(limit, error.limit)
                break
            programs[name] = program
            needed = max(needed, program.peak + program.code + others)
        if memory.is_host(mesh):  # where a checkpoint's copy is allocated besides the state
            needed = max(needed, 2.0 * state_bytes)
    complete = programs if len(programs) == 2 else {}
    row = jax.tree.map(lambda x: x[:1], rows)
    per_row = bench.gradient_flops(decoder, row, cfg)
    return Plan(
        topology=topology,
        chip=chip,
        work=work,
        cfg=cfg,
        mesh=dict(mesh.shape),
        attention=attention,
        batch=batch,
        parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(abstract.params)),
        state=state_bytes,
        sums=sums_bytes,
        limit=limit,
        needed=needed,
        differentiate=complete.get("differentiate"),
        update=complete.get("update"),
        flops=per_row * cfg.batch.rows * shards,
        seconds=time.perf_counter() - begin,
    )


def micro_batches(cfg: ConfigDict, batch: Batch) -> int:
    """The number of micro-batches, each as full as this one, that a step of the config needs."""
    if cfg.batch.interactions:
        return math.ceil(cfg.batch.interactions / bench.count_interactions(batch))
    trees = int(np.asarray(batch.trunk.segment_BxL).max(axis=1).sum())
    return math.ceil(cfg.batch.conversations / trees)


def decoder_of(cfg: ConfigDict, model: DecoderConfig, attention: str) -> Decoder:
    return Decoder(
        model,
        dtype=jnp.dtype(cfg.model.dtype),
        param_dtype=jnp.dtype(cfg.model.param_dtype),
        remat=cfg.remat,
        attention=attention,
    )
