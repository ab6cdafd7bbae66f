"""Runs on prepared data: what they learn, and where they go on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from interact_jax import config
from interact_jax.feeds import settings_without_effect
from interact_jax.prepare.job import Settings
from interact_jax.prepare.pipeline import prepare
from launch import train
from tests.logs import chat
from tests.runs import (
    check_same,
    outcome,
    read_lines,
    records,
    small_settings,
    tensors,
    train_and_end,
    train_arguments,
    write_lines,
)

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def settings(folder):
    """Settings of a run of 6 steps, 2 epochs, on files."""
    every = {"checkpoint.every": 2, "checkpoint.keep": 3}
    batch = {"batch.interactions": 4, "epochs": 2, "evaluation.holdout": 0}
    return {**small_settings(folder), **batch, **every}


@pytest.fixture(scope="module")
def prepared(folder, settings):
    """The same on prepared data."""
    whole = Settings(str(settings["data.path"]), splits=(("train", 1.0),))
    prepare(whole, (), folder / "data")
    return {**settings, "data.path": folder / "data", "data.cache": folder / "cache"}


@pytest.fixture(scope="module")
def learned(folder, prepared):
    """What the run on prepared data has learned."""
    train.main(train_arguments(folder / "whole", prepared))
    return tensors(folder / "whole" / "export")


def test_it_learns_what_a_run_on_the_files_does(folder, settings, learned):
    train.main(train_arguments(folder / "files", settings))
    check_same(learned, tensors(folder / "files" / "export"), rtol=1e-4, atol=1e-6)
    logs = [read_lines(folder / name / "metrics.jsonl") for name in ("whole", "files")]
    for name in ("step", "interactions", "reply_tokens"):
        assert [line[name] for line in logs[0]] == [line[name] for line in logs[1]]


def test_data_without_a_conversation_are_refused(prepared, tmp_path, capfd):
    logs = tmp_path / "logs.jsonl"
    logs.write_text(json.dumps(chat("a", "b", "c")) + "\n")
    nothing = Settings(str(logs), splits=(("train", 0.0), ("test", 1.0)))
    prepare(nothing, (), tmp_path / "data")
    given = {**prepared, "data.path": tmp_path / "data"}
    status, said = outcome(train.main, train_arguments(tmp_path / "run", given), capfd)
    assert status == 2 and "the split 'train' has no conversation" in " ".join(said.split())


def test_settings_of_files_without_effect_are_told(prepared):
    cfg = config.load("quickstart", [f"--config.data.path={prepared['data.path']}"])
    assert settings_without_effect(cfg) == []
    cfg.data.copies, cfg.data.mapping, cfg.data.max_reply = "drop", "columns.toml", 7
    assert settings_without_effect(cfg) == ["data.mapping=columns.toml", "data.copies=drop"]


@pytest.mark.parametrize("cached", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_run_that_was_killed_goes_on(folder, prepared, learned, cached, tmp_path):
    given = {**prepared} if cached else {**prepared, "data.cache": tmp_path / "cache"}
    train_and_end(train_arguments(tmp_path / "run", given), 4)
    if not cached:  # continued elsewhere, where nothing is in the cache
        given["data.cache"] = tmp_path / "another"
    train.main(train_arguments(tmp_path / "run", given))
    check_same(tensors(tmp_path / "run" / "export"), learned)
    shown = [(tmp_path / "run" / "metrics.jsonl"), (folder / "whole" / "metrics.jsonl")]
    last = [read_lines(file)[-1] for file in shown]
    for name in ("step", "interactions", "loss"):
        assert last[0][name] == last[1][name]


@pytest.mark.slow
def test_workers_change_nothing(prepared, learned, tmp_path):
    given = {**prepared, "data.cache": tmp_path / "cache", "data.workers": 2}
    train.main(train_arguments(tmp_path / "run", given))
    check_same(tensors(tmp_path / "run" / "export"), learned)


def test_other_data_are_refused(folder, settings, prepared, tmp_path, capsys):
    train_and_end(train_arguments(tmp_path / "run", prepared), 4)
    rows = records()
    rows[2]["messages"][0]["content"] = "Something else"
    file = write_lines(tmp_path / "talks.jsonl", rows)
    prepare(Settings(str(file), splits=(("train", 1.0),)), (), tmp_path / "other")
    others = {**prepared, "data.path": tmp_path / "other"}
    status, text = outcome(train.main, train_arguments(tmp_path / "run", others), capsys)
    assert status and "other conversations" in text


def test_what_prepared_data_cannot_do_is_said(prepared, tmp_path, capsys):
    given = {**prepared, "objective.name": "dpo"}
    status, text = outcome(train.main, train_arguments(tmp_path / "run", given), capsys)
    assert status and "initial model" in text and "data.path" in text


def test_unfinished_data_are_refused(folder, prepared, tmp_path, capsys):
    for name in os.listdir(folder / "data"):
        if name != "card.json":
            os.symlink(folder / "data" / name, tmp_path / name)
    given = {**prepared, "data.path": tmp_path}
    status, text = outcome(train.main, train_arguments(tmp_path / "run", given), capsys)
    assert status and "was not prepared to the end" in text


# --------------------------------------------------------------------------------------- mixtures


@pytest.fixture(scope="module")
def mixture(folder, prepared):
    """Settings of a run on two data sets, one of which it goes through several times."""
    rows = [row | {"id": f"t{n}"} for n, row in enumerate(records()[:3])]
    rows[0]["messages"][0]["content"] = "Something else"
    file = write_lines(folder / "others.jsonl", rows)
    prepare(Settings(str(file), splits=(("train", 1.0),)), (), folder / "others")
    weights = {"data.mixture": f"{folder / 'data'}=1,{folder / 'others'}=2", "data.path": ""}
    return {**prepared, **weights, "epochs": 0, "steps": 6}


def test_a_run_on_a_mixture_goes_on_where_it_was(folder, mixture, tmp_path, capsys):
    train.main(train_arguments(tmp_path / "whole", mixture))
    workers = {**mixture, "data.cache": tmp_path / "cache", "data.workers": 1}
    train_and_end(train_arguments(tmp_path / "run", workers), 4)
    (file,) = (tmp_path / "run" / "checkpoints" / "2").glob("data/metadata")
    position = json.loads(file.read_text())["position"]
    drawn = {Path(each["path"]).name: each["drawn"] for each in position["mixture"]}
    assert position["drawn"] == sum(drawn.values())
    assert abs(drawn["others"] - position["drawn"] * 2 / 3) < 1
    capsys.readouterr()
    train.main(train_arguments(tmp_path / "run", workers))
    assert f"{folder / 'others'}: {drawn['others']} conversation" in capsys.readouterr().err
    check_same(tensors(tmp_path / "run" / "export"), tensors(tmp_path / "whole" / "export"))
    card = (tmp_path / "run" / "export" / "README.md").read_text()
    assert "data (1), others (2)" in card and str(folder) not in card


def test_what_a_mixture_needs_is_said(mixture, tmp_path, capsys):
    for change, said in (
        ({"steps": 0, "epochs": 2}, "Set steps instead"),
        ({"data.path": "pocket"}, "a run learns from one of them"),
        ({"data.mixture": f"{tmp_path}=1"}, "no prepared data there"),
        ({"data.mixture": "data/own"}, "has no weight"),
    ):
        status, text = outcome(
            train.main, train_arguments(tmp_path / "run", {**mixture, **change}), capsys
        )
        assert status and said in text and "data.mixture" in text
