"""The pocket world as a judge, and its requests read back from text."""

from __future__ import annotations

import itertools
import random

import pytest

from interact_jax.judges.judge import FIRST, NEITHER, SECOND, Comparison
from interact_jax.judges.pocket_judge import PocketJudge, in_words, parse_preference
from interact_jax.pocket import measure, words, world
from interact_jax.pocket.reading import read_request, request_in
from interact_jax.schema import InputError, Message

WANTED = {"sentence": True, "polite": True, "question": False}
PROMPT = (Message("user", "Capital of France?"),)
BEST = "Of course, the answer is Paris."
ORDERED = [  # from best to worst under WANTED
    BEST,
    "With pleasure, the answer is Rome! 😊",  # as wanted, but wrong
    "The answer is Paris!",
    "The answer is Rome.",
    "Paris.",
    "PARIS! ANYTHING ELSE?",
    "I do not know what you mean.",
]


def test_requests_are_read_back_from_their_text():
    rng = random.Random(0)
    drawn = [world.draw_request(rng, rng.random() < 0.5) for _ in range(2000)]
    facts = [
        world.fact(kind, subject, phrasing)
        for kind, subjects in world.FACTS.items()
        for subject in subjects
        for phrasing in range(len(words.FACT_PHRASINGS[kind]))
    ]
    assert {request.kind for request in drawn} == set(world.KINDS)
    for request in (*drawn, *facts):
        assert read_request(request.text) == request


@pytest.mark.parametrize(
    "text",
    [
        "What is the capital of Atlantis?",
        "capital of France?",
        "Capital of France? Please.",
        "Which is bigger, two or two?",
        "Which is bigger, two or thirty?",
        "First word: red, blue, thing.",
        "Which is a fruit: dog, cat or red?",
        "Which is a fruit: apple, pear or red?",
        "Hello.",
    ],
)
def test_what_is_no_request_is_not_read(text):
    assert read_request(text) is None


def test_a_prompt_waits_for_the_last_request_in_it():
    talk = (
        *PROMPT,
        Message("assistant", "Paris."),
        Message("user", "Opposite of hot?"),
        Message("assistant", "Capital of Italy?"),
        Message("user", "No emoji please."),
    )
    assert request_in(talk).answer == "cold"
    assert request_in(talk[1:2]) is None


def test_replies_are_ordered_by_styles_then_by_the_answer_and_both_orders_agree():
    judge = PocketJudge(WANTED)
    for (i, better), (j, worse) in itertools.combinations(enumerate(ORDERED), 2):
        both = [Comparison(PROMPT, better, worse), Comparison(PROMPT, worse, better)]
        assert [v.choice for v in judge.compare(both)] == [FIRST, SECOND], (i, j)
    for reply in ORDERED:
        assert judge.compare([Comparison(PROMPT, reply, reply)])[0].choice == NEITHER
    (verdict,) = judge.compare([Comparison(PROMPT, BEST, ORDERED[-1])])
    assert verdict.answer == "3 of 3 styles, right | unreadable"


def test_without_a_preference_only_the_answer_counts():
    judge = PocketJudge()
    right, wrong = Comparison(PROMPT, "Paris.", BEST), Comparison(PROMPT, "Rome.", "PARIS! 😊")
    assert [v.choice for v in judge.compare([right, wrong])] == [NEITHER, SECOND]
    assert list(judge.measure([PROMPT], ["Paris."])) == ["correct", "readable"]


def test_measures_are_those_of_the_world():
    requests = world.held_out_requests(40, seed=1)
    prompts = [(Message("user", request.text),) for request in requests]
    rng = random.Random(2)
    replies = [
        world.render(world.Reply(request.answer, world.draw_styles(rng)), rng)
        for request in requests
    ]
    replies[3:5] = ["?", "Wrong."]
    found = PocketJudge(WANTED).measure(prompts, replies)
    expected = measure.measure(replies, requests, WANTED)
    assert found == {name: expected[name] for name in expected if name != "replies"}
    assert found["correct"] < 1 and found["readable"] < 1


def test_prompts_from_elsewhere_are_refused_by_their_place():
    judge = PocketJudge(WANTED)
    judge.check({"a.jsonl:1": PROMPT})
    with pytest.raises(InputError, match=r"^a\.jsonl:2: no request of the pocket world.*another"):
        judge.check({"a.jsonl:1": PROMPT, "a.jsonl:2": (Message("user", "Who are you?"),)})


def test_preferences_as_text():
    assert parse_preference("sentence, polite ,no question,") == WANTED
    assert parse_preference("") == {}
    assert "Please do not ask me anything back." in in_words(WANTED)
    for text, said in (
        ("polit", "Did you mean polite"),
        ("not polite", "no style of the pocket world"),
        ("polite, no polite", "polite is named twice"),
    ):
        with pytest.raises(InputError, match=said):
            parse_preference(text)
