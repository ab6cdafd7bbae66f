"""Signs of collapse, and a run that is stopped by them."""

import json
import math
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from interact_jax import evaluation, guard
from interact_jax.schema import RunStopped
from launch import train as launch_train
from tests.runs import (
    read_lines,
    train_arguments,
)

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

SOUND = {
    "held_out_length": 20.0,
    "held_out_finished": 1.0,
    "held_out_readable": 1.0,
    "held_out_entropy": 0.6,
    "held_out_distance": 0.0,
    "held_out_forgotten": 0.0,
}


@pytest.mark.parametrize(
    "measure, value",
    [
        ("held_out_length", 80.0),
        ("held_out_length", 2.0),
        ("held_out_finished", 0.7),
        ("held_out_readable", 0.8),
        ("held_out_entropy", 0.1),
        ("held_out_entropy", 2.0),
        ("held_out_distance", 1.5),
        ("held_out_forgotten", 0.05),
    ],
)
def test_each_sign_is_told_with_its_figures(measure, value):
    assert not guard.signs(SOUND, SOUND)
    (said,) = guard.signs(SOUND, {**SOUND, measure: value}).values()
    assert f"{measure} {SOUND[measure]:.3g} -> {value:.3g}" in said


def test_a_warning_has_all_signs_and_advice():
    assert not guard.warning(guard.signs(SOUND, SOUND)) and not guard.warning({})
    worse = {**SOUND, "held_out_length": 80.0, "held_out_finished": 0.0}
    said = guard.warning(guard.signs(SOUND, worse))
    assert said.startswith("the model shows signs of collapse: replies run on (held_out_length 20")
    assert "; replies do not end (" in said and said.endswith(guard.ADVICE)


def test_a_run_without_a_guard_looks_for_no_signs():
    worse = {**SOUND, "held_out_readable": 0.0}
    for action in ("warn", "stop", "none"):
        cfg = ConfigDict({"evaluation": {"guard": action}})
        run = SimpleNamespace(config=cfg, kept={"before": SOUND})
        assert bool(evaluation.signs_of_collapse(run, worse)) == (action != "none")


def test_what_was_not_measured_is_no_sign():
    assert not guard.signs({}, SOUND) and not guard.signs(SOUND, {"held_out_signal": 0.1})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_a_sign_whatever_it_was(value):
    for before in (SOUND, {}):
        (said,) = guard.signs(before, {**SOUND, "held_out_entropy": value}).values()
        assert said == "its log-probabilities are not finite (held_out_entropy)"


@pytest.mark.slow
def test_a_run_that_collapses_is_stopped_while_its_replies_can_still_be_read(tmp_path, capsys):
    """A large constant learning rate, on the pocket model: by the world's own measure more than
    half of the replies are readable when the guard stops the run."""
    settings = {
        "optim.lr": 1e-3,
        "optim.schedule": "constant",
        "evaluation.every": 4,
        "evaluation.guard": "stop",
        "evaluation.replies": 128,
        "report.interactions": 0,
        "check_hindsight": 0,
    }
    workdir = tmp_path / "run"
    with pytest.raises(RunStopped, match=r"signs of collapse: .*held_out_forgotten"):
        launch_train.main(train_arguments(workdir, settings))
    stopped = len(read_lines(workdir / "metrics.jsonl"))
    assert 8 <= stopped < 40
    # Ended there, from the checkpoint that was saved.
    launch_train.main(train_arguments(workdir, {**settings, "steps": stopped, "epochs": 0}))
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["before"]["readable"] > 0.95 and summary["after"]["readable"] > 0.5
    # Who reads only what comes of it is told as well.
    assert summary["collapse"].startswith("the model shows signs of collapse: it forgets what it")
    assert summary["collapse"] in capsys.readouterr().out.replace("\n", " ")
    assert f"**{summary['collapse'].split(' -> ')[0]}" in (workdir / "export/README.md").read_text()
