"""Operations of ours in C++, compiled on the machine where they run.

    operations = foreign.load(Path("kernel.cc"), ("forward", "backward"))
    jax.ffi.ffi_call(operations["forward"], ...)

A source is compiled by the system's C++ compiler for exactly the processor it finds, once: the
library is kept in the user's cache directory, under a name that tells source, compiler, processor
and jaxlib apart. Machines with one home directory and different processors do not meet.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax
import jaxlib

LOG = logging.getLogger(__name__)
COMPILERS = ("c++", "g++", "clang++")
OPTIONS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")

_REGISTERED: set[str] = set()  # jax takes a name once


class Unavailable(Exception):
    """There is no compiler, or what it makes cannot be used; the message says why."""


def cache_directory() -> Path:
    """Where what can be made again is kept for this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interact_jax"


def compiler() -> str | None:
    """$CXX, or the first of COMPILERS that this machine has."""
    return os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)


@functools.cache
def load(source: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The handlers of these names in a source, registered: name -> target of `jax.ffi.ffi_call`.

    Raises Unavailable. The target's name holds that of the library, so that a compiled program
    that jax has kept never meets a newer operation.
    """
    try:
        library = _library(source)
        handlers = ctypes.CDLL(str(library))
    except OSError as error:  # a cache directory that is read-only, full or not for programs
        raise Unavailable(f"{cache_directory()}: {error.strerror or error}") from None
    targets = {name: f"{library.stem}-{name}" for name in names}
    for name, target in targets.items():
        if target not in _REGISTERED:
            capsule = jax.ffi.pycapsule(getattr(handlers, name))
            jax.ffi.register_ffi_target(target, capsule, platform="cpu")
            _REGISTERED.add(target)
    return targets


def _library(source: Path) -> Path:
    found = compiler()
    if found is None:
        raise Unavailable("there is no C++ compiler (none of " + ", ".join(COMPILERS) + ")")
    command = [*shlex.split(found), *OPTIONS]
    # What the compiler predefines for this processor: its version and every instruction set.
    target = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    key = "\0".join((source.read_text(), *command, target, jaxlib.__version__))
    name = f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    library = cache_directory() / "native" / name
    if not library.exists():
        LOG.info("compiling %s for this processor, once: %s", source.name, library)
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as directory:
            made = Path(directory) / name
            _run([*command, "-isystem", jax.ffi.include_dir(), str(source), "-o", str(made)])
            made.replace(library)  # whole or not at all: processes start at the same time
    return library


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise Unavailable(f"the C++ compiler {command[0]} is not there") from None
    except subprocess.CalledProcessError as failure:
        lines = failure.stderr.splitlines() or ["no message"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise Unavailable(f"{command[0]} failed: {first}") from None
    return done.stdout
