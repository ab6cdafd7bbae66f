"""A run of two processes, of which something happens to one, or to both: it is named, nothing is
left running, and the same command goes on to the end of the undisturbed run."""

import os
import re
import signal
import time

import pytest

from tests.cluster.several import children, supervised, together
from tests.cluster.test_training import SGD, settings_of
from tests.faults.runs import different, ending
from tests.runs import train_arguments

pytestmark = [pytest.mark.slow, pytest.mark.compiled_quickly]
NAMED = 60.0  # seconds in which the message has to name it
SAVED = 25.0  # seconds from SIGTERM to the end
PROCESS = re.compile(r"process (\d+) \(process id (\d+)")


def settings(folder):
    mesh = {"mesh.data": 1, "mesh.fsdp": 2}
    return settings_of(folder, **SGD, **mesh, **{"checkpoint.every": 2, "steps": 60})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    arguments = settings(folder)
    together(2, 1, train_arguments(folder / "whole", arguments))
    return folder, arguments, ending(folder / "whole")


def wait_for(workdir, name, started):
    while not (workdir / name).exists() or not (workdir / name).stat().st_size:
        assert started.poll() is None, started.communicate()[0]
        time.sleep(0.05)


def end(started):
    began = time.monotonic()
    said, _ = started.communicate(timeout=300)
    return said, time.monotonic() - began


def goes_on(undisturbed, workdir):
    _, arguments, expected = undisturbed
    together(2, 1, train_arguments(workdir, arguments))
    assert different(ending(workdir), expected) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("process", [0, 1])
def test_one_is_killed_or_stands_still(undisturbed, number, process, tmp_path):
    _, arguments, _ = undisturbed
    workdir = tmp_path / "run"
    started = supervised(2, 1, "train", train_arguments(workdir, arguments), "--stalled", "10")
    wait_for(workdir, "metrics.jsonl", started)
    pids = children(started.pid)
    os.kill(pids[process], number)
    said, seconds = end(started)
    found = [int(own) for own, _ in PROCESS.findall(said.splitlines()[-1])]
    assert found == [process], said
    assert started.returncode and seconds < NAMED
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids.values())
    goes_on(undisturbed, workdir)


@pytest.mark.parametrize(
    "reached", ["lock", "config.json", "metrics.jsonl", "export/config.json", "summary.json"]
)
def test_both_are_asked_to_stop(undisturbed, reached, tmp_path):
    """By SIGTERM to their supervisor, in any phase of the run."""
    _, arguments, _ = undisturbed
    workdir = tmp_path / "run"
    started = supervised(2, 1, "train", train_arguments(workdir, arguments))
    wait_for(workdir, reached, started)
    started.send_signal(signal.SIGTERM)
    said, seconds = end(started)
    assert seconds < SAVED, said
    assert "Traceback" not in said, said
    assert started.returncode == 128 + signal.SIGTERM, said
    if reached == "metrics.jsonl":
        assert "A checkpoint is saved" in said, said
    goes_on(undisturbed, workdir)


def test_the_supervisor_starts_it_again(undisturbed, tmp_path):
    _, arguments, expected = undisturbed
    workdir = tmp_path / "run"
    started = supervised(2, 1, "train", train_arguments(workdir, arguments), "--restarts", "1")
    wait_for(workdir, "metrics.jsonl", started)
    os.kill(children(started.pid)[1], signal.SIGKILL)
    said, _ = end(started)
    assert started.returncode == 0, said
    assert "Starting again" in said
    assert different(ending(workdir), expected) == []
