"""launch/plan.py compiles the training step for TPU slices that are not here."""

import importlib.metadata
import json
import math

import numpy as np
import pytest

from interact_jax import bench, chips, config, plan
from interact_jax.models.shapes import SHAPES, shape
from interact_jax.schema import InputError
from tests.runs import ROOT, program

libtpu = any(found.name == "libtpu" for found in importlib.metadata.distributions())
compiles = pytest.mark.skipif(not libtpu, reason="libtpu is not installed")

CONFIG = ROOT / "configs/offline_wildfeedback.py"
SMALL = {
    "--config.attention": "dense",  # compiles faster; here its size does not matter
    "--config.data.path": "none.jsonl",
    "--config.batch.row_tokens": 256,
    "--config.batch.interactions": 64,
}


def arguments(directory, sizes, **settings):
    """Of the program, for a model of these sizes."""
    (directory / "config.json").write_text(json.dumps(SHAPES["small"] | sizes))
    given = {"--config": CONFIG, "--json": directory / "plan.json", **SMALL, **settings}
    given["--config.model.path"] = directory
    return [f"{name}={value}" for name, value in given.items()]


@pytest.mark.slow  # tests/test_memory.py has the same for a run
@compiles
def test_what_does_not_fit_gets_a_change_with_which_it_does(tmp_path):
    """1.5e9 parameters, whole on every chip of 16 GiB: state and gradients alone take 24 GB."""
    V, D, N = 512, 512, 384
    sizes = {"hidden_size": D, "intermediate_size": 4 * D, "vocab_size": V, "num_hidden_layers": N}
    done = program("plan", [*arguments(tmp_path, sizes), "--topology=v5e:2x2"])
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text())
    assert not found["fits"] and found["memory"]["needed"] > found["memory"]["usable"]
    assert found["change"] == {"mesh.data": 1, "mesh.fsdp": 4, "mesh.tensor": 1}
    assert ": DOES NOT FIT" in done.stdout
    assert f"It fits with {plan.format_change(found['change'])}\n" in done.stdout

    found = found["changed"]
    assert found["fits"] and found["mesh"]["fsdp"] == 4 and found["versions"]["libtpu"]
    memory, programs = found["memory"], found["programs"]
    whole = 3 * 4 * found["parameters"]  # and two moments, in float32
    assert memory["state"] == pytest.approx(whole / 4, rel=0.01)
    assert memory["sums"] == pytest.approx(whole / 3 / 4, rel=0.01)
    assert 0 < programs["differentiate"]["peak"] < memory["needed"] < memory["usable"] < 16 * 2**30
    assert programs["update"]["aliased"] >= memory["state"] * 0.99  # donated, so never there twice
    # Every layer's weights go round twice at least, in bfloat16: forward and backward.
    gathered = programs["differentiate"]["collectives"]["all-gather"]["bytes"]
    sent = sum(t["bytes"] for t in programs["differentiate"]["collectives"].values())
    assert 0 < gathered <= sent and 2 * 2 * found["parameters"] * 3 / 4 < sent
    # 8 a token and parameter with recomputation, 2 for the teacher; attention is small.
    rows, inner = found["rows"], found["parameters"] - 2 * V * D
    tokens = rows["height"] * (4 * (rows["trunk"] + rows["live"]) + rows["frozen"])
    assert found["flops"] == pytest.approx(2 * tokens * inner, rel=0.1)
    seconds = found["seconds"]
    assert seconds["micro_batch"] == max(seconds[k] for k in ("compute", "memory", "collectives"))
    assert seconds["step"] > found["micro_batches"] * seconds["micro_batch"]


@pytest.mark.slow
@compiles
def test_a_single_chip_is_a_slice(tmp_path):
    sizes = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 512}
    done = program("plan", [*arguments(tmp_path, sizes), "--topology=v5e:1x1", "--no-search"])
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["mesh"]["data"] == found["mesh"]["fsdp"] == 1 and found["memory"]["needed"] > 0


def plan_on(topology, chip, **more):
    """A plan as it is after compiling, of a small program on one device."""
    cfg = config.load("quickstart")
    sizes = shape("small")
    dialogue = bench.Dialogue(1, 16, 24, 8, recipe="hindsight")
    trees = dialogue.trees("tree", np.random.default_rng(0), sizes.vocab_size)
    program = plan.Program(5_000_000, 4_000_000, 0, 30_000, 9_000_000, 2_000)
    given = {
        **{"topology": topology, "chip": chip, "work": plan.Work("M", sizes, trees, "D")},
        **{"cfg": cfg, "mesh": {"data": 1}, "attention": "dense", "seconds": 1.0},
        **{"batch": bench.one_row(trees, 1, frozenset()), "parameters": 1_000_000},
        **{"state": 12_000_000, "sums": 4_000_000, "limit": chip.memory * chip.usable},
        **{"needed": 21_000_000, "differentiate": program, "update": program, "flops": int(3e9)},
    }
    return plan.Plan(**{**given, **more})


def test_small_sizes_and_times_are_told_in_small_units():
    said = "\n".join(plan.lines(plan_on("v5e:1x1", chips.CHIPS["tpu v5 lite"])))
    assert "M, 1.0M parameters in" in said
    assert "16.9 GB of 17.2 GB are usable" in said
    assert "temporaries 30 kB, code 2 kB" in said and "in all 21 MB, 0.1% of" in said
    assert "a micro-batch: 3 GFLOP on all devices" in said
    assert "(the longest of compute 183 µs, memory 11.1 µs, collectives 0 s)" in said
    assert "0.00" not in said and "GiB" not in said


def test_large_sizes_and_times_are_told_in_large_units():
    chip = chips.CHIPS["tpu v5 lite"]
    large = plan_on("v5e:1x1", chip, parameters=8_190_735_360, flops=int(8.191e15))
    said = "\n".join(plan.lines(large))
    assert "8.19B parameters" in said and "8,191 TFLOP" in said and "compute 499 s" in said


def test_of_this_machine_it_says_what_is_left():
    here = chips.Chip("a box", math.nan, 21e9, math.nan, math.nan, math.nan)
    said = "\n".join(plan.lines(plan_on(plan.HERE, here)))
    assert (
        "memory of a device: 21.0 GB are left here; a run's process and the compiler come" in said
    )


def test_a_slice_without_a_shape_is_told_of_those_that_there_are():
    with pytest.raises(InputError) as refused:
        plan.mesh_on(config.load("quickstart"), "v5e")
    assert "such as v5e:4x4. There is, for instance, v4:2x2x1, " in str(refused.value)
    assert str(refused.value).endswith(", and larger ones.")


@compiles
@pytest.mark.parametrize("name", ["v5e:3x3"])
def test_a_slice_that_does_not_exist_is_refused(name, tmp_path):
    """Before the model is looked for, which is not there."""
    given = [*arguments(tmp_path, {}), f"--config.model.path={tmp_path}/none"]
    check_refused([*given, f"--topology={name}"], name, "v5e:1x1, 2x2")


def test_without_libtpu_it_says_what_to_install(tmp_path):
    """A machine without it is one where the import of its module fails."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata, sys\n"
        "sys.modules['libtpu'] = None\n"
        "real = importlib.metadata.version\n"
        "def version(name):\n"
        "    if name == 'libtpu':\n"
        "        raise importlib.metadata.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "importlib.metadata.version = version\n"
    )
    check_refused(
        [*arguments(tmp_path, {}), "--topology=v5e:2x2"],
        "pip install libtpu",
        PYTHONPATH=f"{tmp_path}:{ROOT}",
    )


def check_refused(given, *expected, **environment):
    """Status 2 and one message, no traceback, that holds what is expected."""
    done = program("plan", given, **environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    for text in expected:
        assert text in done.stderr
