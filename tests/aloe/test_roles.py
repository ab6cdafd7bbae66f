"""Roles played by chat models: what each is told, and how its answers are read."""

from pathlib import Path

import pytest

from interact_jax.aloe import prompts
from interact_jax.aloe.cast import Persona, Scene
from interact_jax.aloe.roles import ModelCast, Models
from interact_jax.generation.chat_model import Answer
from interact_jax.schema import Message
from tests.servers import crowd_server

pytestmark = pytest.mark.one_device
BAKER = Persona("She runs a bakery in {profile}.", "Dry and {personality}.")
TALK = (
    *(
        Message("user", "Up since two."),
        Message("assistant", "So early?"),
        Message("user", "Dough."),
    ),
)


class Model:
    """Answers with given texts, and remembers what it was asked."""

    def __init__(self, name, *answers):
        self.name, self.answers, self.asked = name, answers, []

    def answer(self, dialogues, params, seeds=None):
        self.asked += zip(dialogues, [params] * len(dialogues), seeds, strict=True)
        return [a if isinstance(a, Answer) else Answer(a) for a in self.answers[: len(dialogues)]]


def cast_of(*answers, seed=0):
    model = Model("m", *answers)
    return ModelCast(Models(model, model, model, model), seed), model


def scene(*messages, name="s"):
    return Scene(name, BAKER, messages)


def told(model, place=0):
    return [(message.role, message.content) for message in model.asked[place][0]]


def test_the_user_knows_the_persona_and_sees_the_conversation():
    cast, model = cast_of("Hello.", "And?")
    cast.speak([scene(), scene(*TALK[:2])])
    (_, system), (_, first) = told(model)
    # As they stand there: braces in them are no names of ours.
    assert BAKER.profile in system and BAKER.personality in system
    assert first == prompts.FIRST_MESSAGE
    _, (role, shown) = told(model, 1)
    assert role == "user" and "Person: Up since two.\n\nAssistant: So early?" in shown
    assert len({seed for _, _, seed in model.asked}) == 2  # of different turns


def test_inducer_and_responder_do_not_know_the_persona():
    cast, model = cast_of("A baker?", "Nothing yet.", "x")
    answers = cast.infer([scene(*TALK), scene(*TALK)])
    assert [answer.text for answer in answers] == ["A baker?", ""]
    cast.reply([scene(*TALK), scene(*TALK)], ["Bakes {hint}.", ""])
    assert BAKER.profile not in str(model.asked) and BAKER.personality not in str(model.asked)
    hinted, plain = told(model, 2), told(model, 3)
    assert hinted[1:] == plain[1:] == [(m.role, m.content) for m in TALK]
    assert "Bakes {hint}." in hinted[0][1] and plain[0] == ("system", prompts.PLAIN)
    assert model.asked[2][2] == model.asked[3][2]  # the hint is the only difference


@pytest.mark.parametrize(
    "first, second, verdict",
    [
        ("A", "B", True),
        ("B", "A", False),
        ("A", "A", None),
        ("C", "B", None),
        ("A", "It is B", None),
        ("A", Answer("", error="gone"), "gone"),
    ],
)
def test_a_pair_is_ordered_where_both_orders_agree(first, second, verdict):
    cast, model = cast_of(first, second)
    assert cast.order([scene(*TALK)], ["with"], ["without"]) == [verdict]
    (system, shown), (_, turned) = told(model), told(model, 1)
    assert BAKER.profile in system[1] and "Dough." in shown[1]
    assert shown[1].index("with\n") < shown[1].index("without\n")
    assert turned[1].index("without\n") < turned[1].index("with\n")


@pytest.mark.parametrize("text, value", [("4", 4), (" **5**.", 5), ("3/5", 3), ("(1)", 1)])
def test_grades_are_read(text, value):
    cast, _ = cast_of(text)
    (score,) = cast.score([scene(*TALK)], ["Nice."])
    assert (score.value, score.error) == (value, "")


@pytest.mark.parametrize(
    "text", ["0", "6", "4.5", "45", "four", "4 or 5", "Grade: 4", "", "<think>4"]
)
def test_what_is_no_grade_is_none(text):
    cast, _ = cast_of(text)
    (score,) = cast.score([scene(*TALK)], ["Nice."])
    assert score.value is None and score.answer == text and "1 to 5" in score.error


def test_a_judge_without_an_answer_is_said():
    cast, _ = cast_of(Answer("", error="gone"))
    (score,) = cast.score([scene(*TALK)], ["Nice."])
    assert score.value is None and score.error == "gone"


@pytest.mark.parametrize(
    "given, left",
    [
        ("*smiles* Hi there! *waves*", "Hi there!"),
        ("Well *sighs deeply* no.", "Well no."),
        ("**Bold** stays, 2 * 3 * 4 too", "**Bold** stays, 2 * 3 * 4 too"),
        ("* one\n* two", "* one\n* two"),
        ("*nods*", ""),
        ("a*b*c", "a*b*c"),
        ("first\n\n*waves*\nlast", "first\n\n\nlast"),
        ("open *end", "open *end"),
    ],
)
def test_actions_between_asterisks_are_removed(given, left):
    assert prompts.without_actions(given) == left


def test_reasoning_and_lone_surrogates_are_left_out():
    assert prompts.answer_in("<think>\nhm\n</think>\n\nYes \ud800.") == "Yes ?."
    assert prompts.answer_in("<think>\nhm") == ""


def test_other_seeds_and_conversations_are_other_calls():
    seeds = set()
    for seed, name in ((0, "a"), (0, "b"), (1, "a")):
        cast, model = cast_of("Hi.", seed=seed)
        cast.speak([scene(name=name)])
        seeds.add(model.asked[0][2])
    assert len(seeds) == 3
    assert cast_of(seed=0)[0].settings != cast_of(seed=1)[0].settings


def test_the_server_of_the_tests_knows_these_roles():
    """It tells them apart by their first words."""
    for template, begin in {
        prompts.USER: "You play a person",
        prompts.INDUCER: "You read a chat",
        prompts.PLAIN: "You are an assistant",
        prompts.HINTED: "You are an assistant",
    }.items():
        assert template.startswith(begin)
        source = Path(crowd_server.__file__).read_text()
        assert f'"{begin}"' in source
    assert "has shown" in prompts.HINTED and "has shown" not in prompts.PLAIN
