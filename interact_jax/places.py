"""Where programs read and write: files, links to them, devices, pipes, and "-".

    with places.reading("-") as file:               standard input, can be read repeatedly
    with places.writing("scores.jsonl") as file:    the complete file, or the old one stays
    places.write("figures.json", text)              the same in one call

"-" is standard input, and standard output. A file appears under its name when it is complete; where
the name is a link, its target is replaced and the link stays. What is not a regular file (a device,
a named pipe) or is already open (/dev/stdout, /dev/fd/3) is written to directly: a file renamed
over /dev/null would replace it for the whole machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import io
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from interact_jax import remote
from interact_jax.schema import InputError

STANDARD = "-"
OPEN_FILES = ("/proc/self/fd", "/dev/fd")  # directories that name a process's descriptors
PIECE = 1 << 20  # bytes copied at a time
TOKEN = 8  # random bytes in the name of a temporary file
# Errors of file systems that do not support it.
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
FULL = (errno.ENOSPC, errno.EDQUOT)


# ----------------------------------------------------------------------------------- reading


def input_name(path: str | Path) -> str:
    """The name of an input in messages."""
    return "standard input" if str(path) == STANDARD else str(path)


def reading(path: str | Path, most: int = sys.maxsize) -> io.BufferedReader:
    """A reader of a file, here or elsewhere (see `remote`), from its beginning. Standard input and
    pipes, which can be read only once, are copied so that they can be read again: `most` bytes, and
    one more that shows there are more. Raises InputError for an impossible name."""
    check_name(str(path), path)
    if remote.is_remote(path):
        return remote.reading(str(path))
    if str(path) != STANDARD and (os.path.isfile(path) or not os.path.exists(path)):
        return open(path, "rb")
    return io.BufferedReader(_Reader(_read_all(str(path), most)))


@functools.cache
def _read_all(path: str, most: int) -> IO[bytes]:
    """A copy in an unnamed file, so that a killed program leaves nothing behind."""
    if path == STANDARD and sys.stdin is None:
        raise InputError("standard input is closed: name a file, or hand the data in.")
    copy = tempfile.TemporaryFile()  # noqa: SIM115  open until the program ends
    with contextlib.nullcontext(sys.stdin.buffer) if path == STANDARD else open(path, "rb") as file:
        remaining = most + 1
        while remaining > 0 and (piece := file.read(min(remaining, PIECE))):
            copy.write(piece)
            remaining -= len(piece)
    copy.flush()
    return copy


class _Reader(io.RawIOBase):
    """One of several readers of a file, each with a position of its own."""

    def __init__(self, file: IO[bytes]):
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        sizes = {os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._file.fileno()).st_size}
        self._at = sizes.get(whence, 0) + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._file.fileno(), len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def check_name(given: str, path: str | Path) -> None:
    """Refuse impossible file names: empty (as from an unset shell variable), too long, or with
    forbidden characters. `given` is what the user typed. Raises InputError."""
    if not str(path):
        raise InputError(f"{given}: an empty name. Give another path.")
    try:
        os.lstat(os.path.expanduser(path))
    except ValueError as error:  # a null byte, a lone surrogate
        raise InputError(
            f"{given}: no file can have that name ({error}). Give another path."
        ) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{given}: {error.strerror}. Give another path.") from None


# ----------------------------------------------------------------------------------- writing


def descriptor(out: str | Path) -> int | None:
    """The open descriptor that a name such as "-", /dev/stdout or /dev/fd/3 stands for."""
    if str(out) == STANDARD:
        return 1
    homes = {os.path.realpath(home) for home in OPEN_FILES}
    path = os.path.abspath(out)
    for _ in range(40):  # follow links one at a time: resolving all would lead to the file itself
        parent, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(parent) in homes:
            return int(name)
        if not os.path.islink(path):
            break
        path = os.path.join(parent, os.readlink(path))
    return None


def check_output(given: str, out: str | Path, read: Iterable[str | Path] = ()) -> None:
    """Check, before anything is computed, that `out` can be written and is none of the files that
    are `read`. `given` is what the user typed. Raises InputError."""
    if (number := descriptor(out)) is not None:
        _check_descriptor(given, number)
        return
    mode, target = _mode(given, out), Path(os.path.realpath(out))
    if not target.parent.is_dir():
        raise InputError(f"{given}: there is no directory {target.parent}.")
    if (mode is not None and stat.S_ISDIR(mode)) or str(out).endswith(os.sep):
        raise InputError(f"{given}: is a directory; expected the file to write.")
    if mode is not None and stat.S_ISSOCK(mode):
        raise InputError(f"{given}: is a socket; expected the file to write.")
    if mode is not None and not os.access(out, os.W_OK):
        raise InputError(f"{given}: no permission to write to it.")
    if mode is not None and not stat.S_ISREG(mode):
        return
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"{given}: no permission to write into {target.parent}.")
    if mode is not None and any(os.path.exists(x) and os.path.samefile(out, x) for x in read):
        raise InputError(f"{given}: is the file that is read; name another.")
    _check_can_make(given, target.parent)


def check_directory(given: str, out: str | Path) -> None:
    """Refuse a directory that can neither be written to nor created. Raises InputError."""
    if (mode := _mode(given, out)) is not None and not stat.S_ISDIR(mode):
        raise InputError(f"{given}: a file; expected a directory to write to.")
    if mode is None and os.path.islink(out):
        raise InputError(f"{given}: a dangling link; expected a directory to write to.")
    place = Path(os.path.realpath(out))
    while not os.path.lexists(place):
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{given}: no permission to write into {place}.")
    _check_can_make(given, place, os.path.relpath(os.path.realpath(out), place))


def _check_can_make(given: str, place: Path, name: str = ".") -> None:
    """Check that something called `name` can be made in a directory, by making it, in a directory
    of its own that is removed again: /proc, for one, lets root write and makes nothing."""
    trial = place / f".{secrets.token_hex(TOKEN)}.trial"
    try:
        os.makedirs(trial / name)
    except OSError as error:
        if error.errno in FULL:  # what is wrong is not the name
            raise
        raise InputError(
            f"{given}: nothing can be made in {place} ({error.strerror}). Give another path."
        ) from None
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _mode(given: str, out: str | Path) -> int | None:
    """The mode of what exists there, if anything. Raises InputError where stat fails."""
    check_name(given, out)
    try:
        return os.stat(out).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{given}: {error.strerror}. Give another path.") from error


def _check_descriptor(given: str, number: int) -> None:
    try:
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
    except (OSError, OverflowError):
        flags = None
    # If a program starts without a standard output, the first file it opens gets that number.
    if flags is None or (number == 1 and sys.stdout is None):
        raise InputError(f"{given}: descriptor {number} is not open. Give a file.")
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise InputError(f"{given}: descriptor {number} is open for reading only. Give a file.")


@contextlib.contextmanager
def writing(out: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write to; see above. On failure, the old content stays."""
    try:
        with _open(out) as file:
            yield file
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(out)) from error  # name the file


def write(out: str | Path, data: str | bytes) -> None:
    """Write a complete file, text as UTF-8."""
    with writing(out) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _open(out: str | Path) -> contextlib.AbstractContextManager[BinaryIO]:
    if (number := descriptor(out)) is not None:
        if sys.stdout is not None:
            sys.stdout.flush()  # earlier output comes first
        return os.fdopen(os.dup(number), "wb")
    if os.path.exists(out) and not os.path.isfile(out):
        return open(out, "wb")
    return _replace(Path(os.path.realpath(out)))


def temporary_name(path: Path) -> Path:
    """A name beside `path` for what replaces it once it is complete, which `remove_partial` knows.
    It is unique: two programs may be writing to the same path."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(TOKEN)}.tmp")


@contextlib.contextmanager
def _replace(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that replaces it, with its permissions, once it is on disk."""
    temporary = temporary_name(path)
    with contextlib.ExitStack() as failed:
        with open(temporary, "xb") as file:
            failed.callback(temporary.unlink, missing_ok=True)
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            _sync(file.fileno())
        os.replace(temporary, path)
        failed.pop_all()
    sync(path.parent)


def remove_partial(folder: Path, *names: str) -> None:
    """Remove the temporary files that killed processes left: of files with these names, or of all.
    To be called only where no other process is writing them."""
    wanted = "|".join(re.escape(name[:40]) for name in names) or ".+"
    pattern = re.compile(rf"\.({wanted})\.[0-9a-f]{{{2 * TOKEN}}}\.tmp", re.DOTALL)
    for path in folder.iterdir() if folder.is_dir() else ():
        if pattern.fullmatch(path.name):
            path.unlink()


def sync(place: Path) -> None:
    """Sync a file, or the entries of a directory, to disk, where the file system supports it."""
    number = os.open(place, os.O_RDONLY)
    try:
        _sync(number)
    finally:
        os.close(number)


def _sync(number: int) -> None:
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
