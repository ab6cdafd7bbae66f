"""What --help prints, on a terminal of 80 columns."""

from __future__ import annotations

import shlex

import pytest

from interact_jax import commands, help_text, shipped
from launch import make_pocket
from tests.test_docs import PROGRAMS

PROSE = """Do something with a great many words that go on and on, as words do, until the line
is much longer than a narrow terminal."""
TABLE = """    one    what the first of the stages does, in words that are too many
    two    the second"""
EXAMPLE = """    python launch/evaluate.py --persona "sentence, polite, emoji" --run a b \\
        --judge pocket --out evaluation --baseline pocket --prompts prompts.jsonl --temperature 1
    python launch/train.py --help"""


@pytest.mark.parametrize("name", [*PROGRAMS, "make_pocket"])
def test_help_fits_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ask = make_pocket.main if name == "make_pocket" else PROGRAMS[name].parse
    with pytest.raises(SystemExit) as left:
        ask(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert left.value.code == 0 and len(lines) > 10
    assert [line for line in lines if len(line) > 80] == []


def test_the_overview_fits_80_columns():
    programs = {name: name for name in shipped.names("launch")}
    lines = commands.overview(programs).splitlines()
    assert [line for line in lines if len(line) > 80] == []


def arguments(text):
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("width", [30, 60, 78])
def test_a_folded_command_has_the_same_arguments(width):
    folded = help_text.fold(EXAMPLE, width)
    assert arguments(folded) == arguments(EXAMPLE)
    lines = [line.removesuffix(" \\") for line in folded.splitlines()]
    longest = len('        --persona "sentence, polite, emoji" \\')
    assert max(map(len, folded.splitlines())) <= max(width, longest)
    assert not any(line.split()[-1].startswith("--") for line in lines[:-1])  # a flag has its value
    assert lines[-1].endswith(" --help") and len(lines) > 2


def test_prose_is_wrapped_and_tables_and_short_lines_are_not():
    folded = help_text.fold(PROSE, 40)
    assert folded.split() == PROSE.split() and max(map(len, folded.splitlines())) <= 40
    assert help_text.fold(TABLE, 40) == TABLE
    assert help_text.fold(EXAMPLE, 200) == EXAMPLE and help_text.fold(PROSE, 200) == PROSE
