"""Progress of long operations: a line that counts the seconds on a terminal, else log messages.

    with progress.of("loading the weights"):
        ...

    @progress.of("loading the weights")
    def load(): ...

Only the outermost is shown, and none while a progress bar is (`bar`), or where the log is off.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger(__name__)

FIRST = 5.0  # seconds until the first log message; the interval then doubles each time
_shown = False  # whether an operation or a bar is shown


def is_wanted() -> bool:
    """Whether bars and lines of steps are to be shown; `--quiet` leaves only errors."""
    return log.isEnabledFor(logging.WARNING)


@contextlib.contextmanager
def of(what: str) -> Iterator[None]:
    """Show that `what` is going on, and for how long."""
    if _shown or not log.isEnabledFor(logging.INFO):
        yield
        return
    began, console = time.monotonic(), Console(stderr=True)
    with bar(), _line(what, console) if console.is_terminal else _lines(what):
        yield
    seconds = time.monotonic() - began
    if seconds > FIRST:
        log.info("%s took %.0f s", what, seconds)


@contextlib.contextmanager
def counting(what: str, total: int, things: str) -> Iterator[Callable[[], None]]:
    """Show how many of `total` things are done: what this yields is called after each."""
    console, done, began = Console(stderr=True), 0, time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    times = (TextColumn(things), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("left"))
    shown = is_wanted() and console.is_terminal
    with bar(), Progress(*columns, *times, console=console, disable=not shown) as line:
        task, wait = line.add_task(what.replace("[", r"\["), total=total), FIRST

        def advance() -> None:
            nonlocal done, wait
            done += 1
            line.advance(task)
            seconds = time.monotonic() - began
            if not shown and seconds > wait:
                log.info("%s: %d of %d %s, %.0f s so far", what, done, total, things, seconds)
                wait = 2 * seconds

        yield advance


@contextlib.contextmanager
def bar() -> Iterator[None]:
    """Within this block something else shows progress."""
    global _shown
    before, _shown = _shown, True
    try:
        yield
    finally:
        _shown = before


def _line(what: str, console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    line = Progress(*columns, console=console, transient=True)
    line.add_task(what.replace("[", r"\["), total=None)
    return line


@contextlib.contextmanager
def _lines(what: str) -> Iterator[None]:
    ended, began = threading.Event(), time.monotonic()

    def count() -> None:
        wait = FIRST
        while not ended.wait(began + wait - time.monotonic()):
            log.info("%s: %.0f s so far", what, wait)
            wait *= 2

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
