"""How tests compile programs: as users do, or quickly; for 8 virtual CPU devices, or for one."""

from __future__ import annotations

import functools
import os
from typing import Any

EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
UNOPTIMISED = "jax_disable_most_optimizations"
FUSION_EMITTERS = "xla_cpu_use_fusion_emitters"
LAST_WITH_BOTH = (0, 10)  # the last jax whose compiler for CPUs has both kinds of fusion emitters


def flags_with(flag: str) -> str:
    """The environment's flags of XLA, read when a process starts its devices, and this one."""
    return f"{flags_without(flag)} {flag}".strip()


def flags_without(flag: str) -> str:
    """The environment's flags of XLA without one."""
    return " ".join(each for each in os.environ.get("XLA_FLAGS", "").split() if each != flag)


def flags_of_one_device() -> str:
    """Flags of XLA for a process with one CPU device that compiles as this one does."""
    return flags_without(EIGHT_DEVICES)


def compile_quickly(quickly: bool) -> None:
    """From here on compile almost without optimisation, also in processes started from here; or,
    again, as users do."""
    if quickly == (os.environ.get(UNOPTIMISED.upper()) == "1"):
        return
    import jax

    os.environ[UNOPTIMISED.upper()] = str(int(quickly))
    jax.config.update(UNOPTIMISED, quickly)
    if jax.__version_info__[:2] <= LAST_WITH_BOTH:
        _take_older_emitters(quickly)
    jax.clear_caches()  # programs are found there whatever they were compiled with


def _take_older_emitters(older: bool) -> None:
    """XLA's older way of compiling fusions takes half the time for the whole program. Flags are
    read once per process; for this one, jax's own options of each compilation are extended."""
    from jax._src import compiler

    flag = f"--{FUSION_EMITTERS}=false"
    os.environ["XLA_FLAGS"] = flags_with(flag) if older else flags_without(flag)
    unchanged = _unchanged_options()
    compiler.get_compile_options = _with_older_emitters if older else unchanged


@functools.cache
def _unchanged_options() -> Any:
    from jax._src import compiler

    return compiler.get_compile_options


def _with_older_emitters(*args: Any, **kwargs: Any) -> Any:
    overrides = {**(kwargs.pop("env_options_overrides", None) or {}), FUSION_EMITTERS: False}
    return _unchanged_options()(*args, env_options_overrides=overrides, **kwargs)
