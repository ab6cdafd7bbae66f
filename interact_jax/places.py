"""Where programs read and write: files, links to them, devices, pipes, and "-".

    with places.reading("-") as file:               standard input, as often as it is asked for
    with places.writing("scores.jsonl") as file:    the whole file, or what was there before
    places.write("figures.json", text)              the same in one go

"-" is standard input, and standard output. A file appears under its name when it is complete; where
the name is a link, what it points to is replaced and the link stays. What is no file (a device, a
named pipe) or is open already (/dev/stdout, /dev/fd/3) is written to as it stands: a file renamed
over /dev/null would take the place of the whole machine's.
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
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from interact_jax.schema import InputError

STANDARD = "-"
OPEN_FILES = ("/proc/self/fd", "/dev/fd")  # where the descriptors of a process have names
PIECE = 1 << 20  # bytes copied at a time
TOKEN = 8  # bytes that tell files apart which are being written
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # of file systems that cannot be asked to


# ----------------------------------------------------------------------------------- reading


def input_name(path: str | Path) -> str:
    """What messages call a place that is read."""
    return "standard input" if str(path) == STANDARD else str(path)


def reading(path: str | Path, most: int = sys.maxsize) -> io.BufferedReader:
    """The bytes of a file from their beginning. What can be read only once, standard input or a
    pipe, is kept, so that it can be read again: `most` bytes of it, and one that says there are
    more. Raises InputError for what is no name at all."""
    check_name(str(path), path)
    if str(path) != STANDARD and (os.path.isfile(path) or not os.path.exists(path)):
        return open(path, "rb")
    return io.BufferedReader(_Kept(_all_of(str(path), most)))


@functools.cache
def _all_of(path: str, most: int) -> IO[bytes]:
    """A file without a name that holds it, so a program that is killed leaves nothing behind."""
    if path == STANDARD and sys.stdin is None:
        raise InputError("standard input is closed: name a file, or hand the data in.")
    kept = tempfile.TemporaryFile()  # noqa: SIM115  open until the program ends
    with contextlib.nullcontext(sys.stdin.buffer) if path == STANDARD else open(path, "rb") as file:
        left = most + 1
        while left > 0 and (piece := file.read(min(left, PIECE))):
            kept.write(piece)
            left -= len(piece)
    kept.flush()
    return kept


class _Kept(io.RawIOBase):
    """One reader of a file that has several: each has a position of its own."""

    def __init__(self, file: IO[bytes]):
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = os.pread(self._file.fileno(), len(buffer), self._at)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def check_name(said: str, path: str | Path) -> None:
    """Refuse what no file can be called: names that are empty (as where a shell's variable is not
    set), too long, or hold what none may hold. `said` is what the user typed. Raises InputError."""
    if not str(path):
        raise InputError(f"{said}: an empty name. Give another path.")
    try:
        os.lstat(os.path.expanduser(path))
    except ValueError as error:  # a zero byte, half a character
        raise InputError(
            f"{said}: no file can have that name ({error}). Give another path."
        ) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{said}: {error.strerror}. Give another path.") from None


# ----------------------------------------------------------------------------------- writing


def descriptor(out: str | Path) -> int | None:
    """The open descriptor that a name such as "-", /dev/stdout or /dev/fd/3 stands for."""
    if str(out) == STANDARD:
        return 1
    homes = {os.path.realpath(home) for home in OPEN_FILES}
    path = os.path.abspath(out)
    for _ in range(40):  # links, one after the other: the last one would lead to the file itself
        parent, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(parent) in homes:
            return int(name)
        if not os.path.islink(path):
            break
        path = os.path.join(parent, os.readlink(path))
    return None


def check_output(said: str, out: str | Path, read: Iterable[str | Path] = ()) -> None:
    """Refuse what could not be written, before anything is computed: what is no place for a file,
    and the files that are `read`. `said` is what the user typed. Raises InputError."""
    if (number := descriptor(out)) is not None:
        _check_descriptor(said, number)
        return
    mode, target = _mode(said, out), Path(os.path.realpath(out))
    if not target.parent.is_dir():
        raise InputError(f"{said}: there is no directory {target.parent}.")
    if (mode is not None and stat.S_ISDIR(mode)) or str(out).endswith(os.sep):
        raise InputError(f"{said}: is a directory; expected the file to write.")
    if mode is not None and stat.S_ISSOCK(mode):
        raise InputError(f"{said}: is a socket; expected the file to write.")
    if mode is not None and not os.access(out, os.W_OK):
        raise InputError(f"{said}: no permission to write to it.")
    if mode is not None and not stat.S_ISREG(mode):
        return
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"{said}: no permission to write into {target.parent}.")
    if mode is not None and any(os.path.exists(x) and os.path.samefile(out, x) for x in read):
        raise InputError(f"{said}: is the file that is read; name another.")


def check_directory(said: str, out: str | Path) -> None:
    """Refuse a directory that could neither be written to nor be made. Raises InputError."""
    if (mode := _mode(said, out)) is not None and not stat.S_ISDIR(mode):
        raise InputError(f"{said}: a file; expected a directory to write to.")
    if mode is None and os.path.islink(out):
        raise InputError(f"{said}: a link to what is not there; expected a directory to write to.")
    place = Path(os.path.realpath(out))
    while not os.path.lexists(place):
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{said}: no permission to write into {place}.")


def _mode(said: str, out: str | Path) -> int | None:
    """Of what is there, if anything; the system's word where it cannot be told."""
    check_name(said, out)
    try:
        return os.stat(out).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{said}: {error.strerror}. Give another path.") from error


def _check_descriptor(said: str, number: int) -> None:
    try:
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
    except (OSError, OverflowError):
        flags = None
    # Where a program is started without a standard output, what it opens first gets the number.
    if flags is None or (number == 1 and sys.stdout is None):
        raise InputError(f"{said}: descriptor {number} is not open. Give a file.")
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise InputError(f"{said}: descriptor {number} is open for reading only. Give a file.")


@contextlib.contextmanager
def writing(out: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, binary; see above. What is left of a failure is what was there before."""
    try:
        with _opened(out) as file:
            yield file
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(out)) from error  # which file, for people


def write(out: str | Path, data: str | bytes) -> None:
    """A whole file at once, text as UTF-8."""
    with writing(out) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _opened(out: str | Path) -> contextlib.AbstractContextManager[BinaryIO]:
    if (number := descriptor(out)) is not None:
        if sys.stdout is not None:
            sys.stdout.flush()  # what was printed before comes before
        return os.fdopen(os.dup(number), "wb")
    if os.path.exists(out) and not os.path.isfile(out):
        return open(out, "wb")
    return _replacing(Path(os.path.realpath(out)))


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place, and its permissions, when it is on disk."""
    # Under a name of its own: two programs may be writing to one place.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(TOKEN)}.tmp")
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
    """Remove what processes that were killed have left of files that they were writing: of those
    with these names, or of all. To be called where nobody else writes them now."""
    wanted = "|".join(re.escape(name[:40]) for name in names) or ".+"
    left = re.compile(rf"\.({wanted})\.[0-9a-f]{{{2 * TOKEN}}}\.tmp", re.DOTALL)
    for path in folder.iterdir() if folder.is_dir() else ():
        if left.fullmatch(path.name):
            path.unlink()


def sync(place: Path) -> None:
    """A file, or the names in a directory, are on disk afterwards, where the system can tell."""
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
