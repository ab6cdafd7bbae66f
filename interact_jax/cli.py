"""What the programs in launch/ share: how each of them ends.

    if __name__ == "__main__":
        cli.run(main)

Exit status: 0 on success and for --help, 2 on bad arguments, settings or input, 1 on an internal
failure, 130 when interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from interact_jax.schema import InputError, RunStopped


def run(main: Callable[[], None]) -> NoReturn:
    """Call main and end the process with the status that tells how it went.

    An InputError is what the user can mend: one message on stderr, no traceback. argparse's own
    exits (2 for bad arguments, 0 for --help) pass through.
    """
    try:
        main()
        sys.stdout.flush()  # here, so that a closed pipe is met below and not at interpreter exit
    except InputError as error:
        _leave(2, f"error: {error}")
    except RunStopped as stopped:
        _leave(1, f"stopped: {stopped}")
    except KeyboardInterrupt:
        _leave(130, "interrupted")  # 128 + SIGINT, as shells have it
    except BrokenPipeError:
        # Whoever read our output (`| head`) has enough. Python would complain once more when it
        # flushes stdout at exit, so that goes nowhere from here on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(1)
    except Exception:
        traceback.print_exc()
        _leave(1, "internal failure: please report it with the traceback above")
    sys.exit(0)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Show what the package logs, as plain lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("interact_jax")
    logger.handlers = [handler]  # not the root's: libraries set that up as they like
    logger.propagate = False
    logger.setLevel(level)


def _leave(status: int, message: str = "") -> NoReturn:
    if message:
        print(message, file=sys.stderr, flush=True)
    sys.exit(status)
