"""Filters from text: a grammar with one reading, and errors that name what there is."""

import dataclasses
import pickle
import socket

import pytest

from interact_jax.prepare.filters import FILTERS, describe, parse_filter, to_text
from interact_jax.prepare.filters.about import Model, Time
from interact_jax.prepare.filters.duplicates import Duplicates
from interact_jax.prepare.filters.language import Language
from interact_jax.prepare.filters.lengths import Length, Turns
from interact_jax.prepare.filters.moderation import Moderation
from interact_jax.prepare.filters.near_duplicates import NearDuplicates
from interact_jax.prepare.filters.paper import Sample
from interact_jax.prepare.filters.personal import Personal
from interact_jax.schema import InputError
from tests.prepare.talks import decided, notes_of, talk

pytestmark = pytest.mark.one_device


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_has_a_name_settings_and_meanings(name):
    chosen = FILTERS[name]
    made = parse_filter(name)
    assert chosen.name == made.name == name and made == chosen()
    assert dataclasses.is_dataclass(chosen) and chosen.__dataclass_params__.frozen
    assert all(field.metadata["help"] for field in dataclasses.fields(chosen))
    assert len(describe(chosen)) == len(dataclasses.fields(chosen))
    assert pickle.loads(pickle.dumps(made)) == made
    assert callable(made) != hasattr(made, "decide")


def test_a_setting_is_described_with_its_default_and_choices():
    assert describe(Turns) == [
        "of=interactions: what is counted (interactions, messages)",
        "least=1: at least so many",
        "most=none: at most so many",
    ]


@pytest.mark.parametrize(
    ("text", "filter"),
    [
        ("language:languages=en,de,least=0.8", Language(("en", "de"), 0.8)),
        ("language:languages=en,de;least=0.8", Language(("en", "de"), 0.8)),
        ("language: least = 0.8 , languages = en , de ", Language(("en", "de"), 0.8)),
        ("length:least=10,most=4000,of=user", Length("user", least=10, most=4000)),
        ("turns:least=none,most=3", Turns(least=None, most=3)),
        ("duplicates:ignore_case=yes,ignore_space=true", Duplicates(True, True)),
        ("duplicates:ignore_case=no", Duplicates()),
        ("near_duplicates:threshold=1", NearDuplicates(1)),
        ("time:since=2023-04-01T10:00:00+02:00", Time(since="2023-04-01T10:00:00+02:00")),
        ("model:models=gpt-4*,o1", Model(("gpt-4*", "o1"))),
        ("personal:kinds=e-mail,key,entropy=4.2", Personal(kinds=("e-mail", "key"), entropy=4.2)),
        ("moderation:most_score=0.5", Moderation(most_score=0.5)),
    ],
)
def test_settings_are_read_and_written(text, filter):
    assert parse_filter(text) == filter
    assert parse_filter(to_text(filter)) == filter


def test_defaults_are_not_written():
    assert to_text(Length()) == "length"
    assert to_text(Length("user", most=5)) == "length:of=user,most=5"
    assert to_text(Language(("en", "de"))) == "language:languages=en,de"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lenght", ["'lenght'", "no such filter", "Did you mean 'length'?", "near_duplicates"]),
        ("", ["no such filter", "Available: paper"]),
        ("length:", ["settings are expected after the colon"]),
        ("length:10", ["'10' belongs to no setting"]),
        ("length:leest=10", ["no setting 'leest'", "Did you mean 'least'?", "most_words"]),
        ("length:least=1,least=2", ["least is given twice"]),
        ("length:least=1,2", ["least=1,2", "expected a whole number of at least 0, or none"]),
        ("length:least=ten", ["least=ten", "expected a whole number"]),
        ("length:least=1.5", ["least=1.5", "expected a whole number"]),
        ("length:least=-1", ["least=-1", "at least 0"]),
        ("length:least=9,most=8", ["most=8", "at least least=9"]),
        ("length:least_words=9,most_words=8", ["most_words=8", "at least least_words=9"]),
        ("turns:least=9,most=8", ["most=8", "at least least=9"]),
        ("length:of=users", ["of=users", "Did you mean 'user'?", "all, system"]),
        ("length:of=", ["of=:", "expected one of all"]),
        ("turns:of=none", ["of=none", "expected one of"]),
        ("users:most=0", ["most=0", "a whole number of at least 1"]),
        ("users:most=none", ["most=none", "a whole number of at least 1"]),
        ("language:least=2", ["least=2.0", "a number from 0 to 1"]),
        ("language:least=nan", ["least=nan", "a number from 0 to 1"]),
        ("language:languages=", ["languages=:", "one value or more"]),
        ("language:languages=english", ["languages=english", "codes among", " en, "]),
        ("duplicates:ignore_case=perhaps", ["ignore_case=perhaps", "true or false"]),
        ("near_duplicates:threshold=0.1", ["threshold=0.1", "0.3 to 1"]),
        ("near_duplicates:permutations=1000", ["permutations=1000", "64 to 256"]),
        ("personal:kinds=email", ["kinds=email", "Did you mean 'e-mail'?"]),
        ("personal:action=delete", ["action=delete", "redact, drop"]),
        ("personal:entropy=9", ["entropy=9.0", "from 3 to 6, or none"]),
        ("time:since=yesterday", ["since=yesterday", "an ISO date or time"]),
        ("time:since=2024-01-01,until=2023-01-01", ["until=2023-01-01", "after since=2024-01-01"]),
        ("sample:enough_interactions=none", ["enough_interactions=none", "enough_conversations"]),
        ("paper:data=wildchats", ["data=wildchats", "Did you mean 'wildchat'?"]),
        ("users:over=last", ["over=last", "first, none"]),
        ("model:missing=maybe", ["missing=maybe", "keep, drop"]),
    ],
)
def test_errors_say_what_was_expected(text, words):
    with pytest.raises(InputError) as caught:
        parse_filter(text)
    for word in words:
        assert word in str(caught.value)


def test_settings_are_checked_without_text_too():
    for make in (
        lambda: Length(least="3"),
        lambda: Turns(least=True),
        lambda: Language(("en", 3)),
        lambda: Language("en"),
        lambda: Duplicates(1),
        lambda: Sample(seed=-1),
        lambda: NearDuplicates(True),
    ):
        with pytest.raises(InputError, match="expected"):
            make()


def test_no_filter_opens_a_socket_and_all_are_pure(monkeypatch):
    def refuse(*given, **more):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    text = "Please write to ann@example.com, or call +49 30 1234567, thank you very much."
    given = talk(text, "I will.", "Thanks!", user="u", model="m", timestamp="2024-01-01")
    for name in FILTERS:
        made = parse_filter(name)
        if hasattr(made, "decide"):
            notes = notes_of(made.note(given) * 2, made.width)
            once, again = (decided(made, notes) for _ in range(2))
            assert once == again and made.note(given) == made.note(given)
        else:
            assert made(given) == made(given)
    assert given.messages[0].content == text
