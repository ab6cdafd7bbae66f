"""Rows of a few shapes: they hold every tree once, are the same every time, and waste little."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from configs import quickstart
from interact_jax.data.chat import ChatFormat
from interact_jax.data.dataset import load_dataset
from interact_jax.data.draws import Draws
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.examples import as_ids
from interact_jax.data.first_steps import packing_for
from interact_jax.data.forest import sizes_of
from interact_jax.data.pipeline import LogBatches
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.data.rows import Packing
from interact_jax.data.shapes import PLANNED, full_row, plan_shapes, share_out, spread
from interact_jax.data.tree import Size
from interact_jax.pocket import MODEL
from tests.tiny import tiny_tokenizer
from tests.trees import example, fill, grow, random_window


def steps_of(seed, count, conversations=12, most_turns=5, history_is="think"):
    """The trees of `count` steps."""
    rng = np.random.default_rng(seed)
    steps = []
    for step in range(count):
        turns = rng.integers(1, most_turns, conversations)
        windows = [
            random_window(rng, int(n), history_is=history_is, name=f"s{step}c{i}")
            for i, n in enumerate(turns)
        ]
        steps.append([tree for window in windows for tree in grow(window)])
    return steps


def ids_of(trees):
    return collections.Counter(reply.target.id for tree in trees for reply in tree.replies)


@pytest.mark.parametrize("height", [1, 3])
@pytest.mark.parametrize("row_tokens", [1, 96, 1024])
@pytest.mark.parametrize("history_is", ["same", "think"])
def test_every_tree_is_in_one_row_and_rows_are_within_their_shape(history_is, row_tokens, height):
    steps = steps_of(0, 6, history_is=history_is)
    trees = list(itertools.chain(*steps))
    full = full_row(trees, row_tokens)
    shapes = plan_shapes(map(sizes_of, steps), full, row_tokens, height)
    used = set()
    for step in steps:
        found = []
        for shape, rows in share_out(sizes_of(step), shapes, full, height):
            used.add(shape)
            assert len(rows) <= height
            for row in rows:
                assert sum((step[n].size for n in row), Size(0, 0, 0, 0, 0)).fits(shape)
                found += row
        assert sorted(found) == list(range(len(step)))
    assert len(shapes) <= PLANNED and used <= {*shapes, full}
    for shape in used:
        assert shape.T % (128 if row_tokens >= 512 else 32) == 0
        assert shape.T <= full.T < max(row_tokens, max(len(tree.trunk) for tree in trees)) + 128


def test_steps_that_were_not_foreseen_get_rows_of_the_same_family():
    seen, unseen = steps_of(1, 3, most_turns=3), steps_of(2, 8, conversations=40, most_turns=7)
    every = list(itertools.chain(*seen, *unseen))
    packing = Packing.for_trees(every, 96, 2, steps=seen)
    family = {shape.counts() for shape in (*packing.shapes, packing.full)}
    for step in unseen:
        placed = collections.Counter()
        for batch, at in packing.batches(step):
            placed.update(place.id for place in at)
            assert shape_of(batch) in family
        assert placed == ids_of(step)


def test_a_tree_with_too_many_branches_is_split():
    """A row has room for 1.5 times the branches that a full trunk carries on average."""
    (plain,) = steps_of(3, 1, conversations=30, most_turns=2)
    window = random_window(np.random.default_rng(0), 8, name="much")

    def longer(e):
        *xo, last = e.contexts[HINDSIGHT].tolist()
        contexts = {**e.contexts, HINDSIGHT: np.asarray([*xo, *[9] * 40, last], np.int32)}
        return dataclasses.replace(e, contexts=contexts)

    (tree,) = grow([[longer(e)] for (e,) in window])
    trees = [*plain, tree]
    packing = Packing.for_trees(trees, 16, 1)
    assert not tree.size.fits(packing.full)
    placed = [place.id for _, at in packing.batches(trees) for place in at]
    assert collections.Counter(placed) == ids_of(trees)


def test_the_plan_and_its_use_depend_on_the_trees_alone():
    def rows():
        steps = steps_of(4, 5)
        full = full_row(list(itertools.chain(*steps)), 96)
        shapes = plan_shapes(map(sizes_of, steps), full, 96, 2)
        return shapes, [share_out(sizes_of(step), shapes, full, 2) for step in steps]

    assert rows() == rows()


def test_trees_that_fill_their_rows_to_the_brim_are_found():
    lengths = (10, 90, 18, 82, 65, 35, 29, 33, 38, 40, 7, 53)
    sizes = np.array([[n, 0, n, n, 1] for n in lengths])
    capacity = np.repeat([[100, 0, 100, 100, 9]], 5, axis=0)
    row_N = spread(sizes, capacity)
    assert [sizes[row_N == b, 0].sum() for b in range(5)] == [100] * 5
    assert spread(sizes, capacity[:4]) is None
    assert spread(sizes + 1, capacity) is None


def test_student_branches_of_few_trees_share_few_rows():
    """Where one tree in ten has a branch, most rows have no room for branches."""
    plain = list(itertools.chain(*steps_of(5, 1, conversations=60, history_is="same")))
    branched = list(itertools.chain(*steps_of(6, 1, conversations=4, history_is="think")))
    assert any(tree.live for tree in branched)
    packing = Packing.for_trees([*plain, *branched], 128, 1)
    shapes = [shape_of(batch) for batch, _ in packing.batches([*plain, *branched])]
    assert 0 < sum(P > 0 for _, P, *_ in shapes) < sum(P == 0 for _, P, *_ in shapes)


def test_full_rows_hold_what_fits_nowhere_together():
    """Any two of them overflow some array, though no array is half full on average."""
    sizes = [Size(6, 0, 6, 0, 1), Size(6, 0, 0, 6, 1), Size(0, 0, 6, 6, 1)] * 5
    trees = [SimpleNamespace(size=size) for size in sizes]
    assert [len(row) for row in fill(trees, Size(10, 0, 10, 10, 9))] == [1] * 15


def test_first_fit_opens_as_many_rows_as_needed():
    trees = list(itertools.chain(*steps_of(7, 1, conversations=30)))
    longest = max((tree.size for tree in trees), key=lambda size: size.T)
    most = [max(n) for n in zip(*(tree.size.counts() for tree in trees), strict=True)]
    rows = fill(trees, Size(*most))
    assert sum(map(len, rows)) == len(trees) and most[0] == longest.T
    assert all(sum(tree.size.T for tree in row) <= most[0] for row in rows)


# ------------------------------------------------------------------------------------ real data


def shape_of(batch):
    return (
        batch.trunk.id_BxL.shape[1],
        batch.live.id_BxL.shape[1],
        batch.frozen.id_BxL.shape[1],
        batch.replies.target_BxR.shape[1],
        batch.branches.fork_BxJ.shape[1] - 1,
    )


def epoch_of(dataset, row_tokens, height=1, seed=0, conversations=0, interactions=0):
    """Padding of the token arrays and of the reply entries, mean over the steps; the shapes."""
    batch = SimpleNamespace(conversations=conversations, interactions=interactions)
    draws = Draws(dataset.interactions, batch, seed, epochs=1)
    packing = packing_for(dataset, draws, row_tokens, height, 2)
    source = LogBatches(dataset, draws, packing)
    tokens, replies, shapes = [], [], set()
    for _ in range(source.steps_left()):
        step = source.next()
        tokens.append(1 - step.tokens / step.slots)
        held = [batch.replies.example_BxR >= 0 for batch in step.micro]
        replies.append(1 - sum(h.sum() for h in held) / sum(h.size for h in held))
        shapes |= {shape_of(batch) for batch in step.micro}
    print(f"padding {np.mean(tokens):.3f}, of replies {np.mean(replies):.3f}, {sorted(shapes)}")
    return np.mean(tokens), np.mean(replies), shapes


DIALOGUES = "real/conversations/oasst_realistic_seed_data.json"


def load_real(shared, tokenizer, file=DIALOGUES, sharing="tree"):
    chat = ChatFormat.load(tokenizer)
    return load_dataset(
        str(shared / file), "auto", chat, EncodeSettings(special_tokens="keep"), sharing
    )


@pytest.mark.parametrize("sharing", ["tree", "none"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("conversations, bound", [(32, 0.15), (128, 0.10)])
def test_real_dialogues_waste_little(shared, sharing, conversations, bound, seed):
    dataset = load_real(shared, shared / "real/tokenizer/phi-3-mini", sharing=sharing)
    tokens, replies, shapes = epoch_of(dataset, 4096, seed=seed, conversations=conversations)
    assert tokens < bound and replies < bound and len(shapes) <= 4


@pytest.mark.parametrize("height", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 8])
def test_message_trees_waste_little_in_batches_of_several_rows(shared, height):
    file = "real/conversations/oasst_en_100_tree.jsonl"
    dataset = load_real(shared, shared / "real/tokenizer/phi-3-mini", file)
    tokens, replies, shapes = epoch_of(dataset, 4096, height, conversations=128)
    assert tokens < 0.1 and replies < 0.1 and len(shapes) <= 4


@pytest.mark.parametrize("conversations", [32, 128])
def test_a_template_with_student_branches_wastes_little(shared, conversations, tmp_path):
    dataset = load_real(shared, tiny_tokenizer(tmp_path, "think"))
    assert sum(len(tree.live) for trees in dataset.trees for tree in trees) > 40
    tokens, replies, shapes = epoch_of(dataset, 4096, conversations=conversations)
    assert tokens < 0.1 and replies < 0.1 and len(shapes) <= 4


def test_the_shipped_logs_waste_little_in_the_quickstart():
    c = quickstart.get_config()
    chat = ChatFormat.load(MODEL, c.hindsight, c.data.reply_tokens)
    settings = EncodeSettings(max_length=c.data.max_length, max_reply=c.data.max_reply)
    dataset = load_dataset("pocket", "auto", chat, settings, "tree")
    tokens, _, shapes = epoch_of(
        dataset, c.batch.row_tokens, c.batch.rows, interactions=c.batch.interactions
    )
    assert tokens < 0.12 and len(shapes) <= 4


def test_a_branch_that_grows_when_its_tree_is_split_still_fits():
    """Teachers follow the trunk for longer than their own students: alone, they leave earlier."""
    rng = np.random.default_rng(0)

    def some(n, least=10):
        return rng.integers(least, least + 900, n).tolist()

    trunk = some(300)
    window = [[example("a", trunk, [*trunk[:-1], 1, 2], [5] * 3)]]
    for k in range(6):
        x, xo = trunk[:160] + some(70, 1000), [*trunk[:290], 7, 8]
        window.append([example(f"c{k}", x, xo, [6] * 3)])
    trees = grow(window)
    for i in range(100):
        x = some(300)
        trees += grow([[example(f"o{i}", x, [*x[:-1], 3, 4], [4])]])
    packing = Packing.for_trees(trees, 64, 1)
    placed = [place.id for batch, at in packing.batches(trees) for place in at]
    assert sorted(placed) == sorted(ids_of(trees))


@pytest.mark.parametrize("recipe", ["hindsight", "pairs"])
def test_trees_that_share_nothing_are_measured_as_they_stand(recipe):
    """A prompt and a follow-up that are long against the row, and nothing of them shared."""
    rng = np.random.default_rng(0)

    def some(n):
        return rng.integers(10, 1000, n).tolist()

    short = [[example(f"s{i}", x := some(12), [*x[:-1], 3, 4], [5] * 3)] for i in range(200)]
    x, xo = (prompt := some(400)), [*prompt[:-1], *some(400), prompt[-1]]
    long = [example("long", x, xo, some(20))]
    if recipe == "pairs":
        long.append(dataclasses.replace(long[0], contexts={PLAIN: as_ids(xo)}))
    trees = grow([*short, long], sharing="none")
    packing = Packing.for_trees(trees, 64, 1)
    placed = [place.id for _, at in packing.batches(trees) for place in at]
    assert collections.Counter(placed) == ids_of(trees)
