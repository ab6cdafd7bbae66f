"""One error for what Orbax reports several times, in several places.

Where a disk is full or a directory gone, `clear` raises what the first array's write met. Orbax
also logs that with a traceback, as does asyncio for every other array; and writes that are still
under way find its event loop closed, each of them, when the process ends. `say_once` is for
programs, which tell the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator

OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in what the writer reports
LOOP_CLOSED = "Event loop is closed"


@contextlib.contextmanager
def clear() -> Iterator[None]:
    """What the writer in the background reports of the system as ValueError is an OSError here."""
    try:
        yield
    except Exception as error:
        if not (code := OS_ERROR.search(str(error))):
            raise
        number = int(code.group(1))
        raise OSError(number, f"{os.strerror(number)} while a checkpoint was written") from error


def say_once() -> None:
    """From here on neither logs nor hooks repeat what `clear` raises."""
    for writer in ("absl", "asyncio"):
        logging.getLogger(writer).addFilter(_is_news)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _show_news


def _is_news(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    repeated = isinstance(error, OSError) or OS_ERROR.search(str(error))
    return not (repeated or str(error) == LOOP_CLOSED or "orbax" in record.pathname)


def _show_news(raised: sys.UnraisableHookArgs) -> None:
    if str(raised.exc_value) != LOOP_CLOSED:
        sys.__unraisablehook__(raised)
