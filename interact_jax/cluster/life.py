"""Signs of life of a process, for the supervisor that has started it (`supervisor`)."""

from __future__ import annotations

import os
import signal
import threading
import time

VARIABLE = "INTERACT_LIFE"  # number of the open file to write to
INTERVAL = 2.0  # seconds
END = 25.0  # seconds in which a process ends by itself, once it was asked to


def begin() -> None:
    """From here on a thread gives a sign of life every INTERVAL, where a supervisor listens; when
    that is gone, this process ends, as by SIGTERM."""
    if descriptor := os.environ.pop(VARIABLE, ""):  # not for processes that this one starts
        os.set_inheritable(int(descriptor), False)
        threading.Thread(target=_give_signs, args=(int(descriptor),), daemon=True).start()


def _give_signs(descriptor: int) -> None:
    try:
        while True:
            os.write(descriptor, b".")
            time.sleep(INTERVAL)
    except OSError:  # nobody listens any more
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END)
        os._exit(128 + signal.SIGTERM)
