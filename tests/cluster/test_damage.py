"""Damage that a run of two processes meets: all of them notice it, and go on from what is sound."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.cluster.several import flags, supervised, together
from tests.cluster.test_processes import free_port
from tests.cluster.test_training import SGD, settings_of
from tests.faults.runs import different, ending
from tests.runs import ROOT, train_arguments

pytestmark = [pytest.mark.slow, pytest.mark.compiled_quickly]
MESH = {"mesh.data": 1, "mesh.fsdp": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The settings of a run of six steps, with checkpoints after 2, 4 and 6, and where it is."""
    folder = tmp_path_factory.mktemp("run")
    settings = settings_of(folder, **SGD, **MESH, **{"checkpoint.every": 2, "steps": 6})
    together(2, 1, train_arguments(folder / "whole", settings))
    return settings, folder / "whole"


def test_one_bit_in_every_file_of_a_checkpoint(run, tmp_path):
    _, whole = run
    checkpoint = shutil.copytree(whole / "checkpoints/6", tmp_path / "checkpoints/6")
    own = ["--local", "2", "--coordinator", f"127.0.0.1:{free_port()}"]
    program = [str(ROOT / "tests/cluster/flip_bits.py"), str(checkpoint)]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "launch/supervise.py"), *own, *program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags(1)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = re.findall(r"process (\d): (\d+) files", ended.stdout)
    assert {process for process, _ in found} == {"0", "1"}
    assert all(int(files) > 8 for _, files in found)


def test_the_checkpoint_before_a_damaged_one_is_used(run, tmp_path):
    settings, whole = run
    workdir = shutil.copytree(whole, tmp_path / "run")
    file = max((workdir / "checkpoints/6").rglob("*"), key=lambda f: f.stat().st_size)
    sound = file.read_bytes()
    file.write_bytes(sound[:-9] + bytes([sound[-9] ^ 4]) + sound[-8:])
    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "export")
    said = together(2, 1, train_arguments(workdir, settings))
    assert "going on from checkpoint 4" in said and file.name in said
    assert (workdir / "damaged/6").is_dir()
    assert different(ending(workdir), ending(whole)) == []


def test_a_full_disk_is_named_and_costs_no_checkpoint(run, tmp_path):
    """A file system of its own, which has room for some checkpoints."""
    settings, whole = run
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(f.stat().st_size for f in (whole / "checkpoints/6").rglob("*") if f.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={3 * size + (1 << 20)}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        arguments = train_arguments(disk / "run", {**settings, "steps": 40, "checkpoint.keep": 9})
        started = supervised(2, 1, "train", arguments)
        said, _ = started.communicate(timeout=300)
        assert started.returncode
        assert "No space left" in said and "Traceback" not in said, said
        shutil.copytree(disk / "run", tmp_path / "run")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    together(2, 1, train_arguments(tmp_path / "run", {**settings, "steps": 40}))
    together(2, 1, train_arguments(tmp_path / "whole", {**settings, "steps": 40}))
    assert different(ending(tmp_path / "run"), ending(tmp_path / "whole")) == []


def test_a_place_that_cannot_be_written(run, tmp_path):
    settings, _ = run
    (tmp_path / "file").write_text("in the way")
    started = supervised(2, 1, "train", train_arguments(tmp_path / "file/run", settings))
    said, _ = started.communicate(timeout=300)
    assert started.returncode == 2 and str(tmp_path / "file") in said, said
    assert "Traceback" not in said


def test_settings_that_contradict_a_checkpoint(run, tmp_path):
    settings, whole = run
    workdir = shutil.copytree(whole, tmp_path / "run")
    started = supervised(
        2, 1, "train", train_arguments(workdir, {**settings, "steps": 8, "objective.centred": True})
    )
    said, _ = started.communicate(timeout=300)
    assert started.returncode == 2 and "objective.centred" in said and "Traceback" not in said, said
