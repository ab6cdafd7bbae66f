"""What a run needs of its devices' memory, by the compiler's own figures, and what they have.

    room = memory.room(mesh)
    needs = memory.needs(differentiate, abstract, batch, mesh, several=True)
    memory.check(needs, room)         says it; raises DoesNotFit before a weight is loaded

Where the host itself computes, its memory is shared by the process, by the devices that jax makes
of it, and by what else runs there; a container's limit counts.
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

HOST = "cpu"  # the platform of jax that is the host itself
TIGHT = 0.9  # of the room: from there on a run is warned
HALF = 0.5  # of the host's, which others want too: up to there checkpoints are written beside steps
COMPILER = 3e8  # bytes on the host, for the rows of another shape, while everything lies there
SMALL = 0.25  # of it: what needs no more may keep what it frees
ADVICE = (
    "What makes it smaller, the cheapest first: remat=full, a larger mesh.fsdp, batch.rows=1, "
    "smaller batch.row_tokens with data.max_length, model.dtype and model.param_dtype=bfloat16, "
    "optim.name=sgd."
)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8  # glibc's malloc.h
KEEP = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1))
RETURN = ((M_MMAP_MAX, 65_536), (M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**25))


class DoesNotFit(InputError):
    """A run needs more memory than there is."""


@dataclasses.dataclass(frozen=True)
class Room:
    """Bytes that a device can give, and those of them that the process takes for other things."""

    limit: float
    taken: float
    name: str  # of what has the limit


@dataclasses.dataclass(frozen=True)
class Needs:
    """Bytes of one device."""

    state: int  # models, moments, counters
    sums: int  # of gradients
    step: int  # all that lies there while a step is computed
    copy: int  # of what moves, as a checkpoint's writer packs it

    def at_most(self, overlapping: bool) -> int:
        """Of a run; with checkpoints that are written beside the next steps, which work on a state
        of their own by then, or before them."""
        return self.step + 2 * self.copy if overlapping else max(self.step, self.state + self.copy)


# ----------------------------------------------------------------------------------- what is needed


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

    `several`: a step has more micro-batches than one, so there are sums while others are computed.
    The models named `fixed` are in no checkpoint. The first call of `differentiate` with a batch of
    this shape finds what is compiled here.
    """
    rows = NamedSharding(mesh, PartitionSpec(sharding.ROWS))
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch)
    compiled = differentiate.lower(abstract.all_params(), placed).compile()
    analysis = compiled.memory_analysis()
    state, sums = device_bytes(abstract), analysis.output_size_in_bytes
    gradient = peak(analysis, is_host(mesh)) + beside_gradient(abstract, sums, several)
    step = max(gradient, state + sums)  # the latter while the update is computed
    kept = device_bytes({name: abstract.models[name] for name in fixed})
    return Needs(state, sums, step, state - kept if is_host(mesh) else 0)


def beside_gradient(abstract: Any, sums: int, several: bool) -> int:
    """Bytes of what lies there while a gradient is computed and is none of its arguments: the
    optimiser's state, and the sums of the micro-batches before, where a step has `several`."""
    return device_bytes(abstract) - device_bytes(abstract.all_params()) + several * sums


def peak(analysis: Any, on_host: bool) -> int:
    """Bytes of a program that lie there together, by its `memory_analysis`."""
    lasting = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    if on_host:  # whose peak leaves temporaries out
        return lasting + analysis.temp_size_in_bytes
    return max(analysis.peak_memory_in_bytes, lasting)


def device_bytes(abstract: Any) -> int:
    """Of one device's share of a tree of shapes with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(abstract)
    )


def is_host(mesh: jax.sharding.Mesh) -> bool:
    """Whether the host's own processors compute."""
    return mesh.devices.flat[0].platform == HOST


# ------------------------------------------------------------------------------------ what is there


def room(mesh: jax.sharding.Mesh) -> Room | None:
    """What a device of this mesh has for us; None where nobody tells."""
    device = mesh.local_devices[0]
    if is_host(mesh):
        held, devices = psutil.Process().memory_info().rss, len(mesh.local_devices)
        left, most, name = host_left()
        # What is read from files counts in `held`, but not against every limit.
        return Room(min(held + left, most) / devices, (held + COMPILER) / devices, name)
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return Room(stats["bytes_limit"], stats.get("bytes_in_use", 0), device.device_kind)
    chip = chips.chip_of(device.device_kind)
    return Room(chip.memory * chip.usable, 0, chip.name) if chip else None


def host_left() -> tuple[int, int, str]:
    """Bytes that the host still has for this process, bytes that it has in all, and the name of
    what has the limit."""
    machine = psutil.virtual_memory()
    limits = [(left, most, f"the container ({file})") for left, most, file in cgroups_left()]
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        left = max(0, most - psutil.Process().memory_info().vms)
        limits.append((left, most, "this process (ulimit -v)"))
    return min([(machine.available, machine.total, "this machine"), *limits])


def cgroups_left(
    own: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> Iterator[tuple[int, int, Path]]:
    """Bytes that the process's control groups still allow, those that they allow in all, and the
    file of each limit. What they hold of files can be dropped, and counts as free."""
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
            if (found := _left(folder, *names)) is not None:
                yield *found, folder / names[0]
            if folder == top:
                break


def _left(folder: Path, limit: str, usage: str, files: str) -> tuple[int, int] | None:
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        if not most.isdigit():  # max
            return None
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(most) - used + int(stat.get(files, 0)), int(most)
    except (OSError, ValueError):
        return None


# ------------------------------------------------------------------------------- both, and in words


def check_run(
    differentiate: Any,
    abstract: Any,
    packing: Packing,
    trees: Sequence[Tree],
    mesh: jax.sharding.Mesh,
    fixed: Collection[str],
) -> bool:
    """Whether checkpoints may be written beside the steps of a run, of which one works on `trees`;
    see `needs`. The allocator is set for it.

    Raises DoesNotFit where the steps alone need more than there is.
    """
    several = packing.count(trees) > 1
    with progress.of("compiling a step"):
        needed = needs(
            differentiate, abstract, packing.largest(trees), mesh, several=several, fixed=fixed
        )
    overlapping = check(needed, room(mesh))
    check_host(needed, mesh)
    settle(needed.step, mesh)
    return overlapping


def check(needs: Needs, room: Room | None) -> bool:
    """Say what a run needs and what there is, before it begins; whether checkpoints may be written
    beside its next steps, which takes their copy of the state as well.

    Raises DoesNotFit where not even a step has room.
    """
    parts = (
        f"{size(needs.state)} state, {size(needs.sums)} gradients, "
        f"{size(needs.step - needs.state - needs.sums)} temporaries"
    )
    if room is None:
        log.info("memory of a device: %s (%s)", size(needs.step), parts)
        return True
    overlapping = room.taken + needs.at_most(True) <= room.limit * (HALF if needs.copy else 1)
    needed = room.taken + needs.at_most(overlapping)
    if needs.copy:
        parts += f", {size(needs.copy)} a checkpoint's copy"
        parts += "" if overlapping else ", written before the next step"
    if room.taken:
        parts = f"{size(room.taken)} process and compiler, {parts}"
    said = f"{size(needed)} of {size(room.limit)} that {room.name} has"
    if needed > room.limit:
        raise DoesNotFit(f"the run does not fit into memory: a device needs {said} ({parts}).")
    if needed > TIGHT * room.limit:
        log.warning("memory: a device needs %s, which is tight\n  %s", said, parts)
    else:
        log.info("memory: a device needs %s\n  %s", said, parts)
    return overlapping


def check_host(needs: Needs, mesh: jax.sharding.Mesh) -> None:
    """Warn where the host of accelerators cannot hold the copy that a checkpoint makes."""
    copy, (left, _, name) = needs.state * len(mesh.local_devices), host_left()
    if not is_host(mesh) and copy > left:
        log.warning(
            "memory: a checkpoint copies %s to the host, where %s has %s left",
            size(copy),
            name,
            size(left),
        )


def size(number: float) -> str:
    """In words."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


# ----------------------------------------------------------------------------- the host's allocator


def keep_freed() -> None:
    """Where the host itself computes, keep the memory that XLA frees for the next step.

    A step allocates hundreds of megabytes and frees them; glibc hands large pieces back at once,
    and the system clears and maps every page anew, which takes up to a quarter of a small model's
    step. To be called before JAX starts its threads, which would get heaps of their own. Nothing is
    done without glibc, where an accelerator is, or where GLIBC_TUNABLES tells what is wanted.
    """
    if os.environ.get("JAX_PLATFORMS") == HOST or not has_accelerator():
        _set_allocator(KEEP)


def return_freed() -> None:
    """Hand back what XLA frees, as glibc does by itself: what is kept lies in pieces, and a large
    model's arrays do not fit into those of others."""
    _set_allocator(RETURN)


def settle(needed: float, mesh: jax.sharding.Mesh) -> None:
    """`return_freed` where a device needs more than a small share of the host's memory."""
    there = room(mesh) if is_host(mesh) else None
    if there is not None and needed > SMALL * there.limit:
        return_freed()


def trim() -> None:
    """Hand back now what was freed in small pieces, too small to be handed back by itself."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _set_allocator(parameters: Iterable[tuple[int, int]]) -> None:
    if platform.libc_ver()[0] != "glibc" or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in parameters:
        mallopt(parameter, value)
