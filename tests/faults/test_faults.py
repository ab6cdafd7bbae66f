"""A few of the faults that the programs beside this do by the hundred."""

from __future__ import annotations

import signal

import pytest

from tests.faults import corrupt, kill, mutate, victims

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


EXHAUSTIVE = pytest.param(4, ("export", "generate"), marks=pytest.mark.slow)


@pytest.mark.parametrize("count, programs", [(2, ("export",)), EXHAUSTIVE])
def test_no_corruption_is_silent_or_an_internal_failure(count, programs, tmp_path, capsys):
    """Of files with which a run goes on, and of those that other programs read."""
    given = ["--folder", str(tmp_path), "--seed", "3", "--count"]
    status = corrupt.main([*given, str(count)])
    said = capsys.readouterr().out
    assert status == 0, said
    assert f"{count} corruptions: 0 silent, 0 uncaught, " in said
    for program in programs:
        status = corrupt.main([*given, "2", "--program", program])
        said = capsys.readouterr().out
        assert status == 0, said
        assert "2 corruptions: 0 silent, 0 uncaught, " in said


@pytest.mark.slow
def test_a_run_that_was_ended_goes_on_to_the_same_end(tmp_path, capsys):
    status = kill.main(["--folder", str(tmp_path), "--seed", "5", "--from", "1", "--count", "1"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "1 kill: 0 other, 0 refused, 1 same" in said


@pytest.mark.parametrize("count", [60, pytest.param(150, marks=pytest.mark.slow)])
def test_no_damaged_input_is_an_internal_failure_or_costs_what_is_sound(count, tmp_path, capsys):
    status = mutate.main(["--folder", str(tmp_path), "--seed", "5", "--count", str(count)])
    said = capsys.readouterr().out
    assert status == 0, said
    bad = "0 wrong, 0 silent, 0 uncaught, 0 unclear, 0 slow, 0 large, "
    assert f"{count} mutations: {bad}" in said


def test_a_case_that_ends_its_process_is_told_and_others_follow():
    numbers = [signal.SIGCONT, signal.SIGABRT, signal.SIGSEGV, signal.SIGCONT]
    came = [came for _, came in victims.each(signal.raise_signal, numbers)]
    assert came == [None, victims.Death(-signal.SIGABRT), victims.Death(-signal.SIGSEGV), None]
    assert str(came[1]) == "the process was ended by SIGABRT"
