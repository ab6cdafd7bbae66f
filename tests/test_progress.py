"""What takes long says so, once."""

import io
import logging
import time

import pytest

from interact_jax import cli, progress
from interact_jax.generation import sampler


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 0.05)


@pytest.fixture
def logged(monkeypatch, capsys):
    """A function that ends the log, and gives its lines."""
    cli.log_to_stderr(logging.INFO)
    yield lambda: capsys.readouterr().err.splitlines()
    logging.getLogger("interact_jax").handlers = []


def test_a_log_hears_of_it_at_growing_intervals(soon, logged):
    with progress.of("compiling"):
        time.sleep(1)
    *lines, last = logged()
    assert 2 <= len(lines) <= 5 and all(line.startswith("compiling: ") for line in lines)
    assert last == "compiling took 1 s"


def test_what_is_short_says_nothing(logged):
    with progress.of("compiling"):
        pass
    assert logged() == []


def test_only_the_outermost_is_told(soon, logged):
    with progress.of("measuring"), progress.of("scoring"):
        time.sleep(0.2)
    assert {line.split()[0].strip(":") for line in logged()} == {"measuring"}


def test_nothing_is_told_beside_a_bar_or_without_a_log(soon, logged):
    with progress.bar(), progress.of("measuring"):
        time.sleep(0.2)
    cli.log_to_stderr(logging.ERROR)
    with progress.of("measuring"):
        time.sleep(0.2)
    assert logged() == []


def test_an_error_ends_it(soon, logged):
    @progress.of("loading")
    def load():
        time.sleep(0.2)
        raise ValueError("what for")

    with pytest.raises(ValueError, match="what for"):
        load()
    before = len(logged())
    time.sleep(0.3)
    assert before and logged() == []


def test_a_terminal_sees_the_seconds_pass(soon, logged, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    with progress.of("loading [the] model"):
        time.sleep(1.3)
    assert "loading [the] model" in screen.getvalue() and "0:00:01" in screen.getvalue()


def test_a_bar_of_samples_leaves_nothing_in_a_log(logged):
    with sampler._progress_bar(True, 2) as advance:
        advance(2)
    assert logged() == []


def test_what_is_counted_is_told_at_growing_intervals(soon, logged):
    with progress.counting("reading", 40, "parts") as advance:
        for _ in range(40):
            time.sleep(0.02)
            advance()
    lines = logged()
    assert 2 <= len(lines) <= 5
    assert all(line.startswith("reading: ") and " of 40 parts, " in line for line in lines)


def test_what_is_counted_is_a_bar_on_a_terminal(monkeypatch, logged):
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    with progress.counting("reading", 2, "parts") as advance:
        advance()
        advance()
    assert "reading" in screen.getvalue() and "2/2" in screen.getvalue()
