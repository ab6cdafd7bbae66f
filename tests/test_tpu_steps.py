"""What a training step on TPUs sends and takes, as libtpu compiles it for slices that are not here.

The model's matrices are larger than anything that is made of its rows, so that an array of their
size is one of them, or its gradient. libtpu is loaded in a process of its own.
"""

import json
import math
import os
import subprocess
import sys

import pytest

from interact_jax import hlo
from tests.runs import ROOT

STEPS = """
import dataclasses
import json
import sys

import jax

jax.config.update("jax_platforms", "cpu")
from interact_jax import config, plan
from interact_jax.models.shapes import shape

recipe, *cases = json.loads(sys.argv[1])
for topology, sizes, settings in cases:
    cfg = config.load(recipe, [f"--config.{name}={value}" for name, value in settings.items()])
    work = plan.synthetic_work(cfg, shape("small", **sizes), "small")
    made = plan.make_plan(cfg, work, topology)
    programs = {"differentiate": made.differentiate, "update": made.update}
    figures = plan.to_json(made)
    figures["lines"] = plan.lines(made)
    figures["found"] = {k: [dataclasses.asdict(c) for c in p.found] for k, p in programs.items()}
    print(json.dumps(figures), flush=True)
"""
ATTENTION = """
import json
import sys

import jax

jax.config.update("jax_platforms", "cpu")
from jax.sharding import NamedSharding, PartitionSpec

from interact_jax import hlo, sharding
from interact_jax.models.attention import attend
from interact_jax.models.attention.sight import Span
from interact_jax.plan.compiler import compile_for, devices_of


def both(q, k, v, run, dout):
    out, transpose = jax.vjp(lambda *a: attend(*a, (Span(run, run, run),), "dense"), q, k, v)
    return out, transpose(dout)


tokens, *axes = json.loads(sys.argv[1])
for axis in axes:
    mesh = sharding.make_mesh(**{"data": 1, axis: 4}, devices=devices_of("v5p:2x2x1"))
    layout = NamedSharding(mesh, PartitionSpec(sharding.ROWS, "sequence"))

    def array(*shape, dtype="bfloat16"):
        shape = (mesh.shape["data"], tokens, *shape)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout)

    q, k = array(8, 64), array(2, 64)
    with sharding.on(mesh):
        compiled, text = compile_for(jax.jit(both), q, k, k, array(dtype="int32"), q)
    sent = {kind: t.bytes for kind, t in hlo.collectives(text, mesh.size).items()}
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    flops = compiled.cost_analysis()["flops"]
    print(json.dumps({"flops": flops, "temporaries": temporaries, "sent": sent}))
"""
HEADS, WIDTH, TENSOR = 16, 1024, 2
SIZES = {
    **{"hidden_size": WIDTH, "intermediate_size": 2048, "vocab_size": 4096, "head_dim": 128},
    **{"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "num_hidden_layers": 2},
}
KEYS = [HEADS, 128]  # the last axes of keys and of values
SMALLEST = WIDTH * HEADS * 128 // TENSOR  # elements of a device's share of a matrix, but for fsdp
SETTINGS = {
    "attention": "dense",  # compiles faster; its size does not matter here
    **{"data.path": "none.jsonl", "batch.row_tokens": 256, "batch.interactions": 64},
}
MESHES = {
    "fsdp, tensor": ("v5p:2x2x1", {"fsdp": 2, "tensor": TENSOR}),
    "data, fsdp, sequence": ("v5p:2x2x2", {"data": 2, "fsdp": 2, "sequence": 2}),
    "slices, fsdp, tensor": ("v5p:2x2x1", {"slices": 2, "fsdp": 2, "tensor": TENSOR}),
}


def compiled(program, given, directory):
    """The lines, JSON, that a program prints for what is given."""
    pytest.importorskip("libtpu")
    environment = os.environ | {"TPU_LOG_DIR": str(directory), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(given)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def steps(directory, *cases):
    """The figures of a plan for each (topology, sizes of the model, settings)."""
    return compiled(STEPS, [str(ROOT / "configs/offline_wildfeedback.py"), *cases], directory)


def mesh_settings(**mesh):
    """All axes, those that are not given with one device."""
    whole = {"slices": 1, "data": 1, "fsdp": 1, "tensor": 1, "sequence": 1, **mesh}
    return {f"mesh.{axis}": size for axis, size in whole.items()}


def step_on(name, directory):
    topology, mesh = MESHES[name]
    (found,) = steps(directory, (topology, SIZES, SETTINGS | mesh_settings(**mesh)))
    return found


def collectives(step):
    return [hlo.Collective(**one) for found in step["found"].values() for one in found]


def check_gathers(step):
    """All-gathers as large as a parameter go over fsdp, and every parameter does. What else moves
    is at most a device's own share of the head, which is laid out anew (`scoring`).

    Of the head's gradient, devices of a sequence have shares of the vocabulary: they are put
    together once, which takes half of what a sum over the devices would."""
    gathers = [one for one in collectives(step) if one.kind == "all-gather"]
    large = [one for one in gathers if math.prod(one.shape) >= SMALLEST]
    gradients = [one for one in large if one.dtype == "f32"]  # parameters travel as bfloat16
    large = [one for one in large if one.dtype != "f32"]
    assert {tuple(one.axes) for one in large} == {("fsdp",)}, large
    shared_out = step["mesh"].get("sequence", 1) > 1
    assert [tuple(one.axes) for one in gradients] == [("sequence",)] * shared_out, gradients
    assert all(one.count == 1 for one in gradients)
    mesh = step["mesh"]
    n, shared = mesh["fsdp"], step["parameters"] / mesh["tensor"]
    assert sum(one.bytes for one in large) > 2 * shared * (n - 1) / n  # in bfloat16
    moved = [one for one in collectives(step) if one.kind in ("all-to-all", "collective-permute")]
    head = SIZES["vocab_size"] * WIDTH / (n * mesh["tensor"])
    assert all(math.prod(one.shape) <= max(head, SMALLEST - 1) for one in moved), moved


@pytest.mark.slow
def test_parameters_are_gathered_over_fsdp_alone_beside_data_and_sequence(tmp_path):
    step = step_on("data, fsdp, sequence", tmp_path)
    check_gathers(step)
    sums = [one for one in collectives(step) if one.kind in ("all-reduce", "reduce-scatter")]
    assert {"data", "sequence"} <= {axis for one in sums for axis in one.axes}
    # Keys and values go once in each group, and once more where the layer is recomputed.
    gathers = [one for one in collectives(step) if one.kind == "all-gather"]
    of_keys = [one for one in gathers if one.axes == ["sequence"] and one.shape[-2:] == KEYS]
    assert sum(one.count for one in of_keys) == 2 * SIZES["num_hidden_layers"] * 3, of_keys


@pytest.mark.slow
def test_parameters_are_gathered_over_fsdp_alone_beside_tensor(tmp_path):
    step = step_on("fsdp, tensor", tmp_path)
    check_gathers(step)
    assert any(one.axes == ["tensor"] for one in collectives(step))


@pytest.mark.slow
def test_between_slices_only_sums_go(tmp_path):
    """All-reduces: of each device's share of the gradients, after those of its slice."""
    step = step_on("slices, fsdp, tensor", tmp_path)
    check_gathers(step)
    across = [one for one in collectives(step) if "slice" in one.axes]
    assert {one.kind for one in across} == {"all-reduce"}
    share = 4 * step["parameters"] / 4  # float32, over fsdp and tensor
    assert share <= sum(one.bytes for one in across) < 1.1 * share
    programs = step["programs"]
    assert programs["differentiate"]["across"].keys() == {"all-reduce"}
    assert programs["update"]["across"].keys() <= {"all-reduce"}
    assert step["seconds"]["network"] > 0
    said = "\n".join(step["lines"])
    assert "2 slices of v5p:2x2x1" in said and "sent by a device between slices" in said


@pytest.mark.slow
def test_four_devices_of_a_sequence_have_a_quarter_of_attention(tmp_path):
    """Of one row, against four with a row each, by the compiler's own count of operations: what a
    device has of the logits is a quarter. They send keys, values and their gradients."""
    tokens = 512
    whole, shared = compiled(ATTENTION, [tokens, "data", "sequence"], tmp_path)
    assert shared["flops"] / whole["flops"] == pytest.approx(1 / 4, rel=0.03)
    assert shared["temporaries"] < 0.35 * whole["temporaries"]
    assert not whole["sent"]
    of_keys = tokens * 2 * 2 * 64 * 3 / 4  # elements of both from other devices, or to them
    assert shared["sent"] == {"all-gather": 2 * of_keys, "all-reduce": 2 * 2 * of_keys}


LONG = {
    **{"batch.row_tokens": 16384, "data.max_length": 16384, "batch.interactions": 1},
    "attention": "auto",
}


@pytest.mark.slow
def test_the_tokens_of_a_row_are_shared_out(tmp_path):
    """Four devices with one row against four with a row each: the memory that rows take."""
    whole, shared = steps(
        tmp_path,
        *(
            ("v5p:2x2x1", {"num_hidden_layers": 2}, SETTINGS | LONG | mesh_settings(**{axis: 4}))
            for axis in ("data", "sequence")
        ),
    )
    assert whole["attention"] == shared["attention"] == "pallas"
    rows = [step["programs"]["differentiate"]["temporaries"] for step in (whole, shared)]
    assert rows[1] < 0.35 * rows[0], rows
