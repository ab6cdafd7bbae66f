"""Trees in columns: they are what the trees were, and rows of them are those of a plain loop."""

from __future__ import annotations

import collections
import dataclasses

import jax
import numpy as np
import pytest

from interact_jax.data.fingerprint import digest_trees
from interact_jax.data.forest import Forest, sizes_of
from interact_jax.data.pack import Placed, pack, pack_forest
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.data.rows import Packing
from interact_jax.data.tokenise import Tokenised
from interact_jax.data.tree import Size, split_units
from interact_jax.data.tree_records import from_bytes, sizes_in, to_bytes
from interact_jax.schema import Batch, Branches, Replies, TokenStream
from tests.trees import grow, random_pairs, random_window

NAMES = ("initial", "sampler")
SEEDS = range(25)


def conversation(rng, name):
    """The trees of a conversation of some kind; some replies have given log-probabilities."""
    turns = int(rng.integers(1, 5))
    kind = rng.choice(["same", "think", "strip", "pairs", "three"])
    if kind == "pairs":
        window = random_pairs(rng, turns, name=name, weight=float(rng.random()))
    elif kind == "three":  # the frozen view has another number among these
        window = [[with_third_view(e)] for (e,) in random_window(rng, turns, name=name)]
    else:
        window = random_window(rng, turns, history_is=kind, name=name)
    trees = grow(window, rng.choice(["tree", "none"]))
    return [with_logps(rng, tree) for tree in trees] if rng.random() < 0.5 else trees


def with_third_view(example):
    ids = example.contexts[PLAIN]
    return dataclasses.replace(example, contexts={"third": ids[-5:]} | example.contexts)


def with_logps(rng, tree):
    def given(target):
        known = {n: rng.random(len(target.y), np.float32) for n in NAMES if rng.random() < 0.4}
        return dataclasses.replace(target, known=known, weight=float(rng.random()))

    replies = [dataclasses.replace(r, target=given(r.target)) for r in tree.replies]
    return dataclasses.replace(tree, replies=tuple(replies))


def write(stream_4xL, end, ids, *facts):
    """One token behind the other; `facts` are the first position, the segment and the branch."""
    position, segment, branch = facts
    for n, token in enumerate(ids):
        stream_4xL[:, end + n] = token, position + n, segment, branch
    return end + len(ids)


def one_by_one(rows, capacity, height, ignore_first, factor, known):
    """The batch of these rows, written token by token."""
    T, P, Q, R, J = capacity.counts()
    streams = {n: np.zeros((4, height, size), np.int32) for n, size in dict(T=T, P=P, Q=Q).items()}
    table = np.zeros((3, height, J + 1), np.int32)
    example, target, weight = (np.zeros((height, R), kind) for kind in (int, int, np.float32))
    unit, side, share = (np.zeros((height, R), kind) for kind in (int, int, np.float32))
    example[:] = unit[:] = -1
    predictor = collections.defaultdict(lambda: np.zeros((height, R), np.int32))
    logps = {name: np.full((height, R), np.nan, np.float32) for name in known}
    frozen_views, placed = set(), []
    for b, trees in enumerate(rows):
        end = dict.fromkeys("TPQ", 0)
        branch, entry, number, unit_number = 0, 0, 0, -1
        for segment, tree in enumerate(trees, 1):
            trunk = end["T"]
            end["T"] = write(streams["T"][:, b], trunk, tree.trunk, 0, segment, 0)
            starts = {}
            for name, limbs in (("P", tree.live), ("Q", tree.frozen)):
                for n, limb in enumerate(limbs):
                    branch += 1
                    starts[name, n] = end[name]
                    facts = limb.fork, segment, branch
                    end[name] = write(streams[name][:, b], end[name], limb.ids, *facts)
                    table[:, b, branch] = segment, 0, limb.fork
            last = None
            keys = [(r.target.conversation, r.target.unit) for r in tree.replies]
            for reply, key in zip(tree.replies, keys, strict=True):
                y = reply.target.y
                unit_number, last = unit_number + (key != last), key
                part = factor[reply.target.id] * reply.target.weight / keys.count(key)
                unit[b, number], side[b, number] = unit_number, reply.target.side
                share[b, number] = part
                placed.append(Placed(reply.target.id, b, entry, len(y)))
                for t, token in enumerate(y):
                    at = b, entry + t
                    example[at], target[at] = number, token
                    weight[at] = part / max(1, len(y) - ignore_first) if t >= ignore_first else 0
                    for name in known:
                        if name in reply.target.known:
                            logps[name][at] = reply.target.known[name][t]
                    for view, place in reply.places.items():
                        name, before = ("Q", 0) if view in tree.frozen_views else ("P", T)
                        if name == "Q":
                            frozen_views.add(view)
                        depth, limb = place.start + t, place.limb
                        if limb is None or depth < tree.limbs_of(view)[limb].fork:
                            predictor[view][at] = trunk + depth
                        else:
                            fork = tree.limbs_of(view)[limb].fork
                            predictor[view][at] = before + starts[name, limb] + depth - fork
                entry, number = entry + len(y), number + 1
    integers = [array.astype(np.int32) for array in (example, target)]
    tables = (unit.astype(np.int32), side.astype(np.int32), share)
    replies = Replies(*integers, weight, dict(predictor), logps, *tables)
    trunk, live, frozen = (TokenStream(*streams[name]) for name in "TPQ")
    return Batch(
        trunk, live, frozen, Branches(*table), replies, tuple(sorted(frozen_views))
    ), placed


def assert_same(ours, expected):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_array_equal(mine, theirs)


def factors_of(rng, trees):
    return {r.target.id: float(rng.random()) for tree in trees for r in tree.replies}


def in_order(factor, trees):
    return [factor[reply.target.id] for tree in trees for reply in tree.replies]


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_are_those_of_a_loop_over_tokens(seed):
    """In any order of the trees, out of one forest or of several that were stored."""
    rng = np.random.default_rng(seed)
    logs = [conversation(rng, f"c{n}") for n in range(int(rng.integers(1, 8)))]
    trees = [tree for of_one in logs for tree in of_one]
    cuts = sorted(rng.integers(0, len(trees) + 1, 2))
    numbers = [part.tolist() for part in np.split(rng.permutation(len(trees)), cuts)]
    rows = [[trees[n] for n in row] for row in numbers]
    needs = [sum((tree.size for tree in row), Size(0, 0, 0, 0, 0)).counts() for row in rows]
    capacity = Size(*(np.max(needs, axis=0) + rng.integers(0, 3, 5)).tolist())
    ignore_first, factor = int(rng.integers(0, 4)), factors_of(rng, trees)
    known = set(NAMES[: int(rng.integers(0, 3))])
    expected, placed = one_by_one(rows, capacity, 4, ignore_first, factor, known)

    stored = [from_bytes(to_bytes(Tokenised(of_one, 0, collections.Counter()))) for of_one in logs]
    for forest in (Forest.of(trees), Forest.join([Forest.of(one.trees) for one in stored])):
        factor_M = in_order(factor, trees)
        batch, places = pack_forest(forest, numbers, capacity, 4, ignore_first, factor_M, known)
        assert_same(batch, expected)
        assert list(places) == placed
    factor_M = in_order(factor, [tree for row in rows for tree in row])
    batch, places = pack(rows, capacity, 4, ignore_first, factor_M, known)
    assert_same(batch, expected)
    assert list(places) == placed


@pytest.mark.parametrize("seed", SEEDS)
def test_trees_that_are_split_keep_the_factors_of_their_replies(seed):
    rng = np.random.default_rng(seed)
    trees = [tree for n in range(5) for tree in conversation(rng, f"c{n}")]
    units = [part.size.counts() for tree in trees for part in split_units(tree)]
    packing = Packing((), Size(*np.max(units, axis=0).tolist()), 2, 1, frozenset(NAMES))
    factor = factors_of(rng, trees)
    share = {}
    for batch, placed in packing.batches(Forest.of(trees), in_order(factor, trees)):
        for place in placed:
            number = batch.replies.example_BxR[place.row, place.start]
            share[place.id] = batch.replies.share_BxI[place.row, number]
    expected = {
        reply.target.id: factor[reply.target.id]
        * reply.target.weight
        / (1 + abs(reply.target.side))
        for tree in trees
        for reply in tree.replies
    }
    assert share.keys() == expected.keys()
    for name, value in expected.items():
        assert share[name] == np.float32(value)


@pytest.mark.parametrize("seed", SEEDS)
def test_trees_come_out_of_columns_as_they_went_in(seed):
    rng = np.random.default_rng(seed)
    logs = [conversation(rng, f"c{n}") for n in range(4)]
    trees = [tree for of_one in logs for tree in of_one]
    joined = Forest.join([Forest.of(of_one) for of_one in logs])
    back = from_bytes(to_bytes(Tokenised(joined, 3, collections.Counter(cut=1))))
    assert (back.units, back.counts) == (3, {"cut": 1})
    for forest in (joined, back.trees, Forest.of(trees), joined.take(range(len(trees)))):
        assert digest_trees(list(forest)) == digest_trees(trees)
        assert sizes_of(forest).tolist() == [list(tree.size.counts()) for tree in trees]
        for ours, theirs in zip(forest, trees, strict=True):
            assert ours.frozen_views == theirs.frozen_views
            for mine, other in zip(ours.replies, theirs.replies, strict=True):
                assert mine.places == other.places
                assert mine.target.known.keys() == other.target.known.keys()
                for name, logps in other.target.known.items():
                    np.testing.assert_array_equal(mine.target.known[name], logps)
    for of_one in logs:  # of one kind: their views keep their order, in which limbs are numbered
        for ours, theirs in zip(Forest.of(of_one), of_one, strict=True):
            assert [[*r.places] for r in ours.replies] == [[*r.places] for r in theirs.replies]
    assert sizes_in(to_bytes(back)).tolist() == sizes_of(trees).tolist()


def test_a_row_that_is_too_full_is_an_error():
    """Nothing is written into the row that follows."""
    window = random_window(np.random.default_rng(1), 3, history_is="think")
    (tree,) = grow(window)
    counts = tree.size.counts()
    assert min(counts) > 0 and tree.frozen_views == {HINDSIGHT}
    for n in range(5):
        less = Size(*(count - (n == k) for k, count in enumerate(counts)))
        with pytest.raises((ValueError, IndexError)):
            pack([[tree]], less, 2)
