"""The device memory that a run needs, by the compiler's own figures, and what is available.

    room = memory.room(mesh)
    needs = memory.needs(differentiate, abstract, batch, mesh, several=True)
    memory.check(needs, room)         logs both; raises DoesNotFit before a weight is loaded

On a CPU, the host's memory is shared by the process, by the devices that jax makes of it, and by
other processes; a container's limit counts.
"""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import math
import os
import platform
import resource
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import psutil
from jax.sharding import NamedSharding, PartitionSpec

from interact_jax import chips, progress, sharding
from interact_jax.data.rows import Packing
from interact_jax.data.tree import Tree
from interact_jax.schema import InputError
from interact_jax.startup import has_accelerator

log = logging.getLogger(__name__)

HOST = "cpu"  # jax's platform for the host itself
TIGHT = 0.9  # share of the room above which a warning is logged
HALF = (
    0.5  # share of the host's room, which other processes use too, up to which checkpoints overlap
)
COMPILER = 3e8  # bytes on the host, to compile for rows of another shape during training
SMALL = 0.25  # share of the host's room up to which freed memory is kept
ADVICE = (
    "What makes it smaller, the cheapest first: remat=full, a larger mesh.fsdp, batch.rows=1, "
    "smaller batch.row_tokens with data.max_length, model.dtype and model.param_dtype=bfloat16, "
    "optim.name=sgd."
)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8  # glibc's malloc.h
KEEP = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1))
RETURN = ((M_MMAP_MAX, 65_536), (M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**25))


class DoesNotFit(InputError):
    """A run needs more memory than is available."""


@dataclasses.dataclass(frozen=True)
class Room:
    """Bytes that a device has, and those of them that the process uses for other things."""

    limit: float
    taken: float
    name: str  # of the device, machine, container or process that sets the limit
    devices: int = 1  # which share that equally


@dataclasses.dataclass(frozen=True)
class Needs:
    """Bytes per device."""

    state: int  # models, moments, counters
    sums: int  # of gradients
    step: int  # everything that is allocated while a step is computed
    copy: int  # of the changing models, as the checkpoint writer copies it
    beside: int = 0  # of other things that exist all the time

    def at_most(self, overlapping: bool) -> int:
        """The peak of a run: with checkpoints that are written during the next steps, which by then
        work on a state of their own, or written before them."""
        own = self.step + 2 * self.copy if overlapping else max(self.step, self.state + self.copy)
        return own + self.beside


# ------------------------------------------------------------------------------------ memory needed


def needs(
    differentiate: Any,
    abstract: Any,
    batch: Any,
    mesh: jax.sharding.Mesh,
    *,
    several: bool,
    fixed: Collection[str] = (),
) -> Needs:
    """Compile the gradient of `batch` (numpy) for the shapes of a state, and measure.

    `several`: a step has more than one micro-batch, so the sums exist while the next is computed.
    The models named `fixed` are in no checkpoint. The first call of `differentiate` with a batch of
    this shape reuses the program that is compiled here.
    """
    placed = abstract_batch(batch, mesh)
    compiled = differentiate.lower(abstract.all_params(), placed).compile()
    analysis = compiled.memory_analysis()
    state, sums = device_bytes(abstract), analysis.output_size_in_bytes
    gradient = peak(analysis, is_host(mesh)) + beside_gradient(abstract, sums, several)
    step = max(gradient, state + sums)  # the latter during the update
    kept = device_bytes({name: abstract.models[name] for name in fixed})
    return Needs(state, sums, step, state - kept if is_host(mesh) else 0)


def abstract_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """The shapes of a batch (numpy), with their shardings."""
    rows = NamedSharding(mesh, PartitionSpec(sharding.ROWS))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch)


def beside_gradient(abstract: Any, sums: int, several: bool) -> int:
    """Bytes that are allocated while a gradient is computed but are not among its arguments: the
    optimiser's state and, where a step has `several` micro-batches, the sums so far."""
    return device_bytes(abstract) - device_bytes(abstract.all_params()) + several * sums


def peak(analysis: Any, on_host: bool) -> int:
    """The peak bytes of a program, by its `memory_analysis`."""
    lasting = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    if on_host:  # where the reported peak excludes temporaries
        return lasting + analysis.temp_size_in_bytes
    return max(analysis.peak_memory_in_bytes, lasting)


def device_bytes(abstract: Any) -> int:
    """Bytes of one device's share of a tree of shapes with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(abstract)
    )


def is_host(mesh: jax.sharding.Mesh) -> bool:
    """Whether the devices are the host's own processors."""
    return mesh.devices.flat[0].platform == HOST


# --------------------------------------------------------------------------------- memory available


def room(mesh: jax.sharding.Mesh) -> Room | None:
    """The memory of a device of this mesh; None where it is not known."""
    device = mesh.local_devices[0]
    if is_host(mesh):
        used, devices = psutil.Process().memory_info().rss, len(mesh.local_devices)
        left, total, name = host_left()
        # Mapped files count in `used`, but not against every limit.
        size = min(used + left, total)
        return Room(size / devices, (used + COMPILER) / devices, name, devices)
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return Room(stats["bytes_limit"], stats.get("bytes_in_use", 0), device.device_kind)
    chip = chips.chip_of(device.device_kind)
    return Room(chip.memory * chip.usable, 0, chip.name) if chip else None


def host_left() -> tuple[int, int, str]:
    """Bytes that the host has left for this process, its bytes in total, and the name of what sets
    the limit."""
    machine = psutil.virtual_memory()
    limits = [(left, total, f"the container ({file})") for left, total, file in cgroups_left()]
    total, _ = resource.getrlimit(resource.RLIMIT_AS)
    if total != resource.RLIM_INFINITY:
        left = max(0, total - psutil.Process().memory_info().vms)
        limits.append((left, total, "this process (ulimit -v)"))
    return min([(machine.available, machine.total, "this machine"), *limits])


def cgroups_left(
    own: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> Iterator[tuple[int, int, Path]]:
    """For each limit of the process's control groups: the bytes left, the bytes in total, and the
    limit's file. Cached file pages can be dropped and count as free."""
    lines = own.read_text().splitlines() if own.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = mounted, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = mounted / "memory"
        else:
            continue
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if (sizes := _cgroup_left(folder, *names)) is not None:
                yield *sizes, folder / names[0]
            if folder == top:
                break


def _cgroup_left(folder: Path, limit: str, usage: str, files: str) -> tuple[int, int] | None:
    try:
        maximum, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        if not maximum.isdigit():  # max
            return None
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(maximum) - used + int(stat.get(files, 0)), int(maximum)
    except (OSError, ValueError):
        return None


# -------------------------------------------------------------------------------- comparing the two


def check_run(
    differentiate: Any,
    abstract: Any,
    packing: Packing,
    trees: Sequence[Tree],
    mesh: jax.sharding.Mesh,
    fixed: Collection[str],
    copies: int = 0,
) -> bool:
    """Whether checkpoints may overlap with the steps of a run, one of which works on `trees`; see
    `needs`. There are `copies` of the policy's parameters beside those that are trained. Also
    configures the allocator.

    Raises DoesNotFit where the steps alone need more than is available.
    """
    several = packing.count(trees) > 1
    with progress.of("compiling a step"):
        needed = needs(
            differentiate, abstract, packing.largest(trees), mesh, several=several, fixed=fixed
        )
    needed = dataclasses.replace(needed, beside=copies * device_bytes(abstract.params))
    overlapping = check(needed, room(mesh))
    check_host(needed, mesh)
    choose_allocator(needed.step + needed.beside, mesh)
    return overlapping


def check(needs: Needs, room: Room | None) -> bool:
    """Log what a run needs and what is available, before it begins; returns whether checkpoints may
    overlap with the next steps, which takes a copy of the state as well.

    Raises DoesNotFit where not even a step has room.
    """
    parts = (
        f"{format_bytes(needs.state)} state, {format_bytes(needs.sums)} gradients, "
        f"{format_bytes(needs.step - needs.state - needs.sums)} temporaries"
    )
    if needs.beside:
        parts += f", {format_bytes(needs.beside)} parameters to sample from"
    if room is None:
        log.info("memory of a device: %s (%s)", format_bytes(needs.step + needs.beside), parts)
        return True
    overlapping = room.taken + needs.at_most(True) <= room.limit * (HALF if needs.copy else 1)
    needed = room.taken + needs.at_most(overlapping)
    if needs.copy:
        parts += f", {format_bytes(needs.copy)} a checkpoint's copy"
        parts += "" if overlapping else ", written before the next step"
    if room.taken:
        parts = f"{format_bytes(room.taken)} process and compiler, {parts}"
    message = f"{format_bytes(needed)} of {format_bytes(room.limit)} that {room.name} has"
    if room.devices > 1:
        message += f" for each of {room.devices} devices"
    if needed > room.limit:
        raise DoesNotFit(f"the run does not fit into memory: a device needs {message} ({parts}).")
    if needed > TIGHT * room.limit:
        log.warning("memory: a device needs %s, which is tight\n  %s", message, parts)
    else:
        log.info("memory: a device needs %s\n  %s", message, parts)
    return overlapping


def check_host(needs: Needs, mesh: jax.sharding.Mesh) -> None:
    """Warn where the host of accelerators cannot hold a checkpoint's copy of the state."""
    copy, (left, _, name) = needs.state * len(mesh.local_devices), host_left()
    if not is_host(mesh) and copy > left:
        log.warning(
            "memory: a checkpoint copies %s to the host, where %s has %s left",
            format_bytes(copy),
            name,
            format_bytes(left),
        )


def format_bytes(number: float) -> str:
    """A number of bytes in GB, MB or kB."""
    if number >= 1e9:
        return f"{number / 1e9:.1f} GB"
    return f"{number / 1e6:.0f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


# ----------------------------------------------------------------------------- the host's allocator


def keep_freed() -> None:
    """On a CPU, keep the memory that XLA frees for the next step.

    A step allocates and frees hundreds of megabytes; glibc returns large blocks to the system at
    once, which then clears and maps every page again: up to a quarter of a small model's step. To
    be called before JAX starts its threads, which would get heaps of their own. Does
    nothing without glibc, with an accelerator, or where GLIBC_TUNABLES is set.
    """
    if os.environ.get("JAX_PLATFORMS") == HOST or not has_accelerator():
        _set_allocator(KEEP)


def return_freed() -> None:
    """Return what XLA frees to the system, as glibc does by default: kept memory is fragmented, and
    a large model's arrays do not fit into the gaps."""
    _set_allocator(RETURN)


def choose_allocator(needed: float, mesh: jax.sharding.Mesh) -> None:
    """`return_freed` if a device needs more than a small share of the host's memory."""
    available = room(mesh) if is_host(mesh) else None
    if available is not None and needed > SMALL * available.limit:
        return_freed()


def trim() -> None:
    """Return memory to the system that was freed in blocks too small for automatic return."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _set_allocator(parameters: Iterable[tuple[int, int]]) -> None:
    if platform.libc_ver()[0] != "glibc" or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in parameters:
        mallopt(parameter, value)
