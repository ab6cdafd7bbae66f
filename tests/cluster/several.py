"""Runs of several real processes, each with some virtual devices, on the loopback address."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster.test_processes import free_port
from tests.compiling import flags_of_one_device
from tests.runs import ROOT

SECONDS = 600


def flags(devices: int) -> str:
    """Flags of XLA for a process with so many CPU devices."""
    return f"{flags_of_one_device()} --xla_force_host_platform_device_count={devices}".strip()


def supervised(
    processes: int, devices: int, program: str, arguments: Sequence[str], *more: str
) -> subprocess.Popen[str]:
    """Start `launch/PROGRAM.py` in so many processes with so many devices each; `more` are flags of
    the supervisor."""
    own = ["--local", str(processes), "--coordinator", f"127.0.0.1:{free_port()}", *more]
    launch = ROOT / "launch"
    command = [str(launch / "supervise.py"), *own, str(launch / f"{program}.py"), *arguments]
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags(devices)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def together(processes: int, devices: int, arguments: Sequence[str], *more: str) -> str:
    """Train with so many processes to the end; what they print."""
    started = supervised(processes, devices, "train", arguments, *more)
    said, _ = started.communicate(timeout=SECONDS)
    assert started.returncode == 0, said
    return said


def children(parent: int) -> dict[int, int]:
    """The processes that a supervisor has started, by number."""
    found: dict[int, int] = {}
    for place in os.listdir("/proc"):
        if place.isdigit():
            try:
                stat = Path(f"/proc/{place}/stat").read_text().rpartition(")")[2].split()
                environment = Path(f"/proc/{place}/environ").read_text()
            except OSError:
                continue
            own = re.search(r"INTERACT_PROCESS=(\d+)", environment)
            if int(stat[1]) == parent and own:
                found[int(own[1])] = int(place)
    return found


def alone(arguments: Sequence[str]) -> None:
    """Train with one process and one device."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "train.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags(1)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def relative_difference(found: Any, expected: Any) -> float:
    """The largest difference of two models' tensors, by the largest value of each."""
    assert found.keys() == expected.keys()
    return max(abs(found[n] - expected[n]).max() / abs(expected[n]).max() for n in expected)


def lines_of(workdir: Path) -> str:
    return (workdir / "metrics.jsonl").read_text()
