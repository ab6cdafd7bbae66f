import json

import pytest

from interact_jax.leaderboards.benchmarks import BENCHMARKS, MT_BENCH_TEMPERATURES
from interact_jax.leaderboards.formats import (
    Stamp,
    read_answers,
    read_questions,
    write_answers,
)
from interact_jax.leaderboards.markdown import count_markdown
from interact_jax.schema import InputError

STAMP = Stamp("mine", "a1", 1.5, len)
QUESTIONS = {
    "alpaca_eval": {"dataset": "koala", "instruction": "Hi?", "output": "no", "generator": "g"},
    "arena_hard": {"uid": "u1", "category": "hard_prompt", "subcategory": "x", "prompt": "Hi?"},
    "mt_bench": {"question_id": 81, "category": "writing", "turns": ["Hi?", "More?"]},
    "ifeval": {"key": 1, "prompt": "Hi?", "instruction_id_list": [], "kwargs": []},
}
LINES = {  # as the benchmarks' own files are
    "alpaca_eval": {
        "dataset": "koala",
        "instruction": "Hi?",
        "output": "**A** é",
        "generator": "mine",
    },
    "arena_hard": {
        "uid": "u1",
        "ans_id": "a1",
        "model": "mine",
        "messages": [
            {"role": "user", "content": "Hi?"},
            {"role": "assistant", "content": {"answer": "**A** é"}},
        ],
        "tstamp": 1.5,
        "metadata": {
            "token_len": 7,
            "header_count": {"h1": 0, "h2": 0, "h3": 0, "h4": 0, "h5": 0, "h6": 0},
            "list_count": {"ordered": 0, "unordered": 0},
            "bold_count": {"**": 1, "__": 0},
        },
    },
    "mt_bench": {
        "question_id": 81,
        "answer_id": "a1",
        "model_id": "mine",
        "choices": [{"index": 0, "turns": ["**A** é", "B"]}],
        "tstamp": 1.5,
    },
    "ifeval": {"prompt": "Hi?", "response": "**A** é"},
}
NAMES = list(BENCHMARKS)


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_answers_have_the_benchmark_s_schema_and_are_read_back(name, tmp_path):
    benchmark = BENCHMARKS[name]
    (question,) = read_questions(benchmark, write_lines(tmp_path / "q.jsonl", QUESTIONS[name]))
    texts = ["**A** é", "B"][: len(question.turns)]
    line = benchmark.line(question, texts, STAMP)
    assert line == LINES[name]
    assert list(line) == list(LINES[name])
    path = tmp_path / "answers"
    write_answers(benchmark, path, [line])
    if benchmark.as_list:
        assert json.loads(path.read_text()) == [line]
    else:
        assert [json.loads(text) for text in path.read_text().splitlines()] == [line]
    assert read_answers(benchmark, path) == {question.key: line}
    assert benchmark.key_of(line) == (question.key, "" if name == "ifeval" else "mine")


@pytest.mark.parametrize("name", NAMES)
def test_lines_of_another_schema_are_refused_with_their_place(name, tmp_path):
    for key in LINES[name]:
        broken = {k: v for k, v in LINES[name].items() if k != key}
        path = write_lines(tmp_path / "a.jsonl", broken)
        with pytest.raises(InputError, match=rf"a\.jsonl:1: .*{key}"):
            read_answers(BENCHMARKS[name], path)


@pytest.mark.parametrize("key", LINES["arena_hard"]["metadata"])
def test_counts_of_arena_hard_are_required(key, tmp_path):
    line = LINES["arena_hard"]
    metadata = {k: v for k, v in line["metadata"].items() if k != key}
    path = write_lines(tmp_path / "a.jsonl", {**line, "metadata": metadata})
    with pytest.raises(InputError, match=rf"a\.jsonl:1: .*{key}"):
        read_answers(BENCHMARKS["arena_hard"], path)


def test_questions_of_arena_hard_s_first_release_are_read(tmp_path):
    old = {"question_id": "q7", "category": "arena-hard-v0.1", "turns": [{"content": "Hi?"}]}
    path = write_lines(tmp_path / "q.jsonl", QUESTIONS["arena_hard"], old)
    first, second = read_questions(BENCHMARKS["arena_hard"], path)
    assert (first.key, second.key, second.turns) == ("u1", "q7", ("Hi?",))


def test_temperatures_of_mt_bench_follow_the_category(tmp_path):
    lines = [
        {"question_id": n, "category": category, "turns": ["a"]}
        for n, category in enumerate(MT_BENCH_TEMPERATURES)
    ]
    path = write_lines(tmp_path / "q.jsonl", *lines)
    questions = read_questions(BENCHMARKS["mt_bench"], path)
    found = {q.line["category"]: q.temperature for q in questions}
    hot = {name: 0.7 for name in ("writing", "roleplay")}
    warm = {name: 0.1 for name in ("stem", "humanities")}
    cold = {name: 0.0 for name in ("extraction", "math", "coding", "reasoning")}
    assert found == hot | warm | cold


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("alpaca_eval", {"instruction": " "}, "empty text"),
        ("alpaca_eval", {"instruction": 3}, "'instruction' is 3"),
        ("arena_hard", {"uid": None}, "'uid' is None"),
        ("mt_bench", {"category": "cooking"}, "'cooking', expected one of writing"),
        ("mt_bench", {"turns": []}, "no turns"),
        ("mt_bench", {"turns": ["a", 2]}, "no turns"),
        ("ifeval", {"prompt": None}, "'prompt' is None"),
    ],
)
def test_bad_questions_are_refused_with_their_place(name, change, message, tmp_path):
    path = write_lines(tmp_path / "q.jsonl", QUESTIONS[name] | change)
    with pytest.raises(InputError, match=rf"q\.jsonl:1: .*{message}.*expected \{{"):
        read_questions(BENCHMARKS[name], path)


@pytest.mark.parametrize("name", NAMES)
def test_a_question_that_comes_twice(name, tmp_path):
    """Ids must not; texts may, and get one answer."""
    path = write_lines(tmp_path / "q.jsonl", QUESTIONS[name], QUESTIONS[name])
    if BENCHMARKS[name].repeats:
        assert len(read_questions(BENCHMARKS[name], path)) == 2
    else:
        with pytest.raises(InputError, match=r"q\.jsonl:2: question .* is the one of .*:1"):
            read_questions(BENCHMARKS[name], path)
        write_lines(path, LINES[name], LINES[name])
        with pytest.raises(InputError, match=r"q\.jsonl:2: .* answered twice"):
            read_answers(BENCHMARKS[name], path)


def test_markdown_is_counted_outside_code():
    text = (
        "# One\n## Two\n####### seven\n#none\n\n- a\n * b\n+ c\n-d\n1. x\n 22. y\n3.z\n"
        "**bold** and __too__, ** not\nthis**\n"
        "```python\n# comment\n- item\n**x**\n1. y\n```\n### Three\n"
    )
    assert count_markdown(text) == {
        "header_count": {"h1": 1, "h2": 1, "h3": 1, "h4": 0, "h5": 0, "h6": 0},
        "list_count": {"ordered": 2, "unordered": 3},
        "bold_count": {"**": 1, "__": 1},
    }
