"""What the programs in launch/ share: how a run's settings are given, how each program ends.

    parser = cli.settings_parser(__doc__)
    parser.add_argument("--workdir", required=True)
    args, overrides = cli.parse_settings(parser, argv)
    cfg = config.load(args.config, overrides)

    if __name__ == "__main__":
        cli.run(main)

Exit status: 0 on success and for --help, 2 on bad arguments, settings or input, 1 on an internal
failure, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gzip
import json
import logging
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax

from interact_jax import config, files, foreign
from interact_jax.schema import InputError, RunStopped

log = logging.getLogger(__name__)

# A disk, a quota or the largest size of a file is used up, or the disk fails.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
NO_ROOM_REMEDY = (
    "Make room and start the same command again; checkpoints that were complete are as they were."
)
BAD_PLACE = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)

ACCELERATORS = ("accel[0-9]*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd")  # in /dev: TPU, GPU
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def settings_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows --config and lists all settings in its help."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings, with their defaults:\n" + config.describe(),
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE.py", help="settings of the run")
    return parser


def parse_settings(
    parser: argparse.ArgumentParser, argv: list[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """The named arguments, and the --config.KEY=VALUE ones as they stand."""
    args, rest = parser.parse_known_args(argv)
    unknown = [argument for argument in rest if not argument.startswith("--config.")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args, rest


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
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        if error.errno in NO_ROOM:
            _leave(1, f"error: {place}{error.strerror}. {NO_ROOM_REMEDY}")
        if place and isinstance(error, BAD_PLACE):
            _leave(2, f"error: {place}{error.strerror}. Give another path.")
        _internal_failure()
    except Exception:
        _internal_failure()
    sys.exit(0)


def keep_compiled(directory: str = "auto") -> None:
    """Keep compiled programs in a directory, so that the same program starts at once next time.

    "auto" is the user's cache directory, "" keeps nothing. A directory that jax was given already
    (JAX_COMPILATION_CACHE_DIR) stays.
    """
    if not directory or jax.config.jax_compilation_cache_dir:
        return
    if directory == "auto":
        try:
            directory = str(foreign.cache_directory() / "compiled")
        except OSError as error:
            log.info("compiled programs are not kept: %s", error)
            return
    jax.config.update("jax_compilation_cache_dir", directory)


def keep_memory() -> None:
    """Where the host itself computes, keep the memory that XLA frees for the next step.

    A step allocates hundreds of megabytes and frees them; glibc hands large pieces back at once,
    and the system clears and maps every page anew, which takes up to a quarter of a small model's
    step. To be called before JAX starts its threads, which would get heaps of their own. Nothing is
    done without glibc, where an accelerator is, or where GLIBC_TUNABLES tells what is wanted.
    """
    on_host = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(
        any(Path("/dev").glob(pattern)) for pattern in ACCELERATORS
    )
    if not on_host or platform.libc_ver()[0] != "glibc" or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1):
        mallopt(parameter, value)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Show what the package logs, as plain lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("interact_jax")
    logger.handlers = [handler]  # not the root's: libraries set that up as they like
    logger.propagate = False
    logger.setLevel(level)


def check_out(out: Path, *given: Path) -> None:
    """Refuse, before anything is computed, what could not be written afterwards: `out`, which must
    not be one of the files `given`. Raises InputError."""
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no directory {out.parent}.")
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"--out {out}: no permission to write into {out.parent}.")
    if out.is_dir():
        raise InputError(f"--out {out}: is a directory; expected the file to write.")
    if out.exists() and any(file.exists() and out.samefile(file) for file in given):
        raise InputError(f"--out {out}: is the file that is read; name another.")


def write_lines(out: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """A JSON object a line, compressed where the name ends in .gz. The whole file or nothing: it
    appears under its name when it is complete."""
    opened = gzip.open if out.suffix == ".gz" else open
    with (
        files.whole(out) as partial,
        opened(partial, "wt", encoding="utf-8", newline="\n") as file,
    ):
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _leave(status: int, message: str = "") -> NoReturn:
    if message:
        print(message, file=sys.stderr, flush=True)
    sys.exit(status)


def _internal_failure() -> NoReturn:
    traceback.print_exc()
    _leave(1, "internal failure: please report it with the traceback above")
