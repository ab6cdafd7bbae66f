"""The golden numbers: what Hugging Face PyTorch computes for two models, on real conversations."""

from __future__ import annotations

import json

import numpy as np
import pytest

from launch import score, train
from tests.runs import FLOAT32, PLAIN_SGD, outcome, program, read_lines, train_arguments

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


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def oracle(request, shared):
    return shared / "oracle" / request.param


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


@pytest.mark.parametrize(
    "flags",
    [
        ("--sharing", "tree", "--reply-tokens", "in_place"),
        ("--sharing", "none", "--reply-tokens", "alone"),
        ("--attention", "pallas", "--reply-tokens", "alone"),
        ("--mesh-fsdp", "4", "--mesh-tensor", "2"),
    ],
    ids=lambda flags: "-".join(flags[1::2]),
)
def test_golden_scores(oracle, flags, tmp_path):
    out = tmp_path / "scores.jsonl"
    score.main(score_arguments(oracle, oracle / "model", out, *flags))
    both = {"logp_student": "logp_student", "logp_teacher": "logp_teacher"}
    check_scores(out, oracle, 1e-4, **both)


def test_golden_scores_in_bfloat16(oracle, tmp_path):
    """Within 2^-4 of float32 on average over tokens, and 2^-1 each: two digits of a number near 10
    are what bfloat16 has. The signal, a difference, is no noisier."""
    out = tmp_path / "scores.jsonl"
    score.main(score_arguments(oracle, oracle / "model", out, "--dtype", "bfloat16"))
    golden = {line["id"]: line for line in read_lines(oracle / "golden.jsonl")}
    for name in ("logp_student", "logp_teacher"):
        found = [(line[name], golden[line["id"]][name]) for line in read_lines(out)]
        off = np.abs(np.concatenate([np.subtract(*pair) for pair in found]))
        assert off.mean() < 2**-4 and off.max() < 2**-1


@pytest.mark.parametrize("sharing", ["tree", "none"])
@pytest.mark.parametrize("attention", ["xla", "dense", "pallas"])
def test_golden_gradient_with_every_attention(oracle, attention, sharing, tmp_path):
    """Loss and gradient norm of the golden step."""
    settings = {
        "model.path": oracle / "model",
        "data.path": oracle / "conversations.jsonl",
        **GOLDEN_STEP,
        "attention": attention,
        "sharing": sharing,
        "batch.row_tokens": 640,
        "report.interactions": 0,
    }
    ended = program("train", train_arguments(tmp_path, settings), XLA_FLAGS="")
    assert ended.returncode == 0, ended.stderr
    golden = json.loads((oracle / "summary.json").read_text())
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert line["loss"] == pytest.approx(golden["loss_mean"], rel=1e-4)
    assert line["grad_norm"] == pytest.approx(golden["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    "mesh, flags",
    [
        ({}, ()),
        (
            {"mesh.fsdp": 4, "mesh.tensor": 2, "batch.rows": 1},
            ("--mesh-fsdp", "4", "--mesh-tensor", "2"),
        ),
    ],
    ids=["one-device", "fsdp4-tensor2"],
)
def test_golden_step(oracle, mesh, flags, tmp_path, capsys):
    settings = {
        "model.path": oracle / "model",
        "data.path": oracle / "conversations.jsonl",
        **GOLDEN_STEP,
        **mesh,
    }
    if mesh:
        assert outcome(train.main, train_arguments(tmp_path, settings), capsys)[0] == 0
    else:
        ended = program("train", train_arguments(tmp_path, settings), XLA_FLAGS="")
        assert ended.returncode == 0, ended.stderr
    golden = json.loads((oracle / "summary.json").read_text())
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert line["loss"] == pytest.approx(golden["loss_mean"], rel=1e-4)
    assert line["grad_norm"] == pytest.approx(golden["grad_norm"], rel=1e-4)
    assert line["interactions"] == golden["interactions"]

    out = tmp_path / "after.jsonl"
    score.main(score_arguments(oracle, tmp_path / "export", out, *flags))
    check_scores(out, oracle, 2e-4, logp_student="logp_student_after_sgd")
