"""What a program does before its slow imports.

if __name__ == "__main__":
    from interact_jax import startup

    startup.begin()
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interact_jax import __version__, ends
from interact_jax.cluster import life

ACCELERATORS = ("accel[0-9]*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd", "dxg")  # TPU, GPU
SILENT = ("-h", "--help", "--quiet")
INTERVAL = 5.0  # seconds between lines while libraries are imported
_imported = threading.Event()
_needs_torch = True  # whether anything in this process may compute with PyTorch


def begin(*, torch: bool = False) -> None:
    """Install signal handlers and quieten libraries; on a terminal, print a line that the program
    has started, and more while imports take long, up to `end_imports`. `torch`: whether another
    library in this program computes with PyTorch."""
    global _needs_torch
    _needs_torch = torch
    life.begin()
    ends.install_handlers()
    quieten()
    if sys.stderr.isatty() and not set(SILENT) & set(sys.argv):
        print(f"interact_jax {__version__}", file=sys.stderr, flush=True)
        _imported.clear()
        threading.Thread(target=_count_seconds, daemon=True).start()


def begin_worker() -> None:
    """In place of `begin`, in a process that works for a program: it computes with no PyTorch."""
    global _needs_torch
    _needs_torch = False
    quieten()


def _count_seconds() -> None:
    began, seconds = time.monotonic(), INTERVAL
    while not _imported.wait(began + seconds - time.monotonic()):
        print(f"loading libraries: {seconds:.0f} s so far", file=sys.stderr, flush=True)
        seconds += INTERVAL


def end_imports() -> None:
    """The imports are done: print nothing more."""
    _imported.set()


def quieten() -> None:
    """Silence irrelevant messages of libraries: of transformers that torch is missing, of libtpu
    that there is no TPU. To be called before they are imported."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("GLOG_minloglevel", "2")
    if importlib.util.find_spec("libtpu") is not None and not has_accelerator():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def has_accelerator(devices: Path = Path("/dev")) -> bool:
    """Whether this machine has a TPU or a GPU, judging by its device files."""
    return any(any(devices.glob(pattern)) for pattern in ACCELERATORS)


@contextlib.contextmanager
def without_torch(library: str) -> Iterator[None]:
    """Import, in this block, a library that imports PyTorch where that is installed.

    PyTorch takes as long to import as all the rest, and most programs here never compute with it:
    there the library does not find it. In other processes, a notebook for one, it does."""
    if _needs_torch or not sys.modules.keys().isdisjoint(("torch", library)):
        yield
        return
    not_installed: Any = None  # for Python, a module that is None cannot be imported
    sys.modules["torch"] = not_installed
    try:
        yield
    finally:
        del sys.modules["torch"]
