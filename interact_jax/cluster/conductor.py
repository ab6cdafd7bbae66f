"""Where the supervisors of a run meet: it hears of every process, and says what all do.

Messages are lines of JSON. A supervisor says

    {"hello": MACHINE, "host": NAME}                      when it has come
    {"process": N, "pid": P, "status": S}                 a process has ended; S < 0: by a signal
    {"process": N, "pid": P, "silent": SECONDS}           it gives no sign of life
    {"ended": MACHINE}                                    all of its processes have, as it was told

and the conductor

    {"do": "begin"}
    {"do": "end", "seconds": S}                           S: from SIGTERM to SIGKILL
    {"do": "go", "reason": WHY, "status": S}
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import signal
from typing import Any

from interact_jax.printable import count

log = logging.getLogger(__name__)

AFTERMATH = 1.0  # seconds in which what one process's death does to others is heard of
USELESS = 5.0  # seconds in which to end without the others, which no checkpoint is written without
LEEWAY = 10.0  # seconds beyond those in which processes have to end
REFUSED = 2  # status of a program whose arguments or input are wrong: trying again is no use
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGHUP)  # as it was asked to


@dataclasses.dataclass(frozen=True)
class Limits:
    """Times in seconds, and how often a run is started again."""

    join: float = 300.0  # for all machines to come
    stalled: float = 30.0  # without a sign of life
    end: float = 25.0  # from SIGTERM to SIGKILL, where all were asked to stop
    restarts: int = 0


@dataclasses.dataclass(frozen=True)
class Failure:
    """What happened to a process: why all have to end, and the status to end with. Of several the
    one with the lowest rank is to blame."""

    reason: str
    status: int
    rank: int
    again: bool = True  # whether starting again may help
    asked: bool = False  # whether it stopped because it was asked to


async def say(writer: asyncio.StreamWriter, **message: Any) -> None:
    """Send a message; whoever is gone is noticed by whoever listens to them."""
    with contextlib.suppress(ConnectionError):
        writer.write(json.dumps(message).encode() + b"\n")
        await writer.drain()


class Conductor:
    """Serves the supervisors of so many machines, each with `local` processes."""

    def __init__(self, machines: int, local: int, limits: Limits):
        self._machines, self._local, self._limits = machines, local, limits
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._hosts: dict[int, str] = {}
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._serving: set[asyncio.Task[Any] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear one supervisor, until its connection breaks. Nobody else who comes is heard."""
        self._serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, ValueError):  # such as a line without an end
            machine = self._greeted(_message(await reader.readline()), writer)
            if machine is not None:
                await self._hear(machine, reader)
        writer.close()

    def _greeted(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> int | None:
        """The number of a machine that has come; None for a stranger, or one that is there."""
        machine = message.get("hello")
        if type(machine) is not int or not 0 <= machine < self._machines:
            return None
        if machine in self._writers:
            log.warning("machine %d has come twice; the second one is sent away", machine)
            return None
        self._writers[machine], self._hosts[machine] = writer, str(message.get("host", ""))
        self._events.put_nowait({"hello": machine, "machine": machine})
        return machine

    async def _hear(self, machine: int, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                await self._events.put(_message(line) | {"machine": machine})
        finally:
            self._writers.pop(machine, None)
            self._events.put_nowait({"gone": machine, "machine": machine})

    async def wait_closed(self) -> None:
        """Wait until all supervisors have gone."""
        await asyncio.gather(*filter(None, self._serving))

    async def lead(self) -> None:
        """Lead the run to its end, of which all are told."""
        failure = await self._gather()
        restarts = self._limits.restarts
        while failure is None:
            await self._tell(do="begin")
            failure = await self._first_failure()
            if failure is None:
                break
            seconds = self._limits.end if failure.asked else USELESS
            await self._tell(do="end", seconds=seconds)
            complete = await self._all_ended(seconds + LEEWAY)
            if not restarts or not failure.again or not complete:
                break
            log.warning("%s Starting again; %s left.", failure.reason, count(restarts, "restart"))
            failure, restarts = None, restarts - 1
        reason, status = (failure.reason, failure.status) if failure else ("", 0)
        await self._tell(do="go", reason=reason, status=status)

    async def _tell(self, **order: Any) -> None:
        for writer in list(self._writers.values()):
            await say(writer, **order)

    async def _gather(self) -> Failure | None:
        """Wait for all machines."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.join):
                while len(self._writers) < self._machines:
                    event = await self._events.get()
                    if "gone" in event:
                        return self._gone(event["gone"])
                return None
        missing = [str(n) for n in range(self._machines) if n not in self._writers]
        names = f"machine{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
        seconds = f"{self._limits.join:,.0f} s"
        return Failure(
            f"{names} of {self._machines} did not come within {seconds}: the supervisor was not "
            "started there, or cannot reach machine 0.",
            status=1,
            rank=0,
            again=False,
        )

    async def _first_failure(self) -> Failure | None:
        """Wait for all processes to end well, or for the first that does not, and for what comes
        of that: the one that is to blame is not always heard of first."""
        running, failures = set(range(self._machines * self._local)), list[Failure]()
        while running and not failures:
            event = await self._events.get()
            failures += self._judge(event)
            if "status" in event:
                running.discard(event["process"])
        if not failures:
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AFTERMATH):
                while True:
                    failures += self._judge(await self._events.get())
        return min(failures, key=lambda failure: failure.rank)

    async def _all_ended(self, seconds: float) -> bool:
        """Wait for all machines to end their processes; whether all of them are still there."""
        ended = set[int]()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not ended.issuperset(self._writers):
                    event = await self._events.get()
                    if "ended" in event:
                        ended.add(event["ended"])
        return ended.issuperset(range(self._machines)) and len(self._writers) == self._machines

    def _judge(self, event: dict[str, Any]) -> list[Failure]:
        """What is wrong, if it is."""
        if "gone" in event:
            return [self._gone(event["gone"])]
        if "silent" in event:
            seconds = f"for {event['silent']} s"
            return [Failure(f"{self._name(event)} has given no sign of life {seconds}.", 1, 2)]
        if not event.get("status"):
            return []
        return [_of_status(self._name(event), event["status"])]

    def _name(self, event: dict[str, Any]) -> str:
        host = self._hosts.get(event["machine"], "")
        return f"process {event['process']} (process id {event['pid']} on {host})"

    def _gone(self, machine: int) -> Failure:
        host = self._hosts.get(machine, "")
        reason = f"machine {machine} ({host}) is gone: the connection to its supervisor broke."
        return Failure(reason, status=1, rank=0, again=False)


def _message(line: bytes) -> dict[str, Any]:
    """What a line says. Raises ValueError where it is no message."""
    found = json.loads(line or b"{}")
    if not isinstance(found, dict):
        raise ValueError(f"no message: {found!r}")
    return found


def _of_status(name: str, status: int) -> Failure:
    if status == -signal.SIGABRT:  # what jax does to a process when another one is gone
        return Failure(f"{name} was aborted; see what it wrote last.", 1, rank=4)
    if status < 0:
        killed = signal.Signals(-status).name
        hint = " The kernel does that where memory is short." if status == -signal.SIGKILL else ""
        return Failure(f"{name} was ended by {killed}.{hint}", 1, rank=1)
    if status in STOPPED:
        asked = signal.Signals(status - 128).name
        return Failure(f"{name} has stopped, as {asked} asked it to.", status, 0, False, True)
    again = status != REFUSED
    reason = f"{name} has ended with status {status}; see what it wrote last."
    return Failure(reason, status, rank=3 if again else 0, again=again)
