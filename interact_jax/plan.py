"""Does a run fit on a TPU slice, and how long does a step take? Answered without the hardware.

    work = synthetic_work(cfg, shape("qwen3-8b"), "qwen3-8b")
    plan = make_plan(cfg, work, "v5e:4x4")
    change, better = first_that_fits(cfg, work, "v5e:2x2")     where it does not fit

libtpu compiles for any slice on a machine that has none. What is compiled is the trainer's own
step, so the bytes are the compiler's figures, not an estimate. The times are one: a roofline.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from interact_jax import bench, chips, config, flops, hlo, scoring, sharding, train
from interact_jax.data.chat import ChatFormat
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.pack import pack
from interact_jax.data.pipeline import load_dataset
from interact_jax.data.shapes import full_row
from interact_jax.data.tree import GROW, Size, Tree, split
from interact_jax.models import hf
from interact_jax.models.attention import backend_for
from interact_jax.models.decoder import Decoder
from interact_jax.models.families import DecoderConfig
from interact_jax.objectives import OBJECTIVES
from interact_jax.optim import learning_rate, make_optimiser
from interact_jax.schema import Batch, InputError

log = logging.getLogger(__name__)

EFFICIENCY = 0.5  # of the peak FLOP/s: what large matrix products reach next to everything else
FLOAT32_PASSES = 6  # products in bfloat16 that make one in float32, at the precision of training
ASSUMPTIONS = (
    f"matrix products run at {EFFICIENCY:.0%} of the chip's peak in bfloat16; those of float32 are "
    f"{FLOAT32_PASSES} of them",
    "collectives send over both links of one axis of the interconnect, and of the pieces of a "
    "step (compute, memory, collectives) the longest hides the others",
    "memory traffic is at least all arguments, outputs, temporaries and gathered weights, once "
    "written and once read",
    "every micro-batch is full; the host keeps up",
)

SLICES = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}
"""Slices that are offered, small ones first; libtpu knows more."""

SMALL_DATA = 50e6  # bytes; the data of a config up to there is read, for the rows it fills


# ------------------------------------------------------------------------------ what is planned


@dataclasses.dataclass(frozen=True)
class Work:
    """A model, and trees to fill its rows with; the same on any slice."""

    name: str
    model: DecoderConfig
    trees: list[Tree]
    data: str  # where the trees are from, for people


def synthetic_work(cfg: ConfigDict, model: DecoderConfig, name: str) -> Work:
    """Dialogues of turns of 64 + 192 tokens, at most half a row long.

    Qwen3's template renders replies in the history otherwise than they were generated, so for that
    family every turn but the last is a branch of the student, too.
    """
    dialogue = bench.Dialogue(student_branches=model.model_type == "qwen3")
    most = max(
        1, min(dialogue.turns, cfg.batch.row_tokens // 2 // (dialogue.user + dialogue.reply))
    )
    rng = np.random.default_rng(0)
    trees: list[Tree] = []
    while sum(tree.size.T for tree in trees) < 2 * cfg.batch.row_tokens:
        for turns in range(most, 0, -1):
            one = dataclasses.replace(dialogue, turns=turns)
            trees += GROW[cfg.sharing](one.window(rng, model.vocab_size, f"c{len(trees)}"))
    told = (
        f"synthetic dialogues of up to {most} turns of {dialogue.user} + {dialogue.reply} tokens, "
        f"follow-ups of {dialogue.followup}"
    )
    if dialogue.student_branches:
        told += ", replies rendered otherwise in the history"
    return Work(name, model, trees, told)


def work_of(cfg: ConfigDict) -> Work:
    """The model and, where it is here and small, the data of a config; else synthetic dialogues."""
    directory = hf.resolve(cfg.model.path, weights=False)
    _, model = hf.load_config(directory)
    file = Path(cfg.data.path)
    small = file.is_file() and file.stat().st_size <= SMALL_DATA
    if cfg.data.path != "pocket" and not small:
        return synthetic_work(cfg, model, cfg.model.path)
    other = cfg.model.tokenizer
    chat = ChatFormat.load(
        hf.resolve(other, weights=False) if other else directory,
        cfg.hindsight,
        cfg.data.reply_tokens,
    )
    settings = EncodeSettings.of(cfg)
    dataset = load_dataset(cfg.data.path, cfg.data.format, chat, settings, cfg.sharing)
    return Work(cfg.model.path, model, dataset.trees_of(range(len(dataset.trees))), cfg.data.path)


def full_rows(trees: list[Tree], row_tokens: int, height: int, ignore_first: int) -> Batch:
    """The largest micro-batch that training packs, of `height` rows as full as these trees fill."""
    full = full_row(trees, row_tokens)
    parts = sorted((p for t in trees for p in split(t, full)), key=lambda t: -t.size.T)
    row, used = [], Size(0, 0, 0, 0, 0)
    for tree in parts:
        if (used + tree.size).fits(full):
            row.append(tree)
            used = used + tree.size
    return pack([row] * height, full, height, ignore_first)[0]


# ---------------------------------------------------------------------------------- the compiler


def devices_of(topology: str) -> list[Any]:
    """The devices of a slice, such as v5e:4x4; none of them need be here.

    Raises InputError where libtpu is missing or knows no such slice.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")  # this and the next: else it warns
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")  # whatever slice it is
    # Compiling uses no chip, so several processes may do it, next to one that trains.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    family, _, shape = topology.partition(":")
    more = {"chip_config_name": "megacore"} if family == "v4" else {}  # one device a chip
    examples = "; ".join(f"{name}:{', '.join(s[:5])}, ..." for name, s in SLICES.items())
    if not shape:
        raise InputError(
            f"--topology {topology}: expected GENERATION:SHAPE, such as v5e:4x4. {examples}."
        )
    if _libtpu_version() is None:
        raise InputError("plans are compiled by libtpu, which is not installed: pip install libtpu")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **more).devices
    except Exception as error:  # of which kind depends on the version of jax
        said = str(error).splitlines()[0]
        if "libtpu" in said and "lockfile" in said:
            raise InputError(
                f"another process holds libtpu ({said}). Wait for it, or set "
                "ALLOW_MULTIPLE_LIBTPU_LOAD=1: compiling uses no chip."
            ) from error
        raise InputError(
            f"--topology {topology}: the compiler knows no such slice ({said}). There is, for "
            f"instance, {examples}."
        ) from error


def _libtpu_version() -> str | None:
    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return None


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program. Bytes are of one device, by the compiler's own figures."""

    arguments: int
    outputs: int
    aliased: int  # outputs that take the place of arguments
    temporaries: int
    peak: int  # of all the above together
    code: int
    collectives: dict[str, hlo.Traffic]

    @classmethod
    def of(cls, compiled: Any, text: str, devices: int) -> Program:
        m = compiled.memory_analysis()
        together = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
        return cls(
            arguments=m.argument_size_in_bytes,
            outputs=m.output_size_in_bytes,
            aliased=m.alias_size_in_bytes,
            temporaries=m.temp_size_in_bytes,
            peak=max(m.peak_memory_in_bytes, together),
            code=m.generated_code_size_in_bytes,
            collectives=hlo.collectives(text, devices),
        )


class DoesNotFit(Exception):
    """The compiler ran out of the device's memory; what it says that it needs, of what, bytes."""

    def __init__(self, needed: float, limit: float):
        super().__init__(f"{needed / chips.GIB:.2f} of {limit / chips.GIB:.2f} GiB")
        self.needed, self.limit = needed, limit


def compile_for(function: Any, *args: Any) -> tuple[Any, str]:
    """Compile a jitted function for the devices of its arguments; the program and its text.

    Raises DoesNotFit where their memory does not do.
    """
    lowered = function.lower(*args)
    try:
        # The compiler writes the text itself: jaxlib's `as_text` does not know all that a newer
        # libtpu says (jaxlib 0.10.2 fails on a v5p's asynchronous updates).
        with tempfile.TemporaryDirectory() as folder:
            options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
            compiled = lowered.compile(compiler_options=options)
            written = sorted(Path(folder).glob("*after_codegen.txt"))
            return compiled, written[0].read_text() if written else compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        if "RESOURCE_EXHAUSTED" not in said and "Ran out of memory" not in said:
            raise
        units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
        for needs, has in (
            (r"Used ([\d.]+)([KMGT])", r"of ([\d.]+)([KMGT]) hbm"),
            (r"required[^()]*\(([\d.]+)([KMGT])", r"available HBM \(([\d.]+)([KMGT])"),
        ):
            found = [re.search(pattern, said) for pattern in (needs, has)]
            if all(found):
                raise DoesNotFit(*(float(m[1]) * units[m[2]] for m in found)) from error
        raise


# -------------------------------------------------------------------------------------- the plan


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs on a slice. Bytes are of one device, FLOPs of all of them."""

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
    seconds: float  # that it took to compile

    @property
    def fits(self) -> bool:
        return self.differentiate is not None and self.needed <= self.limit

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    def interactions(self) -> int:
        """How many a full micro-batch holds."""
        return bench.interactions(self.batch)

    def micro_batches(self) -> int:
        """Full micro-batches that a step of the config is worth, at least one."""
        return micro_batches(self.cfg, self.batch)

    def times(self) -> dict[str, float] | None:
        """Seconds of a micro-batch by bottleneck, and of a whole step; None if it does not fit."""
        if self.differentiate is None or self.update is None:
            return None
        a, u = self.differentiate, self.update
        gathered = sum(t.bytes for kind, t in a.collectives.items() if kind == "all-gather")
        passes = FLOAT32_PASSES if self.cfg.model.dtype == "float32" else 1
        micro = {
            "compute": passes * self.flops / self.devices / (EFFICIENCY * self.chip.flops),
            "memory": (a.arguments + a.outputs + 2 * (a.temporaries + gathered))
            / self.chip.bandwidth,
            "collectives": self._sent(a) / self.chip.link,
        }
        update = max(
            (u.arguments + u.outputs) / self.chip.bandwidth, self._sent(u) / self.chip.link
        )
        longest = max(micro.values())
        return {
            **micro,
            "micro_batch": longest,
            "update": update,
            "step": self.micro_batches() * longest + update,
        }

    def _sent(self, program: Program) -> int:
        return sum(traffic.bytes for traffic in program.collectives.values())


def make_plan(cfg: ConfigDict, work: Work, topology: str) -> Plan:
    """Compile a step for a slice. Raises InputError where mesh or slice cannot be."""
    devices = devices_of(topology)
    chip = chips.chip_of(devices[0].device_kind)
    if chip is None:
        raise InputError(f"{topology}: nothing is known of the chip {devices[0].device_kind}.")
    mesh = sharding.make_mesh(**cfg.mesh, devices=devices)
    attention = backend_for(cfg.attention, mesh)
    decoder = _decoder(cfg, work.model, attention)
    optimiser = make_optimiser(cfg.optim)
    shards = sharding.row_shards(mesh)
    rows = _rows(cfg, work, cfg.batch.rows)
    batch = jax.tree.map(lambda x: np.concatenate([x] * shards), rows)
    precision = "highest" if cfg.model.dtype == "float32" else None  # as the trainer has it
    begin = time.perf_counter()
    programs: dict[str, Program] = {}
    with sharding.on(mesh), jax.default_matmul_precision(precision):
        abstract = train.abstract_state(decoder, optimiser, mesh)
        differentiate, _, update = train.jit_step(
            cfg, decoder, optimiser, abstract, learning_rate(cfg.optim, 1000)
        )
        layout = NamedSharding(mesh, PartitionSpec(sharding.ROWS))
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), batch
        )
        sums = sharding.with_layout(jax.eval_shape(differentiate, abstract.params, placed), mesh)
        state_bytes, sums_bytes = _bytes(abstract), _bytes(sums)
        beside = state_bytes - _bytes(abstract.params)  # lies there while gradients are computed
        if micro_batches(cfg, batch) > 1:
            beside += sums_bytes  # of those before
        needed, limit = 0.0, chip.memory * chip.usable
        for name, function, args, others in (
            ("differentiate", differentiate, (abstract.params, placed), beside),
            # The sums of the next step are there before those of the last one are gone.
            ("update", update, (abstract, sums), sums_bytes),
        ):
            log.info("compiling %s for %s", name, topology)
            try:
                program = Program.of(*compile_for(function, *args), len(devices))
            except DoesNotFit as error:
                needed, limit = max(needed, error.needed + others), min(limit, error.limit)
                break
            programs[name] = program
            needed = max(needed, program.peak + program.code + others)
    whole = programs if len(programs) == 2 else {}
    per_row = row_flops(cfg, decoder, jax.tree.map(lambda x: x[:1], rows))
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
        differentiate=whole.get("differentiate"),
        update=whole.get("update"),
        flops=per_row * cfg.batch.rows * shards,
        seconds=time.perf_counter() - begin,
    )


def micro_batches(cfg: ConfigDict, batch: Batch) -> int:
    """How many micro-batches, each as full as this one, a step of the config is worth."""
    if cfg.batch.interactions:
        return math.ceil(cfg.batch.interactions / bench.interactions(batch))
    trees = int(np.asarray(batch.trunk.segment_BxL).max(axis=1).sum())
    return math.ceil(cfg.batch.conversations / trees)


def row_flops(cfg: ConfigDict, decoder: Decoder, row: Batch) -> int:
    """FLOPs of the gradient of one row, recomputation included."""
    objective = OBJECTIVES[cfg.objective.name]
    step = functools.partial(
        train.differentiate,
        decoder=decoder,
        forward=scoring.FORWARD[cfg.sharing],
        objective=objective,
    )
    params = jax.eval_shape(decoder.fresh_params, 0)
    return flops.count(step, params, row)


def _decoder(cfg: ConfigDict, model: DecoderConfig, attention: str) -> Decoder:
    return Decoder(
        model,
        dtype=jnp.dtype(cfg.model.dtype),
        param_dtype=jnp.dtype(cfg.model.param_dtype),
        remat=cfg.remat,
        attention=attention,
    )


def _rows(cfg: ConfigDict, work: Work, height: int) -> Batch:
    return full_rows(work.trees, cfg.batch.row_tokens, height, cfg.objective.ignore_first)


def _bytes(abstract: Any) -> int:
    """Of one device's share of a tree of shapes with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(abstract)
    )


# ----------------------------------------------------------------------- what would make it fit

Change = dict[str, Any]  # settings by their full name, and "topology"


def first_that_fits(
    cfg: ConfigDict, work: Work, topology: str
) -> tuple[Change, Plan] | tuple[None, None]:
    """The first change of settings or slice with which it fits, compiled; (None, None) if none is.

    What cannot fit, because state, gradients and the kept inputs of layers are too much already,
    is not compiled.
    """
    for change in changes(cfg, work, topology):
        other = cfg.copy_and_resolve_references().unlock()
        for name, value in change.items():
            if name != "topology":
                config.override(other, f"{name}={value}")
        where = change.get("topology", topology)
        told = ", ".join(f"{name}={value}" for name, value in change.items())
        trees = work if other.batch.row_tokens == cfg.batch.row_tokens else shorter(other, work)
        least, limit = least_bytes(other, trees, where)
        if least > limit:
            log.info("%s: needs at least %.1f GiB", told, least / chips.GIB)
            continue
        plan = make_plan(other.lock(), trees, where)
        log.info("%s: %.2f of %.2f GiB", told, plan.needed / chips.GIB, plan.limit / chips.GIB)
        if plan.fits:
            return change, plan
    return None, None


def shorter(cfg: ConfigDict, work: Work) -> Work:
    """The same with conversations that are no longer than a row."""
    return synthetic_work(cfg, work.model, work.name)


def changes(cfg: ConfigDict, work: Work, topology: str) -> Iterator[Change]:
    """What to try, each on top of those before it; the cheapest for the run first."""
    kept: Change = {}
    if cfg.remat != "full":
        kept = {**kept, "remat": "full"}
        yield kept
    devices = len(devices_of(topology))
    if cfg.mesh.fsdp not in (-1, devices):
        kept = {**kept, "mesh.data": 1, "mesh.fsdp": devices, "mesh.tensor": 1}
        yield kept
    if cfg.batch.rows > 1:
        kept = {**kept, "batch.rows": 1}
        yield kept
    for tensor in (2, 4, 8):
        if tensor < devices and work.model.kv_heads % tensor == 0:
            yield {**kept, "mesh.data": 1, "mesh.fsdp": devices // tensor, "mesh.tensor": tensor}
    for part in (2, 4):
        tokens = cfg.batch.row_tokens // part
        if tokens >= 512:
            yield {**kept, "batch.row_tokens": tokens, "data.max_length": tokens}
    family = topology.partition(":")[0]
    larger = (s for s in SLICES.get(family, ()) if math.prod(map(int, s.split("x"))) > devices)
    for slice_ in itertools.islice(larger, 4):
        spread = {"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": 1}
        yield {**kept, **spread, "topology": f"{family}:{slice_}"}


def least_bytes(cfg: ConfigDict, work: Work, topology: str) -> tuple[float, float]:
    """(bytes that a device needs at the very least, bytes that it has)."""
    devices = devices_of(topology)
    mesh = sharding.make_mesh(**cfg.mesh, devices=devices)
    chip = chips.chip_of(devices[0].device_kind)
    with sharding.on(mesh):
        decoder = _decoder(cfg, work.model, backend_for(cfg.attention, mesh))
        abstract = train.abstract_state(decoder, make_optimiser(cfg.optim), mesh)
    sums = _bytes(abstract.params) * 4 // jnp.dtype(cfg.model.param_dtype).itemsize
    row = _rows(cfg, work, 1)
    tokens = cfg.batch.rows * (row.trunk.id_BxL.shape[1] + row.student.id_BxL.shape[1])
    inputs = work.model.layers * tokens * work.model.width * jnp.dtype(cfg.model.dtype).itemsize
    return _bytes(abstract) + sums + inputs, chip.memory * chip.usable


# ------------------------------------------------------------------------------------ the report


def told(change: Change) -> str:
    """A change as arguments of launch/plan.py and launch/train.py."""
    return " ".join(
        f"--topology {value}" if name == "topology" else f"--config.{name}={value}"
        for name, value in change.items()
    )


def lines(plan: Plan) -> list[str]:
    """The plan for people."""

    def gib(n: float) -> str:
        return f"{n / chips.GIB:.2f} GiB"

    batch = plan.batch
    T, P, Q = (s.id_BxL.shape[1] for s in (batch.trunk, batch.student, batch.teacher))
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "1 device"
    usable = f"{gib(plan.limit)} of {gib(plan.chip.memory)} are usable"
    found = [
        f"{plan.work.name}, {plan.parameters / 1e9:.2f}e9 parameters in "
        f"{plan.cfg.model.param_dtype}, {plan.cfg.optim.name}, computed in {plan.cfg.model.dtype}, "
        f"remat={plan.cfg.remat}, attention={plan.attention}",
        f"on {plan.devices} x {plan.chip.name} ({plan.topology}), mesh {mesh}",
        f"rows {batch.trunk.id_BxL.shape[0]} x ({T} trunk + {P} student + {Q} teacher tokens), "
        f"{plan.interactions()} interactions; {plan.work.data}",
        "",
        f"memory of a device: {usable}",
        f"  state (parameters, moments)        {gib(plan.state):>12}",
        f"  sums of gradients                  {gib(plan.sums):>12}",
    ]
    for name in ("differentiate", "update"):
        program = getattr(plan, name)
        if program is not None:
            found.append(
                f"  {name:<11} peak {gib(program.peak)}: arguments {gib(program.arguments)}, "
                f"outputs {gib(program.outputs)}, of these aliased {gib(program.aliased)}, "
                f"temporaries {gib(program.temporaries)}, code {gib(program.code)}"
            )
    verdict = "FITS" if plan.fits else "DOES NOT FIT"
    by = "" if plan.differentiate else ", by the compiler's out-of-memory error"
    found.append(
        f"  in all {gib(plan.needed)}, {plan.needed / plan.limit:.0%} of what is usable{by}: "
        f"{verdict}"
    )
    times = plan.times()
    if times is None:
        return found
    found += ["", f"a micro-batch: {plan.flops / 1e12:,.0f} TFLOP on all devices"]
    for name in ("differentiate", "update"):
        for kind, traffic in sorted(getattr(plan, name).collectives.items()):
            found.append(
                f"  {name:<11} {kind:<19} {traffic.count:7,} times, "
                f"{traffic.bytes / 1e9:8.2f} GB sent by a device"
            )
    parts = ", ".join(
        f"{name} {times[name]:.2f} s" for name in ("compute", "memory", "collectives")
    )
    held = plan.interactions() * plan.micro_batches() / times["step"]
    found += [
        f"estimated time of a micro-batch: {times['micro_batch']:.2f} s (the longest of {parts})",
        f"of a step: {plan.micro_batches()} micro-batch(es) + update {times['update']:.2f} s = "
        f"{times['step']:.2f} s, {held:,.0f} interactions/s",
    ]
    wanted = plan.cfg.batch.interactions
    if wanted and wanted < plan.interactions():
        found.append(
            f"  note: batch.interactions={wanted} fill {wanted / plan.interactions():.0%} of these "
            f"rows; up to {plan.interactions()} cost about the same time"
        )
    return [*found, "assumed:", *(f"  {line}" for line in ASSUMPTIONS)]


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan for programs; bytes and seconds."""
    batch = plan.batch
    return {
        "model": plan.work.name,
        "parameters": plan.parameters,
        "topology": plan.topology,
        "chip": dataclasses.asdict(plan.chip),
        "devices": plan.devices,
        "mesh": plan.mesh,
        "attention": plan.attention,
        "settings": config.to_json(plan.cfg),
        "data": plan.work.data,
        "rows": {
            "height": batch.trunk.id_BxL.shape[0],
            "trunk": batch.trunk.id_BxL.shape[1],
            "student": batch.student.id_BxL.shape[1],
            "teacher": batch.teacher.id_BxL.shape[1],
            "replies": batch.replies.target_BxR.shape[1],
            "interactions": plan.interactions(),
        },
        "memory": {
            "usable": plan.limit,
            "needed": plan.needed,
            "state": plan.state,
            "sums": plan.sums,
        },
        "fits": plan.fits,
        "programs": {
            name: program and dataclasses.asdict(program)
            for name, program in (("differentiate", plan.differentiate), ("update", plan.update))
        },
        "flops": plan.flops,
        "micro_batches": plan.micro_batches(),
        "seconds": plan.times(),
        "assumptions": ASSUMPTIONS,
        "compile_seconds": plan.seconds,
        "versions": {"jax": jax.__version__, "libtpu": _libtpu_version()},
    }
