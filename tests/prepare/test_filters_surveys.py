"""Users, duplicates and near duplicates: decided over all conversations, whatever the parts are."""

import dataclasses
import itertools
import random

import numpy as np
import pytest

from benchmarks import planted
from benchmarks.filters import million
from interact_jax.prepare.deciding import Remaining
from interact_jax.prepare.filters.duplicates import Duplicates
from interact_jax.prepare.filters.grouping import Groups, bands_for
from interact_jax.prepare.filters.near_duplicates import NearDuplicates, shingles
from interact_jax.prepare.filters.users import Users
from interact_jax.schema import Message, Preference
from tests.prepare.talks import decided, kept, survey, talk

pytestmark = pytest.mark.one_device


def of_users(names):
    return [talk("a", "b", "c", user=name) for name in names]


# ----------------------------------------------------------------------------------------- users


def test_users_keep_their_first_conversations():
    given = of_users(["a", "b", "a", "", "a", "b", "", "", "a"])
    assert kept(Users(2), given) == [0, 1, 2, 3, 5, 6, 7]
    assert kept(Users(1), given) == [0, 1, 3, 6, 7]
    assert kept(Users(4), given) == [*range(9)]
    assert kept(Users(2), given, cuts=(0, 1, 4, 4)) == kept(Users(2), given)


def test_users_with_too_many_are_dropped():
    given = of_users(["a", "b", "a", "", "a", "b", "", "", "a"])
    assert kept(Users(3, over="none"), given) == [1, 3, 5, 6, 7]
    assert kept(Users(4, over="none"), given) == [*range(9)]
    dropped = survey(Users(3, over="none"), given)[0]
    assert dropped.reason == "of a user with more than 3 conversations"
    assert dropped.detail == "the user has 4"


@pytest.mark.parametrize("filter", [Users(), Duplicates(), NearDuplicates()])
def test_nothing_is_decided_of_nothing(filter):
    assert survey(filter, []) == []
    assert survey(filter, [], cuts=(0, 0)) == []


# ------------------------------------------------------------------------------------ duplicates


def test_duplicates_are_equal_to_the_character():
    given = [
        talk("Hi", "Yo", "Bye", user="a"),
        talk("Hi", "Yo", "Bye ", user="a"),
        talk("hi", "Yo", "Bye"),
        talk("Hi", "Yo", "Bye", user="b", model="m"),
        talk("Hi", "Yo", "Bye", first="assistant"),
        talk("Hi", "Yo"),
    ]
    assert kept(Duplicates(), given) == [0, 1, 2, 4, 5]
    assert kept(Duplicates(ignore_case=True), given) == [0, 1, 4, 5]
    assert kept(Duplicates(ignore_space=True), given) == [0, 2, 4, 5]
    assert kept(Duplicates(True, True), given) == [0, 4, 5]
    assert kept(Duplicates(), given, cuts=(1, 3)) == [0, 1, 2, 4, 5]
    dropped = survey(Duplicates(), given)[3]
    assert (dropped.reason, dropped.detail) == ("copy of an earlier conversation", "of number 1")


def test_other_tools_or_pairs_make_another_conversation():
    one = talk("Hi", "Yo", "Bye")
    pair = Preference(1, Message("assistant", "a"), Message("assistant", "b"))
    tools = dataclasses.replace(one, tools=({"name": "f"},))
    given = [one, tools, dataclasses.replace(one, preferences=(pair,)), tools]
    assert kept(Duplicates(), given) == [0, 1, 2]


def test_a_note_of_a_duplicate_is_the_digest_that_readers_take():
    from interact_jax.data.copies import digest_of

    given = talk("Hi", "Yo", "Bye")
    assert Duplicates().note(given) == digest_of(given)


# ------------------------------------------------------------------------------- near duplicates


def test_shingles():
    assert shingles(["One, two -- THREE."], 2) == ["one two", "two three"]
    assert shingles(["One", "two"], 2) == ["one", "two"], "never across messages"
    assert shingles(["", "?!"], 2) == []
    assert shingles(["你好吗"], 2) == ["你 好", "好 吗"]
    assert shingles(["GPT4你好"], 1) == ["gpt4", "你", "好"]


def test_bands_catch_what_is_at_the_threshold():
    for threshold in (0.3, 0.5, 0.6, 0.7, 0.8, 0.95):
        bands, rows = bands_for(threshold, 128)
        assert bands * rows <= 128
        assert 1 - (1 - threshold**rows) ** bands >= 0.99
    assert bands_for(1, 128) == (2, 64)


def test_signatures_estimate_the_similarity():
    """The standard error of 128 entries is at most 0.044, of a hundred times as many 0.0044."""
    random_, errors = random.Random(0), []
    for _ in range(100):
        words = [f"w{random_.getrandbits(64)}" for _ in range(200)]
        own = [f"v{random_.getrandbits(64)}" for _ in range(50)]
        shared = words[: random_.randrange(1, 200)]
        a, b = talk(" ".join(words)), talk(" ".join([*shared, *own]))
        true = len(shared) / (len(words) + len(own))
        sketches = [np.frombuffer(NearDuplicates(shingle=1).note(c), "<u2")[:128] for c in (a, b)]
        errors.append(np.mean(sketches[0] == sketches[1]) - true)
    assert abs(np.mean(errors)) < 0.013 and np.max(np.abs(errors)) < 0.15


def notes_with(signatures):
    """Of conversations that are no paths of trees."""
    return np.pad(signatures, ((0, 0), (0, 4))).astype("<u2").view(np.uint8)


@pytest.fixture
def group(tmp_path):
    """The index of the first one of each one's group."""

    def group(signatures, threshold):
        notes = notes_with(signatures)
        remaining = Remaining(notes, np.ones(len(notes), bool), tmp_path)
        groups = Groups(remaining, threshold, signatures.shape[1])
        groups.join_alike()
        return groups.first_N

    return group


def test_groups_are_chains_of_alike_signatures(group):
    """0 is like 2, 2 is like 4, 0 is not like 4; 1 and 3 are like nothing; 5 and 6 are empty."""
    random_ = np.random.default_rng(0)
    signatures = random_.integers(0, 65_536, (7, 128), np.uint16)
    signatures[2, :90] = signatures[0, :90]
    signatures[4, 30:] = signatures[2, 30:]
    signatures[5:] = 0xFFFF
    assert group(signatures, 0.6).tolist() == [0, 1, 0, 3, 0, 5, 6]
    assert group(signatures, 0.74).tolist() == [0, 1, 2, 3, 2, 5, 6]
    assert group(signatures, 0.8).tolist() == [*range(7)]
    assert group(signatures[::-1], 0.6).tolist() == [0, 1, 2, 3, 2, 5, 2]


def test_what_is_left_out_is_like_one_that_is_kept(group):
    """A chain of seven, each like its neighbours only: every other one is kept."""
    random_ = np.random.default_rng(0)
    signatures = random_.integers(0, 65_536, (7, 128), np.uint16)
    for place in range(1, 7):
        half = slice(0, 64) if place % 2 else slice(64, 128)
        signatures[place, half] = signatures[place - 1, half]
        signatures[place, 32:96] = signatures[place - 1, 32:96]
    first = np.arange(7)
    for place, what in decided(NearDuplicates(0.7), notes_with(signatures)).items():
        first[place] = int(what.detail.split()[1].strip(",")) - 1
    assert (group(signatures, 0.7) == 0).all()
    for place, kept_one in enumerate(first):
        assert first[kept_one] == kept_one <= place
        assert np.mean(signatures[place] == signatures[kept_one]) >= 0.7
    kept_ones = np.flatnonzero(first == np.arange(7))
    assert 2 <= len(kept_ones) < 7
    for a, b in itertools.combinations(kept_ones, 2):
        assert np.mean(signatures[a] == signatures[b]) < 0.7


def test_paths_of_one_tree_are_not_compared():
    shared = [" ".join(f"word{n}" for n in range(80))] * 3
    one = dataclasses.replace(talk(*shared, "a reply to it", "thanks"), owned=frozenset({1, 3}))
    two = dataclasses.replace(talk(*shared, "another reply", "no"), owned=frozenset({3}))
    copies = [dataclasses.replace(path, source="log.jsonl:2") for path in (one, two)]
    assert kept(NearDuplicates(), [one, two]) == [0, 1]
    assert kept(NearDuplicates(), [one, two, *copies]) == [0, 1], "but with those of another"
    whole = [dataclasses.replace(path, owned=None) for path in (one, two)]
    assert kept(NearDuplicates(), whole) == [0]


def test_the_first_of_each_group_is_kept_whatever_the_parts():
    words = [f"word{n}" for n in range(60)]
    text, other = " ".join(words), " ".join(f"w{n}" for n in range(60))
    given = [talk(other), talk(text), talk(text.upper() + " !!"), talk(f"{text} more"), talk(other)]
    given += [talk("?"), talk("?"), talk("")]
    near = NearDuplicates()
    assert kept(near, given) == [0, 1, 5, 6, 7]
    assert kept(near, given, cuts=(2, 3)) == [0, 1, 5, 6, 7]
    dropped = survey(near, given)[3]
    assert dropped.reason == "almost a copy of an earlier conversation"
    assert dropped.detail.startswith("number 2, similarity about 0.9")


def test_settings_of_near_duplicates():
    words = [f"word{n}" for n in range(100)]
    text, half = " ".join(words), " ".join([*words[:50], *(f"w{n}" for n in range(50))])
    given = [talk("unique request", text), talk("some other wish", half)]
    assert kept(NearDuplicates(0.8), given) == [0, 1]
    assert kept(NearDuplicates(0.3), given) == [0]
    same = [talk("the same request", text), talk("the same request", half * 3)]
    assert kept(NearDuplicates(of="user"), same) == [0]
    reordered = [talk(text), talk(" ".join(sorted(words)))]
    assert kept(NearDuplicates(shingle=1), reordered) == [0]
    assert kept(NearDuplicates(shingle=5), [talk(text), talk(" ".join(words[::-1]))]) == [0, 1]
    for permutations in (64, 256):
        near = NearDuplicates(permutations=permutations)
        assert near.width == 2 * permutations + 8 and kept(near, same[:1] * 2) == [0]


@pytest.fixture(scope="module")
def with_copies():
    return planted.with_copies(seed=3, conversations=1000, copies=40)


def test_planted_copies_are_found(with_copies):
    """docs/filters.md has the figures for 10,000 conversations."""
    given, kinds = with_copies
    found = {}
    for name, filter in {
        "exact": Duplicates(),
        "normalised": Duplicates(True, True),
        "near": NearDuplicates(),
    }.items():
        outcomes = zip(kinds, survey(filter, given), strict=True)
        found[name] = [kind for kind, outcome in outcomes if outcome]
    assert found["exact"] == ["exact"] * 40
    assert sorted(found["normalised"]) == ["case and space"] * 40 + ["exact"] * 40
    near = found["near"]
    assert near.count("exact") == near.count("case and space") == 40
    assert near.count("10 % of words") >= 36
    assert near.count("same instruction") == near.count("") == 0


def test_many_signatures_are_decided():
    found, *_ = million(2_000)
    assert found == "200"  # all that were planted, and no other


def test_a_log_of_one_message_repeated_is_no_square(group):
    """Every pair of 20,000 would be 200 million."""
    signatures = np.zeros((20_000, 128), np.uint16)
    assert (group(signatures, 0.6) == 0).all()
    one_band = np.random.default_rng(0).integers(0, 65_536, (20_000, 128), np.uint16)
    one_band[:, :3] = 7  # all share a bucket, and no two are alike
    assert (group(one_band, 0.6) == np.arange(20_000)).all()
