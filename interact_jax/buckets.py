"""Objects in a bucket as files: what `store.of` gives for gs://BUCKET/run.

No list of names is kept from one call to the next: all processes of a run write there, and Orbax.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec

from interact_jax import remote
from interact_jax.schema import InputError, RunStopped

GONE_ON = (
    "Checkpoints that were complete are as they were, and the same command goes on from the newest "
    "of them."
)
FULL_HERE = (errno.ENOSPC, errno.EDQUOT)
AT_ONCE = 64  # objects that are asked for together


class Bucket:
    """The buckets of a scheme. Raises InputError where its library is missing."""

    renames = False

    def __init__(self, scheme: str):
        for name in (scheme, {"gs": "gcs"}.get(scheme, scheme)):  # Orbax's paths ask for the other
            fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
        try:
            self._system: Any = fsspec.filesystem(scheme)
        except ImportError as error:
            raise InputError(
                f"{scheme}://: {remote.words(error)}: `{remote.INSTALL[scheme]}`."
            ) from None

    def entries(self, folder: Any) -> list[str]:
        own = _inner(folder)
        with _reaching(folder):
            try:
                found = self._system.ls(own, detail=False)
            except FileNotFoundError:
                return []
        names = (name.strip("/").removeprefix(own).strip("/") for name in found)
        return sorted({name for name in names if name})

    def names(self, folder: Any) -> list[str]:
        return sorted(self._found(folder))

    def _found(self, folder: Any) -> dict[str, Any]:
        """What the store says of each object below a name, in one list."""
        own = _inner(folder)
        with _reaching(folder):
            try:
                found = self._system.find(own, detail=True)
            except FileNotFoundError:
                return {}
        below = {name.lstrip("/"): facts for name, facts in found.items()}
        return {
            name.removeprefix(own + "/"): facts
            for name, facts in below.items()
            if name.startswith(own + "/")
        }

    def missing(self, folder: Any, names: Iterable[str]) -> list[str]:
        there = set(self.names(folder))
        return [name for name in names if name not in there]

    def is_dir(self, place: Any) -> bool:
        return bool(self.entries(place))

    def is_file(self, place: Any) -> bool:
        with _reaching(place):
            return bool(self._system.isfile(_inner(place)))

    def sizes(self, folder: Any, names: Collection[str]) -> dict[str, int]:
        found = self._found(folder)
        if missing := [name for name in names if name not in found]:
            there = str(folder / missing[0])
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), there)
        return {name: int(found[name]["size"]) for name in names}

    @contextlib.contextmanager
    def open(self, file: Any) -> Iterator[io.BufferedReader]:
        with contextlib.ExitStack() as stack:
            with _reaching(file):
                content = stack.enter_context(remote.reading(str(file)))
            try:
                yield content
            except OSError as error:
                if isinstance(error, FileNotFoundError) or error.errno in FULL_HERE:
                    raise  # of the caller, who writes elsewhere
                raise _out_of_reach(file, error) from error

    def read(self, file: Any) -> bytes:
        """The content of a small file."""
        with _reaching(file):
            return bytes(self._system.cat_file(_inner(file)))

    def write(self, file: Any, data: str | bytes) -> None:
        with _reaching(file, absent=False):
            content = data.encode() if isinstance(data, str) else data
            self._system.pipe_file(_inner(file), content)

    def create(self, file: Any, data: bytes) -> bool:
        """`write`, unless there is something: then False. The check is the store's own, but for
        emulators that leave it out."""
        with _reaching(file):
            try:
                self._system.pipe_file(_inner(file), data, mode="create")
            except FileExistsError:
                return False
        return True

    @contextlib.contextmanager
    def making(self, place: Any) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="interact-") as directory:
            made = Path(directory, place.name)
            yield made
            self.upload(made, place)

    def upload(self, source: Path, target: Any) -> None:
        """A file, or all files of a directory, each of which appears when it is whole."""
        pairs = [(source, target)]
        if source.is_dir():
            below = sorted(file for file in source.rglob("*") if file.is_file())
            pairs = [(file, target / file.relative_to(source).as_posix()) for file in below]
        for file, place in pairs:
            with _reaching(place, absent=False):
                self._system.put_file(str(file), _inner(place))

    @contextlib.contextmanager
    def fetched(self, file: Any) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="interact-") as directory:
            copy = Path(directory, file.name)
            with self.open(file) as content, copy.open("wb") as written:
                shutil.copyfileobj(content, written)
            yield copy

    def make(self, folder: Any) -> None:
        """Nothing: there are no directories, only names of objects."""

    def move(self, place: Any, target: Any, marks: Callable[[str], bool] | None = None) -> None:
        """The store copies; what is complete at `place` goes when it is complete at `target`."""
        names = self.names(place)
        if marks is not None:
            names.sort(key=marks)
        for name in [f"/{name}" for name in names] or [""]:
            with _reaching(place):
                self._system.copy(_inner(place) + name, _inner(target) + name)
        self.remove(place, marks)

    def remove(self, place: Any, marks: Callable[[str], bool] | None = None) -> None:
        names = self.names(place)
        first = [name for name in names if marks is not None and marks(name)]
        rest = sorted(set(names) - set(first))
        for part in (first, *(rest[at : at + AT_ONCE] for at in range(0, len(rest), AT_ONCE))):
            if part:
                with _reaching(place), contextlib.suppress(FileNotFoundError):
                    self._system.rm([f"{_inner(place)}/{name}" for name in part])
        if not names and self.is_file(place):
            with _reaching(place), contextlib.suppress(FileNotFoundError):
                self._system.rm_file(_inner(place))

    def sync(self, place: Any) -> None:
        """Nothing: what the store has taken, stays."""

    def sync_tree(self, folder: Any) -> None:
        """Nothing, as `sync`."""

    def watch(self, folder: Any) -> Any:
        return _Unwatched()

    @contextlib.contextmanager
    def errors(self, place: Any) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.blame(place, error)
            raise

    def blame(self, place: Any, error: Exception) -> None:
        of_jax_or_said = isinstance(error, RuntimeError | MemoryError | InputError)
        if not of_jax_or_said:
            raise _out_of_reach(place, error) from error


class OutOfReach(RunStopped):
    """A store that cannot be reached, or refuses, as a run says it. For other programs: the `place`
    where that was, and `what` happened."""

    def __init__(self, place: Any, what: str):
        super().__init__(f"{place}: {what} {GONE_ON}")
        self.place, self.what = str(place), what


class _Unwatched:
    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def _inner(place: Any) -> str:
    return str(place).partition("://")[2].strip("/")


@contextlib.contextmanager
def _reaching(place: Any, absent: bool = True) -> Iterator[None]:
    """Turn what the libraries raise into OutOfReach, except that something is there, or, where it
    can be, is `absent`."""
    try:
        yield
    except (InputError, RunStopped, FileExistsError):
        raise
    except FileNotFoundError as error:  # of a bucket, where something is written
        if absent:
            raise
        raise _out_of_reach(place, error) from error
    except Exception as error:  # of the network, or any library in between
        raise _out_of_reach(place, error) from error


def _out_of_reach(place: Any, error: Exception) -> OutOfReach:
    advice = remote.ADVICE[str(place).partition("://")[0]]
    return OutOfReach(place, f"the store fails ({remote.words(error)}). {advice}.")
