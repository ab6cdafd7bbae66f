import random

import pytest

from interact_jax.pocket import measure, words, world
from interact_jax.pocket.reading import read_request
from interact_jax.schema import InputError
from pocket_model import lessons


def test_replies_can_be_read_back():
    rng = random.Random(0)
    for index in range(20_000):
        request = world.draw_request(rng, held_out=index % 2 == 0)
        reply = world.Reply(request.answer, world.draw_styles(rng))
        assert world.parse(world.render(reply, rng)) == reply


@pytest.mark.parametrize(
    "text", ["", "Paris", "Paris. Rome.", "Of course, The answer is Rome.", "PARIS. Anything else?"]
)
def test_other_texts_cannot_be_read(text):
    assert world.parse(text) is None


def test_held_out_requests_are_never_trained_on():
    held_out = world.held_out_requests(4096, seed=3)
    assert len({request.text for request in held_out}) == 4096
    rng = random.Random(1)
    messages = {m.content for _ in range(20_000) for m in lessons.draw_lesson(rng).messages}
    assert not messages & {request.text for request in held_out}


def test_held_out_facts_are_known_through_other_phrasings():
    rng = random.Random(2)
    trained = {(r.kind, r.answer) for r in (world.draw_request(rng) for _ in range(20_000))}
    for request in world.held_out_requests(500, seed=0):
        assert (request.kind, request.answer) in trained


def test_styles_follow_their_prior_and_the_wish():
    rng = random.Random(0)
    drawn = [world.draw_styles(rng, {"emoji": True}) for _ in range(4000)]
    assert all(styles["emoji"] for styles in drawn)
    for style in set(world.STYLES) - {"emoji"}:
        assert abs(sum(styles[style] for styles in drawn) / 4000 - world.PRIOR) < 0.03


def test_users_complain_of_what_is_violated_and_of_nothing_else():
    rng = random.Random(0)
    user = world.User({"emoji": True, "question": False, "polite": True})
    kinds = set()
    for _ in range(2000):
        request = world.draw_request(rng)
        styles = world.draw_styles(rng)
        text = world.render(world.Reply(request.answer, styles), rng)
        follow_up = user.respond(request, text, rng, last=True)
        kinds.add(follow_up.kind)
        for style, on in follow_up.asked.items():
            assert user.preference[style] == on != styles[style]
            assert any(phrase in follow_up.text for phrase in words.COMPLAINTS[style][on])
        if follow_up.kind == "complaint":
            assert follow_up.asked
    assert kinds == {"complaint", "praise", "chatter", "request"}
    wrong = user.respond(world.draw_request(rng), "Nonsense.", rng)
    assert wrong.kind == "correction"


def _asked_in(text: str) -> dict[str, bool]:
    return {
        style: on
        for style, phrases in words.COMPLAINTS.items()
        for on in (True, False)
        if any(phrase in text for phrase in phrases[on])
    }


def test_lessons_obey_every_wish_up_to_then():
    rng = random.Random(0)
    wishes = 0
    for _ in range(3000):
        lesson = lessons.draw_lesson(rng)
        asked: dict[str, bool] = {}
        last = len(lesson.messages) - 1
        for index, message in enumerate(lesson.messages):
            if message.role == "user":
                asked |= _asked_in(message.content)
                if index == last - 1 and lesson.hindsight:
                    asked |= _asked_in(lesson.hindsight[1])
                continue
            styles = world.parse(message.content).styles
            assert {style: styles[style] for style in asked} == asked
            wishes += len(asked)
        assert last in lesson.learned
    assert wishes > 1000


def test_lessons_give_the_answer_that_a_correction_names():
    rng = random.Random(0)
    shown = 0
    for _ in range(3000):
        lesson = lessons.draw_lesson(rng)
        follow_up = lesson.hindsight[1] if lesson.hindsight else ""
        for phrase in words.CORRECTIONS:
            before, after = phrase.split("{}")
            if follow_up.startswith(before):
                answer = world.parse(lesson.messages[-1].content).answer
                assert follow_up == before + answer + after
                shown += 1
    assert shown > 100


def test_measure_counts_what_replies_have():
    requests = world.held_out_requests(3, seed=0)
    rng = random.Random(0)
    off = dict.fromkeys(world.STYLES, False)
    texts = [
        world.render(world.Reply(requests[0].answer, off | {"emoji": True}), rng),
        world.render(world.Reply(world.wrong_answer(requests[1], rng), off), rng),
        "not a reply at all",
    ]
    shares = measure.measure(texts, requests, {"emoji": True, "polite": False})
    assert shares["correct"] == 1 / 3
    assert shares["readable"] == 2 / 3
    assert shares["wanted_styles"] == pytest.approx((2 / 2 + 1 / 2) / 3)
    assert shares["all_wanted"] == 1 / 3


def test_unknown_styles_and_kinds_are_refused():
    for preference in ({}, {"bold": True}):
        with pytest.raises(InputError, match="preference"):
            world.check_preference(preference)
    with pytest.raises(InputError, match="kind of request"):
        world.draw_request(random.Random(0), kinds=("sum",))


def test_requests_are_read_from_their_text():
    rng = random.Random(5)
    for held_out in (False, True) * 400:
        request = world.draw_request(rng, held_out)
        assert read_request(f" {request.text}\n") == request


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Thank you, that is perfect.",
        "Please add an emoji.",
        "What is the capital of Mars?",
        "Which is bigger, two or two?",
        "Which is bigger, two or dog?",
        "First word: dog, cat, nothing.",
        "Find the animal: dog, cat, saw.",
        "Find the planet: dog, pear, saw.",
        "What is the capital of France? Please.",
    ],
)
def test_what_is_no_request(text):
    assert read_request(text) is None
