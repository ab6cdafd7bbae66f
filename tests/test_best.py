"""The best step of a run, by a measure on held-out conversations."""

import json
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file

from interact_jax import best, config, train
from interact_jax.schema import InputError
from launch import export
from launch import train as launch_train
from tests.runs import MEASURED, overrides, read_lines, records, tiny, train_arguments, write_lines

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

MARGIN = "held_out_margin"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Four steps that are too large: what they do to held-out replies goes up and down."""
    folder = tmp_path_factory.mktemp("given")
    tiny(folder / "model")
    talks = [(f"Say {n}", f"It is {n}.", "Shorter", f"{n}", "Thank you") for n in range(120)]
    return {
        **MEASURED,
        "model.path": folder / "model",
        "data.path": write_lines(folder / "logs.jsonl", records(talks)),
        "evaluation.every": 1,
        "evaluation.prompts": 0,
        "steps": 4,
        "export.dtype": "float32",
        "checkpoint.best": MARGIN,
        "checkpoint.keep": 1,
        "checkpoint.every": 100,
    }


@pytest.fixture(scope="module")
def ended(settings, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ended") / "run"
    launch_train.main(train_arguments(workdir, settings))
    return workdir


def best_of(workdir):
    """(step, value) of the largest margin in the log."""
    return max(
        ((line["step"], line[MARGIN]) for line in read_lines(workdir / "metrics.jsonl")),
        key=lambda pair: pair[1],
    )


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_best_step_is_kept_and_exported(ended, tmp_path, capsys):
    step, value = best_of(ended)
    assert step < 4, "or this test shows nothing"
    kept = {int(place.name) for place in (ended / "checkpoints").iterdir()}
    assert kept == {step, 4}
    arguments = ["--checkpoint", f"{ended}/checkpoints/{step}", "--out", str(tmp_path / "best")]
    export.main([*arguments, "--dtype", "float32"])
    ours, theirs = weights(ended / "export"), weights(tmp_path / "best")
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    summary = json.loads((ended / "summary.json").read_text())
    assert summary["after"][MARGIN] == pytest.approx(value, abs=1e-6), "of what was exported"
    assert summary["step"] == step and summary["steps"] == 4
    hint = f"is step {step}, the best by {MARGIN}. To export that one: --checkpoint {ended}/"
    assert hint not in capsys.readouterr().err
    export.main(["--checkpoint", str(ended), "--out", str(tmp_path / "last")])
    assert hint in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_a_resumed_run_has_the_same_best(ended, settings, tmp_path):
    for steps in (best_of(ended)[0] + 1, 4):
        launch_train.main(train_arguments(tmp_path / "run", {**settings, "steps": steps}))
    assert best_of(tmp_path / "run") == best_of(ended)
    ours, theirs = weights(tmp_path / "run/export"), weights(ended / "export")
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_where_the_best_is_damaged_the_last_is_exported(ended, settings, tmp_path, capsys):
    workdir, step = tmp_path / "run", best_of(ended)[0]
    shutil.copytree(ended, workdir)
    shutil.rmtree(workdir / "export")
    array = max((workdir / f"checkpoints/{step}").rglob("*"), key=lambda p: p.stat().st_size)
    array.write_bytes(array.read_bytes()[:-1] + b"?")
    launch_train.main(train_arguments(workdir, settings))
    assert "the best step cannot be exported, the last one is" in capsys.readouterr().err
    assert json.loads((workdir / "summary.json").read_text())["step"] == 4


def test_what_cannot_be_measured_is_refused(settings, tmp_path):
    with pytest.raises(InputError, match=r"checkpoint.best='held_out_margin'.*evaluation.holdout"):
        without = {**settings, "evaluation.holdout": 0.0}
        launch_train.main(train_arguments(tmp_path / "run", without))


def noted(*values, before=None):
    """What is kept after steps with these values."""
    cfg = ConfigDict({"checkpoint": {"best": MARGIN}})
    kept = {"before": before}
    told = [best.note(kept, cfg, step, measured) for step, measured in enumerate(values, 1)]
    return told, kept.get("best")


def test_steps_that_are_not_better_or_not_measured_are_not_the_best():
    told, kept = noted({MARGIN: 0.1}, {}, {MARGIN: 0.3}, {MARGIN: 0.3}, {MARGIN: 0.2})
    assert told == [True, False, True, False, False]
    assert (kept["measure"], kept["step"], kept["value"]) == (MARGIN, 3, 0.3)


def test_values_on_other_data_do_not_compare():
    cfg, kept = ConfigDict({"checkpoint": {"best": MARGIN}}), {"measuring_on": "these"}
    assert best.note(kept, cfg, 1, {MARGIN: 0.9})
    kept["measuring_on"] = "those"
    assert best.note(kept, cfg, 2, {MARGIN: 0.1}) and kept["best"]["step"] == 2


def test_a_model_that_collapses_is_never_the_best():
    length = "held_out_length"
    told, _ = noted({MARGIN: 9.0, length: 500}, {MARGIN: 0.1, length: 10}, before={length: 10})
    assert told == [False, True]


def test_an_error_names_what_can_be_measured():
    cfg = ConfigDict({"checkpoint": {"best": MARGIN}})
    best.check(cfg, {MARGIN: 0.0})
    with pytest.raises(InputError, match="can be measured on this data: held_out_signal_abs"):
        best.check(cfg, {"held_out_signal_abs": 1.0})


def test_where_nothing_is_held_out_it_is_refused_before_a_step_is_compiled(
    settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "abstract_state", None)
    given = config.load("quickstart", overrides({**settings, "evaluation.holdout": 0}))
    with pytest.raises(InputError, match=r"is not measured in this run. Nothing is held out"):
        train.start(given, tmp_path)


def test_an_export_is_not_written_among_checkpoints(ended):
    with pytest.raises(InputError, match="deletes older files there"):
        export.main(["--checkpoint", str(ended), "--out", f"{ended}/checkpoints/4/export"])
