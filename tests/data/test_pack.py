"""Packing: every reply's predictors and targets are where the batch says they are."""

import dataclasses

import numpy as np
import pytest

from interact_jax.data.pack import pack, padding
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.data.shapes import full_row
from interact_jax.data.tree import Size, paths
from tests.trees import fill, grow, pack_windows, random_pairs, random_window


def trees_of(seed, conversations=7, history_is="think"):
    rng = np.random.default_rng(seed)
    windows = [
        random_window(rng, int(rng.integers(1, 5)), history_is=history_is, name=f"c{n}")
        for n in range(conversations)
    ]
    return [tree for window in windows for tree in grow(window)]


@pytest.mark.parametrize("history_is", ["same", "think", "strip"])
def test_predictors_stand_before_their_targets_on_their_path(history_is):
    trees = trees_of(0, history_is=history_is)
    capacity = full_row(trees, 64)
    rows = fill(trees, capacity)
    batch, placed = pack(rows, capacity, len(rows))
    path = {(i, kind): ids for tree in trees for i, kind, ids in paths(tree)}
    y = {reply.target.id: reply.target.y for tree in trees for reply in tree.replies}
    live = np.concatenate([batch.trunk.id_BxL, batch.live.id_BxL], axis=1)
    depth = np.concatenate([batch.trunk.position_BxL, batch.live.position_BxL], axis=1)
    assert sorted(p.id for p in placed) == sorted(y)
    for p in placed:
        at = (p.row, slice(p.start, p.start + p.length))
        np.testing.assert_array_equal(batch.replies.target_BxR[at], y[p.id])
        for kind, ids, position, index in (
            (PLAIN, live, depth, batch.replies.predictor[PLAIN][at]),
            (
                HINDSIGHT,
                batch.frozen.id_BxL,
                batch.frozen.position_BxL,
                batch.replies.predictor[HINDSIGHT][at],
            ),
        ):
            expected = path[p.id, kind]
            last = len(expected) - p.length + np.arange(p.length)
            np.testing.assert_array_equal(ids[p.row][index], expected[last])
            np.testing.assert_array_equal(position[p.row][index], last)


def test_weights_of_an_interaction_sum_to_one_after_the_ignored_tokens():
    trees = trees_of(1)
    capacity = full_row(trees, 64)
    rows = fill(trees, capacity)
    batch, placed = pack(rows, capacity, len(rows), ignore_first=1)
    for p in placed:
        weight = batch.replies.weight_BxR[p.row, p.start : p.start + p.length]
        assert weight[0] == 0
        np.testing.assert_allclose(weight.sum(), 1, rtol=1e-6)
    assert (batch.replies.weight_BxR[batch.replies.example_BxR < 0] == 0).all()


def test_both_sides_of_a_pair_share_its_number_and_its_weight():
    """The pair's own weight times the factor of its conversation; numbers count on in a row."""
    rng = np.random.default_rng(6)
    pairs = [random_pairs(rng, 2, name=name, weight=0.5) for name in ("p", "q")]
    batch, placed = pack_windows(pairs, row_tokens=512, factors={"p": 3.0})
    assert {p.row for p in placed} == {0}
    conversations = [p.id.partition("_")[0] for p in placed]
    of_p = [0.75 if name == "p" else 0.25 for name in conversations]
    assert sorted(conversations) == ["p"] * 4 + ["q"] * 4
    np.testing.assert_allclose(batch.replies.share_BxI[0, :8], of_p)
    np.testing.assert_array_equal(batch.replies.unit_BxI[0, :8], [0, 0, 1, 1, 2, 2, 3, 3])
    assert (batch.replies.unit_BxI[0, 8:] == -1).all()


def test_every_tree_has_a_segment_and_every_branch_a_number_of_its_own():
    trees = trees_of(2)
    capacity = full_row(trees, 128)
    rows = fill(trees, capacity)
    assert len(rows) < len(trees)
    batch, _ = pack(rows, capacity, len(rows))
    assert batch.branches.fork_BxJ.shape == (len(rows), 1 + capacity.J)  # the trunk is number 0
    for b, row in enumerate(rows):
        assert set(batch.trunk.segment_BxL[b]) - {0} == set(range(1, len(row) + 1))
        branches = sum(tree.size.J for tree in row)
        used = [*batch.live.branch_BxL[b], *batch.frozen.branch_BxL[b]]
        assert set(used) - {0} == set(range(1, branches + 1))


def test_frozen_views_are_those_that_a_batch_has():
    """A step is compiled for them: views of which there is no reply would be another program."""
    rng = np.random.default_rng(0)
    pairs, window = random_pairs(rng, 2, name="p"), random_window(rng, 2, name="w")
    assert pack_windows([pairs])[0].frozen_views == ()
    assert pack_windows([pairs, window])[0].frozen_views == (HINDSIGHT,)


def test_what_is_not_used_belongs_to_no_segment():
    trees = trees_of(5)
    capacity = full_row(trees, 64)
    batch, _ = pack(fill(trees, capacity)[:1], capacity, 2)
    used = max(batch.live.branch_BxL[0].max(), batch.frozen.branch_BxL[0].max())
    for array in dataclasses.astuple(batch.branches):
        assert (array[0, used + 1 :] == 0).all() and (array[1] == 0).all()
        assert (array[0, 0] == 0).all()  # the trunk is no branch
    for stream in (batch.trunk, batch.live, batch.frozen):
        assert (stream.segment_BxL[1] == 0).all()


def test_filling_is_deterministic_and_within_capacity():
    trees = trees_of(3, conversations=20)
    capacity = full_row(trees, 96)
    rows = fill(trees, capacity)
    assert [[id(t) for t in row] for row in rows] == [
        [id(t) for t in row] for row in fill(trees, capacity)
    ]
    for row in rows:
        assert sum((tree.size for tree in row), Size(0, 0, 0, 0, 0)).fits(capacity)


def test_a_long_tree_makes_rows_longer_and_padding_is_counted():
    trees = trees_of(4)
    longest = max(len(tree.trunk) for tree in trees)
    capacity = full_row(trees, 1)
    assert longest <= capacity.T < longest + 32
    rows = fill(trees, capacity)
    batch, _ = pack(rows, capacity, len(rows) + 1)
    held, slots = padding(batch)
    assert held == sum(t.size.T + t.size.P + t.size.Q for t in trees)
    assert slots == (len(rows) + 1) * (capacity.T + capacity.P + capacity.Q)
