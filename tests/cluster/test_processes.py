"""Processes that find one another, on the loopback address; each is a real one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from tests.runs import ROOT

pytestmark = [pytest.mark.one_device, pytest.mark.slow]  # nothing uses them yet
HEAD = """
import sys
from interact_jax.cluster import processes
from interact_jax.cluster.place import Flags, find
from interact_jax.schema import InputError, RunStopped
own = int(sys.argv[3])
place = find(Flags(sys.argv[1], int(sys.argv[2]), own), {})
try:
    processes.join(place, int(sys.argv[4]))
except InputError as error:
    print(error, flush=True)
    raise SystemExit(2)
"""


def free_port():
    """One that is free, as is the next, where supervisors meet."""
    while True:
        with socket.socket() as found, socket.socket() as behind:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                behind.bind(("127.0.0.1", port + 1))
                return port


def start(body, own, port, processes=2, seconds=60):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    given = [f"127.0.0.1:{port}", str(processes), str(own), str(seconds)]
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(body), *given],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(body, processes=2):
    """What each of them prints, and its status."""
    port = free_port()
    started = [start(body, own, port, processes) for own in range(processes)]
    try:
        said = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        (out, process.returncode, err) for (out, err), process in zip(said, started, strict=True)
    ]


def test_what_they_say_and_agree_on():
    body = """
    print(processes.exchange("number", f"{own}\\n!", 60))
    processes.agree("the step", "same", 60)
    for what, value in (("the program", "a" if own == 1 else "b"), ("more", "x" * own)):
        try:
            processes.agree(what, value, 60)
        except RunStopped as error:
            print(error)
    processes.leave()
    """
    for out, status, err in run(body, processes=3):
        assert status == 0, err
        lines = out.splitlines()
        assert lines[0] == "['0\\n!', '1\\n!', '2\\n!']"
        assert lines[1].startswith("the program of process 1 differs from that of the others: a in")
        assert lines[2].startswith("more of processes 1, 2 differs")


def test_who_does_not_come_is_named():
    """The one that is stopped still holds its connection, as one that hangs does."""
    body = """
    import os, signal
    if own == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        processes.meet("restored", 3)
    except RunStopped as error:
        print(error, flush=True)
        os._exit(3)
    """
    port = free_port()
    started = [start(body, own, port) for own in range(2)]
    try:
        out, err = started[0].communicate(timeout=60)
        assert started[0].returncode == 3, err
        assert out.startswith("process 1 did not come to 'restored' within 3 s; process 0 waited")
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.communicate()


def test_one_that_is_alone_agrees_with_itself():
    from interact_jax.cluster import processes
    from interact_jax.cluster.place import Place

    processes.join(Place())
    assert processes.exchange("number", "7", 1) == ["7"]
    processes.agree("the program", "a", 1)
    processes.leave()
