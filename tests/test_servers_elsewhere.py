"""Real clients against servers on the loopback address: the hub's, and those of buckets.

`pip install -e '.[test-buckets]'` brings the servers of buckets; their tests are `slow`.
"""

import contextlib
import os
import subprocess
import sys

import pytest

from interact_jax.data.prepared import PreparedData
from launch import prepare_data
from tests import little_hub
from tests.data.test_parquet import packed
from tests.logs import chat, write
from tests.runs import ROOT

pytestmark = pytest.mark.one_device
LONG = "word " * 400_000  # more than a block that is fetched at a time
LOGS = [chat(f"c{n}", "Hi", "Hello!", f"Thanks, {n}") for n in range(40)]
ACCESS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def logs(tmp_path):
    """Files of three kinds, one of them of several blocks, and what is no log beside them."""
    directory = tmp_path / "here"
    write(directory, "README.md", "A data set.")
    long = [chat(f"l{n}", "Hi", LONG, "?") for n in "abc"]
    write(directory, "data/train-0.jsonl", [*LOGS, *long])
    write(directory, "data/train-1.jsonl.zst", LOGS)
    write(directory, "data/deep/test.parquet", packed(30, 10))
    return directory


def prepare(data, out, **environment):
    """The program, in a process that may use the network."""
    named = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "0", **environment}
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "prepare_data.py"), *arguments(data, out)],
        env={**os.environ, **named},
        capture_output=True,
        text=True,
        timeout=120,
    )


def arguments(data, out):
    """Of the program; files of lines are cut into parts, elsewhere too."""
    given = ["--data", str(data), "--out", str(out), "--splits", "train=1", "--processes", "1"]
    return [*given, "--part-bytes", "3000000"]


def check(address, logs, tmp_path, **environment):
    """What is prepared from there is what is prepared from here, but for the places named."""
    done = prepare(address, tmp_path / "far", **environment)
    assert done.returncode == 0, done.stderr
    prepare_data.main(arguments(logs / "data", tmp_path / "near"))
    far, near = (list(PreparedData(tmp_path / name)) for name in ("far", "near"))
    assert len(near) == 40 + 3 + 40 + 30
    assert [c.messages for c in far] == [c.messages for c in near]
    assert [c.id for c in far] == [c.id for c in near]
    shards = list((tmp_path / "far").glob("*.array_record-*"))
    assert len(shards) == 4  # three files, one cut in two
    assert {c.source.partition("://")[0] for c in far} == {address.partition("://")[0]}


def test_a_data_set_of_the_hub(logs, tmp_path):
    address = f"hf://datasets/{little_hub.NAME}"
    with little_hub.serve(logs, token="secret") as url:
        check(address, logs, tmp_path, HF_ENDPOINT=url, HF_TOKEN="secret")
        refused = prepare(address, tmp_path / "refused", HF_ENDPOINT=url, HF_TOKEN="")
    assert refused.returncode == 2 and "HF_TOKEN" in refused.stderr


def needed(name):
    """A module of a server."""
    return pytest.importorskip(name, reason="pip install -e '.[test-buckets]'")


@contextlib.contextmanager
def s3():
    """A server of S3, and what its clients have to know."""
    server = needed("moto.server").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield {**ACCESS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    finally:
        server.stop()


@contextlib.contextmanager
def gs():
    """A server of Google Cloud Storage, and what its clients have to know."""
    server = needed("gcp_storage_emulator.server").create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    try:
        port = server._api._httpd.server_port
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("server", [s3, gs], ids=lambda server: server.__name__)
def test_buckets(server, logs, tmp_path, monkeypatch):
    scheme = server.__name__
    with server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fill(scheme, logs)
        check(f"{scheme}://logs/data", logs, tmp_path, **environment)
        missing = prepare(f"{scheme}://logs/none", tmp_path / "none", **environment)
        assert missing.returncode == 2
        assert f"{scheme}://logs/none: no such file, or no access to it" in missing.stderr
    gone = prepare(f"{scheme}://logs/data", tmp_path / "gone", **environment)
    assert gone.returncode == 2 and "cannot be reached" in gone.stderr


def fill(scheme, directory):
    """Copy a directory into the bucket `logs`."""
    import fsspec

    system = fsspec.filesystem(scheme, skip_instance_cache=True)
    system.mkdir("logs")
    for file in directory.rglob("*.*"):
        if file.is_file():
            system.pipe(f"logs/{file.relative_to(directory)}", file.read_bytes())
