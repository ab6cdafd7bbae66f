"""What each recipe makes of conversations, and that what a loss joins stays together."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from interact_jax.data import recipes
from interact_jax.data.chat import ChatFormat
from interact_jax.data.dataset import load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.examples import PREFERRED, REJECTED
from interact_jax.data.recipes import HINDSIGHT, PLAIN, RECIPES
from interact_jax.data.rows import Packing
from interact_jax.data.tree import Size, grow_separately, paths, split, split_units
from interact_jax.schema import Conversation, Message, Preference
from tests.runs import TALKS, records, write_lines
from tests.snippets import entry, python_blocks
from tests.tiny import tiny_tokenizer
from tests.trees import grow, random_pairs, random_window

SHIPPED = ("hindsight", "replies", "revisions", "pairs", "chosen")


def dialogue(*texts, name="c", system=False, **more):
    """User and assistant in turn; `system` says something first."""
    roles = (["system"] if system else []) + ["user", "assistant"] * len(texts)
    messages = (Message(role, text) for role, text in zip(roles, texts, strict=False))
    return Conversation(name, tuple(messages), **more)


def preference(index, chosen, rejected):
    return Preference(index, Message("assistant", chosen), Message("assistant", rejected))


def made(recipe, conversation):
    """The drafts: (id, last of x, y, unit, side)."""
    drafts = list(RECIPES[recipe].drafts(conversation))
    for draft in drafts:
        known = conversation.messages[: len(draft.x)]
        assert draft.x == known and draft.x[-1].role == "user" and draft.y.role == "assistant"
        assert draft.weight == 1
    return [(d.id, d.x[-1].content, d.y.content, d.unit, d.side) for d in drafts]


def views(recipe, conversation):
    return [dict(draft.views) for draft in RECIPES[recipe].drafts(conversation)]


# Three interactions; the follow-up to the last one was not answered.
TALK = dialogue("q1", "y1", "o1", "y2", "o2", "y3", "o3")


def test_hindsight_is_every_interaction_without_and_with_its_follow_up():
    assert made("hindsight", TALK) == [
        ("c_1", "q1", "y1", "", 0),
        ("c_3", "o1", "y2", "", 0),
        ("c_5", "o2", "y3", "", 0),
    ]
    assert views("hindsight", TALK) == [{PLAIN: None, HINDSIGHT: o} for o in ("o1", "o2", "o3")]
    assert RECIPES["hindsight"].frozen == {HINDSIGHT}


def test_replies_are_the_logged_ones_alone():
    assert made("replies", TALK) == made("hindsight", TALK)
    assert views("replies", TALK) == [{PLAIN: None}] * 3


def test_revisions_are_the_next_replies_under_the_earlier_history():
    """The last interaction has none: it is left out."""
    assert made("revisions", TALK) == [("c_1", "q1", "y2", "", 0), ("c_3", "o1", "y3", "", 0)]
    assert views("revisions", TALK) == [{PLAIN: None}] * 2


def test_pairs_are_the_revised_reply_against_the_one_that_was_complained_about():
    assert made("pairs", TALK) == [
        ("c_1+", "q1", "y2", "c_1", PREFERRED),
        ("c_1-", "q1", "y1", "c_1", REJECTED),
        ("c_3+", "o1", "y3", "c_3", PREFERRED),
        ("c_3-", "o1", "y2", "c_3", REJECTED),
    ]


def test_chosen_are_the_preferred_replies_of_the_pairs_alone():
    """Units of their own, of no side: nothing is left of the pair but its name."""
    assert made("chosen", TALK) == [("c_1+", "q1", "y2", "", 0), ("c_3+", "o1", "y3", "", 0)]


def test_preferences_that_the_data_has_take_the_place_of_pairs_from_follow_ups():
    said = (preference(1, "a", "b"), preference(3, "y2", "d"))
    talk = dialogue("q1", "y1", "o1", "y2", "o2", preferences=said)
    assert made("pairs", talk) == [
        ("c_1+", "q1", "a", "c_1", PREFERRED),
        ("c_1-", "q1", "b", "c_1", REJECTED),
        ("c_3+", "o1", "y2", "c_3", PREFERRED),
        ("c_3-", "o1", "d", "c_3", REJECTED),
    ]
    assert [id for id, *_ in made("chosen", talk)] == ["c_1+", "c_3+"]
    assert made("revisions", talk) == [("c_1", "q1", "y2", "", 0)]  # of no concern to it


def test_several_pairs_of_one_history_are_units_of_their_own_in_the_order_of_histories():
    said = (preference(3, "e", "f"), preference(1, "a", "b"), preference(1, "c", "b"))
    talk = dialogue("q1", "y1", "o1", "y2", preferences=said)
    found = made("pairs", talk)
    assert [(y, side) for _, _, y, _, side in found] == [
        *(("a", PREFERRED), ("b", REJECTED), ("c", PREFERRED)),
        *(("b", REJECTED), ("e", PREFERRED), ("f", REJECTED)),
    ]
    units = [unit for _, _, _, unit, _ in found]
    assert units == ["c_1", "c_1", "c_1.2", "c_1.2", "c_3", "c_3"]
    assert len({id for id, *_ in found}) == 6
    assert RECIPES["pairs"].count_units(talk) == RECIPES["chosen"].count_units(talk) == 3


@pytest.mark.parametrize(
    "talk, expected",
    [
        (dialogue("q1"), {}),
        (dialogue("q1", "y1"), {}),
        (dialogue("q1", "y1", "o1"), {"hindsight": 1, "replies": 1}),
        (dialogue("q1", "y1", "o1", "y2"), dict.fromkeys(SHIPPED, 1)),
        (dialogue("s", "q1", "y1", "o1", "y2", system=True), dict.fromkeys(SHIPPED, 1)),
        (TALK, {"hindsight": 3, "replies": 3, "revisions": 2, "pairs": 2, "chosen": 2}),
        (dialogue("q1", preferences=(preference(1, "a", "b"),)), {"pairs": 1, "chosen": 1}),
    ],
    ids=["question", "reply", "follow-up", "revised", "system", "three", "preference"],
)
def test_what_there_is_to_learn_from_is_counted_in_units(talk, expected):
    assert {name: n for name in SHIPPED if (n := RECIPES[name].count_units(talk))} == expected
    for recipe, count in expected.items():
        units = {unit or id for id, _, _, unit, _ in made(recipe, talk)}
        assert len(units) == count


def test_interactions_of_a_message_tree_count_on_the_path_that_owns_them():
    """Two paths from q1 through o1; what they share belongs to the first."""
    first = dialogue("q1", "y1", "o1", "y2", "o2", "y3", name="t.0", owned=frozenset({1, 3}))
    second = dialogue("q1", "y1", "o1", "z2", "p2", "z3", name="t.1", owned=frozenset({3}))
    assert [id for id, *_ in made("hindsight", first)] == ["t.0_1", "t.0_3"]
    assert made("hindsight", second) == [("t.1_3", "o1", "z2", "", 0)]
    assert made("replies", second) == [("t.1_3", "o1", "z2", "", 0)]
    assert made("revisions", second) == [("t.1_3", "o1", "z3", "", 0)]
    assert made("pairs", second) == [
        ("t.1_3+", "o1", "z3", "t.1_3", PREFERRED),
        ("t.1_3-", "o1", "z2", "t.1_3", REJECTED),
    ]
    for recipe in (RECIPES[name] for name in SHIPPED):
        assert (recipe.count_units(first), recipe.count_units(second)) == (2, 1)


# ---------------------------------------------------------------------------- through the pipeline


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("think"), "think"))


def units_of(batch):
    """How many a batch holds, as the trainer counts them."""
    return int((batch.replies.unit_BxI.max(axis=1) + 1).sum())


@pytest.mark.parametrize(
    "recipe, interactions, examples",
    [
        ("hindsight", 12, 12),
        ("replies", 12, 12),
        ("revisions", 6, 6),
        ("pairs", 6, 12),
        ("chosen", 6, 6),
    ],
)
@pytest.mark.parametrize("sharing", ["tree", "none"])
def test_interactions_without_a_revised_reply_are_left_out_and_not_counted(
    recipe, interactions, examples, sharing, chat, tmp_path
):
    """Six dialogues have 12 interactions, the last of each of which was not answered again."""
    file = write_lines(tmp_path / "logs.jsonl", records())
    assert sum(len(talk) // 2 for talk in TALKS) == 12
    dataset = load_dataset(str(file), "auto", chat, EncodeSettings(), sharing, recipe=recipe)
    assert sum(dataset.interactions) == dataset.read.interactions == interactions
    trees = dataset.trees_of(range(len(dataset.trees)))
    batches = list(Packing.for_trees(trees, 128, 2).batches(trees))
    assert sum(units_of(batch) for batch, _ in batches) == interactions
    assert sum(len(placed) for _, placed in batches) == examples
    shares = sum(batch.replies.share_BxI.sum() for batch, _ in batches)
    np.testing.assert_allclose(shares, interactions, rtol=1e-6)
    lost = {} if interactions == 12 else {"nothing to learn from": 3}
    assert dataset.read.lost == lost
    assert len(dataset.conversations) == len(TALKS) - sum(lost.values())


# ------------------------------------------------------------------------------ units stay together


def windows(rng):
    """Conversations of interactions and of pairs, of one to six units each."""
    kinds = (random_pairs, random_window)
    return [
        kinds[int(rng.integers(2))](rng, int(rng.integers(1, 7)), name=f"c{n}")
        for n in range(int(rng.integers(3, 9)))
    ]


def named(window):
    """{unit: the ids of its examples, in order}."""
    return {unit[0].target.unit: [e.target.id for e in unit] for unit in window}


def in_trees(trees):
    """The units of trees, as they stand: each must be in one piece."""
    found = []
    for tree in trees:
        for unit in tree.units():
            found.append((unit[0].target.unit, [e.target.id for e in unit]))
    return found


SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_splitting_never_parts_a_unit(seed):
    """Whatever the capacity, as long as every unit alone fits; and every path is what it was."""
    rng = np.random.default_rng(seed)
    for window in windows(rng):
        for tree in grow(window):
            alone = np.max([one.size.counts() for one in split_units(tree)], axis=0)
            slack = rng.uniform(1, 2, 5)
            capacity = Size(*(max(a, int(a * s)) for a, s in zip(alone, slack, strict=True)))
            parts = split(tree, capacity)
            assert all(part.size.fits(capacity) for part in parts)
            assert in_trees(parts) == in_trees([tree])
            for (*one, ids), (*other, expected) in zip(
                [path for part in parts for path in paths(part)], paths(tree), strict=True
            ):
                assert one == other
                np.testing.assert_array_equal(ids, expected)
        units = {}
        for name, members in in_trees(grow(window)) + in_trees(
            grow_separately(window, {HINDSIGHT})
        ):
            assert units.setdefault(name, members) == members
        assert units == named(window)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("height", [1, 2])
def test_a_unit_is_in_one_row_of_one_micro_batch(seed, height):
    """In rows so short that trees are split: all examples of a unit have one number, which is no
    other unit's, and they weigh 1 together; every example is there once."""
    rng = np.random.default_rng(seed)
    logs = windows(rng)
    trees = [tree for window in logs for tree in grow(window)]
    tight = np.max([one.size.counts() for tree in trees for one in split_units(tree)], axis=0)
    packing = Packing((), Size(*(int(n) for n in tight)), height, ignore_first=1)
    where = collections.defaultdict(set)
    placed_once = collections.Counter()
    count = micro = 0
    unit_of = {id: unit for window in logs for unit, ids in named(window).items() for id in ids}
    for micro, (batch, placed) in enumerate(packing.batches(trees)):
        replies = batch.replies
        share = collections.Counter()
        for p in placed:
            example = replies.example_BxR[p.row, p.start]
            assert (replies.example_BxR[p.row, p.start : p.start + p.length] == example).all()
            number = int(replies.unit_BxI[p.row, example])
            where[unit_of[p.id]].add((micro, p.row, number))
            share[p.row, number] += replies.share_BxI[p.row, example]
            placed_once[p.id] += 1
        assert set(share.values()) == {1.0}
        count += units_of(batch)
    assert micro > 0
    assert placed_once == dict.fromkeys(unit_of, 1)
    places = [place for (place,) in where.values()]
    assert len(set(places)) == len(places) == count == sum(len(window) for window in logs)


def test_trees_of_one_name_are_units_apart():
    """The same pair twice in a row, as a benchmark packs it, is two pairs."""
    trees = grow(random_pairs(np.random.default_rng(0), 1)) * 2
    packing = Packing((), sum((tree.size for tree in trees), Size(0, 0, 0, 0, 0)), 1)
    ((batch, _),) = packing.batches(trees)
    assert units_of(batch) == batch.replies.share_BxI.sum() == 2


def test_no_pair_is_made_up_where_the_data_speaks_of_pairs():
    """Its pairs may all have been unusable; then there is none."""
    talk = dialogue("q1", "y1", "o1", "y2", "o2")
    assert len(list(RECIPES["pairs"].drafts(talk))) == 2
    spoken = dialogue("q1", "y1", "o1", "y2", "o2", preferences=())
    assert not list(RECIPES["pairs"].drafts(spoken)) and not list(RECIPES["chosen"].drafts(spoken))


def test_the_recipe_that_the_documentation_adds(monkeypatch):
    names = dict(vars(recipes))
    exec(python_blocks("objectives.md")[1], names)
    recipe = eval(entry("objectives.md", "praised"), names)
    monkeypatch.setitem(RECIPES, "praised", recipe)
    talk = dialogue("q1", "y1", "Not quite.", "y2", "THANKS a lot", "y3", "ok")
    assert made("praised", talk) == [("c_3", "Not quite.", "y2", "", 0)]
    assert recipe.count_units(talk) == 1 and recipe.count_units(TALK) == 0
