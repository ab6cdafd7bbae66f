"""Which conversations each step gets: cut from an order, or from several taken by weight."""

from __future__ import annotations

import itertools
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from interact_jax.data import draws
from interact_jax.data.draws import Course, Draws
from interact_jax.data.order import Order
from interact_jax.schema import InputError


def batch(conversations=0, interactions=0):
    return SimpleNamespace(conversations=conversations, interactions=interactions)


def one_by_one(interactions, sizes, order, drawn, total):
    """The steps from there on, conversation by conversation."""
    steps = []
    while drawn < total:
        step, so_far = [], 0
        while drawn < total and so_far < (sizes.conversations or sizes.interactions):
            step.append(order[drawn])
            so_far += 1 if sizes.conversations else interactions[order[drawn]]
            drawn += 1
        steps.append(step)
    return steps


@pytest.mark.parametrize(
    "sizes", [batch(1), batch(7), batch(500), batch(0, 1), batch(0, 9), batch(0, 300)]
)
@pytest.mark.parametrize("count", [1, 5, 200])
@pytest.mark.parametrize("epochs", [0.4, 1, 2.7])
def test_steps_are_those_of_one_conversation_after_the_other(
    sizes, count, epochs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(draws, "COUNTED", 17)  # steps go on from piece to piece
    monkeypatch.setattr(draws, "DRAWN", 3)
    interactions = np.random.default_rng(count).integers(0, 6, count)
    interactions[0] += 1
    ours = Draws(interactions, sizes, 3, epochs)
    for drawn in {0, 1, count // 2, round(count * epochs) - 1}:
        if 0 <= drawn <= ours.total:
            expected = one_by_one(interactions, sizes, Order(count, 3), drawn, ours.total)
            assert list(ours.steps((drawn,))) == expected
            assert ours.steps_left((drawn,)) == len(expected)


def test_a_step_behind_the_end_is_as_if_there_were_none():
    endless, ended = Draws([2] * 9, batch(0, 5), 1), Draws([2] * 9, batch(0, 5), 1, 1)
    assert ended.step((8,)) == endless.step((8,))[:1]
    assert ended.step((9,)) == []
    assert ended.step((9,), beyond=True) == endless.step((9,))


def test_where_interactions_decide_there_have_to_be_some():
    with pytest.raises(InputError, match=r"batch\.conversations"):
        Draws([0, 0, 0], batch(0, 5), 1)
    assert len(Draws([0, 0, 0], batch(2), 1).step()) == 2


# ------------------------------------------------------------------------------------- mixtures


def course(weights, counts=None, since=None) -> Course:
    counts = counts or [30 + n for n in range(len(weights))]
    return Course([Order(n, seed) for seed, n in enumerate(counts)], weights, since)


def chosen(mixed: Course, place, count: int) -> np.ndarray:
    """The places after each draw [count, data sets]."""
    places = [mixed.after(place, mixed.take(place, n)) for n in range(count + 1)]
    return np.array(places)


@pytest.mark.parametrize("seed", range(6))
def test_each_data_set_has_its_share_to_within_one_conversation(seed):
    rng = np.random.default_rng(seed)
    weights = [Fraction(int(n), 1000) for n in rng.integers(1, 1000, rng.integers(2, 8))]
    mixed = course(weights)
    drawn = np.zeros(len(weights), int)
    for n, part in enumerate(mixed._choose(mixed.start, 2000), 1):
        drawn[part] += 1
        expected = [n * weight / sum(weights) for weight in weights]
        assert all(abs(a - e) < 1 for a, e in zip(drawn.tolist(), expected, strict=True)), n


def test_shares_are_exact_and_even():
    mixed = course([Fraction(3), Fraction("1")])
    assert mixed._choose((0, 0), 8) == [0, 0, 0, 1, 0, 0, 0, 1]
    thirds = course([Fraction("0.1"), Fraction("0.2")])  # 0.1 + 0.2 == 0.3 in fractions only
    assert mixed.after((0, 0), mixed.take((0, 0), 4000)) == (3000, 1000)
    assert thirds.after((0, 0), thirds.take((0, 0), 3000)) == (1000, 2000)


def test_what_is_drawn_follows_from_the_place():
    mixed = course([Fraction(5), Fraction(2), Fraction(1, 3)])
    whole = mixed.take(mixed.start, 300)
    place, parts = mixed.start, []
    for size in itertools.cycle([1, 0, 7, 30]):
        parts.append(mixed.take(place, size))
        place = mixed.after(place, parts[-1])
        if sum(place) >= 300:
            break
    assert np.concatenate(parts)[:300].tolist() == whole.tolist()


def test_an_order_does_not_depend_on_the_other_data_sets():
    counts = [40, 50, 60]
    whole = course([Fraction(1), Fraction(2), Fraction(3)], counts)
    starts = np.cumsum([0, *counts])
    taken_N = whole.take(whole.start, 400)
    for n, count in enumerate(counts):
        own = taken_N[(taken_N >= starts[n]) & (taken_N < starts[n + 1])] - starts[n]
        assert own.tolist() == Order(count, n).take(0, len(own)).tolist()
        rest = whole.rest(whole.start)[n]
        assert own.tolist() == list(itertools.islice(rest, len(own)))


def test_other_weights_count_from_where_they_began():
    before = course([Fraction(1), Fraction(1)])
    place = before.after(before.start, before.take(before.start, 100))
    after = course([Fraction(1), Fraction(3)], since=place)
    assert after.after(place, after.take(place, 40)) == (60, 80)
    # Otherwise the second would have to make up for what it did not get by then.
    behind = course([Fraction(1), Fraction(3)])
    assert behind.after(place, behind.take(place, 40)) == (50, 90)


def test_steps_of_a_mixture_have_all_its_data_sets():
    mixed = course([Fraction(1), Fraction(1)], [4, 6])
    ours = Draws([1] * 4 + [2] * 6, batch(0, 6), 0, course=mixed)
    steps = list(itertools.islice(ours.steps(), 20))
    assert all(sum(1 + (i >= 4) for i in step) >= 6 for step in steps)
    assert np.concatenate(steps).tolist() == mixed.take((0, 0), sum(map(len, steps))).tolist()
