"""A plan as lines of text and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from interact_jax import chips, config
from interact_jax.plan.compiler import libtpu_version
from interact_jax.plan.step import ASSUMPTIONS, Plan


def lines(plan: Plan) -> list[str]:
    """The plan as text."""

    def gib(n: float) -> str:
        return f"{n / chips.GIB:.2f} GiB"

    batch = plan.batch
    T, P, Q = (s.id_BxL.shape[1] for s in (batch.trunk, batch.live, batch.frozen))
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "1 device"
    usable = f"{gib(plan.limit)} of {gib(plan.chip.memory)} are usable"
    result = [
        f"{plan.work.name}, {plan.parameters / 1e9:.2f}e9 parameters in "
        f"{plan.cfg.model.param_dtype}, {plan.cfg.optim.name}, computed in {plan.cfg.model.dtype}, "
        f"remat={plan.cfg.remat}, attention={plan.attention}",
        f"on {plan.devices} x {plan.chip.name} ({plan.topology}), mesh {mesh}",
        f"rows {batch.trunk.id_BxL.shape[0]} x ({T} trunk + {P} live + {Q} frozen branch tokens), "
        f"{plan.interactions()} interactions; {plan.work.data}",
        "",
        f"memory of a device: {usable}",
        f"  state (parameters, moments)        {gib(plan.state):>12}",
        f"  sums of gradients                  {gib(plan.sums):>12}",
    ]
    for name in ("differentiate", "update"):
        program = getattr(plan, name)
        if program is not None:
            result.append(
                f"  {name:<11} peak {gib(program.peak)}: arguments {gib(program.arguments)}, "
                f"outputs {gib(program.outputs)}, of these aliased {gib(program.aliased)}, "
                f"temporaries {gib(program.temporaries)}, code {gib(program.code)}"
            )
    verdict = "FITS" if plan.fits else "DOES NOT FIT"
    source = "" if plan.differentiate else ", by the compiler's out-of-memory error"
    result.append(
        f"  in all {gib(plan.needed)}, {plan.needed / plan.limit:.0%} of what is usable{source}: "
        f"{verdict}"
    )
    times = plan.times()
    if times is None:
        return result
    result += ["", f"a micro-batch: {plan.flops / 1e12:,.0f} TFLOP on all devices"]
    for name in ("differentiate", "update"):
        for kind, traffic in sorted(getattr(plan, name).collectives.items()):
            result.append(
                f"  {name:<11} {kind:<19} {traffic.count:7,} times, "
                f"{traffic.bytes / 1e9:8.2f} GB sent by a device"
            )
    parts = ", ".join(
        f"{name} {times[name]:.2f} s" for name in ("compute", "memory", "collectives")
    )
    per_second = plan.interactions() * plan.micro_batches() / times["step"]
    result += [
        f"estimated time of a micro-batch: {times['micro_batch']:.2f} s (the longest of {parts})",
        f"of a step: {plan.micro_batches()} micro-batch(es) + update {times['update']:.2f} s = "
        f"{times['step']:.2f} s, {per_second:,.0f} interactions/s",
    ]
    wanted = plan.cfg.batch.interactions
    if wanted and wanted < plan.interactions():
        result.append(
            f"  note: batch.interactions={wanted} fill {wanted / plan.interactions():.0%} of these "
            f"rows; up to {plan.interactions()} cost about the same time"
        )
    return [*result, "assumed:", *(f"  {line}" for line in ASSUMPTIONS)]


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON, in bytes and seconds."""
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
            "live": batch.live.id_BxL.shape[1],
            "frozen": batch.frozen.id_BxL.shape[1],
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
        "versions": {"jax": jax.__version__, "libtpu": libtpu_version()},
    }
