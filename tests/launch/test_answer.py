"""The programs that answer benchmarks and grade what needs no judge, as a user starts them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interact_jax import cli
from interact_jax.leaderboards.benchmarks import BENCHMARKS
from interact_jax.leaderboards.formats import read_answers
from launch import answer, grade
from tests.leaderboards.test_win_rates import N, annotations_file, gamed_file

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

PROGRAM = Path(answer.__file__)
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Capital of France?", "Be polite."]},
    {"question_id": 101, "category": "math", "turns": ["What comes after seven?"]},
]
SHORT = ("--max-new-tokens", 24)


def run(program, *arguments):
    """The exit status of the program in this process; what it prints is pytest's `capsys`."""
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: program.main([str(argument) for argument in arguments]))
    return ended.value.code


def answer_with(benchmark, questions, out, *more, model="pocket"):
    given = ("--benchmark", benchmark, "--questions", questions, "--out", out, "--model", model)
    return run(answer, *given, *SHORT, *more)


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "question.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in QUESTIONS))
    return path


def without_times(path):
    return [{**line, "tstamp": 0} for line in map(json.loads, path.read_text().splitlines())]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_answers(tmp_path, capsys):
    lines = [
        {"question_id": n, "category": "roleplay", "turns": ["Capital of Italy?", f"{n} more?"]}
        for n in range(12)
    ]
    questions, out, whole = (tmp_path / name for name in ("q.jsonl", "out.jsonl", "whole.jsonl"))
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, PROGRAM, "--benchmark", "mt_bench", "--questions", questions]
    command += ["--model", "pocket", "--out", out, "--save-every", 4, *SHORT]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    while not out.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = read_answers(BENCHMARKS["mt_bench"], out)
    assert len(done) in (4, 8, 12)  # never part of a portion
    assert answer_with("mt_bench", questions, out) == 0
    assert f"{len(done)} from before" in capsys.readouterr().out
    assert answer_with("mt_bench", questions, whole) == 0
    assert without_times(out) == without_times(whole)
    assert len(without_times(out)) == len(lines)


def test_answers_are_written_for_every_benchmark(tmp_path, capsys):
    one, two = "Capital of France?", "What comes after seven?"
    files = {
        "alpaca_eval": [{"instruction": one}, {"instruction": two}, {"instruction": one}],
        "arena_hard": [{"uid": "a", "prompt": one}, {"uid": "b", "prompt": two}],
        "ifeval": [{"prompt": one}, {"prompt": two}],
    }
    for name, lines in files.items():
        questions, out = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.out"
        questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert answer_with(name, questions, out, "--name", "mine") == 0
        assert f"2 questions with an answer: {out}" in capsys.readouterr().out
        text = out.read_text()
        found = (
            json.loads(text)
            if name == "alpaca_eval"
            else list(map(json.loads, text.split("\n")[:-1]))
        )
        assert len(found) == len(lines)
        assert "Paris" in text.title() and "Eight" in text.title()
        if name != "ifeval":
            assert {BENCHMARKS[name].key_of(line)[1] for line in found} == {"mine"}


def test_answers_to_standard_output_are_written_once(questions, capfdbinary):
    assert answer_with("mt_bench", questions, "-", "--save-every", 1) == 0
    printed = capfdbinary.readouterr()
    found = [json.loads(line)["question_id"] for line in printed.out.splitlines()]
    assert found == [81, 101]
    assert b"2 questions with an answer" in printed.err


def test_only_the_first_questions_and_then_the_rest(questions, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert answer_with("mt_bench", questions, out, "--limit", 1) == 0
    assert "1 question with an answer, 1 without" in capsys.readouterr().out
    assert answer_with("mt_bench", questions, out, "--seed", 1) == 2
    assert "seed=0, not 1" in capsys.readouterr().err
    assert answer_with("mt_bench", questions, out) == 0
    assert [line["question_id"] for line in without_times(out)] == [81, 101]


def test_questions_that_are_too_long_stop_the_run_or_are_left_out(questions, tmp_path, capsys):
    long = {"question_id": 7, "category": "math", "turns": ["seven " * 3000]}
    questions.write_text(json.dumps(long) + "\n" + questions.read_text())
    out = tmp_path / "out.jsonl"
    assert answer_with("mt_bench", questions, out) == 2
    assert "question.jsonl:1" in (error := capsys.readouterr().err) and "--on-error skip" in error
    assert not out.exists()
    assert answer_with("mt_bench", questions, out, "--on-error", "skip") == 0
    printed = capsys.readouterr().out
    assert "2 questions with an answer, 1 without" in printed
    assert "1 question without an answer: turn 1" in printed
    assert [line["question_id"] for line in without_times(out)] == [81, 101]


def test_a_turn_without_room_is_reported_and_costs_its_question(tmp_path, capsys):
    questions, out = tmp_path / "q.jsonl", tmp_path / "out.jsonl"
    lines = [
        {"question_id": 1, "category": "math", "turns": ["Capital of Spain?", "seven " * 3000]},
        {"question_id": 2, "category": "math", "turns": ["Capital of Spain?"]},
    ]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert answer_with("mt_bench", questions, out) == 1
    printed = capsys.readouterr()
    assert "turn 2: the prompt leaves no room" in printed.err and "q.jsonl:1" in printed.err
    assert [line["question_id"] for line in without_times(out)] == [2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--temperature", -1), "at least 0"),
        (("--limit", 0), "at least 1"),
        (("--date", "soon"), "YYYY-MM-DD"),
        (("--count-with", "nowhere"), "nowhere"),
    ],
)
def test_bad_arguments_are_refused_before_the_work(more, message, questions, tmp_path, capsys):
    assert answer_with("mt_bench", questions, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_win_rates_are_printed_and_written(tmp_path, capsys):
    good = annotations_file(tmp_path / "good.json", 0, "good", bias=1.0)
    bad = annotations_file(tmp_path / "bad.json", 0, "bad", bias=-1.0)
    gamed, out = gamed_file(tmp_path / "gamed.csv"), tmp_path / "figures.json"
    given = ("--annotations", good, bad, "--gamed", gamed, "--json", out)
    assert run(grade, "alpaca_eval", *given) == 0
    printed = capsys.readouterr().out
    assert "good against base" in printed and "AlpacaEval 2" in printed
    assert "good minus bad" in printed and "4 annotations without a preference" in printed
    figures = json.loads(out.read_text())
    assert [model["model"] for model in figures["models"]] == ["good", "bad"]
    assert figures["models"][0]["judged"] == N - 4
    assert figures["comparison"]["length_controlled_difference"] > 20
    assert run(grade, "alpaca_eval", "--annotations", good) == 0
    assert "without gamed rows (length, model)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--gamed", "A", "--difficulty", "A"), "give one of the two"),
        (("--gamed", "A"), "no column 'preference'"),
        (("--json", "A"), "is the file that is read"),
    ],
)
def test_grade_refuses_what_does_not_fit(more, message, tmp_path, capsys):
    path = annotations_file(tmp_path / "a.json")
    more = [str(path) if argument == "A" else argument for argument in more]
    assert run(grade, "alpaca_eval", "--annotations", path, *more) == 2
    assert message in capsys.readouterr().err


def test_ifeval_from_questions_to_figures(tmp_path, capsys):
    questions, out = tmp_path / "input_data.jsonl", tmp_path / "responses.jsonl"
    words = {"num_words": 40, "relation": "at least"}
    lines = [
        {"key": 1, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        {"key": 2, "instruction_id_list": ["length_constraints:number_words"], "kwargs": [words]},
    ]
    for line, prompt in zip(lines, ("Capital of France?", "Capital of Italy?"), strict=True):
        line["prompt"] = prompt
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert answer_with("ifeval", questions, out) == 0
    figures = tmp_path / "figures.json"
    assert run(grade, "ifeval", "--questions", questions, "--answers", out, "--json", figures) == 0
    assert "strict  prompts  50.00 %" in capsys.readouterr().out
    assert json.loads(figures.read_text())["instruction_loose"] == 50
