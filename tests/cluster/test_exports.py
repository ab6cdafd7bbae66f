"""Several processes import a model and export one, each its share, as one process does."""

import json
import os
import re
import signal
import time

import pytest

from interact_jax.models.hf.exporting import PARTIAL
from launch import export
from tests.cluster.several import children, supervised
from tests.cluster.test_processes import run
from tests.judges.checkpoints import make_run
from tests.runs import tiny
from tests.test_checkpoint import flip

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]
STEP = 3
SMALL = ["--max-shard-size", "20KB", "--dtype", "float32"]  # a file of this size


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a run, and of its model."""
    folder = tmp_path_factory.mktemp("trained")
    tiny(folder / "model")
    make_run(folder / "run", str(folder / "model"), {STEP: 1.0})
    return folder / "run", folder / "model"


@pytest.fixture(scope="module")
def of_one(trained, tmp_path_factory):
    """The files that one process exports."""
    out = tmp_path_factory.mktemp("one") / "out"
    export.main(arguments(trained, out))
    return contents(out)


def arguments(trained, out):
    return ["--checkpoint", str(trained[0]), "--out", str(out), *SMALL]


def contents(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def exported(trained, out, processes=2, devices=1):
    """Export together; what they say."""
    started = supervised(processes, devices, "export", arguments(trained, out))
    said, _ = started.communicate(timeout=300)
    assert started.returncode == 0, said
    return said


@pytest.mark.slow
def test_two_processes_export_what_one_does(trained, of_one, tmp_path):
    said = exported(trained, tmp_path / "out")
    assert contents(tmp_path / "out") == of_one
    assert sum(name.endswith(".safetensors") for name in of_one) > 4
    assert said.count(f"exported step {STEP}") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(2, 4), (3, 1), (4, 2)])
def test_so_do_others(trained, of_one, processes, devices, tmp_path):
    """Also where their number divides no dimension: each then has all of it."""
    exported(trained, tmp_path / "out", processes, devices)
    assert contents(tmp_path / "out") == of_one


@pytest.mark.slow
@pytest.mark.parametrize("killed", [(0,), (1,), (0, 1)])
def test_killed_and_repeated(trained, of_one, killed, tmp_path):
    """There is no model before, and the whole one after."""
    out = tmp_path / "out"
    started = supervised(2, 1, "export", arguments(trained, out), "--end", "5")
    while not list(out.glob(f"{PARTIAL}/*.safetensors")):
        assert started.poll() is None, started.communicate()[0]
        time.sleep(0.001)
    found = children(started.pid)
    for process in killed:
        os.kill(found[process], signal.SIGKILL)
    said, _ = started.communicate(timeout=120)
    assert started.returncode != 0 and "was ended by SIGKILL" in said, said
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    assert names <= {PARTIAL}
    exported(trained, out)
    assert contents(out) == of_one


@pytest.mark.slow
def test_a_damaged_file_is_named(trained, tmp_path):
    """By the number of a process: by one at least, since jax ends the others without a word."""
    file = next((trained[0] / "checkpoints" / str(STEP)).rglob("d/*"))
    sound = file.read_bytes()
    flip(file)
    started = supervised(2, 1, "export", arguments(trained, tmp_path / "out"))
    said, _ = started.communicate(timeout=120)
    file.write_bytes(sound)
    assert started.returncode == 2, said
    assert re.search(rf"process [01]: error: .*{file.name} is not what was written", said), said
    assert not (tmp_path / "out").exists()


IMPORTING = """
import json
from interact_jax import cli, sharding
from interact_jax.opening import open_model

def main():
    path, out = json.loads({given!r})
    model = open_model(path, mesh=sharding.make_mesh(data=1, fsdp=-1))
    params = model.load()
    gate_NxDxF = params["layers"]["gate_DxF"]
    print(gate_NxDxF.addressable_shards[0].data.shape[1], gate_NxDxF.shape[1], flush=True)
    model.export(params, out, "float32", "20KB")
    processes.leave()

cli.run(main)
"""


def imported(model, out):
    """What each of two processes says that imports a model and exports it, and its status."""
    return run(IMPORTING.format(given=json.dumps([str(model), str(out)])))


@pytest.mark.slow
def test_two_processes_import_their_halves(trained, of_one, tmp_path):
    for out, status, said in imported(trained[1], tmp_path / "out"):
        assert status == 0 and "16 32\n" in out, said
    assert contents(tmp_path / "out") == of_one


@pytest.mark.slow
def test_a_file_of_the_model_that_is_cut_short_is_named(of_one, tmp_path):
    (model := tmp_path / "model").mkdir()
    for name, data in of_one.items():
        if not name.startswith("digests"):
            (model / name).write_bytes(data)
    cut = sorted(model.glob("*.safetensors"))[1]
    os.truncate(cut, cut.stat().st_size - 10)
    ended = imported(model, tmp_path / "out")
    assert all(status for _, status, _ in ended)
    assert any(f"error: {cut}: damaged or incomplete" in said for _, _, said in ended), ended
    assert not (tmp_path / "out").exists()
