"""XLA's flags: whose win, where they are set, and that XLA and libtpu know them."""

import os
import subprocess
import sys

import pytest

from interact_jax.cluster.place import Place
from interact_jax.cluster.xla_flags import FLAGS, VARIABLES, add, with_flags

pytestmark = pytest.mark.one_device
SEVERAL = Place(2, 0, "a:1")
COMPUTE = "import jax; print(jax.numpy.ones(2).sum())"
COMPILE = """
import jax
from jax.experimental import topologies
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
rows = NamedSharding(Mesh(np.array(devices), ("x",)), PartitionSpec("x"))
x = jax.ShapeDtypeStruct((512, 512), "float32", sharding=rows)
jax.jit(lambda x: (x @ x).sum()).lower(x).compile()
print("compiled")
"""


def test_what_the_user_has_set_stays():
    flags = {"a": "2", "b": "3"}
    assert with_flags("", flags) == "--a=2 --b=3"
    assert with_flags(" --a=1  --c ", flags) == "--a=1 --c --b=3"
    assert with_flags("--aa=1 --b", flags) == "--aa=1 --b --a=2"
    assert with_flags("flags.txt", flags) == "flags.txt"


@pytest.mark.parametrize(
    ("files", "place", "kinds"),
    [
        ([], SEVERAL, []),
        (["nvidia0", "nvidiactl"], Place(), []),
        (["nvidia0", "nvidiactl"], SEVERAL, ["gpu"]),
        (["nvidia0", "nvidia1"], Place(), ["gpu"]),
        (["accel0"], Place(0, 0), ["tpu"]),
        (["vfio/0", "vfio/1", "vfio/vfio"], Place(), ["tpu"]),
    ],
)
def test_they_are_set_where_there_is_something_to_hide(tmp_path, files, place, kinds):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    environment = {}
    add(place, environment, tmp_path)
    assert environment == {VARIABLES[kind]: with_flags("", FLAGS[kind]) for kind in kinds}


def ran(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_xla_knows_those_for_gpus():
    """A jaxlib for CPUs knows them, too, and ends a process for others."""
    flags = with_flags("", FLAGS["gpu"])
    done = ran(COMPUTE, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert done.returncode == 0 and done.stdout == "2.0\n", done.stderr
    wrong = ran(COMPUTE, XLA_FLAGS=f"{flags} --xla_gpu_no_such_flag=true", JAX_PLATFORMS="cpu")
    assert wrong.returncode != 0 and "Unknown flag" in wrong.stderr


def test_libtpu_knows_those_for_tpus(tmp_path):
    pytest.importorskip("libtpu")
    flags = with_flags("", FLAGS["tpu"])
    without_a_tpu = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_LOG_DIR": str(tmp_path),
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "JAX_PLATFORMS": "cpu",
    }
    done = ran(COMPILE, LIBTPU_INIT_ARGS=flags, **without_a_tpu)
    assert done.returncode == 0 and done.stdout == "compiled\n", done.stderr
    more = f"{flags} --xla_tpu_no_such_flag=true"
    wrong = ran(COMPILE, LIBTPU_INIT_ARGS=more, **without_a_tpu)
    assert wrong.returncode != 0 and "xla_tpu_no_such_flag" in wrong.stderr
