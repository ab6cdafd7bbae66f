"""The golden numbers: what Hugging Face PyTorch computes for two models, on real conversations.

By programs that are optimised as those of users; more ways to make the golden step are in
test_golden_steps.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from launch import score
from tests.golden import (
    WAYS,
    check_gradients,
    check_scores,
    check_step,
    check_step_taken,
    score_arguments,
    take_golden_steps,
)
from tests.runs import read_lines


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def oracle(request, shared):
    return shared / "oracle" / request.param


FLAGS = [
    ("--sharing", "tree", "--reply-tokens", "in_place"),
    ("--sharing", "none", "--reply-tokens", "alone"),
    ("--attention", "pallas", "--reply-tokens", "alone"),
    ("--mesh-fsdp", "4", "--mesh-tensor", "2"),
]
with_llama_slow = pytest.mark.parametrize(
    "oracle", [pytest.param("llama", marks=pytest.mark.slow), "qwen3"], indirect=True
)


@pytest.mark.parametrize(
    "oracle, flags",
    [
        pytest.param(model, flags, marks=() if quick else pytest.mark.slow)
        for model in ("llama", "qwen3")
        for flags in FLAGS
        for quick in [model == "qwen3" or flags[1] == "tree"]
    ],
    indirect=["oracle"],
    ids=lambda given: given if isinstance(given, str) else "-".join(given[1::2]),
)
def test_golden_scores(oracle, flags, tmp_path):
    out = tmp_path / "scores.jsonl"
    score.main(score_arguments(oracle, oracle / "model", out, *flags))
    both = {"logp_student": "logp_student", "logp_teacher": "logp_teacher"}
    check_scores(out, oracle, 1e-4, **both)


@with_llama_slow
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


def test_golden_step(shared, tmp_path, tmp_path_factory):
    oracle = shared / "oracle/qwen3"
    workdir = take_golden_steps(oracle, ["default"], tmp_path_factory)["default"]
    check_step(workdir, oracle)
    check_gradients(workdir, oracle)
    check_step_taken(workdir, oracle, tmp_path)


@pytest.mark.slow
def test_golden_steps_in_every_way(oracle, tmp_path, tmp_path_factory):
    workdirs = take_golden_steps(oracle, WAYS, tmp_path_factory)
    for workdir in workdirs.values():
        check_step(workdir, oracle)
        check_gradients(workdir, oracle)
    check_step_taken(workdirs["default"], oracle, tmp_path)
