"""Where a run keeps what is large: a directory here, or in a bucket.

    place = store.place("gs://BUCKET/run")      a pathlib.Path where it is a directory here
    store.of(place).write(place / "a", "text")  the same calls for both

A directory here has what POSIX gives: renames that are atomic, sync, inodes. In a bucket there are
only objects, which appear whole or not at all, and names. So a directory of objects counts when its
last object is there, and no longer when that is gone: `Files.remove` takes `marks`, which go first.

Orbax reads and writes gs:// by itself, in all processes (tensorstore). It does not know s3://.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from etils import epath

from interact_jax import files, orbax_errors, places
from interact_jax.buckets import Bucket
from interact_jax.schema import InputError

Place: TypeAlias = Path | Any  # or an epath.Path, which has no types
SCHEMES = ("gs",)
EMULATOR, TENSORSTORE_EMULATOR = "STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"


class Watched(Protocol):
    """What a run writes to, and others may take from it."""

    def check(self) -> None:
        """Raise RunStopped where it is no longer there, or no longer this run's."""

    def close(self) -> None: ...


class Files(Protocol):
    """What can be done with files; all raise OSError, or RunStopped for a bucket out of reach."""

    renames: bool  # whether a directory appears under its name only when it is complete

    def entries(self, folder: Any) -> list[str]:
        """The names of files and directories in a directory, sorted; none where it is not there."""

    def names(self, folder: Any) -> list[str]:
        """The names of all files below a directory, sorted: a/b.txt."""

    def missing(self, folder: Any, names: Iterable[str]) -> list[str]:
        """Those of the names that no file in a directory has."""

    def is_dir(self, place: Any) -> bool: ...

    def is_file(self, place: Any) -> bool: ...

    def sizes(self, folder: Any, names: Collection[str]) -> dict[str, int]:
        """Of files in a directory, in bytes."""

    def open(self, file: Any) -> contextlib.AbstractContextManager[io.BufferedReader]:
        """To be read from its beginning."""

    def write(self, file: Any, data: str | bytes) -> None:
        """The whole of a file, in place of what is there."""

    def making(self, place: Any) -> contextlib.AbstractContextManager[Path]:
        """A path on this machine where a file or directory is made that is to be at `place`."""

    def fetched(self, file: Any) -> contextlib.AbstractContextManager[Path]:
        """A file on this machine with the content of that one."""

    def make(self, folder: Any) -> None:
        """A directory, unless it is there."""

    def move(self, place: Any, target: Any, marks: Callable[[str], bool] | None = None) -> None:
        """A file or directory, to a name that is not taken unless it is that of a file: at once, or
        so that files with the names `marks` come last, and go first."""

    def remove(self, place: Any, marks: Callable[[str], bool] | None = None) -> None:
        """A file or directory, if there is one: at once, or files with the names `marks` first."""

    def sync(self, place: Any) -> None:
        """What is written, of a file or of the names in a directory, stays."""

    def sync_tree(self, folder: Any) -> None:
        """`sync` of all that is in a directory."""

    def watch(self, folder: Any) -> Watched: ...

    def errors(self, place: Any) -> contextlib.AbstractContextManager[None]:
        """Turns the errors of Orbax as it writes, in this block, into those said above."""

    def blame(self, place: Any, error: Exception) -> None:
        """Raise RunStopped for an error of Orbax as it reads, where the way to what is there, and
        not what is there, is the likely cause."""


class Here:
    """Files of this machine."""

    renames = True

    def entries(self, folder: Path) -> list[str]:
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def names(self, folder: Path) -> list[str]:
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    def missing(self, folder: Path, names: Iterable[str]) -> list[str]:
        return [name for name in names if not os.path.isfile(folder / name)]

    def is_dir(self, place: Path) -> bool:
        return place.is_dir()

    def is_file(self, place: Path) -> bool:
        return place.is_file()

    def sizes(self, folder: Path, names: Collection[str]) -> dict[str, int]:
        return {name: os.path.getsize(folder / name) for name in names}

    def open(self, file: Path) -> contextlib.AbstractContextManager[io.BufferedReader]:
        return file.open("rb")

    def write(self, file: Path, data: str | bytes) -> None:
        places.write(file, data)

    @contextlib.contextmanager
    def making(self, place: Path) -> Iterator[Path]:
        yield place

    @contextlib.contextmanager
    def fetched(self, file: Path) -> Iterator[Path]:
        yield file

    def make(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def move(self, place: Path, target: Path, marks: Callable[[str], bool] | None = None) -> None:
        os.replace(place, target)

    def remove(self, place: Path, marks: Callable[[str], bool] | None = None) -> None:
        if marks is not None:
            old = place.with_name(f".{place.name}.old")
            os.rename(place, old)
            place = old
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def sync(self, place: Path) -> None:
        places.sync(place)

    def sync_tree(self, folder: Path) -> None:
        files.sync_tree(folder)

    def watch(self, folder: Path) -> Watched:
        return files.WatchedPath(folder)

    def errors(self, place: Path) -> contextlib.AbstractContextManager[None]:
        return orbax_errors.as_os_errors()

    def blame(self, place: Path, error: Exception) -> None:
        pass


HERE = Here()


def is_remote(path: object) -> bool:
    """Whether a path is an address, gs://BUCKET/run, and no path of this machine."""
    return "://" in str(path)


def place(path: str | Place) -> Place:
    """The place that an address or a path stands for. Raises InputError for an address of another
    kind, and where the library for it is missing."""
    if not is_remote(path):
        return Path(path)
    scheme, _, inner = str(path).partition("://")
    if scheme == "s3":
        raise InputError(
            f"{path}: Orbax, which writes checkpoints, does not write to s3://. Give a directory, "
            "for example of a mounted bucket, or gs://BUCKET/run."
        )
    if scheme not in SCHEMES:
        raise InputError(f"{path}: expected a directory, or gs://BUCKET/run.")
    bucket, _, name = inner.strip("/").partition("/")
    if not bucket or not name or any(part in ("", ".", "..") for part in name.split("/")):
        raise InputError(f"{path}: expected a bucket, and a name in it: {scheme}://BUCKET/run.")
    if emulator := os.environ.get(EMULATOR):  # the name that Google's own libraries know
        os.environ.setdefault(TENSORSTORE_EMULATOR, emulator)
    _bucket(scheme)
    return epath.Path(f"{scheme}://{bucket}/{name}")


def of(place: str | Place) -> Files:
    """What can be done with the files of a place. Raises InputError as `place` does."""
    return _bucket(str(place).partition("://")[0]) if is_remote(place) else HERE


def resolved(place: Place) -> Place:
    """Without links, and absolute."""
    return place if is_remote(place) else Path(os.path.realpath(place))


@functools.cache
def _bucket(scheme: str) -> Bucket:
    return Bucket(scheme)
