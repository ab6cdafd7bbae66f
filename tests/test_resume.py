"""What a run keeps when it is stopped, killed and resumed."""

from __future__ import annotations

import os
import shutil
import signal

import jax
import jax.numpy as jnp
import pytest

from interact_jax import train
from interact_jax.data.pipeline import LogBatches
from interact_jax.schema import InputError, RunStopped
from launch import export as launch_export
from launch import train as launch_train
from tests.clock import another_clock
from tests.runs import (
    begin,
    check_same,
    leaves,
    outcome,
    read_lines,
    records,
    small_settings,
    tensors,
    tiny,
    train_and_kill,
    train_arguments,
    write_lines,
)

pytestmark = pytest.mark.compiled_quickly


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_settings(tmp_path_factory.mktemp("small"))


BATCHES = {"batch.interactions": 0, "batch.conversations": 2}
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
    run = begin(workdir, {**small, **RUN})
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


@pytest.mark.slow
def test_stopped_run_goes_on_as_if_nothing_had_been(small, uninterrupted, stopped, tmp_path):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    assert stopped[1].startswith("by SIGTERM after step 5 of 8")
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


@pytest.mark.slow
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


def test_starts_from_the_parameters_of_another_run(small, uninterrupted, tmp_path):
    for given in (uninterrupted, uninterrupted / "checkpoints", uninterrupted / "checkpoints/8"):
        run = begin(tmp_path / given.name, {**small, **RUN, "start_from": given})
        assert int(run.state.step) == 0 and run.source.drawn == 0
        begun = leaves(run.state.params)
        run.checkpoints.close()
    resumed = begin(uninterrupted, {**small, **RUN})
    check_same(begun, leaves(resumed.state.params))
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
