"""The golden numbers of further objectives and teachers: three steps each, by PyTorch.

Compiled quickly: to the tolerances here, optimisation changes nothing.
"""

from __future__ import annotations

import json

import pytest

from tests.compiling import flags_of_one_device
from tests.golden import SHORT, golden_step
from tests.runs import read_lines, train_several

pytestmark = pytest.mark.compiled_quickly

LINES = (
    "sdpo",
    "sdpo, teacher ema 0.05",
    "sdpo, teacher frozen",
    "sdpo, teacher trust_region mix 0.5",
    "sdpo, kl_initial 0.1 (full vocabulary)",
    "reverse_kl",
    "forward_kl",
    "jsd alpha 0.5",
    "jsd alpha 0.1",
    "top_k k 20",
    "top_k k 20, teacher ema 0.05",
    "sft",
    "sft_revised",
    "dpo beta 0.1",
)
FEW = (
    "top_k k 20, teacher ema 0.05",
    "dpo beta 0.1",
)
"""Distilled, with a teacher that moves, and from pairs; the slow tests run all. Golden steps of
`sdpo` are in test_oracle.py, other divergences in closed form in test_divergences.py."""
OF_TEACHER = {"ema": "rate", "trust_region": "mix"}  # the setting that its number is
MORE_WAYS = {
    "tree": {"sharing": "tree"},
    "none": {"sharing": "none"},
    "mesh": {"mesh.fsdp": 4, "mesh.tensor": 2, "batch.rows": 1},
}


def settings_of(line, ignore_first):
    """ "top_k k 20, teacher ema 0.05" -> the settings that it names."""
    (name, *values), *more = (part.split() for part in line.split(", "))
    found = {"objective.name": name}
    found["objective.ignore_first"] = ignore_first.get(name, ignore_first["others"])
    found |= {f"objective.{k}": v for k, v in zip(values[::2], values[1::2], strict=True)}
    for kind, value, *rest in more:
        if kind == "kl_initial":
            found["objective.kl_initial"] = value
        else:
            assert kind == "teacher"
            found["teacher.name"] = value
            if rest:
                found[f"teacher.{OF_TEACHER[value]}"] = rest[-1]
    return found


def exhaustive(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(
    scope="module",
    params=[
        ("qwen3", "tree", FEW),
        exhaustive(("qwen3", "tree", LINES)),
        exhaustive(("qwen3", "none", LINES)),
        exhaustive(("qwen3", "mesh", LINES)),
        exhaustive(("llama", "tree", LINES)),
        exhaustive(("llama", "none", LINES)),
        exhaustive(("llama", "mesh", LINES)),
    ],
    ids=lambda given: f"{given[0]}-{given[1]}-{len(given[2])}",
)
def three_steps(request, shared, tmp_path_factory):
    """Runs of three steps, each for a line of objectives.json: (golden results, directories)."""
    model, way, lines = request.param
    oracle = shared / "oracle" / model
    golden = json.loads((oracle / "objectives.json").read_text())
    assert set(golden["results"]) == set(LINES)
    workdirs = {line: tmp_path_factory.mktemp("line") for line in lines}
    runs = [
        golden_step(
            oracle,
            workdir,
            **{"steps": 3, "evaluation.name": "none", **SHORT},
            **MORE_WAYS[way],
            **settings_of(line, golden["ignore_first"]),
        )
        for line, workdir in workdirs.items()
    ]
    flags = {} if way == "mesh" else {"XLA_FLAGS": flags_of_one_device()}
    ended = train_several(runs, **flags)
    assert ended.returncode == 0, ended.stderr
    return golden["results"], workdirs


def test_golden_steps_of_every_objective(three_steps):
    """Loss and gradient norm before each of three steps; rounding grows from step to step."""
    golden, workdirs = three_steps
    for line, workdir in workdirs.items():
        found, expected = read_lines(workdir / "metrics.jsonl"), golden[line]["steps"]
        for step, there, rel in zip(found, expected, (1e-4, 1e-4, 1e-3), strict=True):
            assert step["loss"] == pytest.approx(there["loss"], rel=rel), line
            assert step["grad_norm"] == pytest.approx(there["grad_norm"], rel=rel), line
            assert step["interactions"] == golden[line]["interactions"] == 21
