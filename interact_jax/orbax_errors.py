"""One error for what Orbax reports several times, in several places.

Where a disk is full or a directory gone, Orbax raises what the first array's write met. It also
logs that with a traceback; and the writes that are still under way find its event loop closed, each
of them, when the process ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def clear() -> Iterator[None]:
    """What the writer in the background reports of the system as ValueError is an OSError here."""
    try:
        yield
    except Exception as error:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the other writes' complaints
        if not (code := re.search(r"os_error_code='(\d+)'", str(error))):
            raise
        number = int(code.group(1))
        raise OSError(number, f"{os.strerror(number)} while a checkpoint was written") from error


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def _tell_but_closed_loops(unraisable: Any, tell: Any = sys.unraisablehook) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        tell(unraisable)


logging.getLogger("absl").addFilter(_is_news)
sys.unraisablehook = _tell_but_closed_loops
