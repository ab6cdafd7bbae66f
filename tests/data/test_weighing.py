"""Weights of single interactions: from messages, and by a function of the user's own."""

import collections

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.conversations import read_conversations
from interact_jax.data.encode import EncodeSettings, encode
from interact_jax.data.pack import pack
from interact_jax.data.recipes import RECIPES
from interact_jax.data.shapes import full_row
from interact_jax.data.tree import grow
from interact_jax.schema import InputError
from tests.logs import native, write
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("chatml"), "chatml"))


def conversation(directory, first=None, second=None):
    """Two interactions, of these weights where they are given."""
    weights = [{} if w is None else {"weight": w} for w in (first, second)]
    turns = [("user", "Hi"), ("assistant", "Hello", weights[0]), ("user", "No")]
    turns += [("assistant", "Hey you", weights[1]), ("user", "Yes")]
    path = write(directory, "a.jsonl", native(*turns) + b"\n")
    return read_conversations(path)[0][0]


def encoded(talk, chat, recipe="hindsight", **settings):
    counts = collections.Counter()
    windows = encode(talk, chat, EncodeSettings(**settings), counts, RECIPES[recipe])
    return [unit for window in windows for unit in window], counts


def test_weights_of_messages_are_those_of_their_interactions(chat, tmp_path):
    units, counts = encoded(conversation(tmp_path, 0.5), chat)
    assert [unit[0].target.weight for unit in units] == [0.5, 1]
    (tree,) = grow(units, RECIPES["hindsight"].frozen)
    batch, _ = pack([[tree]], full_row([tree], 64), 1)
    replies = batch.replies
    assert replies.share_BxI[0, :3].tolist() == [0.5, 1, 0]
    of_first = replies.example_BxR[0] == 0
    assert replies.weight_BxR[0][of_first].sum() == pytest.approx(0.5)
    assert not counts


def test_what_weighs_nothing_is_left_out_and_counted(chat, tmp_path):
    units, counts = encoded(conversation(tmp_path, second=0), chat)
    assert [unit[0].target.id for unit in units] == ["bad_1"]
    assert counts == {"interactions left out: weight 0": 1}


def test_a_pair_has_the_weight_of_its_preferred_reply(chat, tmp_path):
    (pair,), _ = encoded(conversation(tmp_path, first=0.1, second=3), chat, "pairs")
    assert [one.target.weight for one in pair] == [3, 3]


@pytest.mark.parametrize("weight", [-1, "2", float("inf"), True])
def test_a_weight_that_is_none_is_a_fault(weight, tmp_path):
    with pytest.raises(InputError, match=r"a\.jsonl:1: bad weight: messages\[1\]"):
        conversation(tmp_path, weight)


def function(directory, body):
    file = directory / "mine.py"
    file.write_text(f"def weigh(conversation, draft):\n    return {body}\n")
    return f"{file}:weigh"


def test_a_function_weighs_interactions(chat, tmp_path):
    weigh = function(tmp_path, "3 if draft.y.content == 'Hello' else 0")
    units, counts = encoded(conversation(tmp_path, 0.5), chat, weigh=weigh)
    assert [(unit[0].target.id, unit[0].target.weight) for unit in units] == [("bad_1", 1.5)]
    assert counts == {"interactions left out: weight 0": 1}


@pytest.mark.parametrize(
    "body, message",
    [
        ("-1", r"a\.jsonl:1: .*gives -1\.0 for interaction bad_1: expected a number of at least 0"),
        (
            "draft.z",
            r"a\.jsonl:1: .*fails at interaction bad_1 \(mine\.py:2\): AttributeError: .*'z'",
        ),
        ("'much'", r"fails at interaction bad_1 \(mine\.py\): ValueError"),
    ],
)
def test_a_function_that_fails_is_named_with_the_place(body, message, chat, tmp_path):
    weigh = function(tmp_path, body)
    with pytest.raises(InputError, match=message):
        encoded(conversation(tmp_path), chat, weigh=weigh, on_error="skip")


@pytest.mark.parametrize("spec", ["mine.py", "no.py:weigh", "{}:other"])
def test_a_function_that_is_not_there_is_named(spec, chat, tmp_path):
    spec = spec.format(function(tmp_path, "1").partition(":")[0])
    with pytest.raises(InputError, match=r"data\.weigh="):
        encoded(conversation(tmp_path), chat, weigh=spec)
