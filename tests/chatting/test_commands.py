"""What a line means."""

from __future__ import annotations

import pytest

from interact_jax.chatting.commands import Line, number_of_steps, parse
from interact_jax.schema import InputError


@pytest.mark.parametrize(
    "line, meant",
    [
        ("Hello /there", Line("", "Hello /there")),
        (" /learn", Line("", " /learn")),
        ("//learn 3", Line("", "/learn 3")),
        ("///x", Line("", "//x")),
        ("/learn", Line("learn", "")),
        ("/learn  3 ", Line("learn", "3")),
        ("/system Be brief, not /terse.", Line("system", "Be brief, not /terse.")),
        ("/save a dir", Line("save", "a dir")),
    ],
)
def test_a_line_is_a_message_or_a_command(line, meant):
    assert parse(line) == meant


@pytest.mark.parametrize(
    "line, said",
    [
        ("/singal", "Did you mean /signal?"),
        ("/Learn 3", "Did you mean /learn?"),
        ("/usr/bin", "To say it, type //usr/bin"),
        ("/xyzzy", "/help lists them"),
        ("/", "/: there is no such command"),
        ("/undo all", "/undo takes nothing after it, found 'all'"),
        ("/save", "/save: expected /save DIR"),
    ],
)
def test_what_is_no_command_says_what_was_meant(line, said):
    with pytest.raises(InputError) as refused:
        parse(line)
    assert said in str(refused.value)


def test_a_number_of_steps_is_a_number():
    assert (number_of_steps(""), number_of_steps("12")) == (1, 12)
    for wrong in ("0", "-1", "x", "1.5", "²"):
        with pytest.raises(InputError, match="expected a number of steps"):
            number_of_steps(wrong)
