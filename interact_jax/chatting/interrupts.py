"""Ctrl-C in a dialogue: it ends what is being done, and not the program.

with interrupts.handling() as ctrl_c:
    with ctrl_c.working() as asked:
        while not asked(): ...           Ctrl-C here makes asked() true, a second one ends the
                                         process, as it does elsewhere
    input()                              Ctrl-C here raises KeyboardInterrupt
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from interact_jax import ends


class Interrupts:
    """What Ctrl-C does at the moment."""

    def __init__(self) -> None:
        self._working = self._asked = False

    @contextlib.contextmanager
    def working(self) -> Iterator[Callable[[], bool]]:
        """Within this block Ctrl-C is a request to stop."""
        self._working, self._asked = True, False
        try:
            yield lambda: self._asked
        finally:
            self._working = False

    def handle(self, number: int, _: Any) -> None:
        """The handler of SIGINT."""
        if not self._working:
            raise KeyboardInterrupt
        if self._asked:
            ends.leave(number)
        self._asked = True


@contextlib.contextmanager
def handling() -> Iterator[Interrupts]:
    """Handle Ctrl-C this way, unless it is ignored; to be entered in the main thread."""
    interrupts, before = Interrupts(), signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupts.handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
