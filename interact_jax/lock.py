"""One run at a time in a directory.

    with lock.hold(workdir): ...

WORKDIR/lock names the owner: {"host": "node7", "process": 4711}. The owner holds an flock on it,
which the system releases when the process ends, however it ends: a killed run leaves no obstacle.
Some mounts of shared file systems limit flocks to one host, or have none. There the file's
modification time decides: the owner renews it every few seconds, and a process that finds the file
of another host waits for longer than that to see whether it is renewed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from interact_jax import files
from interact_jax.schema import InputError

log = logging.getLogger(__name__)

RENEWED = 5.0  # seconds from one renewal to the next
PATIENCE = 20.0  # seconds without one, after which an owner on another host counts as gone
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[files.WatchedPath]:
    """Hold the lock of a directory, which is created if necessary.

    Raises InputError, which names the owner, where another process holds it, and RunStopped instead
    of other errors where the directory is gone.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with files.watch(workdir.resolve()) as watched, _lock(workdir.resolve() / "lock"):
        yield watched


@contextlib.contextmanager
def _lock(place: Path) -> Iterator[None]:
    descriptor = _acquire(place)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(descriptor, done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        if _is_at(place, descriptor):
            place.unlink()
        os.close(descriptor)


def _acquire(place: Path) -> int:
    while True:
        descriptor = _open(place)
        try:
            has_flock = _take_flock(place, descriptor)
            owner = _owner(place)
            if owner and not (has_flock and owner.get("host") == socket.gethostname()):
                _wait_for_a_renewal(place, owner)
            if not _is_at(place, descriptor):  # its owner has ended meanwhile and deleted it
                os.close(descriptor)
                continue
            own = {"host": socket.gethostname(), "process": os.getpid()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(own).encode() + b"\n", 0)
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise


def _open(place: Path) -> int:
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(f"{place}: a link, where a run keeps its own file. Delete it.") from None


def _take_flock(place: Path, descriptor: int) -> bool:
    """Take the flock; False where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise refusal(place.parent, _owner(place)) from None
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        return False
    return True


def _wait_for_a_renewal(place: Path, owner: dict[str, object]) -> None:
    """Raise InputError where the owner renews the file."""
    log.info("%s: held by %s; waiting %.0f s for a sign of life", place, describe(owner), PATIENCE)
    old, until = place.stat().st_mtime_ns, time.monotonic() + PATIENCE
    while time.monotonic() < until:
        time.sleep(RENEWED / 5)
        # Open it each time: NFS then asks the server.
        with contextlib.suppress(FileNotFoundError), place.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime_ns != old:
                raise refusal(place.parent, owner)


def _renew(descriptor: int, done: threading.Event) -> None:
    while not done.wait(RENEWED):
        with contextlib.suppress(OSError):  # the run itself reports what is wrong with the disk
            os.utime(descriptor)


def refusal(workdir: object, owner: Mapping[str, object]) -> InputError:
    """The error of a run whose directory another owns."""
    return InputError(
        f"{workdir}: another run is active there ({describe(owner)}). Wait for its end, or "
        "use another directory."
    )


def describe(owner: Mapping[str, object]) -> str:
    """The owner, by what its lock says."""
    return f"process {owner.get('process', '?')} on {owner.get('host', '?')}"


def _owner(place: Path) -> dict[str, object]:
    """The content of the file; empty where it cannot be read."""
    try:
        content = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_at(place: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at that path."""
    try:
        return os.path.samestat(place.stat(), os.fstat(descriptor))
    except OSError:
        return False
