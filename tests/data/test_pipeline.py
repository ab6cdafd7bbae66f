"""Which conversations a step gets: whole ones, in an order that the seed fixes, to a set end."""

from __future__ import annotations

import collections
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from interact_jax.data.conversations import ReadReport
from interact_jax.data.dataset import Dataset
from interact_jax.data.draws import Draws
from interact_jax.data.first_steps import packing_for
from interact_jax.data.forest import Forest
from interact_jax.data.pipeline import AHEAD, LogBatches
from interact_jax.data.rows import Packing
from interact_jax.schema import InputError
from tests.trees import grow, random_window

TURNS = [1, 3, 2, 1, 4, 1, 2]  # interactions of each conversation


def batches(turns=TURNS, conversations=0, interactions=0, seed=0, epochs=0.0) -> LogBatches:
    rng = np.random.default_rng(0)
    windows = [random_window(rng, n, name=f"c{i}") for i, n in enumerate(turns)]
    trees = [Forest.of(grow(window)) for window in windows]
    dataset = Dataset(collections.Counter(), ReadReport(), trees=trees, interactions=turns)
    sizes = SimpleNamespace(conversations=conversations, interactions=interactions)
    draws = Draws(turns, sizes, seed, epochs)
    return LogBatches(dataset, draws, packing_for(dataset, draws, 64, 2, 0))


def interactions_of(source: LogBatches, steps: int) -> list[int]:
    return [source.next().interactions for _ in range(steps)]


def order(source: LogBatches, epoch: int) -> list[int]:
    count = len(TURNS)
    return source.draws.course.take((epoch * count,), count).tolist()


def test_every_epoch_has_every_conversation_in_another_order():
    source = batches(conversations=1)
    orders = [order(source, epoch) for epoch in range(3)]
    assert all(sorted(found) == list(range(len(TURNS))) for found in orders)
    assert len({tuple(found) for found in orders}) == 3


def test_order_depends_on_the_seed_alone():
    one, same, other = (batches(conversations=n, seed=seed) for n, seed in [(1, 5), (3, 5), (1, 6)])
    assert order(one, 0) == order(same, 0) != order(other, 0)


def test_a_batch_by_interactions_ends_with_the_conversation_that_reaches_them():
    source = batches(interactions=4, epochs=2)
    drawn, found = 0, []
    for _ in range(source.steps_left()):
        size = source.next().interactions
        members = [TURNS[i] for i in source.draws.course.take((drawn,), source.drawn - drawn)]
        assert sum(members) == size and sum(members[:-1]) < 4
        drawn = source.drawn
        found.append(size)
    assert all(size >= 4 for size in found[:-1])
    assert sum(found) == 2 * sum(TURNS)


@pytest.mark.parametrize(
    "epochs, conversations, steps", [(1, 2, 4), (2, 2, 7), (1.5, 5, 2), (0.5, 2, 2), (0.01, 2, 1)]
)
def test_epochs_may_be_fractions_and_the_last_batch_small(epochs, conversations, steps):
    source = batches(conversations=conversations, epochs=epochs)
    assert source.steps_left() == steps
    interactions_of(source, steps)
    assert source.drawn == max(1, round(epochs * len(TURNS)))
    assert source.steps_left() == 0


def test_goes_on_from_a_position():
    source = batches(interactions=3)
    interactions_of(source, 4)
    position = source.position()
    expected = interactions_of(source, 6)
    again = batches(interactions=3)
    again.seek(position)
    assert interactions_of(again, 6) == expected


def test_position_in_other_data_is_refused():
    position = batches(interactions=3).position()
    with pytest.raises(InputError, match="7 conversations, now there are 6"):
        batches(TURNS[:-1], interactions=3).seek(position)


# ----------------------------------------------------------------------------- ahead of the device


def test_batches_are_packed_ahead_but_not_all(monkeypatch):
    packed = []
    original = Packing.batches

    def batches_of(packing, trees, factor_M):
        packed.append(len(trees))
        return original(packing, trees, factor_M)

    monkeypatch.setattr(Packing, "batches", batches_of)
    source = batches(conversations=1)
    source.next()
    until = time.monotonic() + 30
    while len(packed) < 1 + AHEAD and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(packed) == 1 + AHEAD > 1
    assert source.position()["drawn"] == 1


def test_what_is_read_ahead_is_what_would_be_packed_then():
    source = batches(interactions=3, epochs=2)
    drawn = 0
    for _ in range(source.steps_left()):
        indices = source.draws.step((drawn,))
        drawn += len(indices)
        expected = [batch for batch, _ in source.packing.batches(source.dataset.trees_of(indices))]
        found = source.next().micro
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    with pytest.raises(IndexError, match="14 conversations"):
        source.next()


def test_an_error_of_the_packing_thread_is_raised_by_next(monkeypatch):
    source = batches(conversations=1)
    source.next()

    def fail(packing, trees, factor_M):
        raise InputError("logs.jsonl:7: no")

    monkeypatch.setattr(Packing, "batches", fail)
    with pytest.raises(InputError, match=r"logs.jsonl:7"):
        for _ in range(AHEAD + 2):
            source.next()
