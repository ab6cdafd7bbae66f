"""Damage what the programs read, one thing at a time, and look what comes of it; many times.

    python -m tests.faults.mutate --folder /tmp/faults --count 20000 --jobs 2

Conversations in every format, logs as they are dumped (Parquet, tables, packed files), prepared
data and stores of trees, prompts, a model's files, a run's log and settings, settings and paths
from the command line; `--kind dumps` takes one of them alone (`inputs.KINDS`). Whatever is wrong,
it is read, or refused by an InputError whose message is short and has no control characters; it
takes neither long nor much memory. Conversations that were not touched come through as they were,
or are counted. Every --programs-th case goes through a program of launch/, the others through what
these call. A case depends on --seed, --kind and its number alone: --from goes on where an earlier
call ended, --count 1 shows one case again. Cases run in a process that they may end: what such a
case read is kept in the folder. Exit status 1 where a case was bad.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import io
import logging
import os
import resource
import signal
import sys
import tempfile
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"  # strange names are asked of nobody

from interact_jax import cli
from interact_jax.schema import InputError
from tests.faults import inputs, runs, talks, victims
from tests.faults.corrupt import keep_compiled

BAD = ("wrong", "silent", "uncaught", "unclear", "slow", "large")
KINDS = (*BAD, "refused", "read")
SECONDS, COMPILING = 10.0, 60.0  # of a processor, for a case; for one that compiles, too
PATIENCE = 300.0  # by the clock
GROWTH = 1 << 30  # bytes that a case may add to the largest size that this process has had
LONGEST = 3000  # characters of a message
MOST_SHOWN = 500  # characters of a line


@dataclasses.dataclass
class Outcome:
    """`kind`: read, refused; or wrong (what came through is), silent (something did not, and was
    not counted), uncaught, unclear (the message is), slow, large."""

    kind: str
    said: str = ""


class TooSlow(BaseException):
    """Not an Exception: what is tried must not take it for its own."""


@contextlib.contextmanager
def bounded(most: float) -> Iterator[None]:
    """Raise TooSlow where a case takes too long."""

    def stop(*_: object) -> None:
        raise TooSlow

    # Not SIGPROF: libtpu sends that to the process it is loaded in.
    timers = {signal.ITIMER_VIRTUAL: most, signal.ITIMER_REAL: PATIENCE}
    before = {number: signal.signal(number, stop) for number in (signal.SIGVTALRM, signal.SIGALRM)}
    try:
        for timer, seconds in timers.items():
            signal.setitimer(timer, seconds)
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def largest() -> int:
    """Bytes that this process has had in memory at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def scratch_name(number: int, seed: int, kind: str) -> str:
    """How the names of folders begin in which a case happens."""
    return f"case-{kind}-{seed}-{number}-"


def run_case(
    number: int, seed: int, folder: Path, programs: int, kind: str = ""
) -> tuple[str, Outcome]:
    """One case and what came of it."""
    keep_compiled(folder / "compiled")
    own = scratch_name(number, seed, kind)
    with tempfile.TemporaryDirectory(prefix=own, dir=folder) as scratch:
        stand = inputs.Stand(folder, Path(scratch))
        case = inputs.case(number, seed, stand, kind)
        what, run, most = case.what, functools.partial(by_hand, case.opened), SECONDS
        if case.program is not None and number % programs == 0:
            main, arguments = case.program()
            what = f"{main.__module__}: {what}"
            run, most = functools.partial(by_program, main, arguments), COMPILING
        before = largest()
        try:
            with bounded(most):
                outcome = run()
        except TooSlow:
            return what, Outcome("slow", f"more than {most:.0f} s of a processor")
        if (grown := largest() - before) > GROWTH:
            return what, Outcome("large", f"{grown:,} bytes more")
        return what, outcome


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What is logged on the way is not looked at."""
    logging.disable()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def by_hand(opened: Callable[[], str]) -> Outcome:
    try:
        with quiet():
            wrong = opened()
    except InputError as error:
        return refused(str(error))
    except talks.Silent as lost:
        return Outcome("silent", str(lost))
    except (TooSlow, KeyboardInterrupt):
        raise
    except BaseException:  # libraries in Rust panic beside Exception
        return Outcome("uncaught", traceback.format_exc())
    return Outcome("wrong", wrong) if wrong else Outcome("read")


def by_program(main: Callable[[list[str]], Any], arguments: list[str]) -> Outcome:
    printed, stderr = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(stderr):
            cli.run(lambda: main(arguments))
    except SystemExit as ended:
        status = ended.code or 0
    said = stderr.getvalue()
    if not status:
        shown = refused(printed.getvalue() + said)
        return Outcome("read", said) if shown.kind == "refused" else shown
    if status != 2 or "Traceback" in said or said.count("error: ") != 1:
        return Outcome("uncaught", said)
    return refused(said[said.index("error: ") :])


def refused(said: str) -> Outcome:
    """What people can read."""
    odd = {c for c in said if unicodedata.category(c) == "Cc" and c not in "\n\t"}
    if odd or not said.strip() or len(said) > LONGEST:
        return Outcome("unclear", f"{len(said)} characters, control characters {odd}: {said[:500]}")
    return Outcome("refused", said)


def outcomes(args: argparse.Namespace, folder: Path) -> Iterator[tuple[int, str, Outcome]]:
    """Of every case, in order."""
    given = {"seed": args.seed, "folder": folder, "programs": args.programs, "kind": args.kind}
    numbers = range(args.first, args.first + args.count)
    for number, came in victims.each(functools.partial(run_case, **given), numbers, args.jobs):
        if isinstance(came, victims.Death):
            kept = sorted(folder.glob(scratch_name(number, args.seed, args.kind) + "*"))
            read = f"what it read is in {', '.join(map(str, kept))}"
            yield number, read, Outcome("slow" if came.patient else "uncaught", str(came))
        else:
            yield number, *came


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = runs.parser(__doc__, "the sound files", 1000)
    parser.add_argument("--programs", type=int, default=500, help="every so many through a program")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    kinds = ["", *(make.__name__ for make in inputs.KINDS)]
    parser.add_argument("--kind", default="", choices=kinds, help="of what is damaged; all")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as own:
        folder = (args.folder or Path(own)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        inputs.Stand(folder, folder).prepare()
        found: collections.Counter[str] = collections.Counter()
        for number, what, came in outcomes(args, folder):
            found[came.kind] += 1
            if args.show or came.kind in BAD:
                print(f"{number}: {came.kind}: {what[:MOST_SHOWN]!r}", flush=True)
                print("\n".join(line[:MOST_SHOWN] for line in came.said.splitlines()), flush=True)
    counts = ", ".join(f"{found[kind]} {kind}" for kind in KINDS)
    print(f"{args.count} mutations: {counts}")
    return 1 if any(found[kind] for kind in BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
