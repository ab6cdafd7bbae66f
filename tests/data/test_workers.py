"""Worker processes: results, errors, and how they end."""

from __future__ import annotations

import os
import sys
import time

import pytest

from interact_jax.data.workers import Died, Workers
from interact_jax.schema import InputError

_state = 0


def begin(number):
    global _state
    if number < 0:
        raise InputError("no such number")
    _state = number


def plus(number):
    return _state + number


def say_and_fail(message):
    print("this is not a result")
    os.write(1, b"nor is this")
    raise InputError(message)


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def fail_oddly():
    raise Odd("first", lambda: None)


def leave():
    os._exit(3)


def modules():
    return {name for name in ("torch", "jax") if sys.modules.get(name) is not None}


@pytest.fixture(scope="module")
def workers():
    workers = Workers(2, begin, 10)
    yield workers
    workers.close()


def test_results_come_back_and_the_state_is_there(workers):
    assert [workers.submit(plus, n).result() for n in range(4)] == [10, 11, 12, 13]


def test_errors_are_raised_here(workers):
    with pytest.raises(InputError, match="line 3"):
        workers.submit(say_and_fail, "line 3").result()
    assert workers.submit(plus, 1).result() == 11  # what was printed is not taken for a result


def test_errors_that_cannot_be_sent_are_told_as_text(workers):
    with pytest.raises(RuntimeError, match="first"):
        workers.submit(fail_oddly).result()


def test_workers_do_not_import_what_takes_long(workers):
    assert workers.submit(modules).result() <= {"jax"}


def test_an_error_at_the_beginning_is_raised_for_every_task():
    workers = Workers(1, begin, -1)
    try:
        for _ in range(2):
            with pytest.raises(InputError, match="no such number"):
                workers.submit(plus, 1).result()
    finally:
        workers.close()


def test_a_process_that_ends_is_reported():
    workers = Workers(1, begin, 0)
    try:
        for _ in range(2):
            with pytest.raises(Died, match="status 3"):
                workers.submit(leave).result()
            assert workers.is_ready()
    finally:
        workers.close()


def test_closing_ends_what_is_at_work():
    workers = Workers(1, begin, 0)
    workers.submit(plus, 1).result()
    future, last = workers.submit(time.sleep, 60), workers.submit(plus, 1)
    while not future.running():
        time.sleep(0.01)
    began = time.monotonic()
    workers.close()
    assert time.monotonic() - began < 10
    assert isinstance(future.exception(), Died)
    assert last.cancelled()
