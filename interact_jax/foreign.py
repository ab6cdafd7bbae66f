"""Operations of ours in C++, compiled on the machine where they run.

    operations = foreign.load(Path("kernel.cc"), ("forward", "backward"))
    jax.ffi.ffi_call(operations["forward"], ...)

A source is compiled by the system's C++ compiler for exactly the processor it finds, once: the
library is kept in the user's cache directory, under a name that tells source, compiler, processor
and jaxlib apart. Machines with one home directory and different processors do not meet. Where
nothing can be kept, or somebody else could put a library of theirs there, every process compiles
its own.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import jax
import jaxlib

log = logging.getLogger(__name__)
COMPILERS = ("c++", "g++", "clang++")
WISHES = ("-O3", "-march=native")  # before the options in $CXX, which may change them
NEEDS = ("-std=c++17", "-shared", "-fPIC", "-fno-fast-math")  # after them

_REGISTERED: set[str] = set()  # jax takes a name once


class Unavailable(Exception):
    """There is no compiler, or what it makes cannot be used; the message says why."""


def cache_directory() -> Path:
    """Where what can be made again is kept for this user; OSError where the user has no home."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "interact_jax"
    try:
        return Path.home() / ".cache" / "interact_jax"
    except RuntimeError:
        raise OSError("this user has no home directory; set XDG_CACHE_HOME") from None


def compiler() -> str | None:
    """$CXX, or the first of COMPILERS that this machine has."""
    return os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)


@functools.cache
def load(source: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The handlers of these names in a source, registered: name -> target of `jax.ffi.ffi_call`.

    Raises Unavailable. The target's name holds that of the library, so that a compiled program
    that jax has kept never meets a newer operation.
    """
    stem, handlers = _library(source)
    targets = {name: f"{stem}-{name}" for name in names}
    for name, target in targets.items():
        if target not in _REGISTERED:
            capsule = jax.ffi.pycapsule(getattr(handlers, name))
            jax.ffi.register_ffi_target(target, capsule, platform="cpu")
            _REGISTERED.add(target)
    return targets


def _library(source: Path) -> tuple[str, ctypes.CDLL]:
    """A name for what is made of the source here, and that loaded."""
    command = _command()
    # What the compiler predefines for this processor: its version and every instruction set.
    target = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    key = "\0".join((source.read_text(), *command, target, jaxlib.__version__))
    stem = f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    command += ["-isystem", jax.ffi.include_dir(), str(source)]
    try:
        return stem, _kept(_own_directory() / f"{stem}.so", command)
    except OSError as error:  # read-only, full, not for programs, somebody else's
        log.info("%s is compiled for this process alone: %s", source.name, _said(error))
    try:
        with tempfile.TemporaryDirectory() as directory:
            return stem, _kept(Path(directory) / f"{stem}.so", command)
    except OSError as error:
        raise Unavailable(_said(error)) from None


def _command() -> list[str]:
    found = compiler()
    if found is None:
        raise Unavailable("there is no C++ compiler (none of " + ", ".join(COMPILERS) + ")")
    try:
        program, *options = shlex.split(found)
    except ValueError as error:  # an open quotation, or nothing at all
        raise Unavailable(f"CXX={found!r} is no command: {error}") from None
    return [program, *WISHES, *options, *NEEDS]


def _own_directory() -> Path:
    """Where libraries are kept: a directory of this user's that nobody else can write to."""
    directory = cache_directory() / "native"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "others can write there; chmod go-w", str(directory))
    return directory


def _kept(library: Path, command: list[str]) -> ctypes.CDLL:
    """The library loaded, and made first where it is not there or damaged."""
    try:
        return ctypes.CDLL(str(library))
    except OSError:
        log.info("compiling %s for this processor: %s", Path(command[-1]).name, library)
    with tempfile.TemporaryDirectory(dir=library.parent) as directory:
        made = Path(directory) / library.name
        _run([*command, "-o", str(made)])
        with made.open("rb") as file:
            os.fsync(file.fileno())  # a library cut short would end the process that reads it
        made.replace(library)  # whole or not at all: processes start at the same time
    return ctypes.CDLL(str(library))


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    except OSError as error:
        raise Unavailable(f"the C++ compiler cannot be run: {_said(error, command[0])}") from None
    except subprocess.CalledProcessError as failure:
        lines = failure.stderr.splitlines() or ["no message"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise Unavailable(f"{command[0]} failed: {first}") from None
    return done.stdout


def _said(error: OSError, place: str | None = None) -> str:
    place = place or error.filename
    return f"{place}: {error.strerror}" if place and error.strerror else str(error)
