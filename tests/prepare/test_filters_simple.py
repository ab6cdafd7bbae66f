"""Filters that look at one conversation's shape, at its moderation, its model, its time."""

import dataclasses
import datetime

import pytest

from interact_jax.data.conversations import read_conversations
from interact_jax.data.moderation import moderation_of
from interact_jax.prepare.filters.about import Model, Time, seconds_of
from interact_jax.prepare.filters.language import Language, identify, text_of
from interact_jax.prepare.filters.lengths import Length, Turns
from interact_jax.prepare.filters.moderation import Moderation
from interact_jax.prepare.filters.paper import Paper, Sample
from interact_jax.schema import Message
from tests.logs import write
from tests.prepare.talks import kept, reason, survey, talk

pytestmark = pytest.mark.one_device

# ------------------------------------------------------------------------------------- the paper


def test_the_papers_conditions_hold_to_the_character():
    paper = Paper()
    assert not reason(paper(talk("a", "b" * 4096, "c" * 90_000)))
    cases = {
        "fewer than 3 messages": talk("a", "b"),
        "does not begin with a user's message": talk("a", "b", "c", first="assistant"),
        "a message of the assistant over 4,096 characters": talk("a", "b" * 4097, "c"),
        "more than 100,000 characters": talk("a" * 50_000, "b", "c" * 50_000),
    }
    for expected, conversation in cases.items():
        assert reason(paper(conversation)) == expected
    assert not reason(paper(talk("a" * 50_000, "b", "c" * 49_999)))


def test_a_system_message_is_none_of_the_papers_messages():
    system = Message("system", "s" * 99_999)
    two = talk("a", "b")
    with_two = dataclasses.replace(two, messages=(system, *two.messages))
    assert reason(Paper()(with_two)) == "fewer than 3 messages"
    three = talk("a", "b", "c")
    assert not reason(Paper()(dataclasses.replace(three, messages=(system, *three.messages))))


def test_wildchat_is_english_and_has_no_long_request():
    paper = Paper("wildchat")
    assert not reason(paper(talk("a" * 4096, "b", "c", language="English")))
    long = talk("a" * 4097, "b", "c", language="English")
    assert reason(paper(long)) == "a message of the user over 4,096 characters"
    assert not reason(Paper()(long))
    assert reason(paper(talk("a", "b", "c", language="German"))) == "not English"
    assert reason(paper(talk("a", "b", "c"))) == "not English"


def test_the_sample_ends_where_the_papers_does():
    one, two = talk("a", "b", "c"), talk("a", "b", "c", "d", "e")
    data = [one] * 60 + [two] * 40
    none = Sample(10, None, None)
    assert len(kept(none, data)) == 10
    assert len(kept(Sample(200, None, None), data)) == 100
    # Enough is 20 conversations and so many interactions that it takes more of them, or fewer.
    few, many = kept(Sample(50, 20, 5), data), kept(Sample(50, 20, 45), data)
    assert len(few) == 20 and 20 < len(many) < 45
    interactions = [len(list(data[place].replies())) for place in many]
    assert 45 <= sum(interactions) <= 46
    assert set(few) < set(many), "both are the beginning of one shuffle"
    assert kept(Sample(50, 20, 5, seed=1), data) != few
    assert kept(Sample(50, 20, 5), data, cuts=(7, 7, 60)) == few
    assert kept(none, []) == []
    dropped = survey(none, data)[next(n for n in range(100) if n not in kept(none, data))]
    assert dropped.reason == "not in the sample"


# --------------------------------------------------------------------------------------- lengths


def test_lengths_of_messages():
    given = talk("four", "five5", "sixsix")
    assert not reason(Length(least=4, most=6)(given))
    assert reason(Length(least=5)(given)) == "fewer than 5 characters"
    assert reason(Length(most=5)(given)) == "more than 5 characters"
    assert not reason(Length("assistant", least=5, most=5)(given))
    assert reason(Length("user", least=5)(given)) == "fewer than 5 characters"
    assert Length(most=5)(given).detail == "message 2 has 6"


def test_lengths_in_words_and_of_the_whole():
    given = talk("one two", "three", "four five six")
    assert not reason(Length(least_words=1, most_words=3)(given))
    assert reason(Length(least_words=2)(given)) == "fewer than 2 words"
    assert reason(Length(most_words=2)(given)) == "more than 2 words"
    whole = Length(per="conversation", least_words=6, most_words=6, least=25, most=25)
    assert not reason(whole(given))
    assert reason(Length(per="conversation", most=24)(given)) == "more than 24 characters"


def test_an_empty_message_has_no_length():
    assert not reason(Length(least=1)(talk("Hi", "", "Bye")))
    assert reason(Length("tool", per="conversation", least=1)(talk("Hi"))).startswith(
        "fewer than 1"
    )


def test_turns():
    given = talk("a", "b", "c", "d", "e")
    assert not reason(Turns()(given)) and not reason(Turns(least=2, most=2)(given))
    assert reason(Turns(least=3)(given)) == "fewer than 3 interactions"
    assert reason(Turns(most=1)(given)) == "more than 1 interactions"
    assert reason(Turns()(talk("a", "b"))) == "fewer than 1 interactions"
    assert not reason(Turns("messages", 5, 5)(given))
    assert reason(Turns("messages", most=4)(given)) == "more than 4 messages"
    assert not reason(Turns(least=None)(talk("a")))


# ------------------------------------------------------------------------------------ moderation

OPENAI = [
    {"flagged": False, "categories": {"hate": False}, "category_scores": {"hate": 0.1}},
    {
        "flagged": True,
        "categories": {"hate": True, "self-harm/intent": True, "sexual": None},
        "category_scores": {"hate": 0.9, "sexual": None, "violence": "0.99"},
    },
]
DETOXIFY = [{"toxicity": 0.2, "threat": 0.3}, {"toxicity": 0.7, "insult": 0.1}]


def test_nested_results_become_scalars():
    found, used = moderation_of({"openai_moderation": OPENAI, "detoxify_moderation": DETOXIFY})
    assert found == {
        "moderation_flagged": True,
        "moderation_categories": "hate, self_harm_intent",
        "moderation_score": 0.9,
        "toxicity": 0.7,
        "insult": 0.1,
        "threat": 0.3,
    }
    assert used == {"openai_moderation", "detoxify_moderation"}
    assert moderation_of({"openai_moderation": OPENAI[0]})[0]["moderation_flagged"] is False


def test_what_the_record_says_itself_goes_first():
    found, _ = moderation_of({"toxicity": 0.1, "toxic": False, "detoxify_moderation": DETOXIFY})
    assert "toxicity" not in found
    turns = [{"toxic": True, "redacted": False}, {"toxic": False}, "no turn", {"toxic": "x"}]
    assert moderation_of({}, turns)[0] == {"toxic": True, "redacted": False}
    assert moderation_of({"toxic": False}, turns)[0] == {"redacted": False}


@pytest.mark.parametrize("broken", [None, [], "text", 3, [1], [None], [[]], {"a": 1}.items()])
def test_other_results_are_left_to_be_counted(broken):
    assert moderation_of({"openai_moderation": broken, "detoxify_moderation": broken}) == (
        {},
        set(),
    )


@pytest.mark.parametrize("odd", [{}, {"categories": 1, "category_scores": []}, {"flagged": "yes"}])
def test_odd_results_raise_nothing(odd):
    found, _ = moderation_of(
        {"openai_moderation": [odd], "detoxify_moderation": [{"toxicity": []}]}
    )
    assert found == {"moderation_flagged": False}


@pytest.mark.parametrize("key", ["conversation", "conversations"])
def test_moderation_is_read_from_a_log(tmp_path, key):
    said = [
        {"role": role, "content": text, "toxic": toxic, "redacted": False}
        for role, text, toxic in (
            ("user", "a", False),
            ("assistant", "b", True),
            ("user", "c", False),
        )
    ]
    record = {"id": "w", key: said, "openai_moderation": OPENAI, "detoxify_moderation": DETOXIFY}
    [read], report = read_conversations(write(tmp_path, "w.jsonl", [record]))
    assert not report.unused
    assert read.meta["toxic"] is True and read.meta["redacted"] is False
    assert read.meta["moderation_flagged"] is True and read.meta["toxicity"] == 0.7
    assert reason(Moderation()(read)) == "marked as toxic"


def test_a_result_that_cannot_be_read_is_counted(tmp_path):
    record = {"conversation": [], "conversation_id": "w", "openai_moderation": ["?"]}
    roles = ("user", "assistant", "user")
    record["conversation"] = [{"role": role, "content": "a"} for role in roles]
    _, report = read_conversations(write(tmp_path, "w.jsonl", [record]))
    assert report.unused == {"field 'openai_moderation' not used": 1}


@pytest.mark.parametrize(
    ("filter", "meta", "expected"),
    [
        (Moderation(), {}, ""),
        (Moderation(unmarked="drop"), {}, "not moderated"),
        (Moderation(unmarked="drop"), {"toxic": False}, ""),
        (Moderation(), {"toxic": True}, "marked as toxic"),
        (Moderation(), {"toxic": 1}, "marked as toxic"),
        (Moderation(), {"toxic": "True"}, "marked as toxic"),
        (Moderation(), {"toxic": "no"}, ""),
        (Moderation(toxic="keep"), {"toxic": True}, ""),
        (Moderation(), {"moderation_flagged": True}, "marked as flagged"),
        (Moderation(), {"flagged": True}, "marked as flagged"),
        (Moderation(flagged="keep"), {"moderation_flagged": True}, ""),
        (Moderation(), {"redacted": True}, ""),
        (Moderation(redacted="drop"), {"redacted": True}, "marked as redacted"),
        (Moderation(most_score=0.5), {"moderation_score": 0.5}, ""),
        (Moderation(most_score=0.5), {"moderation_score": 0.51}, "moderation_score over 0.5"),
        (Moderation(most_toxicity=0.5), {"threat": 0.6}, "threat over 0.5"),
        (Moderation(most_toxicity=0.5), {"toxicity": "much"}, ""),
        (Moderation(), {"toxicity": 1.0}, ""),
    ],
)
def test_moderation(filter, meta, expected):
    assert reason(filter(talk("a", "b", "c", **meta))) == expected


def test_moderation_says_in_which_categories():
    given = talk("a", moderation_flagged=True, moderation_categories="hate")
    assert Moderation()(given).detail == "hate"


# --------------------------------------------------------------------------------- model and time


@pytest.mark.parametrize(
    ("models", "model", "expected"),
    [
        (("gpt-4*",), "gpt-4-0314", ""),
        (("gpt-4*",), "GPT-4", ""),
        (("gpt-4",), "gpt-4-0314", "another model"),
        (("o1", "claude-?"), "claude-2", ""),
        (("*",), "x", ""),
        (("gpt-[34]",), "gpt-5", "another model"),
    ],
)
def test_model(models, model, expected):
    assert reason(Model(models)(talk("a", model=model))) == expected


def test_a_model_that_is_not_named():
    assert reason(Model()(talk("a"))) == "no model named"
    assert not reason(Model(missing="keep")(talk("a", model=" ")))


NOON = datetime.datetime(2023, 4, 9, 12, tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize(
    "given",
    [
        "2023-04-09T12:00:00Z",
        "2023-04-09T12:00:00",
        "2023-04-09 12:00:00 UTC",
        "2023-04-09T14:00:00+02:00",
        " 2023-04-09T12:00:00.000000 ",
        NOON,
        int(NOON),
        str(int(NOON)),
        NOON * 1e3,
        int(NOON * 1e6),
        int(NOON * 1e9),
    ],
)
def test_times_in_all_ways_of_writing(given):
    assert seconds_of(given) == pytest.approx(NOON, abs=1e-3)


@pytest.mark.parametrize("given", ["soon", "", True, None, [], float("nan"), "1e999", 10**400])
def test_what_is_no_time(given):
    assert seconds_of(given) is None


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, ""),
        ("2023-04-09", "2023-04-09", ""),
        ("2023-04-09T12:00", "2023-04-09T12:00", ""),
        ("2023-04-10", None, "before 2023-04-10"),
        (None, "2023-04-08", "after 2023-04-08"),
        (None, "2023-04-09T11:59:59", "after 2023-04-09T11:59:59"),
        ("2023-04-09T12:00+02:00", None, ""),
        ("2023-04-09T12:00-02:00", None, "before 2023-04-09T12:00-02:00"),
    ],
)
def test_time(since, until, expected):
    assert reason(Time(since, until)(talk("a", timestamp="2023-04-09T12:00:00Z"))) == expected


def test_a_whole_day_ends_with_its_last_second():
    day = Time(until="2023-04-09")
    assert not reason(day(talk("a", time="2023-04-09T23:59:59.9")))
    assert reason(day(talk("a", time="2023-04-10T00:00:00"))) == "after 2023-04-09"


def test_where_the_time_stands_and_what_happens_without():
    assert reason(Time()(talk("a"))) == "no time"
    assert reason(Time()(talk("a", timestamp="soon"))) == "unreadable time"
    assert not reason(Time(missing="keep", since="2030-01-01")(talk("a", timestamp="soon")))
    for name in ("timestamp", "time", "created_at", "create_time"):
        assert reason(Time(since="2030-01-01")(talk("a", **{name: NOON}))) == "before 2030-01-01"
    own = Time(since="2030-01-01", fields=("when",))
    assert reason(own(talk("a", when=NOON, time="2031-01-01"))) == "before 2030-01-01"


# -------------------------------------------------------------------------------------- language

GERMAN = "Kannst du mir bitte bei einem Brief an meinen Vermieter helfen?"
ENGLISH = "Could you please help me with a letter to my landlord?"


def test_language_of_the_user():
    german, english = talk(GERMAN, ENGLISH, GERMAN), talk(ENGLISH, GERMAN, ENGLISH)
    assert not reason(Language()(english))
    assert reason(Language()(german)) == "language de"
    assert Language()(german).detail == "de, probability 1.00, 104 letters"
    assert not reason(Language(("de", "en"))(german))
    assert not reason(Language(of="assistant")(german))
    assert reason(Language(of="assistant")(english)) == "language de"


def test_probabilities_are_normalised_and_can_be_asked_for():
    for text in (GERMAN, ENGLISH, "ok", "12345"):
        assert 0 < identify(text)[1] <= 1
    unsure = Language(("en",), least=0.9)
    name, probability = identify("How do I fix this engine?")
    assert name == "en" and 0.5 < probability < 0.9
    given = talk("How do I fix this engine?", "b", "c")
    assert not reason(Language()(given))
    assert reason(unsure(given)) == "language en, but not surely"


def test_short_texts_are_kept_or_dropped():
    short = talk("ok", ENGLISH, "12345 67890 12345 67890 12345")
    assert not reason(Language(("de",))(short))
    assert reason(Language(short="drop")(short)) == "too short to tell its language"
    assert reason(Language(("de",), shortest=1, of="all")(short)) == "language en"
    assert reason(Language(short="drop", of="tool")(short)).startswith("too short")


def test_code_and_addresses_have_no_language():
    code = "```python\nfor stone in range(3):\n    print('the quick brown fox')\n```"
    text = text_of(talk(f"{GERMAN} {code} https://example.com/the/road ann@example.com"), "user")
    assert text.split() == GERMAN.split()
    assert reason(Language()(talk(f"{GERMAN}\n```\n{ENGLISH * 9}"))) == "language de"


def test_only_the_beginning_is_looked_at():
    assert len(text_of(talk("a " * 10_000), "user")) == 2_000
    assert reason(Language()(talk(f"{GERMAN} " * 40 + ENGLISH * 999))) == "language de"
