"""Starts the processes of a run, watches them from outside, and ends all when one fails.

    status = asyncio.run(Supervisor(command, Machine("10.0.0.1:8476"), Limits()).run())

jax ends a process whose peer has died, without an exception and without a name, and lets it wait
for one that hangs. So every machine has a supervisor, which starts its processes and hears signs of
life of each (`life`). All supervisors hold a connection to a `conductor`, in that of machine 0.
Whatever happens to a process is told there, and it tells all what to do: begin, end, or go.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from interact_jax.cluster import life
from interact_jax.cluster.conductor import Conductor, Limits, say
from interact_jax.cluster.place import COORDINATOR, LOOPBACK, PROCESS, PROCESSES
from interact_jax.schema import InputError, RunStopped

TOGETHER = ("train", "export")  # programs of `interact` of which several make one run
RETRY = 0.5  # seconds between attempts to reach the conductor
FAREWELL = 5.0  # seconds for all to hear the last word, and to go
CHECK = 1.0  # seconds between looks at signs of life
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine of a run: its number, and the `local` processes that it starts. Processes meet at
    `coordinator`, which is on machine 0, and supervisors at the port behind it."""

    coordinator: str
    machines: int = 1
    number: int = 0
    local: int = 1
    devices: tuple[tuple[int, ...], ...] = ()  # GPUs of each process; empty where they see all

    @property
    def meeting_place(self) -> tuple[str, int]:
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port) + 1

    def environment(self, local: int) -> dict[str, str]:
        """What a process finds its place by."""
        place = {
            COORDINATOR: self.coordinator,
            PROCESSES: str(self.machines * self.local),
            PROCESS: str(self.number * self.local + local),
        }
        if self.devices:
            place["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.devices[local]))
        return {**os.environ, **place}


@dataclasses.dataclass
class _Child:
    number: int
    process: asyncio.subprocess.Process
    seen: float = 0.0  # when it last gave a sign of life; 0 before the first


class Supervisor:
    """The supervisor of one machine; that of machine 0 has the conductor in it."""

    def __init__(self, command: Sequence[str], machine: Machine, limits: Limits):
        self._command, self._machine, self._limits = list(command), machine, limits
        self._children: list[_Child] = []
        self._watching: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """The status to end with: 0 where all processes ended well.

        Raises RunStopped, which says what happened to which process, and InputError where the
        port is taken.
        """
        async with self._conducting():
            for number in PASSED_ON:
                asyncio.get_running_loop().add_signal_handler(number, self._signal_all, number)
            reader, writer = await self._reach_conductor()
            try:
                await say(writer, hello=self._machine.number, host=socket.gethostname())
                return await self._obey(reader, writer)
            finally:
                await self._end(signal.SIGKILL, 0)
                writer.close()

    @contextlib.asynccontextmanager
    async def _conducting(self) -> AsyncIterator[None]:
        """On machine 0 there is a conductor meanwhile."""
        if self._machine.number:
            yield
            return
        conductor = Conductor(self._machine.machines, self._machine.local, self._limits)
        server = await _listen(conductor.serve, *self._machine.meeting_place)
        leading = asyncio.create_task(conductor.lead())
        try:
            yield
        finally:  # where this supervisor itself has failed, it does not wait for the others' end
            await asyncio.wait([leading], timeout=FAREWELL)
            leading.cancel()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(conductor.wait_closed(), FAREWELL)
            server.close()

    async def _reach_conductor(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._machine.meeting_place
        until = time.monotonic() + self._limits.join
        while True:
            try:
                return await asyncio.open_connection(host, port)
            except OSError as error:
                if time.monotonic() > until:
                    raise RunStopped(
                        f"machine {self._machine.number}: machine 0 cannot be reached at "
                        f"{host}:{port} ({error.strerror or error}). Is its supervisor started, "
                        "and the port open?"
                    ) from error
            await asyncio.sleep(RETRY)

    async def _obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        """Do what the conductor says, until it says go."""
        while line := await reader.readline():
            order = json.loads(line)
            if order["do"] == "begin":
                await self._begin(writer)
            elif order["do"] == "end":
                await self._end(signal.SIGTERM, order["seconds"])
                await say(writer, ended=self._machine.number)
            else:
                if order["reason"]:
                    raise RunStopped(order["reason"], order["status"])
                return int(order["status"])
        raise RunStopped(f"machine {self._machine.number}: machine 0, which leads, is gone.")

    async def _begin(self, writer: asyncio.StreamWriter) -> None:
        self._children = [await self._start(local) for local in range(self._machine.local)]
        self._watching = [
            asyncio.create_task(self._report_end(child, writer)) for child in self._children
        ]
        self._watching.append(asyncio.create_task(self._report_silence(writer)))

    async def _start(self, local: int) -> _Child:
        ours, theirs = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._machine.environment(local) | {life.VARIABLE: str(theirs)},
            pass_fds=[theirs],
            start_new_session=True,  # signals of a terminal come through the supervisor alone
        )
        os.close(theirs)
        child = _Child(self._machine.number * self._machine.local + local, process)
        asyncio.get_running_loop().add_reader(ours, _hear, ours, child)
        return child

    async def _report_end(self, child: _Child, writer: asyncio.StreamWriter) -> None:
        status = await child.process.wait()
        await say(writer, process=child.number, pid=child.process.pid, status=status)

    async def _report_silence(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(CHECK)
            for child in self._children:
                silent = time.monotonic() - child.seen if child.seen else 0.0
                if child.process.returncode is None and silent > self._limits.stalled:
                    child.seen = 0.0
                    pid = child.process.pid
                    await say(writer, process=child.number, pid=pid, silent=round(silent))

    async def _end(self, number: int, seconds: float) -> None:
        """Send all a signal, and end what is still there after so many seconds."""
        for task in self._watching:
            task.cancel()
        self._watching = []
        waits = [asyncio.create_task(child.process.wait()) for child in self._children]
        if waits:
            self._signal_all(number)
            await asyncio.wait(waits, timeout=seconds)
            self._signal_all(signal.SIGKILL)
            await asyncio.gather(*waits)

    def _signal_all(self, number: int) -> None:
        for child in self._children:
            if child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, number)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _listen(serve: Serve, host: str, port: int) -> asyncio.Server:
    """Of one machine alone nothing is heard from others."""
    own = host if host in (*LOOPBACK, "::1") else None
    try:
        return await asyncio.start_server(serve, own, port)
    except OSError as error:
        raise InputError(
            f"{host}:{port}: cannot be listened at ({error.strerror or error}). Give another "
            "address, --coordinator HOST:PORT; its port and the one behind it have to be free."
        ) from error


def _hear(ours: int, child: _Child) -> None:
    if os.read(ours, 1 << 12):
        child.seen = time.monotonic()
    else:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)


def commands(given: Sequence[str], python: str) -> list[str]:
    """The command of a program: Python files are run by this Python, and so are those of
    `interact` that join one another, by their names. Raises InputError where there is none."""
    program, *arguments = given
    if program.endswith(".py") and Path(program).is_file():
        return [python, program, *arguments]
    if program in TOGETHER:
        return [python, "-m", "interact_jax", program, *arguments]
    if shutil.which(program) is None:
        raise InputError(
            f"{program}: there is no such program. Give a Python file, such as launch/train.py, "
            f"or a name: {', '.join(TOGETHER)}."
        )
    return list(given)
