"""A fingerprint of data: nothing that is learned changes without it, and nothing else does it."""

from __future__ import annotations

import collections
import copy
import dataclasses

import numpy as np
import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.conversations import ReadReport
from interact_jax.data.dataset import Dataset, load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.fingerprint import DIFFERENCES, difference, fingerprint, legacy_digests
from interact_jax.data.forest import Forest
from interact_jax.schema import Conversation
from tests.runs import TALKS, records, write_lines
from tests.tiny import tiny_tokenizer
from tests.trees import grow, random_window

SETTINGS = EncodeSettings(max_length=512, max_reply=512)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def load(chat, rows, folder, recipe="hindsight", sharing="tree") -> Dataset:
    file = write_lines(folder / "talks.jsonl", rows)
    return load_dataset(str(file), "native", chat, SETTINGS, sharing, recipe=recipe)


def rows_with(change=lambda rows: None):
    rows = copy.deepcopy(records())
    for row, user in zip(rows, ["ann", "ann", "bob", "", "bob", ""], strict=True):
        row["user"] = user
    change(rows)
    return rows


def say(row, message, text):
    def change(rows):
        rows[row]["messages"][message]["content"] = text

    return change


def weigh(rows):
    rows[1]["messages"][1]["weight"] = 2


def other_user(rows):
    rows[1]["user"] = "bob"


def in_reverse(rows):
    rows.reverse()


CHANGES = {
    "an earlier message": (say(0, 0, "Hey"), "conversations"),
    "the order": (in_reverse, "conversations"),
    "a follow-up at the end": (say(3, 2, "No"), "contexts"),
    "a reply at the end": (say(3, 1, "Grey"), "replies"),
    "a weight": (weigh, "weights"),
    "who spoke": (other_user, "weights"),
}


@pytest.mark.parametrize("sharing", ["tree", "none"])
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_learned_changes_it(chat, change, sharing, tmp_path):
    spoil, part = CHANGES[change]
    before = fingerprint(load(chat, rows_with(), tmp_path, sharing=sharing))
    after = fingerprint(load(chat, rows_with(spoil), tmp_path, sharing=sharing))
    assert set(before) == set(DIFFERENCES)
    assert before[part] != after[part]
    assert difference(before, after) is not None
    if sharing == "tree" and part in ("contexts", "weights"):
        assert difference(before, after) == DIFFERENCES[part]


def test_every_follow_up_counts(chat, tmp_path):
    """Those of hindsight stand on branches, which no trunk shows."""
    before = fingerprint(load(chat, rows_with(), tmp_path))
    for row, turns in enumerate(TALKS):
        last = len(turns) - 1
        after = fingerprint(load(chat, rows_with(say(row, last, "I see")), tmp_path))
        assert before["contexts"] != after["contexts"], turns[last]


def test_names_are_not_learned(chat, tmp_path):
    def rename(rows):
        for row in rows:
            row["id"] = f"other-{row['id']}"
            row["user"] = {"ann": "A", "bob": "B", "": ""}[row["user"]]

    found = [fingerprint(load(chat, rows, tmp_path)) for rows in (rows_with(), rows_with(rename))]
    assert difference(*found) is None


def test_which_reply_of_a_pair_is_preferred_counts(chat, tmp_path):
    x = [{"role": "user", "content": "Say y"}]
    pair = {"prompt": x, "chosen": "y, as you asked", "rejected": "no"}
    other = {"prompt": x, "chosen": "no", "rejected": "y, as you asked"}
    found = []
    for row in (pair, other):
        file = write_lines(tmp_path / "pairs.jsonl", [row])
        dataset = load_dataset(str(file), "auto", chat, SETTINGS, "tree", recipe="pairs")
        found.append(fingerprint(dataset))
    assert difference(*found) is not None


def test_log_probabilities_of_a_sampler_count(chat, tmp_path):
    dataset = load(chat, rows_with(), tmp_path)
    found = []
    for number in (-1.0, -1.0, -1.5):
        tree, *more = dataset.trees[0]
        first, *rest = tree.replies
        known = {"sampler": np.full(len(first.target.y), number, np.float32)}
        target = dataclasses.replace(first.target, known=known)
        first = dataclasses.replace(first, target=target)
        tree = dataclasses.replace(tree, replies=(first, *rest))
        trees = [Forest.of([tree, *more]), *dataset.trees[1:]]
        found.append(fingerprint(dataclasses.replace(dataset, trees=trees)))
    assert difference(*found[:2]) is None
    assert difference(*found[1:]) == DIFFERENCES["weights"]


def test_a_token_that_moves_from_one_array_to_the_next_counts(chat, tmp_path):
    """The arrays put end to end would read the same."""
    dataset = load(chat, rows_with(), tmp_path)
    one, two = (trees[0] for trees in dataset.trees[:2])
    joined = np.concatenate([one.trunk, two.trunk])
    at = len(one.trunk) - 1
    moved = [
        Forest.of([dataclasses.replace(one, trunk=joined[:at])]),
        Forest.of([dataclasses.replace(two, trunk=joined[at:])]),
        *dataset.trees[2:],
    ]
    other = fingerprint(dataclasses.replace(dataset, trees=moved))
    assert difference(fingerprint(dataset), other) == DIFFERENCES["conversations"]


DIGESTS = {
    "conversations": "a376d5f633342dd5cc55a26ebcbba12f",
    "contexts": "1c2db6319223ecd6ebe086bde7e77611",
    "replies": "096ba08a83b1344827f27debb7c42562",
    "weights": "3afb6a78f93075e6d7e7bec22c1c89ec",
}
LEGACY = {"digest": 566491056, "replies": 956664275}
"""Of the test below, as the first version with trees in lists made them."""


def test_digests_stay_what_they_were():
    """Runs are resumed whose checkpoints have digests of earlier versions."""
    rng = np.random.default_rng(7)
    trees = [grow(random_window(rng, n, name=f"c{n}")) for n in (3, 1, 2)]
    first, *rest = trees[1][0].replies
    known = {"sampler": np.linspace(-1, 0, len(first.target.y), dtype=np.float32)}
    first = dataclasses.replace(first, target=dataclasses.replace(first.target, known=known))
    trees[1] = [dataclasses.replace(trees[1][0], replies=(first, *rest))]
    conversations = [Conversation(f"c{n}", (), user) for n, user in enumerate(["ann", "", "ann"])]
    dataset = Dataset(
        collections.Counter(),
        ReadReport(),
        conversations=conversations,
        trees=list(map(Forest.of, trees)),
        interactions=[3, 1, 2],
    )
    assert fingerprint(dataset) == DIGESTS
    assert legacy_digests(dataset) == LEGACY
