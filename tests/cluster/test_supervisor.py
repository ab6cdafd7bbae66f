"""Supervisors of real processes, which are killed, stopped, or never come."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from interact_jax.cluster.conductor import Limits
from interact_jax.cluster.supervisor import Machine, Supervisor
from interact_jax.schema import InputError, RunStopped
from tests.cluster.test_processes import free_port
from tests.runs import ROOT

pytestmark = [pytest.mark.one_device, pytest.mark.slow]  # nothing uses them yet
LIMITS = Limits(join=60, stalled=60, end=10)
SOON = Limits(join=60, stalled=8, end=10)  # to wait for one that stands still
HEAD = """
import os, pathlib, signal, sys, time
sys.path.insert(0, sys.argv[2])
from interact_jax.cluster import life
life.begin()
folder, own = pathlib.Path(sys.argv[1]), int(os.environ["INTERACT_PROCESS"])
attempt = len(list(folder.glob(f"{own}-*")))
(folder / f"{own}-{attempt}").write_text(str(os.getpid()))
while len(list(folder.glob(f"*-{attempt}"))) < int(os.environ["INTERACT_PROCESSES"]):
    time.sleep(0.01)
"""
WAIT = "time.sleep(60)"
FAILURES = {
    "os.kill(os.getpid(), signal.SIGKILL)": ("was ended by SIGKILL", 1),
    "os.kill(os.getpid(), signal.SIGSTOP)": ("has given no sign of life for", 1),
    "sys.exit(7)": ("has ended with status 7", 7),
    "sys.exit(2)": ("has ended with status 2", 2),
}


def supervisor(folder, body, machine, limits=LIMITS):
    command = [sys.executable, "-c", HEAD + body, str(folder), str(ROOT)]
    return Supervisor(command, machine, limits)


async def together(*supervisors):
    return await asyncio.gather(*(s.run() for s in supervisors), return_exceptions=True)


def pids(folder):
    return [int(file.read_text()) for file in folder.iterdir()]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_all_end_well(tmp_path):
    body = "print(os.environ['INTERACT_COORDINATOR'], own)"
    address = f"127.0.0.1:{free_port()}"
    machines = [Machine(address, 2, number, 2) for number in range(2)]
    assert asyncio.run(together(*(supervisor(tmp_path, body, m) for m in machines))) == [0, 0]
    assert {file.name for file in tmp_path.iterdir()} == {"0-0", "1-0", "2-0", "3-0"}


@pytest.mark.parametrize("failure", FAILURES)
def test_one_fails(tmp_path, failure):
    """Its number and machine are told on both, and nothing is left running."""
    body = f"if own == 1:\n    {failure}\n{WAIT}"
    address = f"127.0.0.1:{free_port()}"
    machines = [Machine(address, 2, number, 1) for number in range(2)]
    limits = SOON if "SIGSTOP" in failure else LIMITS
    errors = asyncio.run(together(*(supervisor(tmp_path, body, m, limits) for m in machines)))
    reason, status = FAILURES[failure]
    pid = (tmp_path / "1-0").read_text()
    for error in errors:
        assert isinstance(error, RunStopped) and error.status == status
        assert str(error).startswith(f"process 1 (process id {pid} on ") and reason in str(error)
    assert not any(map(is_running, pids(tmp_path)))


def test_it_starts_again(tmp_path, caplog):
    body = "if own == 1 and attempt < 2:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    body += f"if attempt < 2:\n    {WAIT}"
    machine = Machine(f"127.0.0.1:{free_port()}", local=2)
    limits = Limits(join=60, stalled=60, restarts=2)
    assert asyncio.run(supervisor(tmp_path, body, machine, limits).run()) == 0
    assert len(caplog.messages) == 2 and "SIGKILL" in caplog.text
    assert "2 restarts left" in caplog.messages[0] and "1 restart left" in caplog.messages[1]


def test_what_would_fail_again_is_not_started_again(tmp_path):
    machine, limits = Machine(f"127.0.0.1:{free_port()}"), Limits(restarts=2)
    with pytest.raises(RunStopped, match="status 2"):
        asyncio.run(supervisor(tmp_path, "sys.exit(2)", machine, limits).run())
    assert len(pids(tmp_path)) == 1


def test_the_one_to_blame(tmp_path):
    """jax aborts those that notice the death of another, and sometimes they are heard of first."""
    body = "if own == 0:\n    os.abort()\ntime.sleep(0.3)\nos.kill(os.getpid(), signal.SIGKILL)"
    machine = Machine(f"127.0.0.1:{free_port()}", local=2)
    with pytest.raises(RunStopped, match=r"^process 1 .* was ended by SIGKILL"):
        asyncio.run(supervisor(tmp_path, body, machine).run())


def test_one_that_never_comes(tmp_path):
    machine = Machine(f"127.0.0.1:{free_port()}", machines=3)
    with pytest.raises(RunStopped, match=r"machines 1, 2 of 3 did not come within 2 s"):
        asyncio.run(supervisor(tmp_path, WAIT, machine, Limits(join=2)).run())
    other = Machine(f"127.0.0.1:{free_port()}", machines=2, number=1)
    with pytest.raises(RunStopped, match=r"machine 1: machine 0 cannot be reached at 127\.0\.0\.1"):
        asyncio.run(supervisor(tmp_path, WAIT, other, Limits(join=1)).run())


def test_a_port_that_is_taken(tmp_path):
    async def two():
        machine = Machine(f"127.0.0.1:{free_port()}")
        first = asyncio.create_task(supervisor(tmp_path, WAIT, machine).run())
        while not list(tmp_path.iterdir()):
            await asyncio.sleep(0.05)
        with pytest.raises(InputError, match="--coordinator HOST:PORT"):
            await supervisor(tmp_path, WAIT, machine).run()
        os.kill(os.getpid(), signal.SIGTERM)  # passed on to the process, which it ends
        with pytest.raises(RunStopped, match="ended by SIGTERM"):
            await first

    asyncio.run(two())


def start_alone(folder, body, address, number):
    """A supervisor in a process of its own."""
    code = (
        "import asyncio, sys; from interact_jax.cluster.conductor import Limits; "
        "from interact_jax.cluster.supervisor import Machine, Supervisor; "
        f"asyncio.run(Supervisor({[sys.executable, '-c', HEAD + body, str(folder), str(ROOT)]!r}, "
        f"Machine({address!r}, 2, {number}), Limits()).run())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("lost", [0, 1])
def test_a_machine_that_is_gone(tmp_path, lost):
    """With its supervisor, processes notice that nobody listens; the other machine is told."""
    address = f"127.0.0.1:{free_port()}"
    started = [start_alone(tmp_path, WAIT, address, number) for number in range(2)]
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    started[lost].kill()
    _, said = started[1 - lost].communicate(timeout=30)
    started[lost].communicate()
    assert f"machine {lost}" in said.splitlines()[-1] and " is gone" in said.splitlines()[-1]
    until = time.monotonic() + 20
    while any(map(is_running, pids(tmp_path))) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(is_running, pids(tmp_path)))


def test_strangers_at_the_port_change_nothing(tmp_path):
    """A scan of ports, half a message, one from no machine of the run."""
    port = free_port()

    async def meanwhile():
        for said in (b"", b"{", b'{"hello": 7}\n', b'{"process": 0, "pid": 1, "status": 9}\n'):
            _, writer = await asyncio.open_connection("127.0.0.1", port + 1)
            writer.write(said)
            writer.close()
            await asyncio.sleep(0.1)

    async def run():
        ours = supervisor(tmp_path, "time.sleep(2)", Machine(f"127.0.0.1:{port}", local=2))
        running = asyncio.create_task(ours.run())
        while not list(tmp_path.iterdir()):
            await asyncio.sleep(0.05)
        await meanwhile()
        return await running

    assert asyncio.run(run()) == 0
