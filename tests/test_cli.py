"""What the programs share."""

import os
import platform
import subprocess
import sys

import pytest

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
    assert page_faults("keep") < page_faults("return") / 10
    user = page_faults("keep", GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072")
    assert user > 10 * page_faults("keep"), "what the user asks for in the environment comes first"
