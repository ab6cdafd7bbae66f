"""The place of a process, as flags and launchers say it."""

import pytest

from interact_jax.cluster.place import Flags, Place, find, first_host
from interact_jax.schema import InputError

pytestmark = pytest.mark.one_device
NODES = {
    "SLURM_JOB_ID": "70001",
    "SLURM_STEP_NODELIST": "gpu[007-009]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_GPUS_ON_NODE": "8",
}
GPUS = {
    **NODES,
    "SLURM_STEP_TASKS_PER_NODE": "8(x2),4",
    "SLURM_NTASKS": "20",
    "SLURM_PROCID": "11",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "3",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}


def test_alone():
    assert find(Flags(), {}) == Place() and Place().is_alone
    inside_a_job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
    assert find(Flags(), inside_a_job).is_alone


def test_flags():
    place = find(Flags("node-0:8476", 4, 3), NODES)
    assert place == Place(4, 3, "node-0:8476", None, "flags")


@pytest.mark.parametrize(
    "flags",
    [Flags(processes=2), Flags("a:1", 2), Flags("a:1", process=0), Flags("", 2, 0), Flags("a:1")],
)
def test_flags_that_lack_others(flags):
    with pytest.raises(InputError, match="--coordinator"):
        find(flags, {})


@pytest.mark.parametrize("address", ["node", "node:", ":12", "node:x", "node:65536", "node:0"])
def test_an_address_needs_host_and_port(address):
    with pytest.raises(InputError, match=r"expected HOST:PORT"):
        find(Flags(address, 2, 0), {})


def test_a_number_beyond_the_last():
    with pytest.raises(InputError, match=r"--process 2: .*below --processes 2"):
        find(Flags("a:1", 2, 2), {})


def test_slurm_with_a_process_for_each_node_has_all_gpus():
    """jax by itself would take GPU 0 alone."""
    assert find(Flags(), NODES) == Place(3, 2, "gpu007:61809", None, "SLURM")


def test_slurm_with_a_process_for_each_gpu():
    assert find(Flags(), GPUS) == Place(20, 11, "gpu007:61809", (3,), "SLURM")
    bound = {**GPUS, "CUDA_VISIBLE_DEVICES": "3"}  # srun --gpus-per-task=1
    assert find(Flags(), bound).devices is None


def test_slurm_with_several_gpus_for_each_process():
    pairs = {**GPUS, "SLURM_STEP_TASKS_PER_NODE": "4(x3)", "SLURM_NTASKS": "12"}
    assert find(Flags(), pairs).devices == (6, 7)
    seen = {**pairs, "CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    assert find(Flags(), seen).devices == (3,)  # of those that it sees
    odd = {**pairs, "SLURM_STEP_TASKS_PER_NODE": "3(x4)", "SLURM_LOCALID": "2"}
    with pytest.raises(InputError, match="3 processes on one machine do not divide its 8 GPUs"):
        find(Flags(), odd)


def test_slurm_with_the_users_address():
    assert find(Flags("head:9000"), NODES).coordinator == "head:9000"


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID"])
def test_a_variable_that_is_missing_or_wrong_is_named(name):
    with pytest.raises(InputError, match=f"SLURM: {name} is not set"):
        find(Flags(), {key: value for key, value in NODES.items() if key != name})
    with pytest.raises(InputError, match=f"SLURM: {name}=x: expected a number"):
        find(Flags(), {**NODES, name: "x"})


def test_nodes_that_contradict_each_other():
    with pytest.raises(InputError, match="SLURM_NODEID=3, but"):
        find(Flags(), {**NODES, "SLURM_NODEID": "3"})
    with pytest.raises(InputError, match=r"expected numbers such as 4\(x2\)"):
        find(Flags(), {**NODES, "SLURM_STEP_TASKS_PER_NODE": "4(2)"})


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-015],host2", "node001"),
        ("node[001,007-015],host2", "node001"),
        ("a-b.c[3]-ib,x", "a-b.c3-ib"),
    ],
)
def test_the_first_host(hosts, first):
    assert first_host(hosts) == first


def test_open_mpi():
    assert find(Flags(), MPI) == Place(4, 3, "10.96.0.1:62624", (1,), "Open MPI")
    uri = "1314521088.0;tcp6://[fe80::b9b:ac5d:9cf0:b858,2620:10d::2]:43370"
    six = {**MPI, "OMPI_MCA_orte_hnp_uri": uri}
    assert find(Flags(), six).coordinator.startswith("[fe80::b9b:ac5d:9cf0:b858]:")


def test_open_mpi_from_version_5_on_does_not_say_where_process_0_is():
    without = {key: value for key, value in MPI.items() if key != "OMPI_MCA_orte_hnp_uri"}
    with pytest.raises(InputError, match=r"Open MPI: .*--coordinator HOST:PORT"):
        find(Flags(), without)
    assert find(Flags("a:1"), without).coordinator == "a:1"


def test_tpus_are_found_by_jax():
    for pod in ({"TPU_WORKER_HOSTNAMES": "a,b"}, {"MEGASCALE_NUM_SLICES": "2"}):
        assert find(Flags(), pod).found_by_jax
    assert find(Flags(), {"TPU_WORKER_HOSTNAMES": "localhost"}).is_alone
