"""A single error for what Orbax reports several times, in several places.

Where a disk is full or a directory gone, `as_os_errors` raises the error of the first array's
write. Orbax also logs that with a traceback, as does asyncio for every other array; and every write
that is still pending finds its event loop closed when the process ends. `silence_repeats` is for
programs, which report the first error themselves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator

OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in the writer's messages
LOOP_CLOSED = "Event loop is closed"


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """Turn the background writer's ValueErrors about the file system into OSErrors."""
    try:
        yield
    except Exception as error:
        if not (code := OS_ERROR.search(str(error))):
            raise
        number = int(code.group(1))
        raise OSError(number, f"{os.strerror(number)} while a checkpoint was written") from error


def silence_repeats() -> None:
    """From here on neither logs nor hooks repeat what `as_os_errors` raises."""
    for writer in ("absl", "asyncio"):
        logging.getLogger(writer).addFilter(_is_new)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _show_new


def _is_new(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    repeated = isinstance(error, OSError) or OS_ERROR.search(str(error))
    return not (repeated or str(error) == LOOP_CLOSED or "orbax" in record.pathname)


def _show_new(raised: sys.UnraisableHookArgs) -> None:
    if str(raised.exc_value) != LOOP_CLOSED:
        sys.__unraisablehook__(raised)
