"""What the programs share."""

import gzip
import os
import platform
import subprocess
import sys

import pytest

from interact_jax import cli
from launch import score
from tests.runs import outcome, read_lines

FAULTS = """
import resource, sys
import numpy as np
from interact_jax import cli
if sys.argv[1] == "keep":
    cli.keep_memory()
def step():
    return [np.full(8_000_000, 1.0) for _ in range(3)][0][0]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(what, **env):
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", FAULTS, what]
    done = subprocess.run(
        command, env=inherited | {"JAX_PLATFORMS": "cpu"} | env, capture_output=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is meant")
def test_memory_that_is_freed_is_kept_for_the_next_step():
    kept = page_faults("keep")
    assert kept < page_faults("return") / 10
    user = page_faults("keep", GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072")
    assert user > 10 * kept, "what the user asks for in the environment comes first"


def test_a_file_of_lines_is_whole_or_not_there(tmp_path):
    def lines():
        yield {"id": "é"}
        raise OSError("the disk is full")

    for out in (tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"):
        cli.write_lines(out, [{"id": 1}])
        with pytest.raises(OSError, match="full"):
            cli.write_lines(out, lines())
    assert read_lines(tmp_path / "a.jsonl") == [{"id": 1}]
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == b'{"id": 1}\n'


@pytest.mark.parametrize("out", [".", "absent/scores.jsonl", "logs.jsonl"])
def test_scores_that_could_not_be_written_are_not_computed(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs.jsonl").write_text("a line\n")
    given = ["--model", "pocket", "--data", "logs.jsonl", "--out", out]
    status, said = outcome(score.main, given, capsys)
    assert status == 2 and f"--out {out}" in said
    assert (tmp_path / "logs.jsonl").read_text() == "a line\n"
