"""What the programs share."""

import argparse
import gzip
import io
import logging
import re
import sys

import pytest

from interact_jax import cli, config
from interact_jax.cluster.place import Place
from interact_jax.schema import InputError
from launch import bench, inspect_data, make_pocket, plan, score
from tests.runs import ROOT, outcome, read_lines, records, write_lines

CONTROLS = "a\x00b\x1b[2J\r\x08\x7f\x9bc\td"
SHOWN = r"a\x00b\x1b[2J\r\x08\x7f\x9bc" + "\td"


def test_messages_hold_no_control_characters_and_no_endless_lines():
    """Names and texts of others may clear the screen, or push what to do out of sight."""
    assert str(InputError(f"{CONTROLS}\nfurther")) == f"{SHOWN}\nfurther"
    said = str(InputError(f"first\n{'x' * 10**6}: expected a number"))
    assert said.startswith("first\nxxx") and said.endswith("xxx: expected a number")
    assert len(said) < 2100
    plain = "Grüße 🙂: " + "x" * 1900
    assert str(InputError(plain)) == plain


def test_nor_do_logs_and_complaints_about_arguments(capsys):
    cli.log_to_stderr(logging.WARNING)
    logging.getLogger("interact_jax.test").warning("name: %s", CONTROLS)
    assert capsys.readouterr().err == f"name: {SHOWN}\n"
    status, said = outcome(plan.main, ["--config=x.py", "--topology=v5e:2x2", CONTROLS], capsys)
    assert status == 2 and SHOWN in said


def test_of_several_processes_messages_begin_with_their_number(capsys):
    """The log is that of process 0; errors come from any."""

    def fails(given):
        cli.log_as(Place(2, int(given[0]), "127.0.0.1:9"))
        logging.getLogger("interact_jax.test").info("so far, so good")
        raise InputError("no room")

    assert outcome(fails, "1", capsys) == (2, "process 1: error: no room\n")
    both = "process 0: so far, so good\nprocess 0: error: no room\n"
    assert outcome(fails, "0", capsys) == (2, both)
    cli.log_as(Place())
    assert outcome(score.main, ["--bogus"], capsys)[1].startswith("error: ")


def test_help_tells_defaults_where_there_are_some(capsys):
    with pytest.raises(SystemExit):
        score.main(["--help"])
    said = capsys.readouterr().out
    assert "(default: float32)" in said and "(default: 0)" in said
    assert not re.search(r"\(default:\s+(None|False|)\)", said)


def test_a_name_that_is_no_text_can_be_printed(monkeypatch):
    """Names of files are bytes; what is no UTF-8 among them is shown as it is."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "utf-8"))
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: print("done: a\udcff.jsonl"))
    assert not ended.value.code
    assert written.getvalue() == b"done: a\\udcff.jsonl\n"


def test_a_file_of_lines_is_whole_or_not_there(tmp_path):
    def lines():
        yield {"id": "é"}
        raise OSError("the disk is full")

    for out in (tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"):
        cli.write_lines(out, [{"id": 1}])
        with pytest.raises(OSError, match="full"):
            cli.write_lines(out, lines())
    assert read_lines(tmp_path / "a.jsonl") == [{"id": 1}]
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == b'{"id": 1}\n'


@pytest.mark.parametrize("out", [".", "absent/scores.jsonl", "logs.jsonl"])
def test_scores_that_could_not_be_written_are_not_computed(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs.jsonl").write_text("a line\n")
    given = ["--model", "pocket", "--data", "logs.jsonl", "--out", out]
    status, said = outcome(score.main, given, capsys)
    assert status == 2 and f"--out {out}" in said
    assert (tmp_path / "logs.jsonl").read_text() == "a line\n"


def test_scores_go_through_a_pipe_of_programs(tmp_path, standard_input, capfd):
    """From standard input to standard output, where everything else would be in the way."""
    data = write_lines(tmp_path / "talks.jsonl", records()[:2])
    given = ["--model", "pocket", "--row-tokens", "128", "--show", "1", "--show-trees", "1"]
    score.main([*given, "--data", str(data), "--out", str(tmp_path / "scores.jsonl")])
    standard_input(data.read_bytes())
    capfd.readouterr()
    score.main([*given, "--data", "-", "--out", "-"])
    said = capfd.readouterr()
    assert said.out == (tmp_path / "scores.jsonl").read_text() and said.out.count("\n") == 3
    for text in ("interactions scored", "trunk", "student"):
        assert text in said.err


def test_scores_do_not_replace_what_they_are_of(tmp_path, capsys):
    data = write_lines(tmp_path / "talks.jsonl", records()[:2])
    before = data.read_bytes()
    for path in (tmp_path, tmp_path / "*.jsonl"):
        given = ["--model", "pocket", "--data", str(path), "--out", str(data)]
        status, said = outcome(score.main, given, capsys)
        assert status == 2 and "is the file that is read" in said
    assert data.read_bytes() == before


CONFIG = ["--config", str(ROOT / "configs/quickstart.py"), "--topology", "v5e:2x2"]
PROGRAMS = {
    "score": (score.main, ["--model", "pocket", "--data", "pocket", "--out"]),
    "report": (score.main, ["--model=pocket", "--data=pocket", "--out=-", "--report"]),
    "bench": (bench.main, ["--json"]),
    "inspect_data": (inspect_data.main, ["--data=pocket", "--out"]),
    "plan": (plan.main, [*CONFIG, "--json"]),
    "gate": (make_pocket.main, ["gate", "--model", "none", "--out"]),
    "logs": (make_pocket.main, ["logs", "--model", "none", "--out"]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_program_could_not_write_it_refuses_at_once(name, tmp_path, capsys, monkeypatch):
    main, given = PROGRAMS[name]
    (tmp_path / "file").write_text("")
    for module in (score, make_pocket.Speaker):  # nothing is opened before
        monkeypatch.delattr(module, "open_model" if module is score else "load")
    status, said = outcome(main, [*given, str(tmp_path / "file/out")], capsys)
    assert status == 2 and "Not a directory. Give another path" in said
    assert f"{given[-1]} {tmp_path}" in said


@pytest.mark.parametrize(
    "main, given",
    [
        (bench.main, ["--turns", "0"]),
        (bench.main, ["--turns", "4,many"]),
        (bench.main, ["--user-tokens", "4"]),
        (bench.main, ["--reply-tokens", "0"]),
        (bench.main, ["--seconds", "nan"]),
        (bench.main, ["--repeats", "-1"]),
        (score.main, ["--row-tokens", "0"]),
        (score.main, ["--max-reply", "0"]),
        (score.main, ["--show", "-1"]),
        (make_pocket.main, ["gate", "--replies", "0"]),
        (make_pocket.main, ["logs", "--seed", str(2**32)]),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, list) else "",
)
def test_numbers_that_cannot_be_meant_are_refused_with_their_argument(main, given, capsys):
    status, said = outcome(main, given, capsys)
    assert status == 2 and f"error: argument {given[-2]}: " in said


FLAGS = {"data.on_error": "--on-error", "data.max_length": "--max-length", "sharing": "--sharing"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("set --config.data.on_error=skip to", "set --on-error skip to"),
        ("data.on_error=skip, or", "--on-error skip, or"),
        ("Set data.max_length to 512.", "Set --max-length to 512."),
        ("longer than data.max_length by themselves", "longer than --max-length by themselves"),
        ("give --config.sharing=none", "give --sharing none"),
        ("sharing=none is slower", "sharing=none is slower"),  # a word, with no dot in it
        ("logs/data.on_error/x and my.data.on_error", "logs/data.on_error/x and my.data.on_error"),
        ("--config.batch.rows=1", "--config.batch.rows=1"),  # which has no flag here
        ("data.on_error.jsonl:3", "data.on_error.jsonl:3"),
    ],
)
def test_messages_name_the_flags_of_the_program_at_hand(text, expected):
    cli.name_flags(FLAGS)
    try:
        assert cli.replace_settings(text) == expected
    finally:
        cli.name_flags({})
    assert cli.replace_settings(text) == text


def test_settings_as_arguments_have_one_home():
    parser = argparse.ArgumentParser()
    flags = {"data.repair": "--repair", "data.max_reply": "--max-reply"}
    cli.add_settings(parser, flags, {"data.max_reply": 7})
    settings = config.settings()
    given = parser.parse_args([])
    assert given.repair == settings["data.repair"].default and given.max_reply == 7
    assert settings["data.max_reply"].meaning[:20] in " ".join(parser.format_help().split())
    assert parser.parse_args(["--repair", "drop"]).repair == "drop"
    for wrong in (["--repair", "perhaps"], ["--max-reply", "0"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_broken_between_words_on_a_terminal_alone(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = "short\n  a line of words that is longer than the terminal --config.optim.lr=1e-3"
    broken = cli.wrap(text, Screen())
    assert all(len(line) <= 40 for line in broken.split("\n"))
    assert broken.split("\n")[:2] == ["short", "  a line of words that is longer than"]
    assert broken.split() == text.split() and "\n    the terminal --config" in broken
    assert cli.wrap(text, io.StringIO()) == text
    assert cli.wrap("x" * 99, Screen()) == "x" * 99, "a path is left whole"
