"""Compiling for TPU slices that are not present, with libtpu; the bytes of a program."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from interact_jax import hlo, memory
from interact_jax.schema import InputError

SLICES = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v6e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}
"""Slices that are suggested, small ones first; libtpu knows more."""
HERE = "here"  # the devices of this process, of any kind


def devices_of(topology: str, slices: int = 1) -> list[Any]:
    """The devices of so many slices, such as v5e:4x4, present or not; with HERE those of this
    process.

    Raises InputError where libtpu is missing or knows no such slice.
    """
    if topology == HERE:
        return jax.local_devices()
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask
    os.environ.setdefault(
        "TPU_WORKER_HOSTNAMES", "localhost"
    )  # this and the next silence a warning
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")  # for any slice
    # Compiling uses no chip, so several processes may do it, even beside one that trains.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    family, _, shape = topology.partition(":")
    options: dict[str, Any] = host_bounds(shape)
    if slices > 1:
        options["num_slices"] = slices
    if family == "v4":
        options["chip_config_name"] = "megacore"  # one device per chip
    examples = "; ".join(f"{name}:{', '.join(s[:5])}" for name, s in SLICES.items())
    there_is = f"There is, for instance, {examples}, and larger ones."
    if not shape:
        raise InputError(
            f"--topology {topology}: expected GENERATION:SHAPE, such as v5e:4x4. {there_is}"
        )
    if libtpu_version() is None:
        raise InputError("plans are compiled by libtpu, which is not installed: pip install libtpu")
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        ).devices
    except Exception as error:  # its type depends on the version of jax
        message = str(error).splitlines()[0]
        if "libtpu" in message and "lockfile" in message:
            raise InputError(
                f"another process holds libtpu ({message}). Wait for it, or set "
                "ALLOW_MULTIPLE_LIBTPU_LOAD=1: compiling uses no chip."
            ) from error
        raise InputError(
            f"--topology {topology}: the compiler knows no such slice ({message}). {there_is}"
        ) from error


def host_bounds(shape: str) -> dict[str, Any]:
    """The chips of a host in a slice narrower than the 2 x 2 that libtpu assumes, as its option."""
    sides = [int(side) for side in shape.split("x")[:2] if side.isdigit()]
    if len(sides) < 2 or min(sides) != 1:
        return {}
    return {"chips_per_host_bounds": [*(min(side, 2) for side in sides), 1]}


def libtpu_version() -> str | None:
    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return None


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program. Bytes are per device, by the compiler's own figures."""

    arguments: int
    outputs: int
    aliased: int  # outputs that reuse the memory of arguments
    temporaries: int
    peak: int  # of all of these together
    code: int
    found: tuple[hlo.Collective, ...] = ()

    @classmethod
    def of(cls, compiled: Any, text: str, mesh: jax.sharding.Mesh) -> Program:
        m = compiled.memory_analysis()
        return cls(
            arguments=m.argument_size_in_bytes,
            outputs=m.output_size_in_bytes,
            aliased=m.alias_size_in_bytes,
            temporaries=m.temp_size_in_bytes,
            peak=memory.peak(m, memory.is_host(mesh)),
            code=m.generated_code_size_in_bytes,
            found=tuple(hlo.each(text, mesh.shape)),
        )

    @property
    def collectives(self) -> dict[str, hlo.Traffic]:
        """Those within a slice, by kind."""
        return hlo.total(one for one in self.found if "slice" not in one.axes)

    @property
    def across(self) -> dict[str, hlo.Traffic]:
        """Those between slices, by kind."""
        return hlo.total(one for one in self.found if "slice" in one.axes)

    @property
    def by_axes(self) -> dict[str, dict[str, hlo.Traffic]]:
        """All of them by the axes of the mesh that they go over, and by kind."""
        return hlo.by_axes(self.found)

    def to_json(self) -> dict[str, Any]:
        """Its figures, without every single collective."""
        figures = dataclasses.asdict(dataclasses.replace(self, found=()))
        del figures["found"]
        traffic = {name: getattr(self, name) for name in ("collectives", "across", "by_axes")}
        return figures | jax.tree.map(dataclasses.asdict, traffic)


class DoesNotFit(Exception):
    """The compiler ran out of the device's memory; the bytes needed and available, as it says."""

    def __init__(self, needed: float, limit: float):
        super().__init__(f"{memory.format_bytes(needed)} of {memory.format_bytes(limit)}")
        self.needed, self.limit = needed, limit


def compile_for(function: Any, *args: Any) -> tuple[Any, str]:
    """Compile a jitted function for the devices of its arguments; returns the program and its text.

    Raises DoesNotFit where their memory does not suffice.
    """
    lowered = function.lower(*args)
    try:
        # The compiler writes the text itself: jaxlib's `as_text` cannot print everything that a
        # newer libtpu produces (jaxlib 0.10.2 fails on a v5p's asynchronous updates).
        with tempfile.TemporaryDirectory() as folder:
            options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
            compiled = lowered.compile(compiler_options=options)
            written = sorted(Path(folder).glob("*after_codegen.txt"))
            return compiled, written[0].read_text() if written else compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
            raise
        units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
        for needs, has in (
            (r"Used ([\d.]+)([KMGT])", r"of ([\d.]+)([KMGT]) hbm"),
            (r"required[^()]*\(([\d.]+)([KMGT])", r"available HBM \(([\d.]+)([KMGT])"),
        ):
            matches = [m for pattern in (needs, has) if (m := re.search(pattern, message))]
            if len(matches) == 2:
                raise DoesNotFit(*(float(m[1]) * units[m[2]] for m in matches)) from error
        raise
