"""One run at a time in a directory; a dead owner is none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from interact_jax import lock
from interact_jax.schema import InputError
from launch import train as launch_train
from tests.runs import ROOT, outcome, train_arguments

HOLD = """
import sys
from pathlib import Path
from interact_jax import lock

with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(workdir):
    """A process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workdir)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_run_is_refused_and_a_killed_one_is_no_obstacle(tmp_path, capsys):
    with holder(tmp_path) as owner:
        before = (tmp_path / "lock").read_bytes()
        arguments = train_arguments(tmp_path, {"data.path": "none.jsonl"})  # refused later on
        status, said = outcome(launch_train.main, arguments, capsys)
        assert status == 2
        assert (
            f"another run is active there (process {owner.pid} on {socket.gethostname()})" in said
        )
        assert (tmp_path / "lock").read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["lock"]
        owner.kill()
        owner.wait()
        assert (tmp_path / "lock").exists()
        with lock.hold(tmp_path):
            assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()
    assert not (tmp_path / "lock").exists()


def test_an_error_gives_it_back(tmp_path):
    with pytest.raises(ValueError, match="mine"), lock.hold(tmp_path):
        raise ValueError("mine")
    with lock.hold(tmp_path / "run/that/is/new"):
        pass
    assert not list(tmp_path.rglob("lock"))


def no_flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.fixture(params=["of this host only", "none at all"])
def weak(request, monkeypatch, tmp_path):
    """A file system whose flocks say nothing of an owner; a run somewhere had the lock."""
    if request.param == "none at all":
        monkeypatch.setattr(fcntl, "flock", no_flock)
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    monkeypatch.setattr(lock, "RENEWED", 0.05)
    file = tmp_path / "lock"
    file.write_text(json.dumps({"host": "elsewhere", "process": 7}))
    return file


def test_an_owner_elsewhere_that_renews_the_lock_is_at_work(weak):
    done = threading.Event()
    elsewhere = os.open(weak, os.O_RDWR)
    renewing = threading.Thread(target=lock._renew, args=(elsewhere, done))
    renewing.start()
    try:
        with pytest.raises(InputError, match="process 7 on elsewhere"), lock.hold(weak.parent):
            pass
    finally:
        done.set()
        renewing.join()
        os.close(elsewhere)
    assert json.loads(weak.read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("content", [None, "", "no JSON", "[]"])
def test_one_that_does_not_is_gone(weak, content):
    if content is not None:
        weak.write_text(content)
    with lock.hold(weak.parent):
        assert json.loads(weak.read_text())["process"] == os.getpid()
    assert not weak.exists()


def test_a_link_is_no_lock(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="lock: a link"), lock.hold(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()
