"""Splits by a hash of the user, that agree with what evaluation.holdout holds out."""

import pytest

from interact_jax.data.holdout import hash_of, key_of
from interact_jax.prepare.splits import DEFAULT, format_splits, parse_splits, split_of
from interact_jax.schema import Conversation, InputError, Message

pytestmark = pytest.mark.one_device


def conversation(n, user=""):
    return Conversation(f"c{n}", (Message("user", f"Hello {n}"), Message("assistant", "x")), user)


def test_the_last_split_is_what_holdout_would_hold_out():
    splits = parse_splits("train=0.9,validation=0.07,test=0.03")
    for n in range(2000):
        one = conversation(n, f"u{n // 2}" if n % 3 else "")
        place = hash_of(key_of(one))
        assert (split_of(one, splits) == 2) == (place < 0.03)
        assert (split_of(one, splits) == 1) == (0.03 <= place < 0.1)


def test_a_user_is_in_one_split():
    splits = parse_splits("a=0.5,b=0.5")
    found = {(n % 10, split_of(conversation(n, f"u{n % 10}"), splits)) for n in range(100)}
    assert len(found) == 10 and {split for _, split in found} == {0, 1}


def test_they_are_read_as_they_are_written():
    assert parse_splits(format_splits(DEFAULT)) == DEFAULT
    assert parse_splits(" train = 1.0 ") == (("train", 1.0),)


@pytest.mark.parametrize(
    "text, said",
    [
        ("train", "is not NAME=SHARE"),
        ("", "is not NAME=SHARE"),
        ("Train=1", "is not NAME=SHARE"),
        ("a-b=1", "is not NAME=SHARE"),
        ("train=nan", "is not NAME=SHARE"),
        ("train=1.5,test=-0.5", "is not NAME=SHARE"),
        ("train=0.5,test=0.4", "sum to 0.9"),
        ("train=0.5,train=0.5", "twice"),
        ("all=1", "TFDS"),
    ],
)
def test_others_are_refused(text, said):
    with pytest.raises(InputError, match=said):
        parse_splits(text)
