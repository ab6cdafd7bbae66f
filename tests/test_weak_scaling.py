"""benchmarks/weak_scaling.py: its arithmetic on invented meshes, and what the docs quote."""

import json

import pytest

from benchmarks import weak_scaling
from interact_jax import chips
from interact_jax.schema import InputError
from tests.runs import ROOT

CHIP = chips.CHIPS["tpu v5p"]
PARAMETERS = 8e9


def line(slices, fsdp, chip=CHIP.name, **more):
    """A mesh of a model whose weights are gathered twice in two bytes and whose gradients are
    scattered once in four, all in 100 collectives, and then go between slices in one."""
    gathered = 2 * 2 * PARAMETERS * (fsdp - 1) / fsdp
    scattered = 4 * PARAMETERS * (fsdp - 1) / fsdp
    differentiate = {
        "fsdp": {
            "all-gather": {"count": 80, "bytes": gathered},
            "reduce-scatter": {"count": 20, "bytes": scattered},
        }
    }
    if slices > 1:
        between = 2 * 4 * PARAMETERS / fsdp * (slices - 1) / slices
        differentiate["slice"] = {"all-reduce": {"count": 1, "bytes": between}}
    mesh = {"slice": slices, "data": 1, "fsdp": fsdp, "tensor": 1, "sequence": 1, **more}
    return {
        **{"model": weak_scaling.MODEL, "parameters": PARAMETERS, "chip": chip, "mesh": mesh},
        **{"topology": "v5p:2x2x2", "devices": slices * fsdp, "micro_batches": 1},
        "rows": {"replies": 0},
        "programs": {"differentiate": {"by_axes": differentiate}, "update": {"by_axes": {}}},
        "seconds": {"compute": 2.0, "memory": 0.5, "update": 0.08 / fsdp},
    }


LINES = [line(1, 8), line(1, 16), line(2, 4), line(2, 8), line(1, 8, tensor=2)]
LAYOUT = weak_scaling.Layout("v5p, slices of 64", "tpu v5p", 3, 64)


def test_what_grows_as_a_ring_does_has_one_law():
    laws = weak_scaling.laws(weak_scaling.of_chip(LINES, CHIP.name))
    assert laws["fsdp"] == pytest.approx((8 * PARAMETERS, 100, 0, 4, 0))
    assert laws["slice"] == pytest.approx((8 * PARAMETERS, 1, 0, 3, 0))
    assert "no mesh farther" in str(laws["slice"])
    other = line(1, 32)
    other["programs"]["differentiate"]["by_axes"]["fsdp"]["all-gather"]["bytes"] *= 2
    assert weak_scaling.laws([*LINES[:4], other])["fsdp"].spread > 0.3


def test_hidden_states_go_to_every_other_device():
    """100 of the replies of a row, 5,120 numbers of two bytes each, four times."""
    lines = [line(1, n) for n in (8, 16)]
    for one in lines:
        one["rows"] = {"replies": 100}
        gathers = one["programs"]["differentiate"]["by_axes"]["fsdp"]["all-gather"]
        gathers["bytes"] += 4 * 2 * 100 * 5120 * (one["mesh"]["fsdp"] - 1)
    found = weak_scaling.laws(lines)["fsdp"]
    assert found == pytest.approx((8 * PARAMETERS, 100, 0, 2, 4 * 2 * 100 * 5120))
    assert found.sent(64) == pytest.approx(8 * PARAMETERS * 63 / 64 + 63 * 4_096_000)
    alone = weak_scaling.laws(lines[:1])
    assert "one mesh: not checked" in str(alone["fsdp"]) and "derived" in str(alone["slice"])


def test_a_step_on_many_chips():
    """256 chips are four slices of 4 x 4 x 4, six hops across."""
    times = weak_scaling.predict(LAYOUT, 256, LINES)
    assert times.mesh == {"slice": 4, "fsdp": 64}
    assert times.compute == 2 and times.update == pytest.approx(0.08 / 64)
    sent = 8 * PARAMETERS * 63 / 64
    assert times.interconnect == pytest.approx(sent / CHIP.link + 100 * 6e-6)
    assert times.network == pytest.approx(8 * PARAMETERS / 64 * 3 / 4 / CHIP.network)
    parts = times.compute, times.interconnect, times.network, times.update
    assert times.in_turn == pytest.approx(sum(parts))
    assert times.hidden == pytest.approx(2 + times.update)
    assert times.efficiency(times.hidden) == 1 > times.efficiency(times.in_turn)


def test_what_takes_longest_is_not_hidden():
    slow = weak_scaling.Times({}, 1.0, 0.5, 3.0, 1.0)
    assert slow.hidden == 4 and slow.in_turn == 5.5 and slow.efficiency(slow.hidden) == 0.5


@pytest.mark.parametrize("count, dimensions, hops", [(8, 2, 3), (32, 3, 5), (4096, 3, 24)])
def test_the_farthest_chip(count, dimensions, hops):
    """Of 2 x 4, 2 x 4 x 4 and 16 x 16 x 16."""
    assert weak_scaling.hops(count, dimensions) == hops


def test_permutes_of_a_ring_are_one_collective():
    ring = line(1, 8)
    ring["programs"]["update"]["by_axes"] = {
        "fsdp": {"collective-permute": {"count": 14, "bytes": 8}}
    }
    runs, sent = weak_scaling.traffic(line(1, 8), False)
    assert weak_scaling.traffic(ring, False) == (runs + 2, sent + 8)


def test_a_plan_becomes_a_line(tmp_path):
    figures = {name: 0 for name in ("rows", "memory", "flops", "compile_seconds", "versions")}
    plan = {**figures, **line(1, 8), "chip": {"name": CHIP.name}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    file = tmp_path / "found.jsonl"
    file.write_text(json.dumps(line(2, 4)) + "\n" + json.dumps(line(1, 8, chip="TPU v5e")) + "\n")
    weak_scaling.main([f"--add={tmp_path / 'plan.json'}", f"--file={file}"])
    assert [one["mesh"]["fsdp"] for one in weak_scaling.read(file)] == [4, 8, 8]
    with pytest.raises(InputError, match="one micro-batch"):
        weak_scaling.kept({**plan, "micro_batches": 2})
    with pytest.raises(InputError, match="--add"):
        weak_scaling.of_chip([line(1, 8, tensor=2)], CHIP.name)


def test_the_docs_quote_its_tables(capsys):
    weak_scaling.main([])
    page = (ROOT / "docs/scaling.md").read_text()
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith(("|", "-"))]
    assert len(rows) > 30 and all(f"\n{row}\n" in page for row in rows)
