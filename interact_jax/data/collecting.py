"""When Python's garbage collector looks for circles of objects."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

RARELY = 100  # times as many new objects as usual before the collector looks at them

_lock = threading.Lock()
_wanted = 0  # how many want it now
_usual = gc.get_threshold()


@contextlib.contextmanager
def collecting_rarely() -> Iterator[None]:
    """Reading and tokenising make millions of objects that refer to one another in no circles; the
    collector, which looks for these, would go through all that there are again and again. Several
    threads may want it, one in the other or side by side."""
    global _wanted, _usual
    with _lock:
        if not _wanted:
            _usual = gc.get_threshold()
            gc.set_threshold(RARELY * _usual[0], *_usual[1:])
        _wanted += 1
    try:
        yield
    finally:
        with _lock:
            _wanted -= 1
            if not _wanted:
                gc.set_threshold(*_usual)
