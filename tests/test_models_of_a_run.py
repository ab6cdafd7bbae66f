"""Models beside the policy: they resume bit for bit, on another mesh, from older checkpoints."""

from __future__ import annotations

import functools
import json
import shutil

import flax.struct
import orbax.checkpoint as ocp
import pytest

from interact_jax import known, train
from interact_jax.schema import InputError
from launch import export as launch_export
from launch import train as launch_train
from tests.runs import (
    EVEN,
    begin,
    check_same,
    leaves,
    read_lines,
    records,
    small_settings,
    tensors,
    train_and_end,
    train_arguments,
    write_lines,
)

pytestmark = pytest.mark.compiled_quickly


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of four steps over 6 conversations, one checkpoint in the middle."""
    return {
        **small_settings(tmp_path_factory.mktemp("small"), EVEN),
        "batch.interactions": 0,
        "batch.conversations": 3,
        "optim.lr": 0.01,
        "checkpoint.every": 2,
        "check_hindsight": 0,
        "epochs": 0,
        "steps": 4,
    }


WAYS = {
    "ema": {"teacher.name": "ema", "teacher.rate": 0.5},
    "trust_region": {"teacher.name": "trust_region", "objective.kl_initial": 0.1},
    "trainer": {"objective.ratio": "trainer", "objective.old_every": 3},
    "dpo": {"objective.name": "dpo", "objective.ignore_first": 0},
}


QUICK = ("trust_region", "dpo")  # a model that never moves, and none but pairs


def chosen(quick):
    return [pytest.param(way, marks=() if way in quick else pytest.mark.slow) for way in WAYS]


CHOSEN, ON_ANOTHER_MESH = chosen(QUICK), chosen(QUICK[:1])


@pytest.fixture(scope="module")
def whole_of(small, tmp_path_factory):
    """A function from a way to (settings, workdir) of an uninterrupted run, made once."""

    @functools.cache
    def make(way):
        settings, workdir = {**small, **WAYS[way]}, tmp_path_factory.mktemp("whole")
        launch_train.main(train_arguments(workdir, settings))
        return settings, workdir

    return make


@pytest.fixture(scope="module", params=CHOSEN)
def runs(request, whole_of, tmp_path_factory):
    """(settings, workdir of an uninterrupted run, of one that ended when it asked for the batch of
    step 4, its last checkpoint being of step 2). In test_resume.py one is killed."""
    settings, whole = whole_of(request.param)
    killed = tmp_path_factory.mktemp("killed")
    train_and_end(train_arguments(killed, settings), step=4)
    return settings, whole, killed


def test_a_run_that_ended_goes_on_bit_for_bit(runs, tmp_path):
    settings, whole, killed = runs
    workdir = shutil.copytree(killed, tmp_path / "run")
    launch_train.main(train_arguments(workdir, settings))
    check_same(tensors(workdir / "export"), tensors(whole / "export"))
    ends = [begin(directory, settings) for directory in (workdir, whole)]
    check_same(*(leaves(run.state.models) for run in ends))
    lines = [read_lines(directory / "metrics.jsonl") for directory in (workdir, whole)]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    for run in ends:
        run.checkpoints.close()


@pytest.mark.parametrize("runs", ON_ANOTHER_MESH, indirect=True)
def test_a_run_goes_on_on_another_mesh(runs, tmp_path):
    settings, whole, killed = runs
    workdir = shutil.copytree(killed, tmp_path / "run")
    mesh = {"mesh.data": 1, "mesh.fsdp": 4, "mesh.tensor": 2}
    launch_train.main(train_arguments(workdir, {**settings, **mesh}))
    # AdamW turns rounding of gradients near zero into steps: the parameters are not so near.
    check_same(tensors(workdir / "export"), tensors(whole / "export"), rtol=1e-2, atol=2e-3)
    lines = [read_lines(directory / "metrics.jsonl") for directory in (workdir, whole)]
    for line, expected in zip(*lines, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-3, abs=1e-4)


def test_models_that_never_move_are_kept_once(small, tmp_path):
    run = begin(tmp_path, {**small, **WAYS["trust_region"]})
    begun = leaves(run.state.models["initial"].params)
    check_same(begun, leaves(run.state.params))
    train.loop(run)
    check_same(leaves(run.state.models["initial"].params), begun)
    moved = leaves(run.state.params)
    assert any((moved[name] != value).any() for name, value in begun.items())
    run.checkpoints.close()
    saved = ocp.PyTreeCheckpointHandler().metadata(tmp_path / "checkpoints/4/state").tree
    assert set(saved["models"]) == {"policy"}
    shutil.rmtree(tmp_path / "fixed")
    with pytest.raises(InputError, match=r"fixed/initial: not there.*start_from"):
        begin(tmp_path, {**small, **WAYS["trust_region"]})


def test_the_average_can_be_exported(whole_of, tmp_path):
    _, workdir = whole_of("ema")
    arguments = ["--checkpoint", str(workdir), "--dtype", "float32", "--out"]
    launch_export.main([*arguments, str(tmp_path / "policy")])
    launch_export.main([*arguments, str(tmp_path / "teacher"), "--weights", "teacher"])
    policy, teacher = (tensors(tmp_path / name) for name in ("policy", "teacher"))
    check_same(policy, tensors(workdir / "export"))
    assert all((policy[name] != teacher[name]).any() for name in policy)
    with pytest.raises(InputError, match=r"no model 'critic'. Available: policy, teacher"):
        launch_export.main([*arguments, str(tmp_path / "no"), "--weights", "critic"])


def test_reference_log_probabilities_of_other_replies_are_refused(small, tmp_path, monkeypatch):
    """A rejected reply stands on a branch: the trunks are those of before. Refused by the data, and
    by what was computed of them."""
    settings = {**small, **WAYS["dpo"]}
    x = [{"role": "user", "content": "Say y"}]
    pairs = [{"prompt": x, "chosen": "y, because you asked", "rejected": r} for r in ("no", "why")]
    settings["data.path"] = write_lines(tmp_path / "pairs.jsonl", pairs)
    launch_train.main(train_arguments(tmp_path / "run", settings))
    pairs[1]["rejected"] = "who"
    write_lines(tmp_path / "pairs.jsonl", pairs)
    with pytest.raises(InputError, match=r"had other .* in the same 2 conversations"):
        begin(tmp_path / "run", {**settings, "steps": 6})
    monkeypatch.setattr(known, "check_resumed", lambda *_: None)
    with pytest.raises(InputError, match=r"initial\.npz: cannot be read \(it is of other replies"):
        begin(tmp_path / "run", {**settings, "steps": 6})


def test_other_weights_are_other_data(small, tmp_path):
    rows = records(EVEN)
    settings = {**small, "data.path": write_lines(tmp_path / "talks.jsonl", rows)}
    launch_train.main(train_arguments(tmp_path / "run", settings))
    rows[0]["messages"][1]["weight"] = 2
    write_lines(tmp_path / "talks.jsonl", rows)
    with pytest.raises(InputError, match="had other weights, users or log-probabilities in"):
        begin(tmp_path / "run", {**settings, "steps": 6})


def test_a_run_begun_before_there_were_limits_goes_on_without(small, old, tmp_path):
    workdir = shutil.copytree(old, tmp_path / "run")
    saved = workdir / "config.json"
    settings = json.loads(saved.read_text())
    for name in ("limits.user", "limits.conversation"):
        del settings[name]
    saved.write_text(json.dumps(settings))
    message = r"limits\.conversation: 'inf' then, 8\.0 now.*To go on.*--config\.limits\.user=inf"
    with pytest.raises(InputError, match=message):
        begin(workdir, small)
    off = {"limits.user": "inf", "limits.conversation": "inf"}
    begin(workdir, {**small, **off}).checkpoints.close()
    saved.unlink()
    with pytest.raises(
        InputError, match=r"config\.json: not there, though the run has checkpoints"
    ):
        begin(workdir, small)


def test_a_run_that_lost_what_its_initial_model_said_is_refused(whole_of, tmp_path):
    settings, whole = whole_of("dpo")
    workdir = shutil.copytree(whole, tmp_path / "run")
    (workdir / "known/initial.npz").write_bytes(b"no")
    with pytest.raises(InputError, match=r"known is damaged: initial\.npz is not"):
        begin(workdir, {**settings, "steps": 6})


@flax.struct.dataclass
class OldState:
    """The state as version 1 saved it."""

    step: object
    params: object
    opt_state: object
    counters: object


@pytest.fixture(scope="module")
def old(small, tmp_path_factory):
    """A run whose checkpoint of step 2 is written as version 1 wrote it."""
    workdir = tmp_path_factory.mktemp("old")
    run = begin(workdir, {**small, "steps": 2})
    train.loop(run)
    run.checkpoints.close()
    policy = run.state.models["policy"]
    shutil.rmtree(workdir / "checkpoints")
    state = OldState(run.state.step, policy.params, policy.opt_state, run.state.counters)
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        items = {"state": ocp.args.StandardSave(state)}
        items["data"] = ocp.args.JsonSave(run.source.position())
        manager.save(2, args=ocp.args.Composite(**items))
    return workdir


def test_a_checkpoint_of_the_version_before_is_read(small, old, tmp_path):
    workdir, whole = shutil.copytree(old, tmp_path / "run"), tmp_path / "whole"
    for directory in (workdir, whole):
        launch_train.main(train_arguments(directory, small))
    check_same(tensors(workdir / "export"), tensors(whole / "export"))
    from_old = begin(tmp_path / "on", {**small, "start_from": old})
    assert int(from_old.state.step) == 0
    from_old.checkpoints.close()


def test_a_checkpoint_of_the_version_before_without_the_teacher_is_refused(small, old, tmp_path):
    workdir = shutil.copytree(old, tmp_path / "run")
    saved = workdir / "config.json"
    saved.write_text(saved.read_text().replace('"teacher.name": "self"', '"teacher.name": "ema"'))
    with pytest.raises(InputError, match=r"earlier version.*kept no teacher model.*start_from"):
        begin(workdir, {**small, "teacher.name": "ema"})


def test_logs_without_a_samplers_log_probabilities_are_refused_where_they_are_asked_for(
    small, tmp_path
):
    with pytest.raises(InputError, match=r'no reply of the logs has any \("token_ids" and "logps"'):
        begin(tmp_path, {**small, "objective.ratio": "sampler"})


def test_an_objective_says_what_it_learns_from(small, tmp_path):
    with pytest.raises(InputError, match=r"'dpo' learns from pairs"):
        begin(tmp_path, {**small, "objective.name": "dpo", "data.recipe": "replies"})
