"""What is held out depends on the data alone, and nothing of it is learned."""

import collections
import dataclasses
import hashlib

import pytest

from interact_jax.data import holdout
from interact_jax.data.conversations import ReadReport
from interact_jax.data.dataset import Dataset
from interact_jax.data.forest import Forest
from interact_jax.schema import Conversation, Message


def conversation(name, user="", opening="Hi", system=""):
    messages = [Message("user", opening), Message("assistant", "y"), Message("user", "o")]
    if system:
        messages.insert(0, Message("system", system))
    return Conversation(name, tuple(messages), user)


def dataset(conversations):
    empty = [Forest.of([])] * len(conversations)
    ones = [1] * len(conversations)
    return Dataset(
        collections.Counter(),
        ReadReport(),
        conversations=list(conversations),
        trees=empty,
        interactions=ones,
    )


MANY = [conversation(f"c{n}", opening=f"question {n}") for n in range(2_000)]


def test_about_the_share_is_held_out_whatever_the_order():
    rest, held = holdout.split(dataset(MANY), 0.1)
    assert 150 < len(held) < 250
    assert {c.id for c in held}.isdisjoint(c.id for c in rest.conversations)
    assert len(held) + len(rest.conversations) == len(rest.interactions) + len(held) == len(MANY)
    _, other = holdout.split(dataset(MANY[::-1]), 0.1)
    assert {c.id for c in other} == {c.id for c in held}
    _, more = holdout.split(dataset(MANY), 0.2)
    assert {c.id for c in held} < {c.id for c in more}, "a larger share has them too"


def test_all_of_a_user_are_on_one_side():
    several = [dataclasses.replace(c, user=f"u{n % 100}", id=f"{c.id}") for n, c in enumerate(MANY)]
    rest, held = holdout.split(dataset(several), 0.3)
    assert held and {c.user for c in held}.isdisjoint(c.user for c in rest.conversations)


def test_so_are_conversations_with_one_opening():
    """Paths of a message tree, and copies, share their first turns."""
    paths = [dataclasses.replace(c, id=f"{c.id}.{n}") for c in MANY[:500] for n in range(3)]
    rest, held = holdout.split(dataset(paths), 0.3)
    openings = [{c.messages[0].content for c in side} for side in (held, rest.conversations)]
    assert held and openings[0].isdisjoint(openings[1])


def test_a_system_message_alone_is_no_opening():
    same = [conversation(f"c{n}", opening=f"q {n}", system="Be brief.") for n in range(500)]
    rest, held = holdout.split(dataset(same), 0.3)
    assert held and rest.conversations


def test_few_conversations_hold_out_none_and_it_is_said():
    few = dataset(MANY[:200])
    rest, held = holdout.split(few, 0.03)
    assert rest is few and not held
    assert "nothing (0.03 of 200 conversations" in holdout.describe(held, rest, 0.03)
    rest, held = holdout.split(few, 0.2)
    assert held and f"{len(held)} of 200" in holdout.describe(held, rest, 0.2)


def of_users(count, most=0.0):
    """The conversations of so many users; one of them wrote the share `most` of all."""
    loud = int(most * len(MANY))
    users = ["loud" if n < loud else f"u{n % count}" for n in range(len(MANY))]
    return dataset([dataclasses.replace(c, user=u) for c, u in zip(MANY, users, strict=True)])


@pytest.mark.parametrize("users, most", [(1, 0), (3, 0), (20, 0), (500, 0.6)])
def test_few_or_loud_users_change_little_of_the_share(users, most):
    """A log of one user is measured as well; a loud one does not take half of the data away."""
    data = of_users(users, most)
    for share in (0.03, 0.1, 0.3):
        rest, held = holdout.split(data, share)
        assert share / 2 <= len(held) / len(MANY) <= 2 * share
        assert len(held) + len(rest.conversations) == len(MANY)


def test_where_users_are_on_both_sides_it_is_said():
    rest, held = holdout.split(of_users(1), 0.1)
    said = holdout.describe(held, rest, 0.1)
    assert f"{len(held)} of 2,000" in said and "too few users" in said
    rest, held = holdout.split(of_users(500), 0.1)
    assert "users" not in holdout.describe(held, rest, 0.1)


def test_copies_with_other_users_are_on_the_side_of_the_first():
    """And all else is where it is without them."""
    first = of_users(500).conversations
    copies = [dataclasses.replace(c, id=f"{c.id}'", user=f"v{n}") for n, c in enumerate(first[:99])]
    rest, held = holdout.split(dataset([*first, *copies]), 0.1)
    _, alone = holdout.split(dataset(first), 0.1)
    names = {c.id for c in held}
    assert [c.id for c in held if not c.id.endswith("'")] == [c.id for c in alone]
    assert 0 < sum(c.id in names for c in copies) < 99
    assert all((c.id in names) == (c.id.rstrip("'") in names) for c in copies)
    moved = sum((holdout.hash_of(f"user {c.user}") < 0.1) != (c.id in names) for c in copies)
    assert rest.counts == {holdout.MOVED: moved} and moved > 1
    said = holdout.describe(held, rest, 0.1)
    assert f"; {moved} {holdout.MOVED}" in said and "too few users" not in said


def test_the_split_of_data_without_copies_is_that_of_earlier_versions():
    """Whose runs can be resumed."""
    digest = hashlib.sha256()
    for data in (dataset(MANY), of_users(500), of_users(3)):
        rest, held = holdout.split(data, 0.1)
        assert held and not rest.counts
        digest.update(" ".join(c.id for c in held).encode())
    assert digest.hexdigest()[:16] == "b645938e8bef8820"


def test_something_is_always_left_to_learn_from():
    same = dataset([conversation(f"c{n}", user="u") for n in range(500)])
    for share in (0.1, 0.9):
        rest, held = holdout.split(same, share)
        assert rest is same and not held
        said = holdout.describe(held, rest, share)
        assert "nothing (nearly all of the 500 conversations begin alike" in said
