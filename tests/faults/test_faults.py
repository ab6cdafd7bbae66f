"""A few of the faults that the programs beside this do by the hundred."""

from __future__ import annotations

import pytest

from tests.faults import corrupt, kill, mutate

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


def test_no_corruption_is_silent_or_an_internal_failure(tmp_path, capsys):
    status = corrupt.main(["--folder", str(tmp_path), "--seed", "3", "--count", "4"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "4 corruptions: 0 silent, 0 uncaught, " in said
    for program in ("export", "generate"):
        given = ["--folder", str(tmp_path), "--seed", "3", "--count", "2", "--program", program]
        status = corrupt.main(given)
        said = capsys.readouterr().out
        assert status == 0, said
        assert "2 corruptions: 0 silent, 0 uncaught, " in said


def test_a_run_that_was_ended_goes_on_to_the_same_end(tmp_path, capsys):
    status = kill.main(["--folder", str(tmp_path), "--seed", "5", "--from", "1", "--count", "1"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "1 kill: 0 other, 0 refused, 1 same" in said


def test_no_damaged_input_is_an_internal_failure_or_costs_what_is_sound(tmp_path, capsys):
    status = mutate.main(["--folder", str(tmp_path), "--seed", "5", "--count", "150"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "150 mutations: 0 wrong, 0 uncaught, 0 unclear, 0 slow, 0 large, " in said
