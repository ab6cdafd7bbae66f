"""What Orbax reports of the system is one error, told once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import logging
import sys

import pytest

from interact_jax import orbax_errors

FULL = f"ALREADY_EXISTS: writing d/1 [os_error_code='{errno.ENOSPC}'] [source='file_util.cc']"
CLOSED = RuntimeError("Event loop is closed")


@contextlib.contextmanager
def heard():
    """What a program that says things once shows: of its loggers, and of what nobody catches. No
    fixture: pytest puts its own hook and streams in place after those."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
        patch.setattr(sys, "stderr", written)
        for logger in loggers:
            patch.setattr(logger, "filters", [*logger.filters])
            patch.setattr(logger, "handlers", [handler])
        orbax_errors.silence_repeats()
        yield written


def logged(logger, error):
    try:
        raise error
    except Exception:
        logging.getLogger(logger).error("while it was written", exc_info=True)


def test_an_error_of_the_system_comes_as_what_it_is():
    with (
        pytest.raises(OSError, match="while a checkpoint was written") as caught,
        orbax_errors.as_os_errors(),
    ):
        raise ValueError(FULL)
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.__cause__) == FULL


@pytest.mark.parametrize("error", [ValueError("no such step"), KeyError("a"), OSError(5, "disk")])
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, orbax_errors.as_os_errors():
        raise error
    assert caught.value is error
    with orbax_errors.as_os_errors():
        pass


@pytest.mark.parametrize("logger", ["absl", "asyncio"])
@pytest.mark.parametrize("error", [ValueError(FULL), OSError(errno.ENOSPC, "full"), CLOSED])
def test_what_is_raised_anyway_is_not_logged(logger, error):
    with heard() as written:
        logged(logger, error)
    assert written.getvalue() == ""


def test_everything_else_is_logged():
    with heard() as written:
        logging.getLogger("absl").error("something else")
        logged("asyncio", ValueError("something new"))
    assert "something else" in written.getvalue() and "something new" in written.getvalue()


class Unraisable:
    """Raises where nobody can catch it."""

    def __init__(self, error):
        self.error = error

    def __del__(self):
        raise self.error


def test_of_writes_that_outlive_their_loop_nothing_is_said():
    with heard() as written:
        Unraisable(CLOSED)
        assert written.getvalue() == ""
        Unraisable(RuntimeError("something new"))
        assert "something new" in written.getvalue()


def test_a_hook_of_somebody_elses_stays():
    with heard():
        sys.unraisablehook = print
        orbax_errors.silence_repeats()
        assert sys.unraisablehook is print


def test_that_is_what_a_closed_loop_says():
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError) as caught:
        loop.call_soon(print)
    assert str(caught.value) == orbax_errors.LOOP_CLOSED
