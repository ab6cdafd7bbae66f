"""What the programs in launch/ share: settings on the command line, output, and exit status.

    parser = cli.settings_parser(__doc__)
    parser.add_argument("--workdir", required=True)
    args, overrides = parser.parse_known_args(argv)
    cfg = config.load(args.config, overrides)

    if __name__ == "__main__":
        cli.run(main)

Exit status: 0 on success and for --help, 2 on bad arguments, settings or input, 1 on an internal
failure, 128 + its number when a signal ended it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gzip
import io
import json
import logging
import math
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import jax

from interact_jax import config, ends, foreign, orbax_errors, places, stage, startup
from interact_jax.arguments import SettingsParser, reader
from interact_jax.cluster import processes, xla_flags
from interact_jax.cluster.place import Flags, Place, find
from interact_jax.help_text import Paragraphs
from interact_jax.printable import presentable, printable
from interact_jax.schema import InputError, RunStopped
from interact_jax.settings import KINDS, Setting

log = logging.getLogger(__name__)

# Why a write failed, and what to do about it.
NO_ROOM = "Make room"  # the disk or quota is full, or the file too large
UNWRITABLE = {
    errno.ENOSPC: NO_ROOM,
    errno.EDQUOT: NO_ROOM,
    errno.EFBIG: NO_ROOM,
    errno.EROFS: "Make it writable, or give another place",
    errno.EIO: "The disk fails: give another",
}
UNWRITABLE_REMEDY = (
    "{}, and start the same command again; checkpoints that were complete are as they were."
)
EXHAUSTED = "RESOURCE_EXHAUSTED"  # how jax reports that a device is out of memory
# Paths and flags stay whole.
WRAP_OPTIONS: Any = {"break_long_words": False, "break_on_hyphens": False}
NO_THREAD = "can't start new thread"  # how Python reports that the limit is reached
BAD_PLACE = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)


def settings_parser(description: str | None, default: str = "") -> SettingsParser:
    """A parser that knows --config (required without a `default`) and lists all settings."""
    name_flags({})
    parser = SettingsParser(
        description=description,
        formatter_class=Paragraphs,
        epilog="settings, with their defaults:\n" + config.describe(),
        allow_abbrev=False,
    )
    said = f" (default {default})" if default else ""
    parser.add_argument(
        "--config",
        required=not default,
        default=default,
        metavar="FILE.py",
        help=f"settings of the run; or a recipe's name{said}",
    )
    return parser


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which processes a run consists of."""
    add = parser.add_argument
    add("--coordinator", default="", metavar="HOST:PORT", help="address of process 0, for all")
    add("--processes", type=at_least(1), default=0, help="how many there are")
    add("--process", type=at_least(0), default=-1, help="which one this is: 0, 1, ...")


def place_of(args: argparse.Namespace) -> Place:
    """The place of this process among all, by these flags or the launcher's environment. Raises
    InputError where they are incomplete."""
    return find(Flags(args.coordinator, args.processes, args.process), os.environ)


def log_as(place: Place, quiet: bool = False) -> None:
    """Show the log of this process: of process 0 all, errors only where it is to be `quiet`; of the
    others errors only, behind their number."""
    log_to_stderr(logging.ERROR if quiet or place.process else logging.INFO, place.name)


def join(place: Place, quiet: bool = False) -> None:
    """Connect this process with the others, before the first use of jax. Raises as
    `processes.join`."""
    xla_flags.add(place, os.environ)
    processes.join(place)
    if place.found_by_jax:  # the number of this process is known only now
        number = jax.process_index()
        log_to_stderr(logging.ERROR if quiet or number else logging.INFO, f"process {number}")


def add_settings(
    parser: argparse.ArgumentParser,
    flags: Mapping[str, str],
    defaults: Mapping[str, Any] | None = None,
    table: Mapping[str, Setting] | None = None,
) -> None:
    """Add settings of a run, or of another `table`, as flags of their own (setting -> flag), with
    their meaning, bounds and choices, and their default unless `defaults` overrides it."""
    table = config.settings() if table is None else table
    for name, flag in flags.items():
        setting = table[name]
        parser.add_argument(
            flag,
            type=type(setting.default) if setting.choices else setting_type(name, table),
            default=(defaults or {}).get(name, setting.default),
            choices=setting.choices or None,
            help=setting.meaning.replace("%", "%%"),
        )


# A possible setting, with or without "--config." before and "=" after it.
SETTING_PATTERN = re.compile(
    r"(?<![\w./-])(--config\.)?([a-z_]+(?:\.[a-z_]+)?)(?![\w/(-]|\.\w)(=)?"
)
_FLAGS: dict[str, str] = {}  # setting -> the current program's flag for it


def name_flags(flags: Mapping[str, str]) -> None:
    """From now on, messages that name one of these settings name its flag instead."""
    _FLAGS.clear()
    _FLAGS.update(flags)


def replace_settings(text: str) -> str:
    """A message with settings replaced by the current program's flags for them."""

    def flag(match: re.Match[str]) -> str:
        whole, name, equals = match.group(0), match.group(2), match.group(3)
        if name not in _FLAGS or ("." not in name and not match.group(1)):
            return whole
        return _FLAGS[name] + (" " if equals else "")

    return SETTING_PATTERN.sub(flag, text)


def setting_type(name: str, table: Mapping[str, Setting] | None = None) -> Callable[[str], Any]:
    """The type of an argument that stands for a setting of a run, or of another `table`, with the
    same bounds."""
    setting = (config.settings() if table is None else table)[name]

    def read(text: str) -> Any:
        value = reader(type(setting.default))(text)
        try:
            setting.check(name, value)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    return read


def at_least(least: float, kind: type = int) -> Callable[[str], Any]:
    """The type of an argument that is a finite number, no smaller than `least`."""

    def read(text: str) -> Any:
        value = reader(kind)(text)
        if not (math.isfinite(value) and value >= least):
            raise argparse.ArgumentTypeError(f"{text}: expected {KINDS[kind]}, at least {least}")
        return value

    return read


def run(main: Callable[[], None], memory_advice: str = "") -> NoReturn:
    """Call main and end the process with the status that describes how it went.

    An InputError is a problem that the user can fix: one message on stderr, no traceback.
    argparse's own exits (2 for bad arguments, 0 for --help) pass through. `memory_advice` says what
    makes this program need less memory, for when it runs out.
    """
    startup.end_imports()
    orbax_errors.silence_repeats()
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be valid text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with ends.catching():
            main()
        sys.stdout.flush()  # here, so that a closed pipe is handled below, not at interpreter exit
    except ends.Ended as ended:
        _flush()
        ends.leave(ended.number)
    except InputError as error:
        _leave(2, f"error: {error}")
    except RunStopped as stopped:
        _leave(stopped.status, f"stopped: {stopped}")
    except KeyboardInterrupt:
        _leave(130, "interrupted")  # 128 + SIGINT, as in shells
    except BrokenPipeError:
        # The reader of our output (`| head`) has closed it. Python would complain again when it
        # flushes stdout at exit, so redirect stdout to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(1)
    except OSError as error:
        held = stage.here(str(error.filename))
        place = f"{error.filename}{held}: " if error.filename else ""
        if error.errno in UNWRITABLE:
            remedy = UNWRITABLE_REMEDY.format(UNWRITABLE[error.errno])
            _leave(1, f"error: {place}{error.strerror}. {remedy}")
        if place and isinstance(error, BAD_PLACE):
            _leave(2, f"error: {place}{error.strerror}. Give another path.")
        _internal_failure()
    except (MemoryError, RuntimeError) as error:  # jax raises RuntimeErrors
        message = str(error).strip().partition("\n")[0]
        resource = "memory, or of processes" if NO_THREAD in message else "memory"
        if (
            isinstance(error, RuntimeError)
            and EXHAUSTED not in message  # whatever else the message names
            and NO_THREAD not in message
        ):
            if reason := processes.lost(error):
                _leave(1, f"stopped: {reason}")
            _internal_failure()
        _leave(
            1,
            " ".join(
                f"error: out of {resource}: {message or 'of this machine'}. {memory_advice}".split()
            ),
        )
    except Exception:
        _internal_failure()
    sys.exit(0)


def keep_compiled(directory: str = "auto") -> None:
    """Cache compiled programs in a directory, so that the same program starts at once next time.

    "auto" is the user's cache directory, "" caches nothing. A directory that is already set
    (JAX_COMPILATION_CACHE_DIR) stays.
    """
    if not directory or jax.config.values["jax_compilation_cache_dir"]:
        return
    if directory == "auto":
        try:
            directory = str(foreign.cache_directory() / "compiled")
        except OSError as error:
            log.info("compiled programs are not kept: %s", error)
            return
    jax.config.update("jax_compilation_cache_dir", directory)


_PREFIX = [""]  # of messages: the name of this process, where there are several


def log_to_stderr(level: int = logging.INFO, name: str = "") -> None:
    """Show the package's log messages as plain lines, behind the `name` of the process, and so the
    message that this process ends with."""
    _PREFIX[0] = f"{name}: " if name else ""
    handler = _Stderr()
    handler.setFormatter(_Presentable(f"{_PREFIX[0]}%(message)s"))
    logger = logging.getLogger("interact_jax")
    logger.handlers = [handler]  # not the root logger, which libraries configure themselves
    logger.propagate = False
    logger.setLevel(level)


class _Stderr(logging.StreamHandler[Any]):
    """Writes to the current sys.stderr: a progress bar replaces it to print lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Presentable(logging.Formatter):
    """Log messages, like error messages, contain names and texts from others."""

    def format(self, record: logging.LogRecord) -> str:
        return wrap(presentable(_in_our_words(super().format(record))), sys.stderr)


def wrap(text: str, stream: Any) -> str:
    """Break lines that are too long for the terminal, between words."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())] + "  "
        short = len(line) <= width
        lines += (
            [line]
            if short
            else textwrap.wrap(line, width, subsequent_indent=indent, **WRAP_OPTIONS)
        )
    return "\n".join(lines)


def show(*lines: str) -> None:
    """Print lines to standard output, without control characters for the terminal."""
    text = stage.with_addresses("\n".join(lines))
    print(wrap(printable(text), sys.stdout), flush=True)


def check_output(out: str | Path, *read: str | Path, option: str = "--out") -> None:
    """Check, before anything is computed, that `out` can be written and is none of the files that
    are `read`. Raises InputError."""
    places.check_output(f"{option} {out}", out, read)


@contextlib.contextmanager
def reserve_stdout(out: str | Path) -> Iterator[None]:
    """Where `out` is standard output, everything else that is printed goes to standard error."""
    if places.descriptor(out) == 1:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    else:
        yield


def write_lines(out: str | Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON object per line, compressed where the name ends in .gz; see `places.writing`."""
    with places.writing(out) as file, _compress(out, file) as stream:
        for line in lines:
            stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _compress(out: str | Path, file: BinaryIO) -> contextlib.AbstractContextManager[Any]:
    if Path(out).suffix == ".gz":
        return gzip.GzipFile("", "wb", fileobj=file, mtime=0)
    return contextlib.nullcontext(file)


def _in_our_words(message: str) -> str:
    """A message with this program's flags, and the addresses that its user knows."""
    return replace_settings(stage.with_addresses(message))


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()


def _leave(status: int, message: str = "") -> NoReturn:
    if message:
        message = printable(_PREFIX[0] + _in_our_words(message))
        print(wrap(message, sys.stderr), file=sys.stderr, flush=True)
    if status and processes.are_several():
        # Others wait for this process, and threads of it for them: they have to see its end.
        _flush()
        os._exit(status)
    sys.exit(status)


def _internal_failure() -> NoReturn:
    print(printable(traceback.format_exc()), file=sys.stderr, end="")
    _leave(1, "internal failure: please report it with the traceback above")
