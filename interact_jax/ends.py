"""How a program ends when it is told to: by Ctrl-C (SIGINT), SIGTERM or SIGHUP.

    if __name__ == "__main__":  # before the imports that take seconds
        from interact_jax import ends

        ends.in_words()

    with ends.Deferred() as stop:
        while not stop.asked: ...

The first signal raises `Ended` in the main thread, so that what is being written to the side is
cleared away; a second one ends the process at once. So does the first where the main thread does
not come to it within GRACE seconds, being inside a computation or a compilation. In a `Deferred`
block a signal is a request, and only a second one is more.

The process always leaves without taking the interpreter down: threads that still compute would
crash on the way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 5.0  # seconds
RETRY = 0.01  # seconds
SHOW_CURSOR = "\x1b[?25h"  # a progress bar may have hidden it

_deferred = 0  # blocks that take a signal for a request
_requests = 0  # that such a block was sent
_caught = False  # whether somebody is there who catches `Ended`
_told = 0  # the signal that has raised `Ended`


class Ended(BaseException):
    """A signal has asked the program to end."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def in_words() -> None:
    """From here on a signal ends this program with one line, and status 128 + its number.

    To be called in the main thread. Signals that are ignored, as under `nohup`, stay ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


@contextlib.contextmanager
def catching() -> Any:
    """In here signals raise `Ended`; before, they end the process at once."""
    global _caught
    _caught, before = True, sys.unraisablehook

    def dropped(raised: sys.UnraisableHookArgs) -> None:
        if isinstance(raised.exc_value, Ended):
            _again(raised.exc_value.number)
        else:
            before(raised)

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        _caught, sys.unraisablehook = False, before


def leave(number: int) -> NoReturn:
    """End the process with one line and the status of a signal."""
    name = signal.Signals(number).name
    word = "interrupted" if number == signal.SIGINT else f"ended by {name}"
    cursor = SHOW_CURSOR if os.isatty(2) else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{cursor}{word}\n".encode())
    os._exit(128 + number)


def _end(number: int, _: Any) -> None:
    global _told
    if _told or not _caught:
        leave(number)
    _told = number
    raise Ended(number)


def _again(number: int) -> None:
    """Raise `Ended` once more: the main thread was in a callback of weak references or the like,
    out of which Python hands no exception on. It is to be outside by then."""
    global _told
    _told = 0
    main = threading.main_thread().ident
    threading.Timer(RETRY, signal.pthread_kill, (main, number)).start()


def _watch(reader: int) -> None:
    """Told of every signal at once, wherever the main thread is."""
    global _requests
    while True:
        number = os.read(reader, 1)[0]
        if number not in SIGNALS:
            continue
        if _deferred:
            _requests += 1
            if _requests > 1:  # and the main thread has not come to the first yet
                leave(number)
        elif signal.getsignal(number) is _end:
            time.sleep(GRACE)
            leave(number)


class Deferred:
    """Turns the first signal into a request to stop at a good place: `asked` is its name, `status`
    what the process ends with then."""

    def __enter__(self) -> Deferred:
        global _deferred, _requests
        self.asked, self.status = "", 0
        self._counts = True
        _deferred += 1
        _requests = 0
        self._before = {
            number: signal.signal(number, self._ask)
            for number in SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._no_longer()

    def _ask(self, number: int, _: Any) -> None:
        self.asked, self.status = signal.Signals(number).name, 128 + number
        for each, handler in self._before.items():  # a second one, of any kind, acts at once
            signal.signal(each, handler)
        self._no_longer()

    def _no_longer(self) -> None:
        global _deferred
        _deferred -= self._counts
        self._counts = False
