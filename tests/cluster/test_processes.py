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
    assert processes.by_first("answers", lambda: (1, 2)) == (1, 2)
    processes.agree("the program", "a", 1)
    processes.leave()


def test_what_process_0_does_alone_is_known_to_all():
    """Also of many bytes, and where it fails."""
    body = """
    import json
    calls, big = [], ["\\\\" * 3_000_000, "é\\ud83d", 0.1, float("-inf"), None]
    def call():
        calls.append(1)
        return big
    for _ in range(3):
        assert processes.by_first("something", call, 60) == big
    assert len(calls) == (3 if own == 0 else 0)
    processes.meet("seen", 60)
    left = processes._client().key_value_dir_get("interact_jax/something")
    assert left == [], len(left)
    processes.meet("looked", 60)
    def fail(error):
        raise error
    for error in (InputError("bad: it"), RunStopped("no more", 7), OSError(28, "No space", "/x")):
        try:
            processes.by_first("something", lambda: fail(error), 60)
        except (InputError, RunStopped, OSError) as raised:
            print(type(raised).__name__, raised, getattr(raised, "status", ""))
    processes.leave()
    """
    for out, status, err in run(body, processes=3):
        assert status == 0, err
        assert out.splitlines() == [
            "InputError bad: it ",
            "RunStopped no more 7",
            "OSError [Errno 28] No space: '/x' ",
        ]


def test_process_0_is_named_where_it_says_nothing():
    body = """
    import os, time
    if own == 0:
        time.sleep(4)
        os._exit(0)
    try:
        processes.by_first("answers", lambda: 1, 1)
    except RunStopped as error:
        print(error, flush=True)
        os._exit(3)
    """
    _, (out, status, err) = run(body)
    assert status == 3, err
    assert out.startswith("process 0 did not come to 'answers' within 1 s; process 1 waited there")
