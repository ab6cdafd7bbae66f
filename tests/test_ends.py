"""Signals end a program in words, with the status of a signal, wherever it is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from interact_jax import config, ends, train
from interact_jax.metrics import Journal
from interact_jax.schema import RunStopped
from tests.runs import EVEN, FLOAT32, ONE_ROW_SHARD, ROOT, overrides, records, tiny, write_lines

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

# As programs begin: without PyTorch, which takes seconds to import.
HANDLERS = "from interact_jax import ends, startup; ends.GRACE = 0.2; startup.begin()\n"
READY = "print('ready', flush=True)\n"
ASLEEP = HANDLERS + "import time\n" + READY + "time.sleep(60)"
IN_C = "import hashlib; hashlib.pbkdf2_hmac('sha512', b'', b'', 2**31 - 1)"  # minutes, without GIL
CLEARS_AWAY = """
import pathlib, sys, time
from interact_jax import startup
startup.begin()
from interact_jax import cli

def main():
    part = pathlib.Path(sys.argv[1])
    part.touch()
    try:
        print('ready', flush=True)
        time.sleep(60)
    finally:
        part.unlink()

cli.run(main)
"""
COMPUTES = (
    HANDLERS
    + """
import jax, jax.numpy as jnp
from interact_jax import cli

def forever(x):
    return jax.lax.while_loop(lambda x: x[0, 0] < 1e9, lambda x: jnp.tanh(x @ x), x)

def main():
    found = jax.jit(forever)(jnp.zeros((256, 256)))
    print('ready', flush=True)
    found.block_until_ready()

cli.run(main)
"""
)


def signalled(program, *numbers, arguments=(), ignored=()):
    """Start a program, send it these signals once it says that it is ready; its status (below 0
    where a signal ended it and not the program itself), what it said."""

    def signals():  # the shell that runs the tests may ignore some
        for number in ends.SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    started = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=signals,
    )
    assert started.stdout.readline() == "ready\n"
    for number in numbers:
        started.send_signal(number)
    _, said = started.communicate(timeout=50)
    return started.returncode, said


@pytest.mark.parametrize(
    "number, word",
    [
        (signal.SIGINT, "interrupted\n"),
        (signal.SIGTERM, "ended by SIGTERM\n"),
        (signal.SIGHUP, "ended by SIGHUP\n"),
    ],
)
def test_one_line_and_the_status_of_the_signal(number, word):
    """While a program is still importing, too: nobody is there yet who would catch anything."""
    assert signalled(ASLEEP, number) == (128 + number, word)


def test_what_is_being_written_is_cleared_away(tmp_path):
    part = tmp_path / "part"
    assert signalled(CLEARS_AWAY, signal.SIGTERM, arguments=[str(part)])[0] == 143
    assert not part.exists()


def test_a_computation_does_not_keep_a_program_from_ending():
    assert signalled(HANDLERS + READY + IN_C, signal.SIGTERM) == (143, "ended by SIGTERM\n")
    assert signalled(COMPUTES, signal.SIGINT) == (130, "interrupted\n")


LEAVE_TOGETHER = (
    HANDLERS
    + """
import os, time
from interact_jax import cli

write, leave = os.write, os._exit

def main():
    print('ready', flush=True)
    time.sleep(60)

def written(*line):
    time.sleep({writing})
    return write(*line)

def left(status):
    time.sleep({leaving})
    leave(status)

ends.os.write, ends.os._exit = written, left
cli.run(main)
"""
)


@pytest.mark.parametrize("writing, leaving", [(0, 0.5), (0.3, 0)])
def test_the_last_line_is_said_once(writing, leaving):
    """However slow the main thread is to leave: the watching one, which waits only so long for it,
    says nothing after it, and does not leave before the line is out."""
    program = LEAVE_TOGETHER.format(writing=writing, leaving=leaving)
    assert signalled(program, signal.SIGINT) == (130, "interrupted\n")


LOST = """
import time, weakref
from interact_jax import ends, startup
startup.begin()
from interact_jax import cli

class Gone:
    pass

def main():
    gone = Gone()
    kept = weakref.ref(gone, lambda _: print('ready', flush=True) or time.sleep(5))
    del gone
    time.sleep(40)

ends.GRACE = 60
cli.run(main)
"""


def test_where_python_drops_what_is_raised_it_is_raised_again():
    """In a callback of the garbage collection, for one."""
    assert signalled(LOST, signal.SIGTERM) == (143, "ended by SIGTERM\n")


def test_what_is_ignored_stays_ignored():
    """As under `nohup`."""
    status, said = signalled(ASLEEP, signal.SIGHUP, signal.SIGTERM, ignored=[signal.SIGHUP])
    assert (status, said) == (143, "ended by SIGTERM\n")


DEFERRED = HANDLERS + "with ends.Deferred() as stop:\n    " + READY


def test_a_request_is_met_at_a_good_place():
    waits = "    while not stop.asked: pass\nprint(stop.asked); raise SystemExit(stop.status)"
    assert signalled(DEFERRED + waits, signal.SIGHUP) == (129, "")


def test_a_request_leaves_as_much_time_as_the_place_needs():
    """Also where the main thread hears of it before the thread that watches, as in Python."""
    saves = "    while not stop.asked: pass\n    import time; time.sleep(0.6)\n"
    program = DEFERRED + saves + "raise SystemExit(stop.status)"
    assert signalled(program, signal.SIGTERM) == (143, ""), "longer than ends.GRACE"


def test_a_second_request_is_more():
    in_c = DEFERRED + "    " + IN_C
    assert signalled(in_c, signal.SIGINT, signal.SIGTERM)[0] in (130, 143)


@pytest.mark.parametrize(
    "step",
    [pytest.param(2, marks=pytest.mark.slow), 3, 4],
    ids=["on the way", "at a checkpoint", "at the end"],
)
def test_a_signal_between_two_lines_announces_no_checkpoint_that_is_not_there(
    step, tmp_path, monkeypatch
):
    """It comes when the loop has just seen that nobody asks it to stop."""
    tiny(tmp_path / "model")
    settings = {
        "model.path": tmp_path / "model",
        "data.path": write_lines(tmp_path / "talks.jsonl", records(EVEN)),
        "data.max_length": 512,
        "batch.conversations": 2,
        "batch.interactions": 0,
        "steps": 4,
        "epochs": 0,
        "checkpoint.every": 3,
        **FLOAT32,
        **ONE_ROW_SHARD,
    }
    run = train.start(
        config.load(str(ROOT / "configs/quickstart.py"), overrides(settings)), tmp_path / "run"
    )

    def seen(journal):
        if int(run.state.step) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    bad_steps = property(seen, lambda journal, value: None)
    monkeypatch.setattr(Journal, "bad_steps_in_row", bad_steps, raising=False)
    with pytest.raises(RunStopped) as ended:
        train.loop(run)
    (said,) = [int(word) for word in str(ended.value).split() if word.isdigit()]
    assert ended.value.status == 143
    assert (Path(run.workdir) / "checkpoints" / str(said)).is_dir()
    assert run.checkpoints.latest() == said
