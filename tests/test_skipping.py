"""Interactions without a signal can be skipped: the others' gradient stays, tree and none agree."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from interact_jax import config, train
from interact_jax.metrics import summary_lines
from interact_jax.models.decoder import head_DxV
from interact_jax.schema import InputError
from tests.models.test_sight import line
from tests.runs import FLOAT32, ONE_ROW_SHARD, ROOT, overrides, records, tiny, write_lines

pytestmark = pytest.mark.compiled_quickly

LONGEST = 512  # tokens of a sequence: padded to it, all share one compiled program


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Settings of a step over 6 conversations, 12 interactions."""
    directory = tmp_path_factory.mktemp("small")
    tiny(directory / "model")
    return {
        "model.path": directory / "model",
        "data.path": write_lines(directory / "talks.jsonl", records()),
        "data.max_length": LONGEST,
        **FLOAT32,
        **ONE_ROW_SHARD,
        "batch.interactions": 0,
        "batch.conversations": 6,
        "limits.user": "inf",
    }


def sums(small, workdir, **settings):
    """(run, gradients, metrics, counts, batch) of the first step."""
    cfg = config.load(str(ROOT / "configs/quickstart.py"), overrides({**small, **settings}))
    run = train.start(cfg, workdir)
    found, batch = train.compute_sums(run, run.source.next(run.state))
    run.checkpoints.close()
    return run, *jax.device_get(found), batch


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    return sums(small, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def half(small, whole, tmp_path_factory):
    """A threshold that leaves about half of the interactions, and the step under it."""
    run, *_ = whole
    signals = mean_signals(run)
    least = float(np.median(list(signals.values())))
    settings = {"skip.signal": least, "sharing": "tree"}
    return least, signals, sums(small, tmp_path_factory.mktemp("half"), **settings)


def mean_signals(run):
    """The mean |signal| of every interaction, each scored by the plain decoder, alone."""
    found, logps_of = {}, jax.jit(functools.partial(plain_logps, run.model.decoder))
    for trees in run.dataset.trees:
        for (example,) in (unit for tree in trees for unit in tree.units()):
            logps = []
            for context in example.contexts.values():
                ids = np.concatenate([context, example.target.y])
                logp = logps_of(run.state.params, line(np.pad(ids, (0, LONGEST - len(ids)))))
                at = np.arange(len(context), len(ids))
                logps.append(np.asarray(logp)[at - 1, ids[at]])
            found[example.target.id] = float(np.abs(logps[1] - logps[0]).mean())
    return found


def plain_logps(decoder, params, stream):
    """[T, V] after every token of one sequence."""
    hidden, _ = decoder.apply({"params": params}, stream)
    return jax.nn.log_softmax(hidden[0] @ head_DxV(params))


def test_metrics_and_counts_are_those_of_the_whole_step(whole, half):
    _, _, metrics, counts, _ = whole
    _, _, (_, _, left_metrics, left_counts, batch) = half
    for name, expected in metrics.items():
        np.testing.assert_allclose(left_metrics[name].total, expected.total, rtol=1e-4, atol=1e-5)
        assert left_metrics[name].count == expected.count
    assert left_counts == counts
    assert batch.metrics["skipped"] == pytest.approx(0.5)


def test_the_gradient_is_that_of_the_interactions_that_are_left(small, half, tmp_path):
    least, signals, (_, gradients, *_) = half
    rows = records()
    for row in rows:  # weight 0 by another way: the skipped ones are taken out of the loss
        for index, message in enumerate(row["messages"]):
            if message["role"] == "assistant" and signals.get(f"{row['id']}_{index}", 0) < least:
                message["weight"] = 0
    data = write_lines(tmp_path / "left.jsonl", rows)
    _, expected, *_ = sums(small, tmp_path / "run", **{"data.path": data})
    for name, value in leaves(expected).items():
        np.testing.assert_allclose(leaves(gradients)[name], value, atol=2e-5, err_msg=name)


def leaves(tree):
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.slow
def test_two_forwards_skip_the_same(small, half, tmp_path):
    least, _, (_, gradients, metrics, counts, batch) = half
    settings = {"skip.signal": least, "sharing": "none"}
    _, other, other_metrics, other_counts, other_batch = sums(small, tmp_path, **settings)
    assert other_counts == counts and other_batch.metrics == batch.metrics
    np.testing.assert_allclose(other_metrics["loss"].total, metrics["loss"].total, rtol=1e-4)
    for name, value in leaves(gradients).items():
        np.testing.assert_allclose(leaves(other)[name], value, atol=2e-5, err_msg=name)


def test_a_tree_whose_interactions_are_all_skipped_is_left_out(whole, half):
    least, signals, (_, _, _, _, batch) = half
    _, _, _, _, before = whole
    of_tree = [[signals[r.target.id] for r in tree.replies] for tree in before.trees]
    dead = sum(max(some) < least for some in of_tree)
    held = sum(m.trunk.segment_BxL.max(axis=1).sum() for m in batch.micro)
    assert dead > 0 and held == len(of_tree) - dead


def test_if_all_are_skipped_nothing_moves(small, tmp_path):
    _, gradients, metrics, _, batch = sums(small, tmp_path, **{"skip.signal": 1e9})
    assert batch.metrics["skipped"] == 1 and metrics["loss"].count == 12
    assert all((x == 0).all() for x in jax.tree.leaves(gradients))


def test_an_objective_without_a_signal_skips_nothing(small, tmp_path):
    settings = {"skip.signal": 0.1, "objective.name": "sft"}
    with pytest.raises(InputError, match=r"skip\.signal=0\.1: objective\.name=sft has no signal"):
        sums(small, tmp_path, **settings)


def test_the_summary_of_a_run_says_what_was_skipped_and_limited(tmp_path):
    steps = [{"limited": 0.0, "skipped": 0.1}, {"limited": 0.0, "skipped": 0.3}]
    (line,) = summary_lines(write_lines(tmp_path / "metrics.jsonl", steps))
    assert "skip.signal left 20.0%" in line
