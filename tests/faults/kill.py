"""End a run of launch/train.py at random moments, start it again, and look what comes of it.

    python -m tests.faults.kill --folder /tmp/faults --count 100

A signal (KILL, TERM, INT or HUP) meets a phase: import, opening, before the first step, steps, a
checkpoint being written, the export. The same command, given again, has to come to the end of the
undisturbed run, bit for bit. Each case depends on --seed and its number, as far as a moment can:
--from goes on where an earlier call ended. Exit status 1 where an end was another, or the run could
not go on; how processes took their signals is counted beside it.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interact_jax.printable import count
from tests.compiling import flags_of_one_device
from tests.faults import runs
from tests.faults.runs import METHODS, different, ending, settings_of
from tests.runs import ROOT, train_arguments

STEPS = 8
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE = 1200.0  # seconds for a process to end: one that hangs is a fault


def started(workdir: Path) -> bool:
    return True


def opening(workdir: Path) -> bool:
    return (workdir / "lock").exists()


def before(workdir: Path) -> bool:
    return (workdir / "config.json").exists()


def steps(workdir: Path) -> bool:
    log = workdir / "metrics.jsonl"
    return log.exists() and log.stat().st_size > 0


def saving(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))


def exporting(workdir: Path) -> bool:
    return (workdir / "export").exists()


# phase: (how it is known, seconds from there to the signal at most)
PHASES: dict[str, tuple[Callable[[Path], bool], float]] = {
    "import": (started, 3.0),
    "opening": (opening, 2.0),
    "before": (before, 1.0),
    "steps": (steps, 1.0),
    "checkpoint": (saving, 0.1),
    "export": (exporting, 0.5),
}


@dataclasses.dataclass
class Outcome:
    """`kind`: same, other, refused. `status` is how the process took its signal: its exit status,
    or None where it had ended before."""

    kind: str
    status: int | None
    said: str


def heed_signals() -> None:
    """A shell has what it runs in the background ignore SIGINT, and so would its children."""
    for number in set(SIGNALS) - {signal.SIGKILL}:
        signal.signal(number, signal.SIG_DFL)


def start(workdir: Path, folder: Path, method: str) -> subprocess.Popen[str]:
    settings = {**settings_of(folder, method), "steps": STEPS}
    settings["compile_cache"] = folder / "compiled"
    program = [sys.executable, str(ROOT / "launch/train.py"), "--quiet"]
    return subprocess.Popen(
        [*program, *train_arguments(workdir, settings)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags_of_one_device(),
        },
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,
    )


def undisturbed(folder: Path, method: str) -> dict[str, Any]:
    """How the run ends that nobody disturbs."""
    whole = folder / f"{method}-undisturbed"
    if not (whole / "summary.json").is_file():
        shutil.rmtree(whole, ignore_errors=True)
        status, said = end(start(whole, folder, method))
        assert status == 0, said
    return ending(whole)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and stderr of a process, when it has ended."""
    try:
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, said


def disturb(
    process: subprocess.Popen[str], workdir: Path, phase: str, number: int, wait: float
) -> tuple[int | None, str]:
    """Send the signal when the phase is reached; the exit status (None where the process was done
    before that), and what it said."""
    reached, _ = PHASES[phase]
    while process.poll() is None and not reached(workdir):
        time.sleep(0.002)
    time.sleep(wait)
    late = process.poll() is not None
    process.send_signal(number)
    status, said = end(process)
    return None if late else status, said


def run_case(number: int, seed: int, folder: Path) -> tuple[str, Outcome]:
    """One signal, and what came of it."""
    rng = random.Random(f"{seed}-{number}")
    method, chosen = rng.choice(sorted(METHODS)), rng.choice(SIGNALS)
    phase = rng.choice(sorted(PHASES))
    wait = rng.uniform(0, PHASES[phase][1])
    case = f"{chosen.name} {wait:.3f} s into {phase} of {method}"
    expected = undisturbed(folder, method)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        workdir = Path(place) / "run"
        status, said = disturb(start(workdir, folder, method), workdir, phase, chosen, wait)
        failed, told = end(start(workdir, folder, method))
        if failed:
            return case, Outcome("refused", status, told)
        other = different(ending(workdir), expected)
        return case, Outcome("other" if other else "same", status, f"{', '.join(other)} {said}")


def taken(outcome: Outcome) -> str:
    """How a process took its signal, in words."""
    if outcome.status is None:
        return "done before"
    if "Traceback" in outcome.said:
        return "traceback"
    return "killed" if outcome.status < 0 else f"status {outcome.status}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    return runs.parser(__doc__, "the undisturbed run", 100).parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as own:
        folder = (args.folder or Path(own)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        found: collections.Counter[str] = collections.Counter()
        ways: collections.Counter[str] = collections.Counter()
        for number in range(args.first, args.first + args.count):
            case, came = run_case(number, args.seed, folder)
            found[came.kind] += 1
            ways[taken(came)] += 1
            if args.show or came.kind != "same" or taken(came) == "traceback":
                print(f"{number}: {came.kind}, {taken(came)}: {case}\n{came.said}", flush=True)
    counts = ", ".join(f"{found[kind]} {kind}" for kind in ("other", "refused", "same"))
    by_way = ", ".join(f"{n} {way}" for way, n in ways.items())
    print(f"{count(args.count, 'kill')}: {counts} ({by_way})")
    return 1 if found["other"] or found["refused"] else 0


if __name__ == "__main__":
    sys.exit(main())
