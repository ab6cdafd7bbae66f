"""How a program ends on a signal: Ctrl-C (SIGINT), SIGTERM or SIGHUP.

    if __name__ == "__main__":  # before the imports that take seconds
        from interact_jax import ends

        ends.install_handlers()

    with ends.Deferred() as stop:
        while not stop.asked: ...

The first signal raises `Ended` in the main thread, so that temporary files are removed; a second
one ends the process as soon as the main thread sees it. So does the first if the process is still
there after GRACE seconds, mostly because its main thread is inside a computation or a compilation.
In a `Deferred` block the first signal is only a request to stop; a second one acts as above.

The process always exits without shutting down the interpreter: threads that are still computing
would crash during the shutdown.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 5.0  # seconds
RETRY = 0.01  # seconds
LAST_LINE = 0.2  # seconds in which it should have been written
SHOW_CURSOR = "\x1b[?25h"  # a progress bar may have hidden it

_deferred = 0  # number of active blocks that treat a signal as a request
_requests = 0  # signals sent to such a block, as the watching thread has seen them
_unseen = False  # whether it has yet to see one that the main thread has made a request
_caught = False  # whether `Ended` will be caught
_raised = 0  # the signal that has raised `Ended`
_leaving = threading.Lock()  # held by the thread that says the last line


class Ended(BaseException):
    """A signal has asked the program to end."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def install_handlers() -> None:
    """From here on a signal ends this program with a one-line message and status 128 + its number.

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
def catching() -> Iterator[None]:
    """Within this block signals raise `Ended`; outside, they end the process at once."""
    global _caught
    _caught, before = True, sys.unraisablehook

    def hook(raised: sys.UnraisableHookArgs) -> None:
        if isinstance(raised.exc_value, Ended):
            _raise_again(raised.exc_value.number)
        else:
            before(raised)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        _caught, sys.unraisablehook = False, before


def leave(number: int) -> NoReturn:
    """End the process with a one-line message and the status of a signal.

    The main thread and the watching one may both come here: the first says the line. The other
    gives it time to, but still ends a process whose standard error is a pipe that nobody reads."""
    if not _leaving.acquire(blocking=False):
        time.sleep(LAST_LINE)
        os._exit(128 + number)
    name = signal.Signals(number).name
    word = "interrupted" if number == signal.SIGINT else f"ended by {name}"
    cursor = SHOW_CURSOR if os.isatty(2) else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{cursor}{word}\n".encode())
    os._exit(128 + number)


def _end(number: int, _: Any) -> None:
    global _raised
    if _raised or not _caught:
        leave(number)
    _raised = number
    raise Ended(number)


def _raise_again(number: int) -> None:
    """Raise `Ended` again: the main thread was in a weak-reference callback or the like, from which
    Python propagates no exceptions. After RETRY seconds it should have left that."""
    global _raised
    _raised = 0
    main = threading.main_thread().ident
    threading.Timer(RETRY, signal.pthread_kill, (main, number)).start()


def _watch(reader: int) -> None:
    """Receive every signal at once, whatever the main thread is doing."""
    global _requests, _unseen
    while True:
        number = os.read(reader, 1)[0]
        if number not in SIGNALS:
            continue
        if _unseen:
            _unseen = False
        elif _deferred:
            _requests += 1
            if _requests > 1:  # and the main thread has not handled the first yet
                leave(number)
        elif signal.getsignal(number) is _end:
            time.sleep(GRACE)
            leave(number)


class Deferred:
    """Turns the first signal into a request to stop at a suitable point: `asked` is its name,
    `status` the exit status to use then."""

    def __enter__(self) -> Deferred:
        global _deferred, _requests
        self.asked, self.status = "", 0
        self._counts = True
        _deferred += 1
        _requests = 0
        self._before = {
            number: signal.signal(number, self._handle)
            for number in SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._stop_deferring()

    def _handle(self, number: int, _: Any) -> None:
        global _unseen
        _unseen = not _requests  # the main thread was faster, as it is where it runs Python
        self.asked, self.status = signal.Signals(number).name, 128 + number
        for other, handler in self._before.items():  # a second signal, of any kind, acts at once
            signal.signal(other, handler)
        self._stop_deferring()

    def _stop_deferring(self) -> None:
        global _deferred
        _deferred -= self._counts
        self._counts = False
