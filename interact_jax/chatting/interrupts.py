"""Ctrl-C in a dialogue: it ends what is being done, and not the program.

with interrupts.handling() as ctrl_c:
    with ctrl_c.reading():
        line = input()                   Ctrl-C here raises KeyboardInterrupt
    while not ctrl_c.asked():            Ctrl-C here makes this true; a second one ends the
        ...                              process, as it does elsewhere
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from interact_jax import ends


class Interrupts:
    """What Ctrl-C does at the moment."""

    def __init__(self) -> None:
        self._reading = self._asked = False

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Within this block Ctrl-C raises KeyboardInterrupt; earlier ones are forgotten."""
        self._asked, self._reading = False, True
        try:
            yield
        finally:
            self._reading = False

    def asked(self) -> bool:
        """Whether Ctrl-C was pressed since something was read."""
        return self._asked

    def handle(self, number: int, _: Any) -> None:
        """The handler of SIGINT."""
        if self._reading:
            self._reading = False
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
