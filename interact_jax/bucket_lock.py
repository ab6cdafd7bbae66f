"""One run at a time in a bucket: `lock.hold`, where there is no flock.

    with bucket_lock.hold(store.place("gs://BUCKET/run")) as held: held.check()

HOME/lock names the owner, as the file does in a directory, and the owner writes it anew every few
seconds. Whoever finds another's waits for longer than that to see whether it changes. An owner that
was a process of this same machine, and is gone, is not waited for.

The store makes the object only where there is none. To take over that of an owner who is gone, it
is removed first, and the store cannot tell it from that of another who takes it over in the same
second: so each looks again a moment later, and at every checkpoint (`check`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from interact_jax import lock, store
from interact_jax.buckets import Bucket, OutOfReach
from interact_jax.schema import InputError, RunStopped
from interact_jax.store import Place

log = logging.getLogger(__name__)

RENEWED = 15.0  # seconds from one renewal to the next; a store takes a change of a name per second
PATIENCE = 60.0  # seconds without one, after which an owner counts as gone
MOMENT = 2.0  # seconds; more than between looking at a lock and taking it over
BOOT = "/proc/sys/kernel/random/boot_id"  # another one for each start of each machine
NUMBERING = "/proc/self/ns/pid"  # within which the number of a process means the same


@contextlib.contextmanager
def hold(home: Place) -> Iterator[Held]:
    """Hold the lock of a run in a bucket.

    Raises InputError, which names the owner, where another process holds it; and where the bucket
    is not there, or cannot be written to.
    """
    bucket: Any = store.of(home)
    held = Held(bucket, home)
    try:
        held.acquire()
    except RunStopped as error:  # out of reach
        raise InputError(str(error)) from error
    except FileNotFoundError as error:
        raise InputError(f"{home}: there is no such bucket, or no access to it.") from error
    done = threading.Event()
    renewing = threading.Thread(target=held.renew, args=(done,), daemon=True)
    renewing.start()
    reached = True
    try:
        yield held
    except OutOfReach:
        reached = False
        raise
    finally:
        done.set()
        renewing.join(MOMENT)
        if reached:
            held.release()


class Held:
    """A lock that this process holds."""

    def __init__(self, bucket: Bucket, home: Place):
        self._bucket, self._home, self._place = bucket, home, home / "lock"
        self._own = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "system": _system(),
            "id": secrets.token_hex(8),
        }
        self._renewals = 0

    def acquire(self) -> None:
        while True:
            owner = self._read()
            if owner and not _has_ended(owner):
                self._wait_for_a_renewal(owner)
            if owner:
                if self._read() != owner:
                    continue
                self._bucket.remove(self._place)
            if not self._bucket.create(self._place, self._content()):
                continue
            if owner:
                time.sleep(MOMENT)
            if self._is_own(self._read()):
                return

    def check(self) -> None:
        """Raise RunStopped where another run has taken the lock."""
        if not self._is_own(now := self._read()):
            other = f"{lock.describe(now)} has" if now else "somebody has removed"
            raise RunStopped(
                f"{self._home}: {other} the lock of this run, which gave no sign of life for more "
                f"than {PATIENCE:.0f} s. It stops here, so that not two write."
            )

    def close(self) -> None:
        """Nothing: `release` gives it back."""

    def renew(self, done: threading.Event) -> None:
        """Say every few seconds that the owner is there, until `done`."""
        while not done.wait(RENEWED):
            with contextlib.suppress(Exception):  # the run itself reports what is wrong
                if self._is_own(self._read()):
                    self._renewals += 1
                    self._bucket.write(self._place, self._content())

    def release(self) -> None:
        with contextlib.suppress(Exception):  # it then counts as stale
            if self._is_own(self._read()):
                self._bucket.remove(self._place)

    def _wait_for_a_renewal(self, owner: dict[str, Any]) -> None:
        """Raise InputError where the owner renews it; returns where it does not, or is gone."""
        what = lock.describe(owner)
        log.info("%s: held by %s; waiting %.0f s for a sign of life", self._place, what, PATIENCE)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(RENEWED / 5)
            now = self._read()
            if not now:
                return
            if now != owner:
                raise lock.refusal(self._home, now)

    def _content(self) -> bytes:
        return json.dumps(self._own | {"renewals": self._renewals}).encode() + b"\n"

    def _read(self) -> dict[str, Any]:
        """The content of the object; empty where there is none, something odd where it is that."""
        try:
            text = self._bucket.read(self._place)
        except FileNotFoundError:
            return {}
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        return found if isinstance(found, dict) and found else {"odd": repr(text[:100])}

    def _is_own(self, found: dict[str, Any]) -> bool:
        return found.get("id") == self._own["id"]


def _has_ended(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine, and is gone."""
    system, process = _system(), owner.get("process")
    if not system or owner.get("system") != system or not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _system() -> str:
    """What tells this machine, since it was started, from all others; empty where nothing does."""
    try:
        with open(BOOT, encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink(NUMBERING)}"
    except OSError:
        return ""
