"""A plan as lines of text and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from interact_jax import config
from interact_jax.memory import format_bytes
from interact_jax.plan.compiler import HERE, libtpu_version
from interact_jax.plan.step import ASSUMPTIONS, Plan
from interact_jax.printable import format_parameters

# Size -> name of units, the largest first.
FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def lines(plan: Plan) -> list[str]:
    """The plan as text."""
    batch = plan.batch
    T, P, Q = (s.id_BxL.shape[1] for s in (batch.trunk, batch.live, batch.frozen))
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "1 device"
    slices = f"{plan.mesh['slice']} slices of " if plan.mesh.get("slice", 1) > 1 else ""
    result = [
        f"{plan.work.name}, {format_parameters(plan.parameters)} parameters in "
        f"{plan.cfg.model.param_dtype}, {plan.cfg.optim.name}, computed in {plan.cfg.model.dtype}, "
        f"remat={plan.cfg.remat}, attention={plan.attention}",
        f"on {plan.devices} x {plan.chip.name} ({slices}{plan.topology}), mesh {mesh}",
        f"rows {batch.trunk.id_BxL.shape[0]} x ({T} trunk + {P} live + {Q} frozen branch tokens), "
        f"{plan.interactions()} interactions; {plan.work.data}",
        "",
        f"memory of a device: {_available(plan)}",
        f"  state (parameters, moments)        {format_bytes(plan.state):>12}",
        f"  sums of gradients                  {format_bytes(plan.sums):>12}",
    ]
    for name in ("differentiate", "update"):
        program = getattr(plan, name)
        if program is not None:
            parts = {
                "arguments": program.arguments,
                "outputs": program.outputs,
                "of these aliased": program.aliased,
                "temporaries": program.temporaries,
                "code": program.code,
            }
            said = ", ".join(f"{part} {format_bytes(size)}" for part, size in parts.items())
            result.append(f"  {name:<11} peak {format_bytes(program.peak)}: {said}")
    verdict = "FITS" if plan.fits else "DOES NOT FIT"
    source = "" if plan.differentiate else ", by the compiler's out-of-memory error"
    result.append(
        f"  in all {format_bytes(plan.needed)}, {plan.needed / plan.limit:.1%} of what is usable"
        f"{source}: {verdict}"
    )
    times = plan.times()
    if times is None:
        return result
    result += ["", f"a micro-batch: {_scaled(plan.flops, FLOPS)} on all devices"]
    for name in ("differentiate", "update"):
        program = getattr(plan, name)
        for axes, collectives in program.by_axes.items():
            where = " between slices" if axes == "slice" else f" over {axes}"
            for kind, traffic in sorted(collectives.items()):
                result.append(
                    f"  {name:<11} {kind:<19} {traffic.count:7,} times, "
                    f"{format_bytes(traffic.bytes):>8} sent by a device{where if axes else ''}"
                )
    spent = {name: _scaled(seconds, SECONDS) for name, seconds in times.items()}
    pieces = ("compute", "memory", "collectives", "network")
    longest = ", ".join(f"{name} {spent[name]}" for name in pieces if name in spent)
    per_second = plan.interactions() * plan.micro_batches() / times["step"]
    result += [
        f"estimated time of a micro-batch: {spent['micro_batch']} (the longest of {longest})",
        f"of a step: {plan.micro_batches()} micro-batch(es) + update {spent['update']} = "
        f"{spent['step']}, {_number(per_second)} interactions/s",
    ]
    wanted = plan.cfg.batch.interactions
    if wanted and wanted < plan.interactions():
        result.append(
            f"  note: batch.interactions={wanted} fill {wanted / plan.interactions():.0%} of these "
            f"rows; up to {plan.interactions()} cost about the same time"
        )
    return [*result, "assumed:", *(f"  {line}" for line in ASSUMPTIONS)]


def _available(plan: Plan) -> str:
    """What programs may use of a device's memory, as text."""
    if plan.topology == HERE:
        return (
            f"{format_bytes(plan.limit)} are left here; a run's process and the compiler come on "
            "top of these figures"
        )
    return f"{format_bytes(plan.limit)} of {format_bytes(plan.chip.memory)} are usable"


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    """A quantity in the largest of these units that it reaches: "3.2 ms"."""
    if not value:
        return f"0 {units[0][1]}"
    size, unit = next((unit for unit in units if value >= unit[0]), units[-1])
    return f"{_number(value / size)} {unit}"


def _number(value: float) -> str:
    """Three digits, and those before the point: "0.0321", "4.5", "1,234"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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
            name: program and program.to_json()
            for name, program in (("differentiate", plan.differentiate), ("update", plan.update))
        },
        "flops": plan.flops,
        "micro_batches": plan.micro_batches(),
        "seconds": plan.times(),
        "assumptions": ASSUMPTIONS,
        "compile_seconds": plan.seconds,
        "versions": {"jax": jax.__version__, "libtpu": libtpu_version()},
    }
