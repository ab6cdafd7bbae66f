"""The small files of a run, which are written where programs can write: on this machine.

    with stage.open(store.place("gs://BUCKET/run")) as files:
        files.folder                 a directory with what the bucket has of them
        files.home                   gs://BUCKET/run, where checkpoints and exports are
        files.push()                 copies what has changed to the bucket

Where a run is in a directory of this machine, both are that directory, and `push` does nothing.
Process 0 pushes what it has written: whole objects, each with one writer. A checkpoint counts when
all that was written before it is there.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from interact_jax import digests, store
from interact_jax.buckets import Bucket, OutOfReach
from interact_jax.schema import InputError
from interact_jax.store import Place, Watched

ELSEWHERE = ("checkpoints", "fixed", "damaged", "export", "lock", "weights")
"""What is not copied: it is in the bucket alone, or (`weights`, for a server) here alone."""
LAST = ("summary.json", "finished.json")  # they say that the others are there
RECORDED = "rollouts.jsonl"  # of an online run (`online.record`): what conversations.jsonl has
State = tuple[int, int]  # of a file: bytes, time of the last change
_ADDRESSES: dict[str, str] = {}  # of what is in a directory of this machine meanwhile


class Stage:
    """The small files of a run here, in `folder`, and its `home`."""

    def __init__(self, folder: Path, home: Place):
        self.folder, self.home = folder, home

    def push(self) -> None:
        """Copy what has changed to the bucket, and return when it is there."""


class _InBucket(Stage):
    def __init__(self, folder: Path, home: Place, bucket: Bucket, watched: Watched | None):
        super().__init__(folder, home)
        self._bucket, self._watched = bucket, watched
        self._pushed: dict[str, State] = {}
        self._one_at_a_time = threading.Lock()

    def pull(self, wanted: Collection[str] | None) -> None:
        """Fetch what the bucket has, or what is `wanted` of it."""
        for name in self._bucket.entries(self.home):
            if name in ELSEWHERE or (wanted is not None and name not in wanted):
                continue
            below = [f"{name}/{each}" for each in self._bucket.names(self.home / name)]
            for each in below or [name]:
                if {"", ".", ".."} & set(each.split("/")):
                    raise InputError(f"{self.home}/{each}: an object that no run has written.")
                file = self.folder / each
                try:
                    content = self._bucket.read(self.home / each)
                except FileNotFoundError:  # a directory without files, as some programs make
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                self._pushed[each] = _state(file)

    def push(self) -> None:
        with self._one_at_a_time:
            if self._watched is not None:
                self._watched.check()
            names = sorted(_names(self.folder), key=_rank)
            # A step may be recorded meanwhile. What its line names has to be in the file beside it,
            # so the lines are read first; they are written behind it.
            first = {name: self._read(name) for name in names if name == RECORDED}
            for name in names:
                state, content = first.get(name) or self._read(name)
                if content is not None and self._pushed.get(name) != state:
                    self._bucket.write(self.home / name, content)
                    self._pushed[name] = state

    def _read(self, name: str) -> tuple[State, bytes | None]:
        """The state of a file, and its content; None where its program has removed it since."""
        file = self.folder / name
        try:
            return _state(file), file.read_bytes()
        except FileNotFoundError:
            return (0, 0), None


@contextlib.contextmanager
def open(
    home: Place, watched: Watched | None = None, wanted: Collection[str] | None = None
) -> Iterator[Stage]:
    """The small files of a run; those of a bucket are here only in this block. `watched` says, when
    they are pushed, whether the run still has the bucket to itself. Whoever only reads some names
    which are `wanted`: files, or directories with all that is in them."""
    files: Any = store.of(home)
    if not isinstance(files, Bucket):
        yield Stage(Path(str(home)), home)
        return
    with tempfile.TemporaryDirectory(prefix="interact-run-") as directory:
        # Messages come later, too: of what was raised in this block, whose directory is gone.
        for name in (directory, os.path.realpath(directory)):
            _ADDRESSES[name] = str(home)
        stage = _InBucket(Path(directory), home, files, watched)
        stage.pull(wanted)
        try:
            yield stage
        except Exception as error:
            if watched is not None and not isinstance(error, OutOfReach):
                with contextlib.suppress(Exception):  # so that there is to see what happened
                    stage.push()
            raise


def here(text: str) -> str:
    """Where the files of a message are on this machine; "" if they are in no bucket."""
    held = any(directory in text for directory in _ADDRESSES)
    return f" (meanwhile under {tempfile.gettempdir()}, TMPDIR of this machine)" if held else ""


def with_addresses(text: str) -> str:
    """A message with the addresses of files in buckets, in place of where they are here."""
    for directory in sorted(_ADDRESSES, key=len, reverse=True):  # one may contain another
        text = text.replace(directory, _ADDRESSES[directory])
    return text


def _names(folder: Path) -> Iterator[str]:
    """What is to be pushed: no files that are being written under another name (`places`,
    `files`)."""
    for place, folders, names in os.walk(folder):
        at = Path(place).relative_to(folder)
        top = not at.parts
        folders[:] = [
            name for name in folders if not (name[:1] == "." or (top and name in ELSEWHERE))
        ]
        for name in names:
            hidden = name.startswith(".") or (top and name in ELSEWHERE)
            if not hidden and not os.path.islink(os.path.join(place, name)):
                yield (at / name).as_posix()


def _rank(name: str) -> tuple[bool, bool, str]:
    return name in LAST, digests.NAME_PATTERN.fullmatch(Path(name).name) is not None, name


def _state(file: Path) -> State:
    stat = os.stat(file)
    return stat.st_size, stat.st_mtime_ns
