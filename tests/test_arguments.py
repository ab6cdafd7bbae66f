"""What programs say to arguments that they do not know, in every version of argparse."""

from __future__ import annotations

import pytest

from interact_jax.arguments import Parser, SettingsParser
from interact_jax.schema import InputError
from tests.runs import outcome

NO_OPTION = "there is no such option"
ADVICE = "`interact show --help` shows all arguments."


def parser(kind=Parser, allow_abbrev=False):
    made = kind(prog="interact show", allow_abbrev=allow_abbrev)
    add = made.add_argument
    add("--topology", required=True)
    add("--rows", type=int, default=1)
    add("--share", type=float, default=0.5)
    add("--stop", action="append")
    add("--name", nargs="+")
    add("--benchmark", choices=["alpaca_eval", "arena_hard", "mt_bench", "ifeval"])
    add("--size", type=int, choices=[1, 2])
    return made


def staged():
    made = Parser(prog="interact make")
    stages = made.add_subparsers(dest="stage", required=True)
    stages.add_parser("train", allow_abbrev=False).add_argument("--steps", type=int)
    stages.add_parser("gate").add_argument("--replies", type=int)
    return made


def refused(made, *given):
    """The lines of the message."""
    with pytest.raises(InputError) as error:
        made.parse_args(given)
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    "given, said",
    [
        (["--topolgy", "v5e:2x2"], f"--topolgy: {NO_OPTION}. Did you mean --topology?"),
        (["--topolgy=v5e:2x2"], f"--topolgy: {NO_OPTION}. Did you mean --topology?"),
        (["--rows", "x", "--nam", "a"], f"--nam: {NO_OPTION}. Did you mean --name?"),
        (["--zzz"], f"--zzz: {NO_OPTION}."),
        (["-z"], f"-z: {NO_OPTION}."),
        (["--topology=a", "--zzz=a b"], f"--zzz: {NO_OPTION}."),
        (["--topology", "a", "b"], "b: this argument belongs to no option."),
        (["--rows", "1"], "the following arguments are required: --topology"),
        (["--topology"], "argument --topology: expected one argument"),
        (["--rows", "2.5"], "argument --rows: 2.5: expected a whole number"),
        (["--share", "half"], "argument --share: half: expected a number"),
        (["--size", "3"], "--size 3: there is no such choice. Available: 1, 2."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_is_a_line_and_where_to_read_on(given, said):
    assert refused(parser(), *given) == [said, ADVICE]


def test_every_option_that_does_not_exist_is_named_once():
    assert refused(parser(), "--rws=1", "--rws", "2", "--shar", "1") == [
        f"--rws: {NO_OPTION}. Did you mean --rows?",
        f"--shar: {NO_OPTION}. Did you mean --share?",
        ADVICE,
    ]


def test_choices_are_listed_with_the_nearest_first():
    given = ("--topology", "a", "--benchmark", "mtbench")
    assert refused(parser(), *given) == [
        "--benchmark mtbench: there is no such choice. Did you mean mt_bench? Available: "
        "alpaca_eval, arena_hard, mt_bench, ifeval.",
        ADVICE,
    ]


def test_values_that_look_like_options_stay_values():
    given = ["--topology", "-1", "--stop", "-- the end", "--stop", "-", "--name", "a", "--x y"]
    read = parser().parse_args(given)
    assert (read.topology, read.stop, read.name) == ("-1", ["-- the end", "-"], ["a", "--x y"])
    assert parser(SettingsParser).parse_known_args(["--topology=a", "--config.optim.lr=1"])[1] == [
        "--config.optim.lr=1"
    ]


def test_abbreviations_are_allowed_where_they_were():
    assert parser(allow_abbrev=True).parse_args(["--topo", "a"]).topology == "a"
    assert refused(parser(), "--topo", "a")[0].startswith(f"--topo: {NO_OPTION}.")
    assert refused(parser(allow_abbrev=True), "--s", "1")[0].startswith("ambiguous option: --s ")


def test_help_is_given_whatever_else_is_wrong(capsys):
    for made, given in ((parser(), ["--zzz", "--help"]), (staged(), ["gate", "--zzz", "-h"])):
        with pytest.raises(SystemExit) as left:
            made.parse_args(given)
        assert not left.value.code and "--help" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, said, asked",
    [
        (["gaet"], "gaet: there is no such stage. Did you mean gate? Available: train, gate.", ""),
        (["gate", "--replise", "3"], f"--replise: {NO_OPTION}. Did you mean --replies?", " gate"),
        (["train", "--step", "3"], f"--step: {NO_OPTION}. Did you mean --steps?", " train"),
        (["gate", "more"], "more: this argument belongs to no option.", " gate"),
        (["gate", "--replies", "x"], "argument --replies: x: expected a whole number", " gate"),
        (["--zzz", "gate"], f"--zzz: {NO_OPTION}.", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_below_a_command_refuses_for_itself(given, said, asked):
    lines = refused(staged(), *given)
    assert lines == [said, f"`interact make{asked} --help` shows all arguments."]
    assert staged().parse_args(["gate", "--repl", "3"]).replies == 3


def test_the_message_is_an_error_on_standard_error_with_status_2(capsys):
    assert outcome(parser().parse_args, ["--topolgy=a"], capsys) == (
        2,
        f"error: --topolgy: {NO_OPTION}. Did you mean --topology?\n{ADVICE}\n",
    )
