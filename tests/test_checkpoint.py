"""What a run keeps: damage is noticed, and a sound checkpoint is there at any moment."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import types

import jax
import numpy as np
import pytest

from interact_jax import checkpoint, config, digests, evaluation, run_state, train
from interact_jax.data.fingerprint import legacy_digests
from interact_jax.opening import open_model
from interact_jax.schema import InputError
from launch import export as launch_export
from launch import train as launch_train
from tests.faults.runs import settings_of
from tests.runs import (
    EVEN,
    begin,
    outcome,
    records,
    tensors,
    tiny,
    train_arguments,
    write_lines,
)
from tests.tiny import tiny_tokenizer

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

OWN = digests.NAME.format(0, 1)
MODEL, FIXED = "model/tokenizer.json", "fixed/initial/_METADATA"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    found = settings_of(tmp_path_factory.mktemp("given"), "trust_region")
    return {**found, "steps": 4, "check_hindsight": 0}


@pytest.fixture(scope="module")
def ended(settings, tmp_path_factory):
    """A run of 4 steps; its checkpoints are those of steps 2 and 4."""
    workdir = tmp_path_factory.mktemp("ended") / "run"
    launch_train.main(train_arguments(workdir, settings))
    return workdir


@pytest.fixture
def workdir(ended, tmp_path):
    return shutil.copytree(ended, tmp_path / "run")


@pytest.fixture
def said():
    """What the package logs, a line a record."""
    lines: list[str] = []

    class Noting(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler, logger = Noting(), logging.getLogger("interact_jax")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def resumed_at(workdir, settings) -> int:
    run = begin(workdir, settings)
    run.checkpoints.close()
    return int(run.state.step)


def content(folder) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def opened() -> set:
    """The threads and file descriptors of this process."""
    return {*threading.enumerate(), *os.listdir("/proc/self/fd")}


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


# ---------------------------------------------------------------------------------- without a run


def test_what_was_set_aside_before_stays(tmp_path):
    for content in "abc":
        (place := tmp_path / "checkpoints/4").mkdir(parents=True)
        (place / "state").write_text(content)
        checkpoint._set_aside(place, tmp_path / "damaged")
        assert not place.exists()
    names = {place.name: (place / "state").read_text() for place in tmp_path.glob("damaged/*")}
    assert names == {"4": "a", "4-2": "b", "4-3": "c"}


def test_steps_are_listed_in_their_order(tmp_path, said):
    for step in (30, 4, 200, 10, 1, 100, 3, 20, 2):
        (place := tmp_path / f"checkpoints/{step}").mkdir(parents=True)
        (place / "data").write_text("no checkpoint")
        digests.seal(place)
        flip(place / "data")
    (tmp_path / "checkpoints/notes").mkdir()
    (tmp_path / "checkpoints/7").write_text("no checkpoint either")
    assert checkpoint.find(str(tmp_path)) == (tmp_path, 200)
    assert not said  # none is unfinished
    with pytest.raises(InputError, match=r"steps found: \[1, 2, 3, 4, 10, 20, 30, 100, 200\]"):
        checkpoint.find(str(tmp_path / "checkpoints/5"))
    with pytest.raises(InputError, match=r"steps found: \[1, 2, 3, 4, 20, 30, 100, 200\]"):
        checkpoint.restore_params(str(tmp_path / "checkpoints/10"), None)


def test_a_run_may_be_called_by_a_number(tmp_path):
    """It is not taken for a step, nor is another directory of steps."""
    for folder in ("7/checkpoints/3", "other/3"):
        (place := tmp_path / folder).mkdir(parents=True)
        digests.seal(place)
    assert checkpoint.find(str(tmp_path / "7")) == (tmp_path / "7", 3)
    assert checkpoint.find(str(tmp_path / "7/checkpoints")) == (tmp_path / "7", 3)
    with pytest.raises(InputError, match=r"steps found: none"):
        checkpoint.find(str(tmp_path / "other/3"))


def test_closing_frees_all_that_was_opened(tmp_path):
    """However often it is closed, and whether or not anything was written."""
    cfg = types.SimpleNamespace(keep=2, damaged="fall_back")
    (tmp_path / "run").mkdir()
    checkpoints = checkpoint.Checkpoints(tmp_path / "run", cfg)
    checkpoints.wait()
    checkpoints.close()
    before = opened()
    checkpoints = checkpoint.Checkpoints(tmp_path / "run", cfg)
    checkpoints.begin()
    checkpoints.close()
    checkpoints.close()
    assert not opened() - before


def test_a_config_in_any_script_stays_legible(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    raw = {"model_type": "qwen3", "id2label": {"0": "höflich", "1": "無礼"}}
    place = checkpoint.keep_model_files(tokenizer, raw, tokenizer, tmp_path)
    assert checkpoint.check_model_files(tmp_path) == place
    text = (place / "config.json").read_text(encoding="utf-8")
    assert json.loads(text) == raw
    assert "höflich" in text and "無礼" in text


def test_a_checkpoint_that_may_not_overlap_is_written_when_save_returns(tmp_path):
    numbers = jax.random.normal(jax.random.key(0), (20, 1_000_000))
    model = run_state.Model({"w_NxD": numbers})
    zero = jax.numpy.zeros((), jax.numpy.int32)
    state = run_state.TrainState(zero, {"policy": model}, run_state.Counters(*[zero] * 4))
    settings = config.default().checkpoint
    before = set(threading.enumerate())
    checkpoints = checkpoint.Checkpoints(tmp_path, settings)
    checkpoints.begin(overlapping=False)
    for step in (1, 3):
        checkpoints.save(step, state, {})
        assert checkpoints.latest() == step
    checkpoints.close()
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("checkpoint")]


# --------------------------------------------------------------------------------------- damaged


def array_flipped(place):
    flip(largest(place / "state"))


def array_cut(place):
    """All that arrays may lie in: which of it a restore reads is for the writer to say."""
    for file in (place / "state").rglob("d/*"):
        os.truncate(file, file.stat().st_size // 2)


def position_changed(place):
    file = place / "data/metadata"
    file.write_text(file.read_text().replace('"drawn": 8', '"drawn": 6'))


def position_renamed(place):
    """It is looked at before the state is read, to see whether the data is the same."""
    file = place / "data/metadata"
    file.write_text(file.read_text().replace('"position"', '"pnsition"'))


def position_gone(place):
    (place / "data/metadata").unlink()


def state_gone(place):
    shutil.rmtree(place / "state")


def digests_cut(place):
    os.truncate(place / OWN, 100)


DAMAGE = [
    *(array_flipped, position_renamed, state_gone, digests_cut),
    *(
        pytest.param(damage, marks=pytest.mark.slow)
        for damage in (array_cut, position_changed, position_gone)
    ),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_newest_sound_checkpoint_is_gone_on_from(damage, settings, workdir, said):
    before = content(workdir / "checkpoints/4")
    damage(workdir / "checkpoints/4")
    damaged = content(workdir / "checkpoints/4")
    assert damaged != before
    stop = {**settings, "steps": 6, "checkpoint.damaged": "stop"}
    with pytest.raises(InputError, match=r"checkpoints/4 is damaged: .*checkpoint\.damaged=fall_b"):
        begin(workdir, stop)
    assert content(workdir / "checkpoints/4") == damaged
    assert resumed_at(workdir, {**settings, "steps": 6}) == 2
    (line,) = [line for line in said if "going on from checkpoint 2" in line]
    assert f"{workdir}/checkpoints/4 is damaged: " in line
    assert content(workdir / "damaged/4") == damaged
    assert not (workdir / "checkpoints/4").exists()


def test_a_copy_under_another_name_is_not_taken_for_that_step(settings, workdir, said):
    shutil.copytree(workdir / "checkpoints/2", workdir / "checkpoints/5")
    model = open_model(workdir / "model", weights=False, attention="xla")
    with pytest.raises(InputError, match=r"checkpoints/5 is damaged: it is of step 2\. Name anoth"):
        checkpoint.restore_params(str(workdir), model.abstract())
    assert resumed_at(workdir, {**settings, "steps": 6}) == 4
    (line,) = [line for line in said if "going on from checkpoint 4" in line]
    assert "checkpoints/5 is damaged: it is of step 2" in line
    assert not (workdir / "checkpoints/5").exists()


def test_where_none_is_sound_the_run_is_refused_and_stays_as_it_was(settings, workdir):
    for step in (2, 4):
        array_flipped(workdir / f"checkpoints/{step}")
    before = content(workdir)
    with pytest.raises(InputError) as refused:
        begin(workdir, {**settings, "steps": 6})
    assert "checkpoints/4 is damaged" in str(refused.value)
    assert "checkpoints/2 is damaged" in str(refused.value)
    assert "There is no intact checkpoint" in str(refused.value)
    assert content(workdir) == before


@pytest.mark.parametrize("name", [MODEL, FIXED])
@pytest.mark.parametrize("damage", [flip, os.unlink], ids=["flipped", "gone"])
def test_damage_to_what_is_kept_once_is_named(name, damage, settings, workdir):
    damage(workdir / name)
    before = content(workdir)
    folder, _, file = name.rpartition("/")
    with pytest.raises(InputError, match=f"{folder} is damaged: {file} is "):
        begin(workdir, {**settings, "steps": 6})
    assert content(workdir) == before


@pytest.mark.parametrize("damage", [flip, lambda file: os.truncate(file, 9)], ids=["flip", "cut"])
def test_settings_that_cannot_be_read_are_a_message(damage, settings, workdir):
    file = workdir / "config.json"
    file.write_text(file.read_text().replace("{", "\0", 1))
    with pytest.raises(InputError, match=r"config\.json: cannot be read .*broken JSON"):
        begin(workdir, settings)


def test_a_damaged_checkpoint_is_neither_exported_nor_started_from(settings, workdir, capsys):
    array_flipped(workdir / "checkpoints/4")
    arguments = ["--checkpoint", str(workdir), "--out", str(workdir.parent / "hf")]
    status, message = outcome(launch_export.main, arguments, capsys)
    assert status == 2
    assert "checkpoints/4 is damaged: state/" in message
    assert "Other steps found: [2]" in message
    assert not (workdir.parent / "hf").exists()
    with pytest.raises(InputError, match=r"checkpoints/4 is damaged: state/"):
        begin(workdir.parent / "new", {**settings, "start_from": workdir})
    arguments[1] += "/checkpoints/2"
    launch_export.main(arguments)
    flip(workdir / MODEL)
    status, message = outcome(launch_export.main, arguments, capsys)
    assert status == 2 and "model is damaged: tokenizer.json is not" in message


# ------------------------------------------------------------------------------------ unfinished


def test_the_newest_is_gone_on_from_and_it_is_said(settings, workdir, said):
    run = begin(workdir, settings)
    newest = run.checkpoints.kept()
    run.checkpoints.close()
    assert "resuming from step 4" in said
    shutil.rmtree(workdir / "checkpoints/4")
    older = checkpoint.Checkpoints(workdir, types.SimpleNamespace(keep=2, damaged="stop")).kept()
    assert newest and older.keys() == newest.keys() and older != newest


def test_a_checkpoint_without_its_digests_is_unfinished(settings, workdir, said, capsys):
    """As a process leaves it that dies when Orbax has committed, and nothing is hashed yet."""
    (workdir / "checkpoints/4" / OWN).unlink()
    assert checkpoint.find(str(workdir)) == (workdir, 2)
    assert said == [
        f"{workdir}/checkpoints/4: unfinished, since its run was interrupted; step 2 is read"
    ]
    said.clear()
    assert resumed_at(workdir, {**settings, "steps": 6, "checkpoint.damaged": "stop"}) == 2
    assert [line for line in said if line.startswith(f"{workdir}/checkpoints/4: unfinished")]
    assert not (workdir / "checkpoints/4").exists()
    (workdir / "checkpoints/2" / OWN).unlink()
    assert resumed_at(workdir, settings) == 0


@pytest.mark.parametrize("keep", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_older_one_stays_until_the_newer_has_its_digests(keep, settings, tmp_path, monkeypatch):
    seen = []
    seal = digests.seal

    def noting(folder, **how):
        if folder.parent.name == "checkpoints":
            seen.append((int(folder.name), sorted(int(p.name) for p in folder.parent.iterdir())))
        seal(folder, **how)

    monkeypatch.setattr(digests, "seal", noting)
    run = begin(tmp_path, {**settings, "steps": 6, "checkpoint.keep": keep})
    train.loop(run)
    run.checkpoints.close()
    assert seen == [(2, [2]), (4, [2, 4]), (6, [2, 4, 6] if keep == 2 else [4, 6])]
    steps = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert steps == (["4", "6"] if keep == 2 else ["6"])
    assert all(digests.check(tmp_path / "checkpoints" / step) for step in steps)


def test_one_whose_digests_cannot_be_written_costs_no_other(settings, workdir, monkeypatch):
    def full(folder, **_):
        raise OSError(28, "No space left on device")

    run = begin(workdir, {**settings, "steps": 8, "checkpoint.keep": 1})
    monkeypatch.setattr(digests, "seal", full)
    with pytest.raises(OSError, match="No space left"):
        train.loop(run)
    assert checkpoint.find(str(workdir)) == (workdir, 4)


# ------------------------------------------------------------------------------- earlier versions


@pytest.fixture
def version2(settings, workdir):
    """The run as version 2 wrote it: no digests, and a position of another form."""
    run = begin(workdir, settings)
    run.checkpoints.close()
    for file in workdir.rglob(OWN):
        file.unlink()
    for file in workdir.glob("checkpoints/*/data/metadata"):
        position = json.loads(file.read_text())["position"]
        position = {"drawn": position["drawn"], "conversations": 6, **legacy_digests(run.dataset)}
        file.write_text(json.dumps({"version": 2, "position": position}))
    return workdir


def test_checkpoints_without_digests_are_read_and_it_is_said(settings, version2, said):
    assert resumed_at(version2, {**settings, "steps": 6}) == 4
    for place in ("checkpoints/4", "model", "fixed/initial"):
        assert f"{version2}/{place} has no digests" in "\n".join(said)
    assert digests.check(version2 / "model") and digests.check(version2 / "fixed/initial")


@pytest.mark.parametrize(
    "damage",
    [
        array_cut,
        pytest.param(position_gone, marks=pytest.mark.slow),
        pytest.param(state_gone, marks=pytest.mark.slow),
    ],
)
def test_damage_without_digests_is_no_internal_failure(damage, settings, version2, said):
    damage(version2 / "checkpoints/4")
    assert resumed_at(version2, {**settings, "steps": 6}) == 2
    assert [line for line in said if "checkpoints/4 is damaged: " in line]


@pytest.mark.parametrize("place", ["model", pytest.param("fixed/initial", marks=pytest.mark.slow)])
def test_where_only_digests_are_damaged_a_way_on_is_told(place, settings, workdir, capsys):
    file = workdir / place / OWN
    flip(file)
    arguments = train_arguments(workdir, {**settings, "steps": 6})
    status, message = outcome(launch_train.main, arguments, capsys)
    assert status == 2 and f"sound, delete {OWN}: they are then taken as they are" in message
    file.unlink()
    status, message = outcome(launch_train.main, arguments, capsys)
    assert status == 0 and f"{workdir / place} has no digests" in message
    assert digests.check(workdir / place)


def test_of_other_damage_no_way_around_is_told(settings, workdir, capsys):
    flip(workdir / MODEL)
    arguments = train_arguments(workdir, {**settings, "steps": 6})
    _, message = outcome(launch_train.main, arguments, capsys)
    assert "tokenizer.json is not what was written" in message and "taken as" not in message
    flip(workdir / MODEL)
    flip(workdir / "checkpoints/4" / OWN)  # without them a checkpoint counts as unfinished
    with pytest.raises(InputError, match="Name another") as caught:
        checkpoint.restore_params(str(workdir / "checkpoints/4"), None)
    assert "taken as" not in str(caught.value)


# ------------------------------------------------------------------------- the same run, or refused


def test_what_a_killed_process_left_is_removed(settings, workdir):
    """Of the run's own files; what others are writing there stays."""
    token = "0123456789abcdef"
    left = [f".config.json.{token}.tmp", f".summary.json.{token}.tmp", f"report/.x.png.{token}.tmp"]
    others = [f".scores.jsonl.{token}.tmp", ".config.json.tmp", f"config.json.{token}.tmp"]
    (workdir / "report").mkdir(exist_ok=True)
    for name in (*left, *others):
        (workdir / name).write_text("half")
    launch_train.main(train_arguments(workdir, {**settings, "steps": 4}))
    assert [name for name in left if (workdir / name).exists()] == []
    assert [name for name in others if not (workdir / name).exists()] == []


def other_data(settings, folder):
    rows = records(EVEN)
    rows[3]["messages"][2]["content"] = "No"  # a follow-up
    return {"data.path": write_lines(folder / "other.jsonl", rows)}


def other_model(settings, folder):
    tiny(folder / "wide", hidden_size=64)
    return {"model.path": folder / "wide"}


def no_data(settings, folder):
    return {"data.path": folder / "none.jsonl"}


@pytest.mark.parametrize(
    "change",
    [
        other_data,
        other_model,
        no_data,
        lambda *_: {"seed": 3},
    ],
    ids=["data", "model", "no-data", "seed"],
)
def test_a_refused_run_stays_as_it_was(change, settings, workdir, tmp_path, capsys):
    before = content(workdir)
    settings = {**settings, "steps": 6, **change(settings, tmp_path)}
    status, message = outcome(launch_train.main, train_arguments(workdir, settings), capsys)
    assert status == 2, message
    assert content(workdir) == before


def test_a_run_needs_no_other_model_than_its_own(settings, ended, workdir, tmp_path):
    damaged = shutil.copytree(workdir / "model", tmp_path / "damaged")
    raw = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": True}))
    (damaged / "model.safetensors").write_text("not what it was")
    for path in (tmp_path / "gone", damaged, workdir / "model"):
        assert resumed_at(workdir, {**settings, "steps": 6, "model.path": path}) == 4
    settings = {**settings, "steps": 4, "model.path": workdir / "model"}
    launch_train.main(train_arguments(workdir, settings))
    for name, value in tensors(ended / "export").items():
        np.testing.assert_array_equal(tensors(workdir / "export")[name], value, err_msg=name)


def test_other_circumstances_are_told_in_a_line(settings, workdir, said, monkeypatch):
    assert resumed_at(workdir, settings) == 4
    assert not [line for line in said if "differ" in line]
    monkeypatch.setattr(jax, "__version__", "0.11.0")
    assert resumed_at(workdir, {**settings, "attention": "dense"}) == 4
    (line,) = [line for line in said if "may differ" in line]
    assert " then, dense now" in line and "then, 0.11.0 now" in line


def test_a_longer_run_says_what_becomes_of_its_learning_rate(settings, tmp_path, said):
    settings = {**settings, "optim.schedule": "cosine", "steps": 2}
    for change in ({}, {"steps": 4, "checkpoint.every": 9}):
        run = begin(tmp_path, {**settings, **change})
        train.loop(run)
        run.checkpoints.close()
    (line,) = [line for line in said if "learning rate" in line]
    assert "2 steps long and is 4 now" in line and "0.005 at step 3 instead of 0" in line
    lrs = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lrs[2] == pytest.approx(0.005)


# ------------------------------------------------------------------------------ a workdir that goes


@pytest.mark.parametrize("what", ["run", pytest.param("run/checkpoints", marks=pytest.mark.slow)])
def test_a_directory_that_vanishes_stops_the_run(what, settings, tmp_path, monkeypatch, capsys):
    start = train.start

    def starting(cfg, workdir):
        run = start(cfg, workdir)
        original = run.source.next

        def next_batch(state):
            if int(state.step) == 3:
                run.checkpoints.wait()
                (tmp_path / what).rename(tmp_path / "else")
            return original(state)

        run.source.next = next_batch
        return run

    monkeypatch.setattr(train, "start", starting)
    arguments = train_arguments(tmp_path / "run", {**settings, "steps": 9})
    status, message = outcome(launch_train.main, arguments, capsys)
    assert status == 1
    assert f"stopped: {tmp_path / what} is gone" in message and "Traceback" not in message
    assert not (tmp_path / what).exists()


def test_what_was_measured_before_goes_with_the_checkpoints(settings, tmp_path, monkeypatch):
    """A resumed run does not depend on a file of the report."""
    monkeypatch.setitem(evaluation.EVALUATIONS, "pocket", lambda *_: {"readable": 0.5})
    settings = {**settings, "evaluation.name": "pocket", "evaluation.replies": 1}
    launch_train.main(train_arguments(tmp_path, {**settings, "steps": 2}))
    file = tmp_path / "report/before.json"
    assert json.loads(file.read_text()) == {"readable": 0.5}
    monkeypatch.setitem(evaluation.EVALUATIONS, "pocket", lambda *_: {"readable": 0.75})
    file.write_text('{"readable": 0.')
    launch_train.main(train_arguments(tmp_path, {**settings, "steps": 4}))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["before"], summary["after"]) == ({"readable": 0.5}, {"readable": 0.75})
