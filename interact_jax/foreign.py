"""Our own operations in C++, compiled on the machine where they run.

    operations = foreign.load(Path("kernel.cc"), ("forward", "backward"))
    jax.ffi.ffi_call(operations["forward"], ...)

A source is compiled once, by the system's C++ compiler for the processor at hand: the library is
kept in the user's cache directory, under a name that depends on source, the headers beside it,
compiler, processor and jaxlib, so machines that share a home directory but differ in processor do
not share libraries. Where the cache cannot be written, or others could place a library there, every
process compiles its own.
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

from interact_jax import progress

log = logging.getLogger(__name__)
COMPILERS = ("c++", "g++", "clang++")
PREFERRED_OPTIONS = ("-O3", "-march=native")  # before the options in $CXX, which may change them
REQUIRED_OPTIONS = ("-std=c++17", "-shared", "-fPIC", "-fno-fast-math")  # after them

_REGISTERED: set[str] = set()  # jax accepts a name only once


class Unavailable(Exception):
    """There is no compiler, or its output cannot be used; the message says why."""


def cache_directory() -> Path:
    """This user's cache directory for the package; OSError where the user has no home."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "interact_jax"
    try:
        return Path.home() / ".cache" / "interact_jax"
    except RuntimeError:
        raise OSError("this user has no home directory; set XDG_CACHE_HOME") from None


def compiler() -> str | None:
    """$CXX, or the first of COMPILERS that is installed."""
    return os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)


@functools.cache
def load(source: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Register the handlers with these names in a source: name -> target of `jax.ffi.ffi_call`.

    Raises Unavailable. The target's name contains that of the library, so that a program in jax's
    compilation cache never calls a newer operation.
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
    """The name of the library made from the source on this machine, and the loaded library."""
    command = _command()
    # The compiler's predefined macros for this processor: its version and every instruction set.
    target = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    headers = [header.read_text() for header in sorted(source.parent.glob("*.h"))]
    key = "\0".join((source.read_text(), *headers, *command, target, jaxlib.__version__))
    stem = f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    command += ["-isystem", jax.ffi.include_dir(), str(source)]
    try:
        return stem, _load_or_compile(_own_directory() / f"{stem}.so", command)
    except OSError as error:  # read-only, full, mounted noexec, owned by others
        log.info("%s is compiled for this process alone: %s", source.name, _message(error))
    try:
        with tempfile.TemporaryDirectory() as directory:
            return stem, _load_or_compile(Path(directory) / f"{stem}.so", command)
    except OSError as error:
        raise Unavailable(_message(error)) from None


def _command() -> list[str]:
    command = compiler()
    if command is None:
        raise Unavailable("there is no C++ compiler (none of " + ", ".join(COMPILERS) + ")")
    try:
        program, *options = shlex.split(command)
    except ValueError as error:  # an unclosed quote, or empty
        raise Unavailable(f"CXX={command!r} is not a command: {error}") from None
    return [program, *PREFERRED_OPTIONS, *options, *REQUIRED_OPTIONS]


def _own_directory() -> Path:
    """Where libraries are kept: a directory of this user that nobody else can write to."""
    directory = cache_directory() / "native"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "others can write there; chmod go-w", str(directory))
    return directory


def _load_or_compile(library: Path, command: list[str]) -> ctypes.CDLL:
    """Load the library; compile it first where it is missing or damaged."""
    try:
        return ctypes.CDLL(str(library))
    except OSError:
        source = Path(command[-1]).name
        log.info("%s is compiled for this processor: %s", source, library)
    with (
        progress.of(f"compiling {source}"),
        tempfile.TemporaryDirectory(dir=library.parent) as directory,
    ):
        compiled = Path(directory) / library.name
        _run([*command, "-o", str(compiled)])
        with compiled.open("rb") as file:
            os.fsync(file.fileno())  # a truncated library would crash the process that loads it
        compiled.replace(library)  # atomic: several processes may start at the same time
    return ctypes.CDLL(str(library))


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    except OSError as error:
        raise Unavailable(
            f"the C++ compiler cannot be run: {_message(error, command[0])}"
        ) from None
    except subprocess.CalledProcessError as failure:
        lines = failure.stderr.splitlines() or ["no message"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise Unavailable(f"{command[0]} failed: {first}") from None
    return done.stdout


def _message(error: OSError, place: str | None = None) -> str:
    place = place or error.filename
    return f"{place}: {error.strerror}" if place and error.strerror else str(error)
