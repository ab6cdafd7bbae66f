"""The golden step in several ways.

Compiled quickly: to the tolerances here, optimisation changes nothing. In test_oracle.py it is made
by optimised programs, in every way where slow tests run.
"""

from __future__ import annotations

import pytest

from launch import train
from tests.golden import (
    check_gradients,
    check_step,
    check_step_taken,
    golden_step,
    take_golden_steps,
)
from tests.runs import outcome

pytestmark = pytest.mark.compiled_quickly

QUICK = {
    "qwen3": ["xla-none"],
    "llama": ["xla-tree", "dense-tree"],
}
"""The default, a tree, is made in test_oracle.py; with llama there are all attentions but that for
TPUs, which is emulated: golden scores are computed with each."""


@pytest.fixture(params=["qwen3", pytest.param("llama", marks=pytest.mark.slow)])
def oracle(request, shared):
    return shared / "oracle" / request.param


@pytest.mark.slow
def test_golden_gradients_by_attention_and_sharing(oracle, tmp_path_factory):
    for workdir in take_golden_steps(oracle, QUICK[oracle.name], tmp_path_factory).values():
        check_step(workdir, oracle)
        check_gradients(workdir, oracle)


def test_golden_step_on_a_mesh(oracle, tmp_path, capsys):
    mesh = {"mesh.fsdp": 4, "mesh.tensor": 2, "batch.rows": 1}
    arguments = golden_step(oracle, tmp_path, **mesh)
    assert outcome(train.main, arguments, capsys)[0] == 0
    check_step(tmp_path, oracle)
    check_gradients(tmp_path, oracle)
    check_step_taken(tmp_path, oracle, tmp_path, "--mesh-fsdp", "4", "--mesh-tensor", "2")
