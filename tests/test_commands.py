"""`interact NAME` is `python launch/NAME.py`, from any directory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import interact_jax
from tests.runs import ROOT, program

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

PROGRAMS = sorted(file.stem.replace("_", "-") for file in (ROOT / "launch").glob("*.py"))


def interact(*arguments, cwd, interpreter=("-m", "interact_jax")):
    return subprocess.run(
        [sys.executable, *interpreter, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_overview_has_every_program(tmp_path):
    found = interact("--help", cwd=tmp_path)
    assert found.returncode == 0
    told = [line.split()[0] for line in found.stdout.splitlines() if line.startswith("  ")]
    assert set(PROGRAMS) < set(told)


def test_the_version_is_that_of_the_package(tmp_path):
    assert interact("--version", cwd=tmp_path).stdout.split()[-1] == interact_jax.__version__


@pytest.mark.parametrize(
    "given, said",
    [
        (
            ["trian"],
            "error: interact trian: there is no such command. Did you mean train? Available",
        ),
        (["--config=a"], "error: interact --config=a: there is no such command."),
        ([], f"error: interact which command? Available: {', '.join(sorted(PROGRAMS))}."),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_is_no_command_lists_those_that_there_are(given, said, tmp_path):
    found = interact(*given, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(said) and found.stderr.count("\n") == 1


def test_a_program_says_the_same_as_a_command(tmp_path):
    """All but its name; of the program that is the quickest to start."""
    script, command = program("supervise", ["-h"]), interact("supervise", "-h", cwd=tmp_path)
    assert script.returncode == command.returncode == 0
    expected = script.stdout.replace("usage: supervise.py", "usage: interact supervise")
    assert command.stdout.split() == expected.split()


def test_a_program_finds_what_lies_beside_it_and_keeps_its_status(tmp_path):
    found = interact("make-pocket", "gate", "--replies", "0", cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr == (
        "error: argument --replies: 0: expected a whole number, at least 1\n"
        "`interact make-pocket gate --help` shows all arguments.\n"
    )


ELSEWHERE = """
import sys
from pathlib import Path
from interact_jax import commands, shipped

programs = Path(sys.argv[1])
shipped.folder = lambda name: programs
sys.argv = ["interact", "show", "an argument"]
commands.main()
"""
SHOW = """
import sys
import beside
if __name__ == "__main__":
    import __main__
    heavy = {"jax", "numpy", "rich"} & set(sys.modules)
    print(sys.argv, __main__.__file__, beside.__name__, sorted(heavy))
    raise SystemExit(7)
"""


def test_the_file_runs_as_the_main_program_before_anything_heavy_is_imported(tmp_path):
    """What it imports first, `ends.install_handlers`, comes first."""
    (tmp_path / "show.py").write_text(SHOW)
    (tmp_path / "beside.py").write_text("")
    found = interact(str(tmp_path), cwd=ROOT, interpreter=("-c", ELSEWHERE))
    expected = f"['interact show', 'an argument'] {tmp_path / 'show.py'} beside []\n"
    assert (found.stdout, found.returncode) == (expected, 7), found.stderr
