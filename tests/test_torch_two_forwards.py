"""benchmarks/torch_two_forwards.py on a small model; how long a step takes is not looked at."""

import functools
import io

import jax
import pytest

from benchmarks import torch_two_forwards
from interact_jax import sharding
from interact_jax.models.shapes import SHAPES

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

TINY = {"hidden_size": 32, "head_dim": 8, "intermediate_size": 64, "num_hidden_layers": 2}
ARGUMENTS = ["--user-tokens", "8", "--reply-tokens", "6", "--followup-tokens", "4", "--turns", "2"]


@pytest.mark.parametrize(
    "way", ["torch", *(pytest.param(way, marks=pytest.mark.slow) for way in ("none", "tree"))]
)
def test_a_worker_makes_a_step_for_each_line(way, monkeypatch, capsys):
    monkeypatch.setitem(SHAPES, "small", SHAPES["small"] | TINY)
    alone = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", alone)
    monkeypatch.setattr("sys.argv", ["torch_two_forwards.py", "--worker", way, *ARGUMENTS])
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # this process is not to keep its memory from here on
    torch_two_forwards.main()
    assert len([float(line) for line in capsys.readouterr().out.split()]) == 2
