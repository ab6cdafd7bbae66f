"""Measuring sampled replies against a preference."""

import json

import jax
import pytest

from interact_jax import evaluation, sharding
from interact_jax.opening import open_model
from interact_jax.pocket import measure
from interact_jax.schema import InputError
from launch import evaluate

REPLIES = 24
OPPOSITE = {style: not on for style, on in measure.LOGGED_PREFERENCE.items()}


@pytest.fixture(scope="module")
def pocket():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    model = open_model("pocket", mesh=mesh, dtype="float32", attention="auto")
    return model.decoder, model.load(), model.chat


@pytest.fixture(scope="module")
def logged(pocket):
    return evaluation.measure_pocket(*pocket, REPLIES, 3)


def test_the_task_of_evaluate_is_the_same_measure(logged, tmp_path):
    given = ["--model", "pocket", "--tasks", "pocket", "--limit", str(REPLIES), "--seed", "3"]
    evaluate.main([*given, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "copy.json")])
    (line,) = json.loads((tmp_path / "copy.json").read_text())["models"]
    assert line["name"] == "pocket" and line["tasks"] == {"pocket": logged}


def test_the_same_replies_are_measured_against_any_preference(pocket, logged):
    opposite = evaluation.measure_pocket(*pocket, REPLIES, 3, [OPPOSITE])
    assert set(logged) == {"wanted_styles", "all_wanted", "correct", "readable"}
    assert {k: logged[k] for k in ("correct", "readable")} == {
        k: opposite[k] for k in ("correct", "readable")
    }
    # a readable reply has each style as one of the two wants it
    both = logged["wanted_styles"] + opposite["wanted_styles"]
    assert both == pytest.approx(logged["readable"])
    assert 0.2 < logged["wanted_styles"] < 0.7


def test_an_unknown_style_is_refused_before_anything_is_sampled(pocket):
    decoder, _, chat = pocket
    with pytest.raises(InputError, match="shouting"):
        evaluation.measure_pocket(decoder, None, chat, REPLIES, 0, [{"shouting": True}])
