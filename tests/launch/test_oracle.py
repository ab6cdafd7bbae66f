"""The golden numbers: what Hugging Face PyTorch computes for two models, on real conversations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from launch import score, train
from tests.compiling import flags_of_one_device
from tests.golden import SHORT, golden_step
from tests.runs import outcome, read_lines, train_several


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


WAYS = {
    "default": {},  # a tree, by a kernel in C++ where there is a compiler
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


QUICK = {
    "qwen3": ["default", "xla-tree", "dense-tree"],
    "llama": ["default", "xla-none"],
}
"""Both ways of sharing, and every attention but that for TPUs, which is emulated: the slow test
takes all, and golden scores are computed with each."""


@pytest.fixture(scope="module")
def one_device(oracle, tmp_path_factory):
    return take_golden_steps(oracle, QUICK[oracle.name], tmp_path_factory)


def check_step(workdir, oracle):
    """Loss and gradient norm of the golden step."""
    golden = json.loads((oracle / "summary.json").read_text())
    (line,) = read_lines(workdir / "metrics.jsonl")
    assert line["loss"] == pytest.approx(golden["loss_mean"], rel=1e-4)
    assert line["grad_norm"] == pytest.approx(golden["grad_norm"], rel=1e-4)
    assert line["interactions"] == golden["interactions"]


def tensors(directory):
    """All tensors of a model in safetensors files."""
    files = [load_file(file) for file in directory.glob("*.safetensors")]
    return {name: x for file in files for name, x in file.items()}


def check_gradients(workdir, oracle):
    """The gradient norm of every parameter, from what plain SGD made of it."""
    golden = json.loads((oracle / "summary.json").read_text())
    before, after = tensors(oracle / "model"), tensors(workdir / "export")
    for name, norm in golden["grad_norms"].items():
        moved = before[name].astype(np.float64) - after[name]
        found = np.linalg.norm(moved) / golden["sgd_lr"]
        assert found == pytest.approx(norm, rel=1e-4), name


def test_golden_gradient_with_every_attention(oracle, one_device):
    for workdir in one_device.values():
        check_step(workdir, oracle)
        check_gradients(workdir, oracle)


@pytest.mark.slow
def test_golden_gradient_in_every_way(oracle, tmp_path_factory):
    for workdir in take_golden_steps(oracle, WAYS, tmp_path_factory).values():
        check_step(workdir, oracle)
        check_gradients(workdir, oracle)


def test_golden_step(oracle, one_device, tmp_path):
    check_step_taken(one_device["default"], oracle, tmp_path)


def test_golden_step_on_a_mesh(oracle, tmp_path, capsys):
    mesh = {"mesh.fsdp": 4, "mesh.tensor": 2, "batch.rows": 1}
    arguments = golden_step(oracle, tmp_path, **mesh)
    assert outcome(train.main, arguments, capsys)[0] == 0
    check_step(tmp_path, oracle)
    check_gradients(tmp_path, oracle)
    check_step_taken(tmp_path, oracle, tmp_path, "--mesh-fsdp", "4", "--mesh-tensor", "2")


def check_step_taken(workdir, oracle, out_dir, *flags):
    """The exported model gives replies the golden scores after the step."""
    out = out_dir / "after.jsonl"
    score.main(score_arguments(oracle, workdir / "export", out, *flags))
    check_scores(out, oracle, 2e-4, logp_student="logp_student_after_sgd")
