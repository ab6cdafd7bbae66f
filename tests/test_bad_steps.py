"""Steps that fail, and how a run of any length counts what it has done."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from interact_jax import train
from interact_jax.data.pipeline import LogBatches
from interact_jax.opening import open_model
from launch import train as launch_train
from tests.runs import (
    EVEN,
    begin,
    check_same,
    leaves,
    outcome,
    read_lines,
    small_settings,
    tiny,
    train_arguments,
)

pytestmark = pytest.mark.compiled_quickly


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_settings(tmp_path_factory.mktemp("small"), EVEN)


BATCHES = {"batch.interactions": 0, "batch.conversations": 2}


def test_a_run_draws_by_its_seed(small, tmp_path):
    def order(name, seed):
        run = begin(tmp_path / name, {**small, **BATCHES, "seed": seed})
        return run.source.draws.course.take((0,), 12).tolist()

    one, same, other = order("one", 1), order("same", 1), order("other", 2)
    assert one == same != other


def spoil(source: LogBatches, steps: set[int]) -> None:
    """Make the loss of these steps infinite, by weights of their tokens that are."""
    original = source.next

    def next_batch(state=None):
        batch = original(state)
        if int(state.step) + 1 in steps:
            for micro in batch.micro:
                micro.replies.weight_BxR[:] *= np.inf
        return batch

    source.next = next_batch


def test_step_that_is_not_finite_changes_nothing_and_is_counted(small, tmp_path):
    run = begin(tmp_path, {**small, **BATCHES, "epochs": 0, "steps": 1, "max_bad_steps": 2})
    before = leaves(run.state.models)
    spoil(run.source, {1})
    train.loop(run)
    check_same(leaves(run.state.models), before)
    assert (int(run.state.step), int(run.state.counters.bad_steps)) == (1, 1)
    run.checkpoints.close()

    # The counter is part of the state: a resumed run goes on counting, and a good step ends a row.
    resumed = begin(tmp_path, {**small, **BATCHES, "epochs": 0, "steps": 5, "max_bad_steps": 2})
    assert int(resumed.state.counters.bad_steps_in_row) == 1
    spoil(resumed.source, {3, 5})
    train.loop(resumed)
    counters = resumed.state.counters
    assert (int(counters.bad_steps), int(counters.bad_steps_in_row)) == (3, 1)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["loss"] is None for line in lines] == [True, False, True, False, True]
    summary = train.finish(resumed)
    assert any("3 steps skipped" in line for line in summary)


@pytest.mark.parametrize(
    "steps",
    [3, pytest.param(9, marks=pytest.mark.slow)],
    ids=["at-the-last-step", "before-it"],
)
def test_run_stops_after_bad_steps_in_a_row(small, steps, tmp_path, capsys):
    broken = tmp_path / "model"
    model = tiny(broken)
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(broken)
    settings = {**small, **BATCHES, "model.path": broken, "epochs": 0, "steps": steps}
    run = tmp_path / "run"
    arguments = train_arguments(run, {**settings, "max_bad_steps": 3, "optim.lr": 1})
    status, message = outcome(launch_train.main, arguments, capsys)
    assert status == 1
    assert "not finite 3 steps in a row (max_bad_steps)" in message
    assert "Traceback" not in message
    assert not (run / "export").exists()
    assert all(line["loss"] is None for line in read_lines(run / "metrics.jsonl"))


def test_seeds_have_32_bits(small):
    model = open_model(small["model.path"])
    made = [jax.tree.leaves(model.fresh(seed))[0] for seed in (0, 2**31, 2**32 - 1)]
    assert len({np.asarray(x).tobytes() for x in made}) == 3


@pytest.mark.parametrize("epochs", [pytest.param(2**28, marks=pytest.mark.slow), 2**36])
def test_a_run_of_any_length_knows_how_much_it_has_counted(small, epochs, tmp_path):
    """As a run would be that has gone over the data so often, and a step further."""
    run = begin(tmp_path / "run", {**small, **BATCHES, "epochs": 0, "steps": 3})
    of_epoch = {"interactions": 12, "reply_tokens": counted_tokens(run)}
    position = run.source.position()
    run.source.seek({**position, "drawn": position["conversations"] * epochs})
    last_bits = {n: np.array(x * epochs, np.int64).astype(np.int32) for n, x in of_epoch.items()}
    run.state = run.state.replace(counters=run.state.counters.replace(**last_bits))
    train.loop(run)
    # Steps of two conversations: the three of them are one more epoch.
    expected = {name: x * (epochs + 1) for name, x in of_epoch.items()}
    assert train.totals(run) == expected
    text = "{interactions:,} interactions, {reply_tokens:,} counted reply tokens"
    assert text.format(**expected) in train.finish(run)[0]
    launch_train.write_summary(run, None, None, "")
    summary = json.loads((run.workdir / "summary.json").read_text())
    assert summary["interactions"] == expected["interactions"]


def counted_tokens(run):
    """Of all replies, less the first ones of each, which do not count."""
    trees = run.dataset.trees_of(range(len(run.dataset.trees)))
    lengths = [len(reply.target.y) for tree in trees for reply in tree.replies]
    return sum(max(0, n - run.config.objective.ignore_first) for n in lengths)
