"""Several processes train as one process with one device does, and go on from its checkpoints."""

import json

import pytest

from launch import prepare_data
from tests.cluster.several import alone, relative_difference, together
from tests.golden import check_gradients, check_step, golden_step
from tests.runs import (
    EVEN,
    PLAIN_SGD,
    TALKS,
    read_lines,
    records,
    small_settings,
    tensors,
    train_arguments,
    write_lines,
)

pytestmark = [pytest.mark.compiled_quickly]
STEPS = 20
MESHES = {
    "fsdp": (2, 2, {"mesh.data": 1, "mesh.fsdp": 4}),
    "data": (2, 1, {"mesh.data": 2}),
    "mixed": (2, 2, {"mesh.data": 1, "mesh.fsdp": 2, "mesh.tensor": 2}),
    "tensor": (2, 1, {"mesh.data": 1, "mesh.tensor": 2}),
    "sequence": (2, 2, {"mesh.data": 1, "mesh.sequence": 4}),
    "four": (4, 2, {"mesh.data": 1, "mesh.fsdp": 2, "mesh.tensor": 2, "mesh.sequence": 2}),
    "slices": (2, 2, {"mesh.slices": 2, "mesh.data": 1, "mesh.fsdp": 2}),
}
"""Processes, devices of each, and the mesh; of `tensor` and `sequence` both processes have all
rows; of `slices` a process is a slice."""
SGD = {**PLAIN_SGD, "optim.lr": 0.05}
ADAMW = {"optim.lr": 1e-3, "optim.schedule": "constant", "optim.warmup_fraction": 0}


def settings_of(folder, **more):
    """Six conversations of unequal length, of which steps of four interactions take some; an epoch
    is no whole number of steps."""
    return {
        **small_settings(folder),
        "steps": STEPS,
        "epochs": 0,
        "batch.interactions": 5,
        "evaluation.name": "none",
        "evaluation.holdout": 0,
        **more,
    }


@pytest.fixture(scope="module")
def of_one(request, tmp_path_factory):
    """What one process makes of it: the optimiser, the settings, and the run's directory."""
    optimiser, steps = request.param
    folder = tmp_path_factory.mktemp(optimiser)
    settings = settings_of(folder, **{"sgd": SGD, "adamw": ADAMW}[optimiser], steps=steps)
    alone(train_arguments(folder / "alone", settings))
    return optimiser, settings, folder


LONG = [pytest.param((name, STEPS), marks=pytest.mark.slow, id=name) for name in ("sgd", "adamw")]
SHORT = pytest.param(("sgd", 6), id="short")


TOLERANCE = {"sgd": 1e-5, "adamw": 1e-3}


def check(of_one, mesh):
    optimiser, settings, folder = of_one
    processes, devices, sizes = MESHES[mesh]
    workdir = folder / mesh
    together(processes, devices, train_arguments(workdir, {**settings, **sizes}))
    found, expected = tensors(workdir / "export"), tensors(folder / "alone" / "export")
    difference = relative_difference(found, expected)
    print(f"{optimiser} {mesh}: {difference:.2g}")
    assert difference < TOLERANCE[optimiser]
    ours, theirs = read_lines(workdir / "metrics.jsonl"), read_lines(folder / "alone/metrics.jsonl")
    for mine, its in zip(ours, theirs, strict=True):
        for name in ("step", "interactions", "reply_tokens"):
            assert mine[name] == its[name]
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("of_one", [SHORT, *LONG], indirect=True)
def test_two_processes_train_as_one_does(of_one):
    check(of_one, "mixed")


@pytest.mark.parametrize("of_one", LONG, indirect=True)
@pytest.mark.parametrize("mesh", [mesh for mesh in MESHES if mesh != "mixed"])
def test_on_other_meshes(of_one, mesh):
    check(of_one, mesh)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen3", "llama"])
def test_golden_step_of_two_processes(model, shared, tmp_path):
    oracle = shared / "oracle" / model
    mesh = {"mesh.data": 1, "mesh.fsdp": 2, "mesh.tensor": 2, "batch.rows": 1}
    together(2, 2, golden_step(oracle, tmp_path, **mesh))
    check_step(tmp_path, oracle)
    check_gradients(tmp_path, oracle)


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes(tmp_path):
    """Of two processes, of one on another mesh, of two again: as the run that was not stopped."""
    assert len(TALKS) == 6
    settings = settings_of(tmp_path, **SGD, **{"checkpoint.every": 4})
    alone(train_arguments(tmp_path / "alone", settings))
    workdir = tmp_path / "moved"
    two = {"mesh.data": 1, "mesh.fsdp": 4}
    together(2, 2, train_arguments(workdir, {**settings, **two, "steps": 8}))
    alone(train_arguments(workdir, {**settings, "steps": 12}))
    said = together(2, 1, train_arguments(workdir, {**settings, "mesh.data": 2}))
    assert "resuming from step 12" in said
    found, expected = tensors(workdir / "export"), tensors(tmp_path / "alone/export")
    assert relative_difference(found, expected) < 1e-5
    ours, theirs = (read_lines(each / "metrics.jsonl") for each in (workdir, tmp_path / "alone"))
    assert [x["interactions"] for x in ours] == [x["interactions"] for x in theirs]


@pytest.mark.slow
def test_prepared_data_and_what_is_held_out(tmp_path):
    """Two processes, each of which reads its rows; replies are sampled, and measured by all."""
    settings = settings_of(tmp_path, **SGD)
    logs = write_lines(tmp_path / "many.jsonl", records([*TALKS, *EVEN] * 4))
    given = ["--data", str(logs), "--out", str(tmp_path / "prepared"), "--name", "talks"]
    prepare_data.main([*given, "--splits", "train=0.7,validation=0.3"])
    measured = {
        "data.path": tmp_path / "prepared",
        "data.cache": tmp_path / "trees",
        "steps": 6,
        "evaluation.holdout": 0.3,
        "evaluation.every": 3,
        "evaluation.prompts": 4,
        "evaluation.new_tokens": 8,
    }
    settings = {**settings, **measured}
    alone(train_arguments(tmp_path / "alone", settings))
    together(2, 2, train_arguments(tmp_path / "two", {**settings, "mesh.fsdp": 2, "mesh.data": 2}))
    found, expected = tensors(tmp_path / "two/export"), tensors(tmp_path / "alone/export")
    assert relative_difference(found, expected) < 1e-5
    ours, theirs = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("two", "alone"))
    held = [name for name in theirs[-1] if name.startswith("held_out")]
    assert "held_out_length" in held
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.keys() == its.keys() and mine["interactions"] == its["interactions"]
    assert ours[-1]["held_out_signal"] == pytest.approx(theirs[-1]["held_out_signal"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"mesh.data": 2}, {"mesh.data": 1, "mesh.tensor": 2}])
def test_what_was_lost_is_told_of_all(mesh, tmp_path):
    """Of prepared data, of which each process reads its rows, or all the same ones."""
    settings = {
        **settings_of(tmp_path, **SGD),
        **{"data.path": tmp_path / "prepared", "data.cache": tmp_path / "trees"},
        **{"data.max_reply": 8, "epochs": 2, "steps": 0},
    }
    logs = write_lines(tmp_path / "many.jsonl", records([*TALKS, *EVEN]))
    prepare_data.main(["--data", str(logs), "--out", str(settings["data.path"]), "--name", "talks"])
    alone(train_arguments(tmp_path / "alone", settings))
    together(2, 1, train_arguments(tmp_path / "two", {**settings, **mesh}))
    ours, theirs = (
        json.loads((tmp_path / name / "finished.json").read_text())["lines"]
        for name in ("two", "alone")
    )
    lost = [line for line in theirs if "cut at data.max_reply" in line]
    assert lost and set(lost) <= set(ours)
