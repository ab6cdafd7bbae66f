"""Mixtures of data sets: what is drawn of which, where a run goes on, names that occur twice."""

from __future__ import annotations

import collections
from fractions import Fraction
from types import SimpleNamespace

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.draws import Draws
from interact_jax.data.first_steps import packing_for
from interact_jax.data.limits import Limits
from interact_jax.data.mixed import MixedDataset, with_own_id
from interact_jax.data.mixture import (
    Weighted,
    interleaved,
    parse,
    workers_of,
)
from interact_jax.data.pipeline import LogBatches
from interact_jax.data.stored import StoredDataset
from interact_jax.data.tokenise import Tokeniser
from interact_jax.schema import Conversation, InputError, Message
from tests.data.test_stored import SETTINGS, Listed
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def talks(count: int, about: str, user: str = "") -> list:
    """Conversations c0, c1, ... of one or two interactions."""
    found = []
    for n in range(count):
        texts = [f"{about} {n}?", f"{n} it is", "Shorter", f"{n}", "Thanks"][: 3 + 2 * (n % 2)]
        turns = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
        found.append(Conversation(f"c{n}", tuple(turns), user=user))
    return found


SOURCES = {"a": (40, "Apples"), "b": (12, "Bears"), "c": (25, "Cars")}


def mixed(chat, folder, weights: str, sources=SOURCES, workers: int = 0) -> MixedDataset:
    weighted = parse(weights)
    parts = [
        StoredDataset(
            Listed(talks(*sources[each.path])), Tokeniser(chat, SETTINGS, "tree"), folder, workers
        )
        for each in weighted
    ]
    return MixedDataset(parts, weighted)


def batches(dataset: MixedDataset, interactions: int = 9, seed: int = 3) -> LogBatches:
    sizes = SimpleNamespace(conversations=0, interactions=interactions)
    draws = Draws(dataset.interactions, sizes, seed, course=dataset.course(seed))
    return LogBatches(dataset, draws, packing_for(dataset, draws, 512, 2, 1), Limits(8, 4))


def texts(batch) -> list[str]:
    """The replies of a batch."""
    return [
        reply.target.y.tobytes().hex() + reply.target.id
        for tree in batch.trees
        for reply in tree.replies
    ]


def drawn(source: LogBatches) -> dict[str, int]:
    return {each["path"]: each["drawn"] for each in source.position()["mixture"]}


# ------------------------------------------------------------------------------------ what is said


@pytest.mark.parametrize(
    "text, expected",
    [
        ("data/w=3,data/own=1", [("data/w", 3), ("data/own", 1)]),
        ("w=0.25", [("w", Fraction(1, 4))]),
        ("runs/lr=0.1/data=2,x=.5", [("runs/lr=0.1/data", 2), ("x", Fraction(1, 2))]),
        ("a,b=1,c=2", [("a,b", 1), ("c", 2)]),
        ("k=3=1", [("k=3", 1)]),
    ],
)
def test_directories_and_weights(text, expected):
    assert [(each.path, each.weight) for each in parse(text)] == expected


@pytest.mark.parametrize(
    "text, said",
    [
        ("data/w", "data/w has no weight"),
        ("data/w=3,data/own", "data/own has no weight"),
        ("data/w=3,", "has no weight"),
        ("=3", "has no weight"),
        ("data/w=", "the weight ''"),
        ("data/w=-1", "the weight '-1'"),
        ("data/w=1e5", "the weight '1e5'"),
        ("data/w=nan", "the weight 'nan'"),
        ("data/w=0", "weight 0. Leave it out"),
        ("w=1,w=2", "w is given 2 times"),
    ],
)
def test_what_is_not_understood_is_said(text, said):
    with pytest.raises(InputError) as error:
        parse(text)
    assert said in str(error.value) and f"data.mixture={text}" in str(error.value)


def test_the_same_data_twice_are_refused(chat, tmp_path):
    with pytest.raises(InputError, match=r"x and y have the same conversations"):
        mixed(chat, tmp_path, "x=1,y=2", {"x": SOURCES["a"], "y": SOURCES["a"]})


# ------------------------------------------------------------------------------------ what is drawn


def test_shares_and_epochs(chat, tmp_path):
    source = batches(mixed(chat, tmp_path, "a=1,b=3"))
    times = collections.Counter()
    for _ in range(30):
        step = source.draws.step(source.place)
        batch = source.next()
        assert batch.interactions == sum(source.dataset.interactions[i] for i in set(step))
        times.update(step)
    counts = drawn(source)
    assert abs(counts["b"] - 0.75 * sum(counts.values())) < 1
    assert source.position()["drawn"] == times.total() == sum(counts.values())
    for path, numbers in (("a", range(40)), ("b", range(40, 52))):
        assert sum(times[n] for n in numbers) == counts[path]
        passes = counts[path] // len(numbers)
        assert {times[n] for n in numbers} <= {passes, passes + 1}
    assert counts["b"] >= 5 * 12 and counts["a"] < 40 * 2
    line = f"b: {counts['b']} conversations drawn, {counts['b'] / 12:.2f} times all of it"
    assert line in source.summary()


def order_within(dataset: MixedDataset, part: int, seed: int, count: int) -> list[int]:
    course = dataset.course(seed)
    return course.orders[part].take(0, count).tolist()


def test_each_data_set_has_an_order_of_its_own(chat, tmp_path):
    one = mixed(chat, tmp_path, "a=1,b=3")
    other = mixed(chat, tmp_path, "c=2,b=1,a=7")
    assert order_within(one, 0, 5, 80) == order_within(other, 2, 5, 80)
    assert order_within(one, 1, 5, 80) == order_within(other, 1, 5, 80)
    assert order_within(one, 0, 5, 80) != order_within(one, 0, 6, 80)
    twins = {"x": (40, "Apples"), "y": (40, "Pears")}
    both = mixed(chat, tmp_path, "x=1,y=1", twins)
    assert order_within(both, 0, 5, 40) != order_within(both, 1, 5, 40)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_draws_what_it_would_have(chat, tmp_path, workers):
    whole = batches(mixed(chat, tmp_path / "x", "a=1,b=3,c=0.5"))
    seen, positions = [], []
    for _ in range(12):
        positions.append(whole.position())
        seen.append(texts(whole.next()))
    for start in (1, 7):
        dataset = mixed(chat, tmp_path / f"y{workers}", "a=1,b=3,c=0.5", workers=workers)
        again = batches(dataset)
        again.seek(positions[start])
        assert [texts(again.next()) for _ in range(12 - start)] == seen[start:]
        assert again.totals() == whole.totals()
        dataset.close()


def test_with_other_weights_each_goes_on_where_it_was(chat, tmp_path):
    source = batches(mixed(chat, tmp_path, "a=1,b=1"))
    for _ in range(6):
        source.next()
    before = drawn(source)
    again = batches(mixed(chat, tmp_path, "b=1,c=1,a=4"))
    again.seek(source.position())
    assert drawn(again) == before | {"c": 0}
    place = again.place
    for _ in range(12):
        again.next()
    added = {path: n - before.get(path, 0) for path, n in drawn(again).items()}
    total = sum(added.values())
    assert abs(added["a"] - total * 4 / 6) < 1
    assert abs(added["c"] - total / 6) < 1
    assert again.draws.course.since == place
    # And once more with these weights: nothing is counted anew.
    third = batches(mixed(chat, tmp_path, "b=2,c=2,a=8"))
    third.seek(again.position())
    assert third.draws.course.since == place
    assert texts(third.next()) == texts(again.next())


def test_a_data_set_that_was_left_out_goes_on_where_it_was(chat, tmp_path):
    source = batches(mixed(chat, tmp_path, "a=1,b=1"))
    for _ in range(6):
        source.next()
    without = batches(mixed(chat, tmp_path, "a=1"))
    without.seek(source.position())
    without.next()
    back = batches(mixed(chat, tmp_path, "a=1,b=1"))
    back.seek(without.position())
    assert drawn(back)["b"] == drawn(source)["b"]
    assert drawn(back)["a"] == drawn(without)["a"] > drawn(source)["a"]


def test_changed_data_are_named(chat, tmp_path):
    position = batches(mixed(chat, tmp_path, "a=1,b=1")).position()
    others = mixed(chat, tmp_path, "a=1,b=1", SOURCES | {"b": (13, "Bears")})
    with pytest.raises(InputError, match=r"other data in b: 12 conversations, now .* 13 others"):
        batches(others).seek(position)
    moved = mixed(chat, tmp_path, "a=1,elsewhere/b=1", SOURCES | {"elsewhere/b": SOURCES["b"]})
    batches(moved).seek(position)
    alone = StoredDataset(Listed(talks(*SOURCES["a"])), Tokeniser(chat, SETTINGS, "tree"), tmp_path)
    draws = Draws(alone.interactions, SimpleNamespace(conversations=2, interactions=0), 3)
    single = LogBatches(alone, draws, packing_for(alone, draws, 64, 2, 1))
    with pytest.raises(InputError, match="a mixture of data sets"):
        single.seek(position)
    with pytest.raises(InputError, match="one data set, not a mixture"):
        batches(mixed(chat, tmp_path, "a=1,b=1")).seek(single.position())


# ------------------------------------------------------------------------------------------ names


def test_conversations_of_one_name_are_two(chat, tmp_path):
    """Of both data sets all conversations are called c0, c1, ..."""
    source = batches(mixed(chat, tmp_path, "a=1,b=1"), interactions=30)
    batch = source.next()
    expected = [source.dataset.interactions[i] for i in set(source.draws.step())]
    assert batch.interactions == sum(expected)
    names = {reply.target.conversation for tree in batch.trees for reply in tree.replies}
    assert len(names) == len(set(source.draws.step()))
    for tree in batch.trees:
        for target in (reply.target for reply in tree.replies):
            assert target.conversation.endswith((" (a)", " (b)"))
            assert target.id.startswith(target.conversation)
            assert target.unit.startswith(target.conversation)


def test_limits_see_two_conversations_of_one_name(chat, tmp_path):
    """Also where trees come from the store, whose records have the name they have alone."""
    dataset = mixed(chat, tmp_path, "a=1,b=1")
    first, count = [0, len(dataset.parts[0])], len(dataset.parts[0])
    for _ in range(2):  # made, then read
        read = dataset.follow(iter(range(count)), iter(range(len(dataset.parts[1]))))
        names = [name for name, *_ in dataset.members(first, read(first))]
        assert names == ["c0 (a)", "c0 (b)"]


def test_users_of_two_data_sets_are_two(chat, tmp_path):
    tokeniser = Tokeniser(chat, SETTINGS, "tree")
    parts = [
        StoredDataset(Listed(talks(6, about, user)), tokeniser, tmp_path)
        for about, user in (("Apples", "5"), ("Bears", "5"), ("Cars", ""))
    ]
    dataset = MixedDataset(parts, [Weighted(path, Fraction(1)) for path in "abc"])
    assert len(set(dataset.users[:12].tolist())) == 2
    assert set(dataset.users[12:].tolist()) == {0}
    read = dataset.follow(*(iter(range(6)) for _ in parts))
    members = dataset.members([0, 6, 12], read([0, 6, 12]))
    users = [user for _, user, _ in members]
    assert users[0] and users[1] and users[0] != users[1] and not users[2]


def test_ids_of_a_sample_are_those_of_the_run(chat, tmp_path):
    (apple,) = talks(1, "Apples")
    read = mixed(chat, tmp_path, "a=1,b=1").follow(iter([0]), iter([0]))
    (tree,), _ = read([0, 40])
    assert with_own_id(apple, "a").id == tree.replies[0].target.conversation == "c0 (a)"


def test_a_sample_is_as_even_as_weights_say():
    weighted = [Weighted("a", Fraction(1)), Weighted("b", Fraction(3))]
    assert interleaved([10, 10], weighted, 4) == [(1, 0), (1, 1), (0, 0), (1, 2)]
    assert sorted(interleaved([10, 2], weighted, 6)) == [
        *((0, n) for n in range(4)),
        (1, 0),
        (1, 1),
    ]
    assert len(interleaved([1, 1], weighted, 6)) == 2


def test_workers_are_shared_out():
    weighted = [Weighted("a", Fraction(1)), Weighted("b", Fraction(3))]
    assert workers_of(4, weighted) == [1, 3]
    assert workers_of(1, weighted) == [1, 1]
    assert workers_of(0, weighted) == [0, 0]
