"""End a run of launch/train.py at random moments, start it again, and look what comes of it.

    python -m tests.faults.kill --folder /tmp/faults --count 100
    python -m tests.faults.kill --folder /tmp/faults --count 50 --processes 2

A signal (KILL, TERM, INT or HUP) meets a phase: import, opening, before the first step, steps, a
checkpoint being written or read, the export. The same command, given again, has to come to the end
of the undisturbed run, bit for bit. Each case depends on --seed and its number, as far as a moment
can: --from goes on where an earlier call ended. Exit status 1 where an end was another, or the run
could not go on; how processes took their signals is counted beside it.

With --processes N a supervisor starts so many, which share the model out. One of them gets KILL or
STOP: the supervisor has to name it within 60 s, and to end the others. Or the supervisor gets TERM:
the run has to end within 25 s.
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
from tests.cluster.several import PROCESS, children, free_port
from tests.compiling import flags_of_one_device
from tests.faults import runs
from tests.faults.runs import METHODS, different, ending, settings_of
from tests.runs import ROOT, train_arguments

STEPS = 8
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
OF_SEVERAL = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)
NAMED, SAVED = 60.0, 25.0  # seconds in which one of several is named, and all end when asked to
STALLED = 15  # seconds after which the supervisor takes a process to stand still
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


def saved(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*/digests-*"))


def exporting(workdir: Path) -> bool:
    return any(workdir.glob("*export*"))  # also under the name that it has until it is whole


RESTORE = "restore"  # of a run that was killed once before
# phase: (how it is known, seconds from there to the signal at most)
PHASES: dict[str, tuple[Callable[[Path], bool], float]] = {
    "import": (started, 3.0),
    "opening": (opening, 2.0),
    "before": (before, 1.0),
    "steps": (steps, 1.0),
    "checkpoint": (saving, 0.1),
    RESTORE: (opening, 3.0),
    "export": (exporting, 0.5),
}


@dataclasses.dataclass
class Outcome:
    """`kind`: same, other, refused, or slow, where one of several was not named in time, or they
    did not end. `status` is how the process took its signal: its exit status, or None where it had
    ended before."""

    kind: str
    status: int | None
    said: str


@dataclasses.dataclass(frozen=True)
class Case:
    """A signal for process `victim`; None: for the one that was started, which may be a
    supervisor."""

    method: str
    phase: str
    signal: signal.Signals
    wait: float
    processes: int = 1
    victim: int | None = None

    @classmethod
    def draw(cls, rng: random.Random, processes: int) -> Case:
        method = rng.choice(sorted(METHODS))
        if processes == 1:
            chosen, victim = rng.choice(SIGNALS), None
        else:
            chosen = rng.choice(OF_SEVERAL)
            victim = None if chosen == signal.SIGTERM else rng.randrange(processes)
        phase = rng.choice(sorted(PHASES))
        return cls(method, phase, chosen, rng.uniform(0, PHASES[phase][1]), processes, victim)

    def __str__(self) -> str:
        whom = "" if self.victim is None else f" for process {self.victim} of {self.processes}"
        when = f"{self.wait:.3f} s into {self.phase} of {self.method}"
        return f"{self.signal.name}{whom} {when}"


def heed_signals() -> None:
    """A shell has what it runs in the background ignore SIGINT, and so would its children."""
    for number in set(SIGNALS) - {signal.SIGKILL}:
        signal.signal(number, signal.SIG_DFL)


def start(workdir: Path, folder: Path, method: str, processes: int) -> subprocess.Popen[str]:
    settings = {**settings_of(folder, method), "steps": STEPS}
    settings["compile_cache"] = folder / "compiled"
    program = [str(ROOT / "launch/train.py"), "--quiet"]
    if processes > 1:
        settings |= {"mesh.data": 1, "mesh.fsdp": processes}
        local = ["--local", str(processes), "--coordinator", f"127.0.0.1:{free_port()}"]
        program = [str(ROOT / "launch/supervise.py"), *local, "--stalled", str(STALLED), *program]
    return subprocess.Popen(
        [sys.executable, *program, *train_arguments(workdir, settings)],
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


def undisturbed(folder: Path, method: str, processes: int) -> dict[str, Any]:
    """How the run ends that nobody disturbs."""
    several = f"-{processes}" if processes > 1 else ""
    whole = folder / f"{method}{several}-undisturbed"
    if not (whole / "summary.json").is_file():
        shutil.rmtree(whole, ignore_errors=True)
        status, said = end(start(whole, folder, method, processes))
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
    process: subprocess.Popen[str], workdir: Path, reached: Callable[[Path], bool], case: Case
) -> tuple[int | None, str, str]:
    """Send the signal when the phase is reached; the exit status (None where the process was done
    before that), what it said, and what was wrong with how several ended."""
    victims = {} if case.victim is None else children(process.pid)
    while process.poll() is None:
        if case.victim is not None and case.victim not in victims:
            victims = children(process.pid)
        elif reached(workdir):
            break
        time.sleep(0.002)
    time.sleep(case.wait)
    late = process.poll() is not None
    victim = process.pid if case.victim is None else victims.get(case.victim)
    everybody = children(process.pid).values()
    try:
        if not late and victim is not None:
            os.kill(victim, case.signal)
    except ProcessLookupError:
        late = True
    began = time.monotonic()
    status, said = end(process)
    if late or victim is None:
        return None, said, ""
    wrong = ""
    if case.processes > 1:
        wrong = _wrong_end(case, said, time.monotonic() - began, status)
        if any(os.path.exists(f"/proc/{pid}") for pid in everybody):
            wrong += " A process is left."
    return status, said, wrong


def _wrong_end(case: Case, said: str, seconds: float, status: int) -> str:
    """What is wrong with how several ended; "" where nothing is."""
    if not status:
        return ""  # the run was done, whatever happened to the process then
    if case.victim is None:
        return f"It took {seconds:.0f} s to end." if seconds > SAVED else ""
    named = {int(number) for number, _ in PROCESS.findall(said)}
    if named != {case.victim}:
        return f"Named: {named or 'nobody'}."
    return f"It took {seconds:.0f} s to name it." if seconds > NAMED else ""


def run_case(number: int, seed: int, folder: Path, processes: int) -> tuple[str, Outcome]:
    """One signal, and what came of it."""
    case = Case.draw(random.Random(f"{seed}-{number}"), processes)
    expected = undisturbed(folder, case.method, processes)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        workdir = Path(place) / "run"

        def begin() -> subprocess.Popen[str]:
            return start(workdir, folder, case.method, processes)

        if case.phase == RESTORE:
            killed = dataclasses.replace(case, signal=signal.SIGKILL, wait=0)
            disturb(begin(), workdir, saved, killed)
        reached, _ = PHASES[case.phase]
        status, said, wrong = disturb(begin(), workdir, reached, case)
        failed, told = end(begin())
        if failed:
            return str(case), Outcome("refused", status, told)
        other = different(ending(workdir), expected)
        said = f"{', '.join(other)} {wrong} {said}"
        return str(case), Outcome("other" if other else "slow" if wrong else "same", status, said)


def taken(outcome: Outcome) -> str:
    """How a process took its signal, in words."""
    if outcome.status is None:
        return "done before"
    if "Traceback" in outcome.said:
        return "traceback"
    return "killed" if outcome.status < 0 else f"status {outcome.status}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = runs.parser(__doc__, "the undisturbed run", 100)
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as own:
        folder = (args.folder or Path(own)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        found: collections.Counter[str] = collections.Counter()
        ways: collections.Counter[str] = collections.Counter()
        for number in range(args.first, args.first + args.count):
            case, came = run_case(number, args.seed, folder, args.processes)
            found[came.kind] += 1
            ways[taken(came)] += 1
            if args.show or came.kind != "same" or taken(came) == "traceback":
                print(f"{number}: {came.kind}, {taken(came)}: {case}\n{came.said}", flush=True)
    kinds = ("other", "refused", *(["slow"] if args.processes > 1 else []), "same")
    counts = ", ".join(f"{found[kind]} {kind}" for kind in kinds)
    by_way = ", ".join(f"{n} {way}" for way, n in ways.items())
    print(f"{count(args.count, 'kill')}: {counts} ({by_way})")
    return 0 if found["same"] == args.count else 1


if __name__ == "__main__":
    sys.exit(main())
