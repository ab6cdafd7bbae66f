"""Directories that are whole, and whether what a run writes to still stands under its name.

    with files.whole_directory(Path("run/model")) as partial: ...
    with files.standing(Path("run")) as run: run.check()

A directory is written to the side, put on disk, and only then given its name: whoever reads under
it finds what was there before or all of the new, also after a crash. Files are `places.writing`'s.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from interact_jax.places import sync
from interact_jax.schema import RunStopped


@contextlib.contextmanager
def whole_directory(folder: Path) -> Iterator[Path]:
    """A directory to write to, which takes the place of the one that was there at the end."""
    folder = folder.resolve()
    partial, old = _beside(folder, "partial"), _beside(folder, "old")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        partial.mkdir()
        yield partial
        sync_tree(partial)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(partial, folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Everything below a directory, and itself, is on disk afterwards."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))


class Standing:
    """A file or directory that a run writes to, which somebody may move or delete meanwhile."""

    def __init__(self, place: Path):
        self._place = place
        self._descriptor = os.open(place, os.O_RDONLY)  # open, it stays another than its successor

    def check(self) -> None:
        """Raise RunStopped where it is no longer the one under its name."""
        try:
            if os.path.samestat(os.stat(self._place), os.fstat(self._descriptor)):
                return
        except OSError:
            pass
        raise RunStopped(
            f"{self._place} is gone, or another: it was moved or deleted while the run wrote to "
            "it. Put it back, and the same command goes on from the newest checkpoint."
        )

    def close(self) -> None:
        os.close(self._descriptor)


@contextlib.contextmanager
def standing(place: Path) -> Iterator[Standing]:
    """Where a directory is gone, say that, and not what came of it."""
    found = Standing(place)
    try:
        yield found
    except Exception:
        found.check()
        raise
    finally:
        found.close()


def _beside(place: Path, what: str) -> Path:
    return place.parent / f".{place.name}.{what}"
