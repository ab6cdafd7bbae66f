"""ALOE's data at the paper's scale through an endpoint that answers at once: time and memory.

    python -m tests.aloe.scale                 3,310 personas, 3,000 conversations of 10 rounds
    python -m tests.aloe.scale --share 0.1     a tenth of them

The endpoint is a process on the loopback address (tests/servers/crowd_server.py), so the figures
are those of our own work: an endpoint that takes a second for an answer takes 150,000 / 16 seconds
for these calls, 16 at a time. Memory is the peak of the program's process; it is flat if a tenth of
the conversations needs as much. At the end the same command is given again, which asks for nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.servers.chat_server import KEY, MODEL

ROOT = Path(__file__).resolve().parents[2]
PERSONAS, PROFILES, PERSONALITIES = 3_310, 331, 71
CONVERSATIONS, ROUNDS = 3_000, 10


@contextlib.contextmanager
def endpoint(folder: Path) -> Iterator[str]:
    """The address of a server with its files in `folder`."""
    folder.mkdir()
    (folder / "silent").touch()  # its journal does not hold what was said
    command = [sys.executable, "-m", "tests.servers.crowd_server", "--folder", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True) as launcher:
        print("start", file=launcher.stdin, flush=True)
        while not (folder / "port").exists():
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{(folder / 'port').read_text()}/v1"
        finally:
            launcher.kill()
            os.kill(int((folder / "process").read_text()), signal.SIGKILL)


def requests_to(folder: Path) -> int:
    with (folder / "journal.jsonl").open() as journal:
        return sum(1 for _ in journal)


def measured(arguments: Sequence[object]) -> tuple[float, float]:
    """(seconds, peak MiB) of launch/aloe.py in a process of its own."""
    command = [sys.executable, str(ROOT / "launch/aloe.py"), *map(str, arguments)]
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: status {os.waitstatus_to_exitcode(status)}")
    unit = 1024 if sys.platform == "linux" else 1024**2
    return time.monotonic() - began, usage.ru_maxrss / unit


def show(what: str, figures: tuple[float, float]) -> None:
    print(f"{what:<44}{figures[0]:8.1f} s{figures[1]:8.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the paper's numbers")
    parser.add_argument("--concurrency", type=int, default=16)
    args = parser.parse_args()
    number = round(CONVERSATIONS * args.share)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with endpoint(folder / "server") as address:
            model = ["--model", f"openai:{MODEL}@{address}"]
            limits = ["--concurrency", args.concurrency]
            sizes = ["--profiles", PROFILES, "--personalities", PERSONALITIES]
            pools = [*sizes, "--personas", PERSONAS, "--encoder", "hashing"]
            out = folder / "personas"
            show(
                f"{PERSONAS:,} personas",
                measured(["personas", *model, *limits, *pools, "--out", out]),
            )
            people = ["--personas", out / "personas.jsonl", "--rounds", ROUNDS]

            def talk(some: int) -> list[object]:
                out = folder / f"{some}"
                return ["converse", *model, *limits, *people, "--conversations", some, "--out", out]

            for some in (max(1, number // 10), number):
                show(f"{some:,} conversations of {ROUNDS} rounds", measured(talk(some)))
            asked = requests_to(folder / "server")
            show("the same again", measured(talk(number)))
            more = requests_to(folder / "server") - asked
            print(f"{asked:,} requests, {more:,} more for the same again")


if __name__ == "__main__":
    main()
