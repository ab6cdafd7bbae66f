import json
import random

import pytest

from interact_jax.generation.engine import seed_of
from interact_jax.pocket import world
from interact_jax.pocket.reading import read_request
from interact_jax.schema import InputError, Message
from interact_jax.users import Reaction, ScriptedUser, Talk, react
from interact_jax.users.user import FAILED, FOLLOW_UP, LEFT

WANTS = {"emoji": True, "sentence": False}


def talk(reply, id="c1", request="What is the capital of France?", user="anna", last=False):
    messages = [Message("user", request), Message("assistant", reply)]
    return Talk(id, messages, user, last)


def reaction(user, *given, **more):
    return user.react([talk(*given, **more)])[0]


def test_a_wrong_answer_is_corrected():
    user = ScriptedUser("anna", WANTS)
    assert reaction(user, "Rome.").kind == "correction"
    assert "Paris" in reaction(user, "Rome.").text
    assert reaction(user, "gibberish 7").kind == "correction"


def test_a_style_that_is_not_wanted_is_complained_about():
    complaints = {reaction(ScriptedUser("anna", WANTS, seed), "Paris.").text for seed in range(40)}
    asked = {text for on in (True,) for text in world.words.COMPLAINTS["emoji"][on]}
    moved_on = {text for text in complaints if read_request(text)}
    assert complaints - moved_on == asked
    assert moved_on  # some are silent, and go on to the next request


def test_a_satisfied_user_asks_the_next_thing_or_says_something_else_at_the_end():
    user = ScriptedUser("anna", WANTS)
    next_one = reaction(user, "Paris. 👍")
    assert next_one.kind == "request"
    assert read_request(next_one.text)
    kinds = {reaction(user, "Paris. 👍", id=str(n), last=True).kind for n in range(30)}
    assert kinds == {"praise", "request", "chatter"}


def test_a_complaint_leaves_the_request_as_it_was():
    user = ScriptedUser("anna", WANTS)
    messages = [
        *(Message("user", "What is the capital of France?"), Message("assistant", "Paris.")),
        *(Message("user", "Please add an emoji."), Message("assistant", "Rome. 👍")),
    ]
    (found,) = user.react([Talk("c", messages, "anna")])
    assert found.kind == "correction" and "Paris" in found.text


def test_the_last_request_counts():
    user = ScriptedUser("anna", WANTS)
    messages = [
        *(Message("user", "What is the capital of France?"), Message("assistant", "Paris. 👍")),
        *(Message("user", "Opposite of hot?"), Message("assistant", "Paris. 👍")),
    ]
    assert "cold" in user.react([Talk("c", messages, "anna")])[0].text


def test_reactions_depend_on_seed_name_conversation_and_turn_alone():
    talks = [talk("Paris.", id=str(n)) for n in range(60)]
    first = ScriptedUser("anna", WANTS).react(talks)
    again = ScriptedUser("anna", WANTS)
    again.react([talk("Rome.", id="x")] * 7)  # what it did before does not matter
    assert again.react(talks[::-1])[::-1] == first
    for other in (ScriptedUser("anna", WANTS, seed=1), ScriptedUser("ben", WANTS)):
        assert other.react(talks) != first
    longer = [Talk(t.id, [*t.messages, *t.messages], "anna") for t in talks]
    assert ScriptedUser("anna", WANTS).react(longer) != first


def test_a_user_may_leave():
    talks = [talk("Paris.", id=str(n)) for n in range(200)]
    user = ScriptedUser("anna", WANTS, leaves=0.3)
    reactions = user.react(talks)
    left = [found for found in reactions if found.outcome == LEFT]
    assert left == [Reaction("")] * len(left)
    assert 30 <= len(left) <= 90
    assert user.counts[LEFT] == len(left)
    assert user.counts[FOLLOW_UP] == 200 - len(left)


def test_unrelated_follow_ups_have_no_wish():
    user = ScriptedUser("anna", WANTS, related=False)
    kinds = {found.kind for found in user.react([talk("Rome.", id=str(n)) for n in range(60)])}
    assert kinds == {"praise", "chatter", "request"}


def test_a_preference_may_change_and_is_part_of_the_state():
    user = ScriptedUser("anna", WANTS)
    user.react([talk("Paris.", id=str(n)) for n in range(9)])
    user.prefer({"emoji": False})
    state = json.loads(json.dumps(user.state()))
    other = ScriptedUser("anna", WANTS)
    other.restore(state)
    assert other.preference == {"emoji": False}
    assert other.counts == user.counts
    later = [talk("Paris. 👍", id=f"later {n}") for n in range(20)]
    assert other.react(later) == user.react(later)
    assert other.state() == user.state()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "ben"},
        {"counts": None},
        {"counts": {"a": "b"}},
        {"preference": None},
        {"preference": {"loud": True}},
    ],
)
def test_a_state_of_somebody_else_is_refused(change):
    user = ScriptedUser("anna", WANTS)
    user.react([talk("Paris.")])
    before = user.state()
    with pytest.raises(InputError):
        user.restore({**before, **change})
    assert user.state() == before


def test_other_conversations_are_refused():
    with pytest.raises(InputError, match="conversation c1: none of its messages is a request"):
        reaction(ScriptedUser("anna", WANTS), "Paris.", request="How are you?")
    with pytest.raises(InputError, match="conversation c: a user reacts to a request and its"):
        ScriptedUser("anna", WANTS).react([Talk("c", [Message("user", "Opposite of hot?")])])


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="a preference maps styles"):
        ScriptedUser("anna", {"loud": True})
    with pytest.raises(InputError, match="leaves=2"):
        ScriptedUser("anna", WANTS, leaves=2)


def test_each_user_reacts_to_its_own_talks_in_the_order_given():
    users = {"anna": ScriptedUser("anna", WANTS), "ben": ScriptedUser("ben", {"polite": True})}
    rng = random.Random(0)
    talks = [talk("Paris.", id=str(n), user=rng.choice(["anna", "ben"])) for n in range(40)]
    reactions = react(users, talks)
    for one, found in zip(talks, reactions, strict=True):
        assert found == users[one.user].react([one])[0]
    with pytest.raises(InputError, match="conversation x: no user 'carl'; there are anna, ben"):
        react(users, [talk("Paris.", id="x", user="carl")])


def test_outcomes():
    assert Reaction("Thanks").outcome == FOLLOW_UP
    assert Reaction("").outcome == LEFT
    assert Reaction("", error="no connection").outcome == FAILED


def test_seeds_are_the_same_on_every_machine():
    assert seed_of(0, "anna", "c1", 1) == 1546159847
    assert seed_of("a", "b") != seed_of("ab", "")
    assert all(0 <= seed_of(n) < 2**31 for n in range(100))
