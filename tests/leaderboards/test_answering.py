"""Answers of the pocket model, turn by turn, in files that go on where they stopped."""

import pytest

from interact_jax.generation.chat_model import Answer, LocalChatModel
from interact_jax.generation.local import open_engine
from interact_jax.leaderboards.answering import (
    AnswerFile,
    Asking,
    answer,
    digest_of,
    origin_of,
    stamps,
)
from interact_jax.leaderboards.benchmarks import BENCHMARKS
from interact_jax.leaderboards.formats import Question, read_answers
from interact_jax.opening import open_model
from interact_jax.schema import InputError, Message

MT = BENCHMARKS["mt_bench"]
ASKING = Asking(max_new_tokens=24, seed=5)


def question(n, *turns, temperature=None):
    line = {"question_id": n}
    return Question(str(n), turns, line, f"q.jsonl:{n}", temperature)


QUESTIONS = [
    question(1, "What is the capital of France?", "Use capital letters please.", temperature=0.0),
    question(2, "What comes after seven?", temperature=0.7),
    question(3, "What is the opposite of hot?", "Please be more polite.", temperature=0.7),
]


@pytest.fixture(scope="module")
def pocket():
    model = open_model("pocket", attention="xla")
    return LocalChatModel("pocket", open_engine(model, model.load(), rows=8), model.chat)


def texts(outcomes):
    return [outcome.texts for outcome in outcomes]


def test_a_turn_is_answered_after_those_before_it(pocket):
    first, second, third = answer(pocket, MT, QUESTIONS, ASKING)
    assert [len(o.texts) for o in (first, second, third)] == [2, 1, 2]
    assert not any(o.error or o.cut for o in (first, second, third))
    params = ASKING.params(QUESTIONS[0])
    ask, more = QUESTIONS[0].turns
    dialogue = [Message("user", ask), Message("assistant", first.texts[0]), Message("user", more)]
    (expected,) = pocket.answer([dialogue], params, [0])
    assert first.texts[1] == expected.text.strip()
    assert "PARIS" in first.texts[1]  # it has read the request


def test_answers_depend_on_the_question_and_not_on_its_neighbours(pocket):
    together = texts(answer(pocket, MT, QUESTIONS, ASKING))
    alone = [texts(answer(pocket, MT, [q], ASKING))[0] for q in reversed(QUESTIONS)][::-1]
    assert alone == together
    hot = Asking(24, temperature=1.0, seed=5)
    other = Asking(24, temperature=1.0, seed=6)
    many = [question(n, "What is the opposite of hot?") for n in range(12)]
    answers = texts(answer(pocket, MT, many, hot))
    assert len({tuple(one) for one in answers}) > 1  # each question has its own random numbers
    assert answers != texts(answer(pocket, MT, many, other))


def test_what_was_cut_and_what_leaves_no_room_is_counted(pocket):
    short = Asking(max_new_tokens=1)

    def fits(dialogue):
        return len(dialogue) == 1

    outcomes = answer(pocket, MT, QUESTIONS, short, fits)
    assert [o.cut for o in outcomes] == [1, 1, 1]
    assert [bool(o.error) for o in outcomes] == [True, False, True]
    assert outcomes[0].error.startswith("turn 2: the prompt leaves no room")


class Scripted:
    """Answers that a test has written."""

    name = "scripted"

    def __init__(self, *answers):
        self.answers = list(answers)

    def answer(self, dialogues, params, seeds=None):
        return [self.answers.pop(0) for _ in dialogues]


def test_reasoning_is_left_out_and_white_space_as_the_benchmark_has_it():
    reply = Answer("<think>\nTwo.\n</think>\n\n Four. \n")
    for name, expected in (("mt_bench", "Four."), ("arena_hard", "Four. \n")):
        (outcome,) = answer(Scripted(reply), BENCHMARKS[name], [question(1, "2+2?")], ASKING)
        assert (outcome.texts, outcome.reasoned) == ([expected], 1)


def test_a_failure_costs_one_question_and_is_tried_again(tmp_path):
    out, origin = tmp_path / "a.jsonl", {"model": "m", "seed": 5}
    stamp = stamps("m", 5, len)
    asked = [question(1, "a"), question(2, "b"), question(3, "c")]
    file = AnswerFile.open(out, MT, asked, origin)
    (portion,) = file.portions(64)
    model = Scripted(Answer("x"), Answer("", error="no reply after 5 tries"), Answer("z"))
    outcomes = answer(model, MT, portion, ASKING)
    assert [o.error for o in outcomes] == ["", "turn 1: no reply after 5 tries", ""]
    file.add(outcomes, stamp)
    file.write(origin)

    again = AnswerFile.open(out, MT, asked, origin)
    assert again.found == 2
    (portion,) = again.portions(64)
    assert [q.key for q in portion] == ["2"]
    again.add(answer(Scripted(Answer("y")), MT, portion, ASKING), stamp)
    again.write(origin)
    lines = read_answers(MT, out)
    assert list(lines) == ["1", "2", "3"]  # in the order of the questions
    assert [line["choices"][0]["turns"] for line in lines.values()] == [["x"], ["y"], ["z"]]
    assert len({line["answer_id"] for line in lines.values()}) == 3
    assert list(AnswerFile.open(out, MT, asked, origin).portions(64)) == []


def test_portions_are_of_the_first_questions_and_of_none_twice():
    asked = [question(n, "x") for n in (1, 2, 1, 3, 4)]
    file = AnswerFile("-", BENCHMARKS["alpaca_eval"], asked, {"2": {}})
    assert [[q.key for q in part] for part in file.portions(2)] == [["1", "3"], ["4"]]
    assert [[q.key for q in part] for part in file.portions(2, limit=3)] == [["1"]]


def test_answers_of_another_origin_are_never_continued(tmp_path):
    out, origin = tmp_path / "a.jsonl", {"model": "m", "seed": 5}
    asked = [question(1, "a"), question(2, "b")]
    file = AnswerFile.open(out, MT, asked, origin)
    file.add(answer(Scripted(Answer("x"), Answer("y")), MT, asked, ASKING), stamps("m", 5, len))
    file.write(origin)
    before = out.read_bytes()
    with pytest.raises(InputError, match="made with seed=5, not 6"):
        AnswerFile.open(out, MT, asked, origin | {"seed": 6})
    with pytest.raises(InputError, match="question '2' is not among"):
        AnswerFile.open(out, MT, asked[:1], origin)
    origin_of(out).unlink()
    with pytest.raises(InputError, match="come from elsewhere"):
        AnswerFile.open(out, MT, asked, origin)
    assert out.read_bytes() == before


def test_the_digest_of_questions_sees_every_text():
    asked = [question(1, "a", "b"), question(2, "c")]
    digests = {
        digest_of(asked),
        digest_of(asked[::-1]),
        digest_of([question(1, "a", "x"), asked[1]]),
        digest_of([question(3, "a", "b"), asked[1]]),
    }
    assert len(digests) == 4
