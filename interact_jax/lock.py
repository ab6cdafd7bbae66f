"""One run at a time in a directory.

    with lock.held(workdir): ...

WORKDIR/lock says who: {"host": "node7", "process": 4711}. Its owner holds an flock on it, which the
system takes back when the process ends, however it ends: what a killed run leaves is no obstacle.
Some mounts of shared file systems keep flocks to one host, or have none. There the file's time
tells: the owner renews it every few seconds, and who finds the file of another host waits until it
should have been.
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
from collections.abc import Iterator
from pathlib import Path

from interact_jax import files
from interact_jax.schema import InputError

log = logging.getLogger(__name__)

RENEWED = 5.0  # seconds from one renewal to the next
PATIENCE = 20.0  # seconds without one, after which an owner elsewhere is taken for gone
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[files.WatchedPath]:
    """Hold the lock of a directory, which is made where it is not there.

    Raises InputError, which names the owner, where another process holds it, and RunStopped in
    place of other errors where the directory is gone.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with files.watch(workdir.resolve()) as standing, _lock(workdir.resolve() / "lock"):
        yield standing


@contextlib.contextmanager
def _lock(place: Path) -> Iterator[None]:
    descriptor = _taken(place)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(descriptor, done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        if _is(place, descriptor):
            place.unlink()
        os.close(descriptor)


def _taken(place: Path) -> int:
    while True:
        descriptor = _opened(place)
        try:
            certain = _flocked(place, descriptor)
            owner = _owner(place)
            if owner and not (certain and owner.get("host") == socket.gethostname()):
                _wait_for_a_renewal(place, owner)
            if not _is(place, descriptor):  # its owner has ended meanwhile, and took it away
                os.close(descriptor)
                continue
            me = {"host": socket.gethostname(), "process": os.getpid()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(me).encode() + b"\n", 0)
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise


def _opened(place: Path) -> int:
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(f"{place}: a link, where a run keeps its own file. Delete it.") from None


def _flocked(place: Path, descriptor: int) -> bool:
    """Whether the flock is ours; False where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refused(place, _owner(place)) from None
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        return False
    return True


def _wait_for_a_renewal(place: Path, owner: dict[str, object]) -> None:
    """Raise InputError where the owner gives a sign of life."""
    log.info("%s: that of %s; waiting %.0f s for a sign of life", place, _name(owner), PATIENCE)
    then, until = place.stat().st_mtime_ns, time.monotonic() + PATIENCE
    while time.monotonic() < until:
        time.sleep(RENEWED / 5)
        # Opened anew: so NFS asks the server.
        with contextlib.suppress(FileNotFoundError), place.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime_ns != then:
                raise _refused(place, owner)


def _renew(descriptor: int, done: threading.Event) -> None:
    while not done.wait(RENEWED):
        with contextlib.suppress(OSError):  # the run itself will say what is wrong with the disk
            os.utime(descriptor)


def _refused(place: Path, owner: dict[str, object]) -> InputError:
    return InputError(
        f"{place.parent}: another run is at work there ({_name(owner)}). Wait for its end, or use "
        "another --workdir."
    )


def _name(owner: dict[str, object]) -> str:
    return f"process {owner.get('process', '?')} on {owner.get('host', '?')}"


def _owner(place: Path) -> dict[str, object]:
    """What the file says; empty where it says nothing that can be read."""
    try:
        found = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is(place: Path, descriptor: int) -> bool:
    """Whether the open file still stands under that name."""
    try:
        return os.path.samestat(place.stat(), os.fstat(descriptor))
    except OSError:
        return False
