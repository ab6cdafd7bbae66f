"""libtpu compiles for slices that are not here; what it says of a program's bytes."""

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

from interact_jax import chips, hlo, memory
from interact_jax.schema import InputError

SLICES = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}
"""Slices that are offered, small ones first; libtpu knows more."""
HERE = "here"  # the devices of this process, whatever they are


def devices_of(topology: str) -> list[Any]:
    """The devices of a slice, such as v5e:4x4; none of them need be here. Or those that are: HERE.

    Raises InputError where libtpu is missing or knows no such slice.
    """
    if topology == HERE:
        return jax.local_devices()
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
    if libtpu_version() is None:
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


def libtpu_version() -> str | None:
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
    def of(cls, compiled: Any, text: str, devices: int, on_host: bool) -> Program:
        m = compiled.memory_analysis()
        return cls(
            arguments=m.argument_size_in_bytes,
            outputs=m.output_size_in_bytes,
            aliased=m.alias_size_in_bytes,
            temporaries=m.temp_size_in_bytes,
            peak=memory.peak(m, on_host),
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
            found = [m for pattern in (needs, has) if (m := re.search(pattern, said))]
            if len(found) == 2:
                raise DoesNotFit(*(float(m[1]) * units[m[2]] for m in found)) from error
        raise
