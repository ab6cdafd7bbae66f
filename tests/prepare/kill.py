"""Kill launch/prepare_data.py at random moments, start it again, and look what comes of it.

    python -m tests.prepare.kill --folder /tmp/kills --count 20 -- --data 'logs/*.jsonl' \\
        --filter duplicates --part-bytes 4000000

SIGKILL meets the program and all its workers, each time after a random number of parts and a random
time, so that the kills are spread over all that it does, however fast the machine is. Shards of
parts that were finished must keep their times of modification, and in the end every file must be
that of a run that nobody disturbed, which is made first where --folder has none. A run that ends
before enough were killed is begun anew. Exit status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from interact_jax.printable import count
from tests.runs import ROOT

SPREAD = 1.4  # of the steps that a run has, as many are done between kills at most, all together
LONGEST = 2.0  # seconds from a step to a kill
PATIENCE = 3600.0  # seconds for a process to end: one that hangs is a fault


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="of the outputs")
    parser.add_argument("--count", type=int, default=20, help="how often it is killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("given", nargs="+", help="arguments of the program, without --out")
    args = parser.parse_args(argv)
    whole, out = args.folder / "whole" / "out", args.folder / "killed" / "out"
    whole.parent.mkdir(parents=True, exist_ok=True)
    if status := start(args.given, whole).wait(PATIENCE):
        sys.exit(f"the undisturbed run ended with {status}")
    expected, most = digests(whole), int(SPREAD * (2 * parts_of(whole) + 1) / args.count)
    rng, seen, rounds, same = random.Random(args.seed), Seen(), 0, True
    while seen.kills.total() < args.count:
        rounds += 1
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()
        while seen.kills.total() < args.count:
            process = start(args.given, out)
            if not kill_once(process, out, rng.randint(0, most), rng.random() * LONGEST, seen):
                break
            said = f"killed {seen.kills.total()} times; {len(seen.times)} files are finished"
            print(said, flush=True)
        if status := start(args.given, out).wait(PATIENCE):
            sys.exit(f"the continued run ended with {status}")
        seen.check(out)
        same &= digests(out) == expected
        seen.times = {}
    print(seen.summary(count(rounds, "run"), same))
    return int(bool(seen.changed) or not same)


def start(given: list[str], out: Path) -> subprocess.Popen[bytes]:
    """The program, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch" / "prepare_data.py"), *given, "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


@dataclasses.dataclass
class Seen:
    """What was seen of a run that is killed: in what phase, and the times of finished shards."""

    kills: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    times: dict[Path, int] = dataclasses.field(default_factory=dict)
    watched: int = 0  # finished files that were looked at again
    changed: list[str] = dataclasses.field(default_factory=list)

    def check(self, out: Path) -> None:
        """That what was finished is as it was; what is finished now."""
        now = finished(out)
        self.watched += len(self.times)
        self.changed += [str(file) for file, at in self.times.items() if now.get(file) != at]
        self.times = now

    def summary(self, rounds: str, same: bool) -> str:
        phases = ", ".join(f"{n} while {phase}" for phase, n in self.kills.most_common())
        return (
            f"killed {self.kills.total()} times ({phases}) in {rounds}; finished files looked at "
            f"{self.watched:,} times, {len(self.changed)} of them changed; all files at the end "
            f"{'equal' if same else 'DIFFER FROM'} those of the undisturbed run"
        )


def kill_once(
    process: subprocess.Popen[bytes], out: Path, steps: int, seconds: float, seen: Seen
) -> bool:
    """Kill the program with its workers when it has done so many steps, and so many seconds later;
    False where it had ended before."""
    began, before = time.time_ns(), steps_of(out)
    while process.poll() is None and not has_begun(out, began):
        time.sleep(0.02)
    while process.poll() is None and steps_of(out) < before + steps:
        time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.wait(seconds):
            sys.exit(f"the program ended with {process.returncode}")
        return False
    phase, workers = phase_of(out), children_of(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    while any(map(is_alive, workers)):
        time.sleep(0.01)
    seen.kills[phase] += 1
    seen.check(out)
    return True


def has_begun(out: Path, began: int) -> bool:
    """Whether a program that was started then is at work."""
    try:
        is_ours = (out / "lock").stat().st_mtime_ns > began
    except OSError:
        return False
    return is_ours and (out / "parts" / "plan.json").exists()


def parts_of(out: Path) -> int:
    return len(json.loads((out / "parts" / "plan.json").read_bytes())["parts"])


def steps_of(out: Path) -> int:
    """How many parts are read, and how many written; one more once it is decided."""
    kinds = ("*.read.json", "*.written.json", "decided.json")
    return sum(len([*(out / "parts").glob(kind)]) for kind in kinds)


def phase_of(out: Path) -> str:
    """What a program is doing."""
    folder = out / "parts"
    parts = parts_of(out)
    read, written = (len([*folder.glob(f"*.{kind}.json")]) for kind in ("read", "written"))
    if read < parts:
        return "reading"
    if not (folder / "decided.json").exists() and not written:
        return "deciding"
    return "writing" if written < parts else "describing"


def finished(out: Path) -> dict[Path, int]:
    """The shards and indices of the parts that are done, with their times."""
    parts = {p.name.split(".")[0] for p in (out / "parts").glob("*.written.json")}
    files = {p: p.stat().st_mtime_ns for p in out.glob("*-of-*")}
    return {p: at for p, at in files.items() if p.name.rpartition("-of-")[0][-5:] in parts}


def digests(folder: Path) -> dict[str, Any]:
    """A digest of every file below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()
            found[path.relative_to(folder).as_posix()] = digest
    return found


def children_of(number: int | str) -> list[str]:
    """The processes that a process has started, and theirs."""
    found = []
    for listed in Path(f"/proc/{number}/task").glob("*/children"):
        for child in listed.read_text().split():
            found += [child, *children_of(child)]
    return found


def is_alive(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
