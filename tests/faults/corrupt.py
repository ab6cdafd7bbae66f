"""Damage a file of a run, resume it, and look what comes of it; many times.

    python -m tests.faults.corrupt --folder /tmp/faults --count 700

After each fault, the run either ends as the undisturbed one did, bit for bit, or is refused with a
message, or its user was told what is not the same. --program export does so to a run that is
exported; generate and plan to the model of an export. A case depends on --seed and its number
alone: --from goes on where an earlier call ended, --count 1 shows one case again. Exit status 1
where a case was silent or not caught.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import io
import logging
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from interact_jax import cli
from launch import train as launch_train
from tests.faults import runs
from tests.faults.programs import PROGRAMS, Program, quietly
from tests.faults.runs import METHODS, different, ending, settings_of
from tests.runs import train_arguments

RESUMED_AT, STEPS = 4, 6  # checkpoints 2 and 4 are there; the undisturbed run goes on to 6
BAD = ("silent", "uncaught")
KINDS = (*BAD, "refused", "told", "fell back", "same")


@dataclasses.dataclass
class Case:
    """A fault: which file of which run, and what was done to it."""

    method: str
    file: str
    fault: str


@dataclasses.dataclass
class Outcome:
    """`kind`: same, fell back, refused, told (of what is not the same), silent, uncaught."""

    kind: str
    said: str


def flip(file: Path, rng: random.Random) -> str:
    data = bytearray(file.read_bytes())
    if not data:
        return delete(file, rng)
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    data[at] ^= 1 << bit
    file.write_bytes(data)
    return f"bit {bit} of byte {at} flipped"


def truncate(file: Path, rng: random.Random) -> str:
    size = file.stat().st_size
    left = rng.choice([0, rng.randrange(size + 1), max(0, size - 1)])
    os.truncate(file, left)
    return f"truncated to {left} of {size} bytes"


def blank(file: Path, rng: random.Random) -> str:
    """A block that never reached the disk."""
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data) + 1)
    data[at : at + 512] = bytes(len(data[at : at + 512]))
    file.write_bytes(data)
    return f"zeros from byte {at} on"


def grow(file: Path, rng: random.Random) -> str:
    data = rng.randbytes(rng.randrange(1, 100))
    with file.open("ab") as opened:
        opened.write(data)
    return f"{len(data)} bytes appended"


def delete(file: Path, rng: random.Random) -> str:
    file.unlink()
    return "deleted"


def delete_folder(file: Path, rng: random.Random) -> str:
    shutil.rmtree(file.parent)
    return f"{file.parent.name}/ deleted"


FAULTS = (flip, flip, flip, truncate, blank, grow, delete, delete_folder)


def make(folder: Path, method: str) -> tuple[Path, dict[str, Any]]:
    """The run at rest after step RESUMED_AT, and how the undisturbed one ended."""
    rest, whole = folder / f"{method}-rest", folder / f"{method}-whole"
    if not (whole / "summary.json").is_file():
        shutil.rmtree(rest, ignore_errors=True)
        with contextlib.redirect_stderr(io.StringIO()), warnings() as said:
            resume(rest, folder, method, RESUMED_AT)
            shutil.rmtree(whole, ignore_errors=True)
            shutil.copytree(rest, whole)
            resume(whole, folder, method, STEPS)
        assert not said, "what is said without a fault tells of none"
    return rest, ending(whole)


def resume(workdir: Path, folder: Path, method: str, steps: int) -> None:
    settings = {**settings_of(folder, method), "steps": steps}
    with contextlib.redirect_stdout(io.StringIO()):
        launch_train.main(train_arguments(workdir, settings))


@contextlib.contextmanager
def warnings() -> Iterator[list[str]]:
    """What the package logs as a warning, or as worse, within this block."""
    said: list[str] = []
    make_record = logging.getLogRecordFactory()

    def listen(*args: Any, **more: Any) -> logging.LogRecord:
        record = make_record(*args, **more)
        if record.levelno >= logging.WARNING and record.name.startswith("interact_jax"):
            said.append(record.getMessage())
        return record

    logging.setLogRecordFactory(listen)
    try:
        yield said
    finally:
        logging.setLogRecordFactory(make_record)


def damage(workdir: Path, rng: random.Random) -> tuple[str, str]:
    """Do something to a file, every kind of file being as likely: (its name, what was done)."""
    kinds = collections.defaultdict(list)
    for file in sorted(p for p in workdir.rglob("*") if p.is_file()):
        name = file.relative_to(workdir)
        at = "newest" if f"checkpoints/{RESUMED_AT}/" in str(name) else name.parts[0]
        kinds[at, name.name if name.parent.name != "d" else "d"].append(file)
    file = rng.choice(kinds[rng.choice(sorted(kinds))])
    fault = rng.choice([f for f in FAULTS if f is not delete_folder or file.parent != workdir])
    return file.relative_to(workdir).as_posix(), fault(file, rng)


def run_case(number: int, seed: int, folder: Path, program: str) -> tuple[Case, Outcome]:
    """One fault and what came of it."""
    rng = random.Random(f"{seed}-{number}")
    method = rng.choice(sorted(METHODS))
    rest, expected = make(folder, method)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        workdir = Path(shutil.copytree(rest, Path(place) / "run"))
        if program == "train":
            case = Case(method, *damage(workdir, rng))
            return case, outcome(workdir, folder, method, expected)
        read = workdir
        if not PROGRAMS[program].of_run:
            whole = folder / f"{method}-whole"
            read = Path(shutil.copytree(whole / "export", Path(place) / "model"))
        sound = _made(program, read, Path(place) / "sound")
        case = Case(method, *damage(read, rng))
        return case, outcome_of(PROGRAMS[program], read, Path(place) / "out", sound)


def outcome(workdir: Path, folder: Path, method: str, expected: dict[str, Any]) -> Outcome:
    """Resume a run and compare."""
    status, said = _ended(lambda: resume(workdir, folder, method, STEPS))
    if status:
        return _refused(status, said)
    if other := different(ending(workdir), expected):
        return Outcome("told" if said else "silent", f"other: {', '.join(other)}. {said}")
    return Outcome("fell back" if said else "same", said)


def outcome_of(program: Program, read: Path, out: Path, expected: Any) -> Outcome:
    """Call another program and compare."""
    made: list[Any] = []
    status, said = _ended(lambda: made.append(quietly(program, read, out)))
    if status:
        return _refused(status, said)
    if made == [expected]:
        return Outcome("same", said)
    return Outcome("told" if said else "silent", said)


def _made(program: str, read: Path, out: Path) -> Any:
    """What comes of what is sound."""
    made: list[Any] = []
    status, said = _ended(lambda: made.append(quietly(PROGRAMS[program], read, out)))
    assert not status, said
    return made[0]


def _ended(main: Callable[[], None]) -> tuple[Any, str]:
    """Exit status, and what was said: all of stderr where it is not 0, else the warnings."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr), warnings() as said:
            cli.run(main)
    except SystemExit as ended:
        status = ended.code
    return status, stderr.getvalue() if status else "\n".join(said)


def _refused(status: Any, said: str) -> Outcome:
    clear = re.search("^(error|stopped): ", said, re.MULTILINE) and "Traceback" not in said
    return Outcome("refused" if clear and status in (1, 2) else "uncaught", said)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = runs.parser(__doc__, "the run that is damaged", 100)
    parser.add_argument("--program", default="train", choices=["train", *PROGRAMS])
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as own:
        folder = args.folder or Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        keep_compiled(folder / "compiled")
        found: collections.Counter[str] = collections.Counter()
        for number in range(args.first, args.first + args.count):
            case, came = run_case(number, args.seed, folder.resolve(), args.program)
            found[came.kind] += 1
            if args.show or came.kind in BAD:
                print(f"{number}: {came.kind}: {case}\n{came.said}", flush=True)
    counts = ", ".join(f"{found[kind]} {kind}" for kind in KINDS)
    print(f"{args.count} corruptions: {counts}")
    return 1 if any(found[kind] for kind in BAD) else 0


def keep_compiled(place: Path) -> None:
    """Every case compiles the same programs."""
    if jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


if __name__ == "__main__":
    sys.exit(main())
