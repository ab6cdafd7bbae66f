"""launch/plan.py compiles the training step for TPU slices that are not here."""

import importlib.metadata
import json

import pytest

from interact_jax import plan
from interact_jax.models.shapes import SHAPES
from tests.runs import ROOT, program

libtpu = any(found.name == "libtpu" for found in importlib.metadata.distributions())
compiles = pytest.mark.skipif(not libtpu, reason="libtpu is not installed")

CONFIG = ROOT / "configs/offline_wildfeedback.py"
SMALL = {
    "--config.attention": "dense",  # compiles faster; here its size does not matter
    "--config.data.path": "none.jsonl",
    "--config.batch.row_tokens": 512,
    "--config.batch.interactions": 64,
}


def arguments(directory, sizes, **settings):
    """Of the program, for a model of these sizes."""
    (directory / "config.json").write_text(json.dumps(SHAPES["small"] | sizes))
    given = {"--config": CONFIG, "--json": directory / "plan.json", **SMALL, **settings}
    given["--config.model.path"] = directory
    return [f"{name}={value}" for name, value in given.items()]


@compiles
def test_a_small_model_fits(tmp_path):
    sizes = {"vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 2}
    done = program("plan", [*arguments(tmp_path, sizes), "--topology=v5e:2x2"])
    assert done.returncode == 0, done.stderr
    assert ": FITS" in done.stdout
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] and found["devices"] == 4 and "change" not in found
    memory, programs = found["memory"], found["programs"]
    assert memory["state"] == 3 * 4 * found["parameters"] + 5 * 4  # two moments; counters
    assert memory["sums"] == pytest.approx(4 * found["parameters"], abs=100)
    assert 0 < programs["accumulate"]["peak"] < memory["needed"] < memory["usable"] < 16 * 2**30
    assert programs["update"]["aliased"] >= memory["state"] * 0.99  # donated, so never there twice
    assert programs["accumulate"]["collectives"]["all-reduce"]["bytes"] > memory["sums"]
    # 6 a token and parameter would be without the head, attention and the teacher.
    rows, inner = found["rows"], found["parameters"] - 2 * 512 * 256
    tokens = rows["height"] * (rows["trunk"] + rows["student"])
    assert 6 * tokens * inner < found["flops"] < 30 * tokens * inner
    seconds = found["seconds"]
    assert seconds["micro_batch"] == max(seconds[k] for k in ("compute", "memory", "collectives"))
    assert seconds["step"] > found["micro_batches"] * seconds["micro_batch"]
    assert found["versions"]["libtpu"]


@compiles
def test_one_that_does_not_fit_names_a_change_that_does(tmp_path):
    """1.5e9 parameters, whole on every chip of 16 GiB: state alone takes 18 GB."""
    sizes = {"hidden_size": 4_096, "intermediate_size": 14_336, "vocab_size": 1_024}
    sizes |= {"num_hidden_layers": 8}
    done = program("plan", [*arguments(tmp_path, sizes), "--topology=v5e:2x2"])
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text())
    assert not found["fits"] and found["memory"]["needed"] > found["memory"]["usable"]
    assert found["change"] == {"mesh.data": 1, "mesh.fsdp": 4, "mesh.tensor": 1}
    assert ": DOES NOT FIT" in done.stdout
    assert f"It fits with {plan.told(found['change'])}\n" in done.stdout
    changed = found["changed"]
    assert changed["fits"] and changed["memory"]["needed"] < changed["memory"]["usable"]
    assert changed["mesh"]["fsdp"] == 4


@compiles
@pytest.mark.parametrize("name", ["v5e:3x3", "h100:8"])
def test_a_slice_that_does_not_exist_is_refused(name, tmp_path):
    check_refused([*arguments(tmp_path, {}), f"--topology={name}"], name, "v5e:2x2")


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
