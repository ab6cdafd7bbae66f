"""The TPU kernels compile for TPUs that are not there: libtpu is a compiler as well as a driver.

It is loaded in a process of its own, since it brings signal handlers and a log of its own.
"""

import json
import os
import subprocess
import sys

import pytest

COMPILE = """
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from interact_jax import sharding
from interact_jax.models.attention import attend
from interact_jax.models.attention.sight import Span

def both(q, k, v, sight, dout):
    out, transpose = jax.vjp(lambda q, k, v: attend(q, k, v, sight, "pallas"), q, k, v)
    return out, transpose(dout)


def compile_case(mesh, dtype, K, H, G, L, S):
    def array(*shape, dtype=dtype, heads="tensor"):
        spec = PartitionSpec(sharding.ROWS, None, *([heads] if len(shape) > 1 else []))
        return jax.ShapeDtypeStruct((2, *shape), dtype, sharding=NamedSharding(mesh, spec))

    q, k, run = array(L, H, K), array(S, G, K), array(L, dtype="int32")
    with sharding.on(mesh):
        return jax.jit(both).lower(q, k, k, (Span(run, run, run),) * 2, q).compile()


for topology, cases in json.loads(sys.argv[1]).items():
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    devices = np.array(devices).reshape(1, 2, 1, 2, 1)
    mesh = Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * 5)
    for dtype, *sizes in cases:
        text = compile_case(mesh, dtype, *sizes).as_text()
        kernels = [name for name in ("forward", "dq", "dkv") if f"{name}_kernel" in text]
        calls = text.count('custom_call_target="tpu_custom_call"')
        print(topology, dtype, *sizes, *kernels, calls, flush=True)
"""
# dtype, K, H, G, L, S of the whole array; two tensor devices. A case takes some ten seconds: the
# quick one has lengths that are no multiples of a block.
QUICK = {"v5e:2x2": [("bfloat16", 64, 14, 2, 700, 1000)]}
OTHERS = {
    "v5e:2x2": [("bfloat16", 64, 14, 2, 4096, 5120), ("bfloat16", 128, 32, 8, 4096, 5120)],
    "v5p:2x2x1": [("float32", 64, 32, 8, 4096, 5120), ("bfloat16", 256, 16, 4, 700, 1000)],
    "v6e:2x2": [
        ("float32", 128, 32, 8, 700, 1000),
        ("bfloat16", 128, 64, 8, 4096, 5120),
        ("float32", 128, 32, 8, 4096, 5120),
    ],
}


@pytest.mark.parametrize(
    "cases", [QUICK, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["quick", "others"]
)
def test_kernels_compile_for_tpus(cases, tmp_path):
    pytest.importorskip("libtpu")
    environment = {
        **os.environ,
        "TPU_SKIP_MDS_QUERY": "1",  # there is no machine to ask what it is
        "TPU_LOG_DIR": str(tmp_path),
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # another test may compile at the same time
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(cases)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    expected = [
        " ".join(map(str, (topology, *case, "forward dq dkv 3")))
        for topology, some in cases.items()
        for case in some
    ]
    assert done.stdout.splitlines() == expected
