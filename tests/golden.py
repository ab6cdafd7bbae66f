"""What `shared/oracle` has: scores, and one step of plain SGD, on six real conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch import score
from tests.compiling import flags_of_one_device
from tests.runs import FLOAT32, PLAIN_SGD, read_lines, tensors, train_arguments, train_several

GOLDEN_STEP = {
    **FLOAT32,
    "data.history": "conversation",
    "hindsight": "offline",
    "batch.interactions": 0,
    "batch.conversations": 6,
    "steps": 1,
    "epochs": 0,
    **PLAIN_SGD,
    "optim.lr": 0.05,
    "objective.name": "sdpo",
    "objective.ignore_first": 2,
}
SHORT = {"batch.row_tokens": 640, "report.interactions": 0}


def golden_step(oracle: Path, workdir: Path, **settings: Any) -> list[str]:
    """Arguments of the run that makes the golden step."""
    data = {"model.path": oracle / "model", "data.path": oracle / "conversations.jsonl"}
    return train_arguments(workdir, {**data, **GOLDEN_STEP, **settings})


def check_scores(file, oracle, atol, **columns):
    """Every interaction is there, with its ids, and the columns equal those of the golden file."""
    found = {line["id"]: line for line in read_lines(file)}
    golden = {line["id"]: line for line in read_lines(oracle / "golden.jsonl")}
    assert found.keys() == golden.keys() and len(golden) == 21
    for name, expected in golden.items():
        assert found[name]["completion_ids"] == expected["completion_ids"]
        for ours, theirs in columns.items():
            np.testing.assert_allclose(found[name][ours], expected[theirs], rtol=0, atol=atol)


def score_arguments(oracle, model, out, *more):
    data = str(oracle / "conversations.jsonl")
    # Rows no longer than the longest tree: 8 virtual devices compute 8 rows, empty ones too.
    rows = ["--row-tokens", "512"]
    return ["--model", str(model), "--data", data, "--out", str(out), *rows, *more]


WAYS = {
    "default": {"report.interactions": 0},  # a tree, by a kernel in C++ where there is a compiler
    "native-none": {**SHORT, "attention": "auto", "sharing": "none"},
    "xla-tree": {**SHORT, "attention": "xla", "sharing": "tree"},
    "xla-none": {**SHORT, "attention": "xla", "sharing": "none"},
    "dense-tree": {**SHORT, "attention": "dense", "sharing": "tree"},
    "pallas-tree": {**SHORT, "attention": "pallas", "sharing": "tree"},
    "pallas-none": {**SHORT, "attention": "pallas", "sharing": "none"},
}


def take_golden_steps(oracle, ways, tmp_path_factory):
    """The golden step on one device in each of these ways: the directory of each run."""
    workdirs = {way: tmp_path_factory.mktemp(way) for way in ways}
    runs = [golden_step(oracle, workdirs[way], **WAYS[way]) for way in ways]
    ended = train_several(runs, XLA_FLAGS=flags_of_one_device())
    assert ended.returncode == 0, ended.stderr
    return workdirs


def check_step(workdir, oracle):
    """Loss and gradient norm of the golden step."""
    golden = json.loads((oracle / "summary.json").read_text())
    (line,) = read_lines(workdir / "metrics.jsonl")
    assert line["loss"] == pytest.approx(golden["loss_mean"], rel=1e-4)
    assert line["grad_norm"] == pytest.approx(golden["grad_norm"], rel=1e-4)
    assert line["interactions"] == golden["interactions"]


def check_gradients(workdir, oracle):
    """The gradient norm of every parameter, from what plain SGD made of it."""
    golden = json.loads((oracle / "summary.json").read_text())
    before, after = tensors(oracle / "model"), tensors(workdir / "export")
    for name, norm in golden["grad_norms"].items():
        moved = before[name].astype(np.float64) - after[name]
        found = np.linalg.norm(moved) / golden["sgd_lr"]
        assert found == pytest.approx(norm, rel=1e-4), name


def check_step_taken(workdir, oracle, out_dir, *flags):
    """The exported model gives replies the golden scores after the step."""
    out = out_dir / "after.jsonl"
    score.main(score_arguments(oracle, workdir / "export", out, *flags))
    check_scores(out, oracle, 2e-4, logp_student="logp_student_after_sgd")
