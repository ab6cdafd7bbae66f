"""Cases in processes of their own, which a case may end: it is told, and another process goes on.

    for number, came in each(run, range(1000), jobs=2): ...

`came` is what `run` returned, or a Death. A library in C++ that finds its own state damaged does
not raise: it ends the process.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any

LONGEST = 420.0  # seconds by the clock; cases that run Python end themselves before


@dataclasses.dataclass
class Death:
    """How a process ended that was to run a case; `patient` if it was ended for taking too long."""

    status: int | None
    patient: bool = False

    def __str__(self) -> str:
        if self.patient:
            return f"did not come back within {LONGEST:.0f} s"
        if self.status is not None and self.status < 0:
            return f"the process was ended by {signal.Signals(-self.status).name}"
        return f"the process ended with status {self.status}"


class Victim:
    """Runs cases in a process, which is started anew where one ended it."""

    def __init__(self, run: Callable[[int], Any]):
        self._run = run
        self._process: Any = None
        self._ours: Connection[Any, Any]

    def __call__(self, number: int) -> Any:
        if self._process is None:
            self._start()
        try:
            self._ours.send(number)
            if self._ours.poll(LONGEST):
                return self._ours.recv()
            self._process.kill()
            return self._buried(patient=True)
        except (EOFError, OSError):
            return self._buried(patient=False)

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(self._run, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def _buried(self, patient: bool) -> Death:
        self._process.join()
        death = Death(self._process.exitcode, patient)
        self._process = None
        return death

    def close(self) -> None:
        """End the process, which has nothing to do."""
        if self._process is not None:
            self._ours.close()
            self._process.join()
            self._process = None


def _serve(run: Callable[[int], Any], asked: Connection[Any, Any]) -> None:
    while True:
        try:
            number = asked.recv()
        except EOFError:
            return
        asked.send(run(number))


def each(
    run: Callable[[int], Any], numbers: Iterable[int], jobs: int = 1
) -> Iterator[tuple[int, Any]]:
    """What came of every case, in order, from as many processes."""
    own, victims = threading.local(), list[Victim]()

    def call(number: int) -> tuple[int, Any]:
        if not hasattr(own, "victim"):
            own.victim = Victim(run)
            victims.append(own.victim)
        return number, own.victim(number)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(call, numbers)
        finally:
            pool.shutdown(cancel_futures=True)
            for victim in victims:
                victim.close()
