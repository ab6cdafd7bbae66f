"""Directories that appear complete, and paths that a run watches while it writes to them.

    with files.whole_directory(Path("run/model")) as partial: ...
    with files.watch(Path("run")) as run: run.check()

A directory is written under another name, synced to disk, and only then renamed: readers find the
old content or all of the new, also after a crash. For single files see `places.writing`.
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
    """A directory to write to, which replaces `folder` at the end."""
    folder = folder.resolve()
    partial, old = unfinished(folder), _beside(folder, "old")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
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


def unfinished(folder: Path) -> Path:
    """Where `whole_directory` writes until `folder` is complete."""
    return _beside(folder, "partial")


def sync_tree(folder: Path) -> None:
    """Sync a directory and everything below it to disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))


class WatchedPath:
    """A file or directory that a run writes to, and that others may move or delete meanwhile."""

    def __init__(self, place: Path):
        self._place = place
        self._descriptor = os.open(place, os.O_RDONLY)  # while it is open, its inode is not reused

    def check(self) -> None:
        """Raise RunStopped where the path no longer leads to it."""
        try:
            if os.path.samestat(os.stat(self._place), os.fstat(self._descriptor)):
                return
        except OSError:
            pass
        raise RunStopped(
            f"{self._place} is gone or was replaced: it was moved or deleted while the run wrote "
            "to it. Put it back, and the same command goes on from the newest checkpoint."
        )

    def close(self) -> None:
        os.close(self._descriptor)


@contextlib.contextmanager
def watch(place: Path) -> Iterator[WatchedPath]:
    """Report that a directory is gone rather than the errors that follow from it."""
    watched = WatchedPath(place)
    try:
        yield watched
    except Exception:
        watched.check()
        raise
    finally:
        watched.close()


def _beside(place: Path, what: str) -> Path:
    return place.parent / f".{place.name}.{what}"
