"""Whole runs in a bucket: Orbax, tensorstore and gcsfs against a server on the loopback address.

`pip install -e '.[test-buckets]'` brings the libraries and the server.
"""

import os
import subprocess
import sys
import time

import fsspec
import pytest

from interact_jax import checkpoint, digests, store
from launch import export
from launch import train as launch_train
from tests import buckets
from tests.cluster.several import together
from tests.cluster.test_training import SGD, settings_of
from tests.faults import runs
from tests.runs import ROOT, outcome, train_and_kill, train_arguments

pytestmark = [pytest.mark.slow, pytest.mark.one_device, pytest.mark.compiled_quickly]
HOME = f"gs://{buckets.BUCKET}/run"
OBJECTS = f"{buckets.BUCKET}/run"
ENDED = "This run had already ended"


@pytest.fixture
def server(monkeypatch):
    """A server, whose variables are in the environment."""
    with buckets.served() as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        yield served


@pytest.fixture
def bucket(server, monkeypatch):
    """The file system of a server's bucket."""
    monkeypatch.delenv(store.TENSORSTORE_EMULATOR, raising=False)
    fsspec.filesystem("gs").clear_instance_cache()
    store._bucket.cache_clear()
    yield store.of(store.place(HOME))._system
    store._bucket.cache_clear()
    os.environ.pop(store.TENSORSTORE_EMULATOR, None)


@pytest.fixture
def train(capsys):
    """Train in this process; what is printed."""

    def run(workdir, settings):
        capsys.readouterr()
        launch_train.main(train_arguments(workdir, settings))
        said = capsys.readouterr()
        return said.out + said.err

    return run


def flip(bucket, name):
    """Flip a bit in the middle of an object."""
    content = bytearray(bucket.cat_file(name))
    content[len(content) // 2] ^= 1
    bucket.pipe_file(name, bytes(content))


@pytest.mark.parametrize("method", runs.METHODS)
def test_a_run_that_is_killed_resumed_and_exported(method, bucket, train, tmp_path):
    """It comes to the end of the same run in a directory, bit for bit."""
    settings = {**runs.settings_of(tmp_path, method), "steps": 6}
    train(tmp_path / "here", settings)
    # The checkpoint of step 2 is complete before that of step 4 begins.
    train_and_kill(train_arguments(HOME, settings), 5)
    assert f"{OBJECTS}/lock" in bucket.find(OBJECTS)  # nobody has given it back
    assert "resuming from step" in train(HOME, settings)
    there = buckets.fetch(HOME, tmp_path / "there")
    assert runs.different(runs.ending(there), runs.ending(tmp_path / "here")) == []
    assert sorted(os.listdir(there)) == sorted(os.listdir(tmp_path / "here"))
    assert sorted(os.listdir(there / "checkpoints")) == ["4", "6"]
    assert ENDED in train(HOME, settings)

    for out in (tmp_path / "exported", f"{HOME}-exported"):
        export.main(["--checkpoint", f"{HOME}/checkpoints/4", "--out", str(out)])
    copy = buckets.fetch(f"{HOME}-exported", tmp_path / "copied")
    files = sorted(os.listdir(copy))
    assert files == sorted(os.listdir(tmp_path / "exported")) and "README.md" in files
    for name in files:
        assert (copy / name).read_bytes() == (tmp_path / "exported" / name).read_bytes(), name
    train(tmp_path / "next", {**settings, "start_from": HOME, "steps": 1})


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(bucket, train, tmp_path, capsys):
    settings = {**runs.settings_of(tmp_path, "trust_region"), "steps": 6}
    train(tmp_path / "here", settings)
    train(HOME, {**settings, "steps": 4})
    newest = store.place(HOME) / "checkpoints/4"
    for name in digests.names_in(newest):
        content = bucket.cat_file(f"{OBJECTS}/checkpoints/4/{name}")
        if content:
            flip(bucket, f"{OBJECTS}/checkpoints/4/{name}")
            with pytest.raises(digests.Damaged, match="4 is damaged") as damaged:
                digests.check(newest)
            assert name in str(damaged.value)
            bucket.pipe_file(f"{OBJECTS}/checkpoints/4/{name}", content)
    data = next(name for name in digests.names_in(newest) if "/d/" in name)
    flip(bucket, f"{OBJECTS}/checkpoints/4/{data}")
    given = ["--checkpoint", HOME, "--out", str(tmp_path / "none")]
    status, said = outcome(export.main, given, capsys)
    assert status == 2 and f"{newest} is damaged: {data}" in said
    said = train(HOME, settings)
    assert f"{newest} is damaged: {data}" in said
    assert "going on from checkpoint 2" in said
    assert bucket.find(f"{OBJECTS}/damaged/4")
    there = buckets.fetch(HOME, tmp_path / "there")
    assert runs.different(runs.ending(there), runs.ending(tmp_path / "here")) == []


def test_a_checkpoint_that_is_not_sealed_does_not_count(bucket, train, tmp_path):
    settings = {**runs.settings_of(tmp_path, "dpo"), "steps": 4}
    train(HOME, settings)
    bucket.rm_file(f"{OBJECTS}/checkpoints/4/{digests.NAME.format(0, 1)}")
    assert checkpoint.find(HOME)[1] == 2
    said = train(HOME, settings)
    assert "4: unfinished" in said and "resuming from step 2" in said
    assert checkpoint.find(HOME)[1] == 4


def test_what_is_not_there(bucket, tmp_path, capsys):
    settings = {**runs.settings_of(tmp_path, "dpo"), "steps": 2}
    missing = train_arguments("gs://another/run", settings)
    status, said = outcome(launch_train.main, missing, capsys)
    assert status == 2 and "there is no such bucket" in said
    status, said = outcome(export.main, ["--checkpoint", HOME, "--out", str(tmp_path)], capsys)
    assert status == 2 and f"{HOME}: no checkpoint there" in said


def test_a_bucket_that_refuses_in_the_middle(server, bucket, train, tmp_path):
    """The run stops and says so; the same command goes on from its last checkpoint."""
    settings = {**runs.settings_of(tmp_path, "dpo"), "steps": 40}
    train(tmp_path / "here", settings)
    started = subprocess.Popen(
        [sys.executable, str(ROOT / "launch/train.py"), *train_arguments(HOME, settings)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not checkpoint.finished_steps(store.place(HOME)):
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.2)
    server.refusing.set()
    _, said = started.communicate(timeout=300)
    assert started.returncode == 1 and "the store fails" in said, said
    assert "Traceback" not in said, said
    server.refusing.clear()
    kept = checkpoint.finished_steps(store.place(HOME))
    assert f"resuming from step {max(kept)}" in train(HOME, settings)
    there = buckets.fetch(HOME, tmp_path / "there")
    assert runs.different(runs.ending(there), runs.ending(tmp_path / "here")) == []


def test_two_processes(bucket, tmp_path):
    """Each writes its part of checkpoints, and reads it again."""
    mesh = {"mesh.data": 1, "mesh.fsdp": 2}
    settings = settings_of(tmp_path, **SGD, **mesh, **{"checkpoint.every": 2, "steps": 4})
    together(2, 1, train_arguments(tmp_path / "here", settings))
    together(2, 1, train_arguments(HOME, {**settings, "steps": 2}))
    together(2, 1, train_arguments(HOME, settings))
    there = buckets.fetch(HOME, tmp_path / "there")
    assert runs.different(runs.ending(there), runs.ending(tmp_path / "here")) == []
