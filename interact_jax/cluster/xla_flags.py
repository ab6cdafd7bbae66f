"""XLA's flags that let collectives run beside computation, in one place and with their sources.

    xla_flags.add(place, os.environ)    before the first use of jax

They are set where there is something to hide: in a run of several processes, and on a machine with
several devices. XLA reads them when it starts, and ends a process that names one it does not know;
tests/cluster/test_xla_flags.py checks them with the versions of constraints.txt. A flag that the
user has set stays as it is: XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=false turns ours
off.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path

from interact_jax.cluster.place import Place

FLAGS: dict[str, dict[str, str]] = {
    "gpu": {
        # JAX-Toolbox's images set this one (.github/container/Dockerfile.jax); off by default.
        "xla_gpu_enable_latency_hiding_scheduler": "true",
        # A layer's collectives beside the layer before or after it: without these, nothing leaves
        # the body of the loop over layers. JAX-Toolbox, docs/GPU_performance.md, where they are
        # part of what JAX_OPTIMIZATION_LEVEL=O1 turns on; and MaxText's runs of Llama. Its
        # while_loop_double_buffering is left out: it compiles every layer twice.
        "xla_gpu_enable_pipelined_all_gather": "true",
        "xla_gpu_enable_pipelined_all_reduce": "true",
        "xla_gpu_enable_pipelined_reduce_scatter": "true",
    },
    # Within a slice libtpu hides collectives by default (xla_tpu_enable_latency_hiding_scheduler
    # and async_collective_fusion are on: OpenXLA, docs/flags_guidance.md). These two are for the
    # all-reduces of gradients between slices: MaxText, benchmarks/xla_flags_library.py,
    # DATA_PARALLEL_OVERLAP; explained in OpenXLA's docs/flags_guidance.md.
    "tpu": {
        "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
        "xla_tpu_data_parallel_opt_different_sized_ops": "true",
    },
}
"""Flags by the kind of device, without their dashes."""

VARIABLES = {"gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}
DEVICE_FILES = {"gpu": ("nvidia[0-9]*",), "tpu": ("accel[0-9]*", "vfio/[0-9]*")}


def add(place: Place, environment: MutableMapping[str, str], devices: Path = Path("/dev")) -> None:
    """Set the flags of the devices of this machine, whose files are in `devices`, in `environment`;
    nothing without an accelerator, and for a process that is alone with one."""
    for kind, patterns in DEVICE_FILES.items():
        count = sum(len(list(devices.glob(pattern))) for pattern in patterns)
        if count > 1 or (count and not place.is_alone):
            variable = VARIABLES[kind]
            environment[variable] = with_flags(environment.get(variable, ""), FLAGS[kind])


def with_flags(given: str, flags: Mapping[str, str]) -> str:
    """What is given and, behind it, those of the flags that it does not name.

    with_flags("--a=1", {"a": "2", "b": "3"}) == "--a=1 --b=3". The name of a file with flags, which
    XLA takes, too, stays alone.
    """
    if given.strip() and not given.lstrip().startswith("-"):
        return given
    named = {flag.lstrip("-").partition("=")[0] for flag in given.split()}
    ours = [f"--{name}={value}" for name, value in flags.items() if name not in named]
    return " ".join([*given.split(), *ours])
