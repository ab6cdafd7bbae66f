"""The main path: what a step computes, what a run keeps when it is stopped, killed and resumed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import bench, config, scoring, train
from interact_jax.data.pipeline import LogBatches
from interact_jax.methods import method_of
from interact_jax.models.decoder import Decoder
from interact_jax.models.shapes import shape
from interact_jax.opening import open_model
from interact_jax.schema import InputError, RunStopped
from launch import export as launch_export
from launch import train as launch_train
from tests.clock import another_clock
from tests.runs import (
    FLOAT32,
    ONE_ROW_SHARD,
    PLAIN_SGD,
    ROOT,
    outcome,
    overrides,
    read_lines,
    records,
    tensors,
    tiny,
    train_and_kill,
    train_arguments,
    write_lines,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Settings for a model and data of no size: 6 conversations, 12 interactions."""
    directory = tmp_path_factory.mktemp("small")
    tiny(directory / "model")
    data = write_lines(directory / "talks.jsonl", records())
    return {
        "model.path": directory / "model",
        "data.path": data,
        "data.max_length": 512,
        **FLOAT32,
        "report.interactions": 0,
        "batch.row_tokens": 64,
        "batch.rows": 1,
    }


def begin(workdir, settings) -> train.Run:
    cfg = config.load(str(ROOT / "configs/quickstart.py"), overrides(settings))
    return train.start(cfg, workdir)


def values(params) -> dict[str, np.ndarray]:
    """Parameters on the host, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def check_same(found, expected, **tolerance):
    """Equal bit for bit, or within a tolerance where one is given."""
    assert found.keys() == expected.keys()
    check = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    for name, value in expected.items():
        check(found[name], value, err_msg=name, **tolerance)


# ------------------------------------------------------------------------------------- one step

ONE_STEP = {
    **PLAIN_SGD,
    "optim.lr": 0.1,
    "batch.interactions": 0,
    "batch.conversations": 6,
    "epochs": 0,
    "steps": 1,
}


@pytest.fixture(scope="module")
def one_batch(small, tmp_path_factory):
    """(metrics, parameters, micro-batches) of a step whose conversations are all in one batch."""
    return make_step(tmp_path_factory.mktemp("one"), {**small, **ONE_STEP})


def make_step(workdir, settings):
    run = begin(workdir, settings)
    micro = len(run.source.next().micro)
    run.source.seek({**run.source.position(), "drawn": 0})
    train.loop(run)
    (line,) = read_lines(workdir / "metrics.jsonl")
    return line, values(run.state.params), micro


def test_a_run_that_could_not_be_exported_does_not_begin(small, tmp_path):
    (tmp_path / "export").write_text("mine")
    with pytest.raises(InputError, match=f"{tmp_path}/export: .*a file; expected a directory"):
        begin(tmp_path, small)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize("mesh, said", [(ONE_ROW_SHARD, True), ({}, False)])
def test_devices_that_only_repeat_others_are_told(small, mesh, said, tmp_path, caplog):
    """Before the data are read, which are not there."""
    with pytest.raises(InputError, match=r"none\.jsonl"):
        begin(tmp_path, {**small, **mesh, "data.path": tmp_path / "none.jsonl"})
    assert ("mesh.sequence: nothing is sharded over it yet" in caplog.text) == said


@pytest.mark.parametrize(
    "shape, micro",
    [
        (ONE_ROW_SHARD, 3),
        ({"mesh.data": 2, "mesh.tensor": 4, "batch.row_tokens": 400}, 1),
        ({**ONE_ROW_SHARD, "sharing": "none", "batch.rows": 2}, 3),
    ],
    ids=["row-by-row", "long-rows", "two-forwards"],
)
def test_step_is_that_of_one_batch(small, one_batch, shape, micro, tmp_path):
    """Packing, row length, micro-batches of unequal size and devices change nothing."""
    line, params, found = make_step(tmp_path, {**small, **ONE_STEP, **shape})
    expected_line, expected_params, one = one_batch
    assert (one, found) == (1, micro)
    for name in ("loss", "signal_mean", "signal_abs_mean", "grad_norm"):
        assert line[name] == pytest.approx(expected_line[name], rel=2e-5), name
    assert line["interactions"] == expected_line["interactions"] == 12
    check_same(params, expected_params, rtol=1e-5, atol=1e-6)


def test_parameters_in_bfloat16(small, tmp_path):
    """They train, with moments in float32, and go on from a checkpoint."""
    settings = {**small, "epochs": 0, "steps": 2, "model.param_dtype": "bfloat16", "optim.lr": 0.01}
    train.loop(begin(tmp_path, settings))
    run = begin(tmp_path, {**settings, "steps": 3})
    assert int(run.state.step) == 2
    train.loop(run)
    assert {p.dtype for p in jax.tree.leaves(run.state.params)} == {jnp.dtype("bfloat16")}
    moments = [m for m in jax.tree.leaves(run.state.models["policy"].opt_state) if m.ndim]
    assert moments and {m.dtype for m in moments} == {jnp.dtype("float32")}
    assert all(line["grad_norm"] > 0 for line in read_lines(tmp_path / "metrics.jsonl"))


def test_gradients_of_parameters_in_bfloat16_are_rounded_once():
    """A token that stands in 1,000 places, and a head over several chunks, gather more digits than
    bfloat16 has: 256 ones and one are 256 there."""
    dialogue = bench.Dialogue(turns=8, reply=150)
    row = bench.one_row(dialogue.trees("tree", np.random.default_rng(0), 5))
    assert row.replies.target_BxR.shape[1] > 2 * scoring.CHUNK
    found = {}
    params = None
    for dtype in (jnp.bfloat16, jnp.float32):
        decoder = Decoder(shape("small", num_hidden_layers=1, vocab_size=8), param_dtype=dtype)
        params = decoder.fresh_params(0) if params is None else params
        differentiate = functools.partial(
            train.differentiate,
            decoder=decoder,
            forward=scoring.one_pass,
            method=method_of(config.default()),
        )
        params = jax.tree.map(lambda p, dtype=dtype: p.astype(dtype), params)
        found[dtype], *_ = jax.jit(differentiate)({"policy": params}, row)
    for name in ("embedding_VxD", "head_DxV"):
        exact = np.asarray(found[jnp.float32][name])
        np.testing.assert_allclose(found[jnp.bfloat16][name], exact, rtol=2**-8, atol=1e-6)


# ------------------------------------------------------------------------------- steps that fail

BATCHES = {"batch.interactions": 0, "batch.conversations": 2}


def test_a_run_draws_by_its_seed(small, tmp_path):
    def order(name, seed):
        run = begin(tmp_path / name, {**small, **BATCHES, "seed": seed})
        return [int(run.source.draws.order[n]) for n in range(12)]

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
    before = values(run.state.models)
    spoil(run.source, {1})
    train.loop(run)
    check_same(values(run.state.models), before)
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


@pytest.mark.parametrize("steps", [3, 9], ids=["at-the-last-step", "before-it"])
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


@pytest.mark.parametrize("epochs", [2**28, 2**36])
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
    launch_train.write_summary(run, None, None)
    summary = json.loads((run.workdir / "summary.json").read_text())
    assert summary["interactions"] == expected["interactions"]


def counted_tokens(run):
    """Of all replies, less the first ones of each, which do not count."""
    trees = run.dataset.trees_of(range(len(run.dataset.trees)))
    lengths = [len(reply.target.y) for tree in trees for reply in tree.replies]
    return sum(max(0, n - run.config.objective.ignore_first) for n in lengths)


# ---------------------------------------------------------------------- stopped, killed, resumed

# AdamW with a schedule: the state of the optimiser and the step count matter.
RUN = {
    **BATCHES,
    "epochs": 2.5,  # 15 of 6 conversations: 8 steps, the last one of a single conversation
    "optim.lr": 0.01,
    "optim.schedule": "cosine",
    "optim.warmup_fraction": 0.25,
    "checkpoint.every": 2,
}


@pytest.fixture(scope="module")
def uninterrupted(small, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    launch_train.main(train_arguments(workdir, {**small, **RUN}))
    return workdir


@pytest.fixture(scope="module")
def stopped(small, tmp_path_factory):
    """A run that got SIGTERM while it worked on step 5; its workdir, and what it said."""
    workdir = tmp_path_factory.mktemp("stopped")
    cfg = config.load(str(ROOT / "configs/quickstart.py"), overrides({**small, **RUN}))
    run = train.start(cfg, workdir)
    at_step(run.source, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(RunStopped) as ended:
        train.loop(run)
    run.checkpoints.close()
    return workdir, str(ended.value)


def at_step(source: LogBatches, step: int, do) -> None:
    original = source.next

    def next_batch(state=None):
        if int(state.step) + 1 == step:
            do()
        return original(state)

    source.next = next_batch


def check_same_run(workdir, expected):
    """The same export byte for byte, and the same log, every step in it once."""
    for file in sorted((expected / "export").iterdir()):
        assert (workdir / "export" / file.name).read_bytes() == file.read_bytes(), file.name
    logs = [read_lines(directory / "metrics.jsonl") for directory in (workdir, expected)]
    for log in logs:
        for line in log:
            del line["seconds"]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == list(range(1, 9))


def test_parameters_move(small, uninterrupted):
    before, after = tensors(small["model.path"]), tensors(uninterrupted / "export")
    assert all((before[name] != after[name]).any() for name in before)


def test_stopped_run_goes_on_as_if_nothing_had_been(small, uninterrupted, stopped, tmp_path):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    assert stopped[1].startswith("stopped by SIGTERM after step 5 of 8")
    assert len(read_lines(workdir / "metrics.jsonl")) == 5
    launch_train.main(train_arguments(workdir, {**small, **RUN}))
    check_same_run(workdir, uninterrupted)


def test_a_template_that_shows_the_day_does_not_keep_a_run_from_going_on(
    small, tmp_path, monkeypatch
):
    """The day is that of the run's settings: another is another run, whatever the clock says."""
    model = shutil.copytree(small["model.path"], tmp_path / "model")
    file = model / "chat_template.jinja"
    file.write_text("{{ strftime_now('%d %B %Y') }}\n" + file.read_text())
    settings = {**small, **BATCHES, "model.path": model, "epochs": 0, "steps": 1}
    launch_train.main(train_arguments(tmp_path / "run", settings))
    with another_clock(monkeypatch, tmp_path):
        run = begin(tmp_path / "run", {**settings, "steps": 2})
    assert int(run.state.step) == 1
    run.checkpoints.close()
    with pytest.raises(InputError, match=r"data\.date: '2026-01-01' then, '2026-01-02' now"):
        begin(tmp_path / "run", {**settings, "data.date": "2026-01-02"})


def test_killed_run_goes_on_as_if_nothing_had_been(small, uninterrupted, tmp_path):
    arguments = train_arguments(tmp_path, {**small, **RUN, "checkpoint.every": 3})
    train_and_kill(arguments, step=6)
    # The log is ahead of the checkpoint: the line of step 4 is written a second time.
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 4
    assert not (tmp_path / "export").exists()
    launch_train.main(arguments)
    check_same_run(tmp_path, uninterrupted)


def test_started_once_more_a_finished_run_stays(small, uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    launch_train.main(train_arguments(workdir, {**small, **RUN}))
    check_same_run(workdir, uninterrupted)


def test_resumes_on_another_mesh(small, uninterrupted, stopped, tmp_path):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    mesh = {"mesh.data": 1, "mesh.fsdp": 4, "mesh.tensor": 2}
    launch_train.main(train_arguments(workdir, {**small, **RUN, **mesh}))
    exports = [tensors(directory / "export") for directory in (workdir, uninterrupted)]
    check_same(*exports, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"optim.lr": 0.02}, "optim.lr: 0.01 then, 0.02 now"),
        ({"batch.conversations": 3}, "batch.conversations: 2 then, 3 now"),
        ({"seed": 1}, "seed: 0 then, 1 now"),
    ],
    ids=["lr", "batch", "seed"],
)
def test_other_settings_are_another_run(small, stopped, change, message, tmp_path, capsys):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    arguments = train_arguments(workdir, {**small, **RUN, **change})
    status, said = outcome(launch_train.main, arguments, capsys)
    assert status == 2
    assert message in said and "--workdir" in said and "start_from" in said
    assert said.count("\n") == 1


def states(folder):
    """Size and time of every file below it."""
    stats = {file: file.stat() for file in folder.rglob("*") if file.is_file()}
    return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda lines: lines[:5], "had 6 conversations, now there are 5"),
        (lambda lines: lines[::-1], "the same 6 in another order"),
    ],
    ids=["fewer", "another-order"],
)
def test_other_data_is_another_run(small, stopped, change, message, tmp_path, monkeypatch, capsys):
    """Refused before anything is compiled, and without a change to any file."""
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    before = states(workdir)
    monkeypatch.setattr(train, "jit_gradients", None)  # called before the first compilation
    other = write_lines(tmp_path / "other.jsonl", change(records()))
    arguments = train_arguments(workdir, {**small, **RUN, "data.path": other})
    status, said = outcome(launch_train.main, arguments, capsys)
    assert status == 2
    assert message in said
    assert states(workdir) == before


@pytest.mark.parametrize("how", ["resume", "start_from"])
def test_checkpoint_of_another_model_is_refused(small, stopped, how, tmp_path, capsys):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    tiny(tmp_path / "wide", hidden_size=64)
    settings = {**small, **RUN, "model.path": tmp_path / "wide"}
    if how == "start_from":
        settings["start_from"], workdir = workdir, tmp_path / "new"
    status, said = outcome(launch_train.main, train_arguments(workdir, settings), capsys)
    assert status == 2, said
    assert "Traceback" not in said
    if how == "resume":
        assert "is of another model (width is 32 in the run, 64 there)" in said
    else:
        assert "do not fit this model" in said
        assert "embedding_VxD: (320, 32) saved, (320, 64) expected" in said


def test_starts_from_the_parameters_of_another_run(small, uninterrupted, tmp_path):
    for given in (uninterrupted, uninterrupted / "checkpoints", uninterrupted / "checkpoints/8"):
        run = begin(tmp_path / given.name, {**small, **RUN, "start_from": given})
        assert int(run.state.step) == 0 and run.source.drawn == 0
        begun = values(run.state.params)
        run.checkpoints.close()
    resumed = begin(uninterrupted, {**small, **RUN})
    check_same(begun, values(resumed.state.params))
    resumed.checkpoints.close()


def test_export_of_a_checkpoint_is_that_of_the_run(uninterrupted, tmp_path, capsys):
    arguments = ["--checkpoint", str(uninterrupted), "--dtype", "float32"]
    launch_export.main([*arguments, "--out", str(tmp_path / "hf")])
    check_same(tensors(tmp_path / "hf"), tensors(uninterrupted / "export"))
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        expected = (uninterrupted / "export" / file).read_bytes()
        assert (tmp_path / "hf" / file).read_bytes() == expected, file

    arguments[1] = str(uninterrupted / "checkpoints/6")
    launch_export.main([*arguments, "--out", str(tmp_path / "step6")])
    different = tensors(tmp_path / "step6")
    assert any((different[k] != v).any() for k, v in tensors(tmp_path / "hf").items())

    arguments[1] = str(uninterrupted / "checkpoints/5")
    status, said = outcome(
        launch_export.main, [*arguments, "--out", str(tmp_path / "step5")], capsys
    )
    assert status == 2
    assert "steps found: [6, 8]" in said


def test_no_checkpoint_to_start_from(small, tmp_path):
    with pytest.raises(InputError, match="no checkpoint there"):
        begin(tmp_path / "run", {**small, **RUN, "start_from": tmp_path})
