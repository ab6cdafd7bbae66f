"""Which processes a run consists of, from flags or from the launcher's environment.

    place = find(flags, os.environ)
    place.process, place.processes, place.coordinator, place.devices

Launchers that are known, in the order in which they are looked for:

flags         --coordinator HOST:PORT --processes N --process I
a supervisor  of our own (`supervisor`), which may be started by one of the others
SLURM         srun: one process for each GPU, or one for each node
Open MPI      mpirun: the coordinator from its own address (up to version 4), else --coordinator
TPU           GKE: TPU_WORKER_HOSTNAMES names several hosts, and jax finds the rest

Which of a machine's devices a process uses is said on purpose: jax by itself gives every process
under SLURM or Open MPI the one device with the number of its place on the machine, also where it is
alone there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from interact_jax.schema import InputError

LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
COORDINATOR, PROCESSES, PROCESS = "INTERACT_COORDINATOR", "INTERACT_PROCESSES", "INTERACT_PROCESS"
"""Variables of a supervisor."""
FIRST_PORT, PORTS = 61_440, 4_096  # the coordinator's port, by the number of the job
VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""Where launchers and users say which of a machine's GPUs a process sees."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """What a user says; 0, -1 and "" where nothing."""

    coordinator: str = ""
    processes: int = 0
    process: int = -1

    def __bool__(self) -> bool:
        return self != Flags()


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of this process among all. `coordinator` is the address of process 0, "" where jax
    finds it, as on a TPU; `devices` are the numbers of the GPUs that this process uses, None for
    all that it sees; `launcher` is what said so, for messages."""

    processes: int = 1
    process: int = 0
    coordinator: str = ""
    devices: tuple[int, ...] | None = None
    launcher: str = ""

    @property
    def is_alone(self) -> bool:
        """Whether this process is the whole run, as far as is known."""
        return self.processes == 1 and not self.found_by_jax

    @property
    def is_on_one_machine(self) -> bool:
        """Whether all processes are, and nobody else has to reach the coordinator."""
        return self.coordinator.rpartition(":")[0] in LOOPBACK

    @property
    def name(self) -> str:
        """As messages begin with; "" where this process is alone."""
        return "" if self.is_alone or self.found_by_jax else f"process {self.process}"

    @property
    def found_by_jax(self) -> bool:
        """Whether jax has to find the other processes."""
        return self.processes == 0


def find(flags: Flags, environment: Mapping[str, str]) -> Place:
    """The place of this process; alone where neither flags nor a launcher say otherwise.

    Raises InputError where they are incomplete or contradict one another.
    """
    if flags.processes or flags.process >= 0:
        return _by_flags(flags)
    for launcher in LAUNCHERS:
        if (place := launcher(environment)) is not None:
            address = flags.coordinator or place.coordinator
            if place.processes > 1 and not address:
                raise InputError(
                    f"{place.launcher}: does not say where process 0 runs. Give its address, "
                    "--coordinator HOST:PORT, to every process."
                )
            return dataclasses.replace(place, coordinator=_checked(address) if address else "")
    if flags:
        raise InputError(
            "--coordinator: expected with --processes and --process, since no launcher is known "
            "here that says how many processes there are."
        )
    return Place()


def _by_flags(flags: Flags) -> Place:
    if flags.processes < 1 or flags.process < 0 or not flags.coordinator:
        raise InputError(
            "--coordinator HOST:PORT, --processes N and --process I belong together: the same "
            "address and number for every process, and I from 0 to N - 1."
        )
    if flags.process >= flags.processes:
        raise InputError(
            f"--process {flags.process}: expected a number below --processes {flags.processes}; "
            "the first process is 0."
        )
    address = _checked(flags.coordinator)
    return Place(flags.processes, flags.process, address, launcher="flags")


def _checked(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"--coordinator {address}: expected HOST:PORT, such as node-0:8476.")
    return address


# --------------------------------------------------------------------------------- launchers


def _supervisor(environment: Mapping[str, str]) -> Place | None:
    if COORDINATOR not in environment:
        return None
    read = _Reader("supervisor", environment)
    processes, process = read.number(PROCESSES), read.number(PROCESS)
    return Place(processes, process, read.text(COORDINATOR), None, "supervisor")


def _slurm(environment: Mapping[str, str]) -> Place | None:
    if "SLURM_PROCID" not in environment or "SLURM_STEP_NODELIST" not in environment:
        return None  # also in a job's own script, which runs beside its steps
    read = _Reader("SLURM", environment)
    processes, process = read.number("SLURM_NTASKS"), read.number("SLURM_PROCID")
    here = _tasks_per_node(read.text("SLURM_STEP_TASKS_PER_NODE"))
    node = read.number("SLURM_NODEID")
    if node >= len(here):
        raise InputError(
            f"SLURM: SLURM_NODEID={node}, but SLURM_STEP_TASKS_PER_NODE names {len(here)} nodes."
        )
    local = read.number("SLURM_LOCALID")
    host = first_host(read.text("SLURM_STEP_NODELIST"))
    port = _port(read.number("SLURM_JOB_ID"))
    devices = _devices(environment, local, here[node], environment.get("SLURM_GPUS_ON_NODE", ""))
    return Place(processes, process, f"{host}:{port}", devices, "SLURM")


def _open_mpi(environment: Mapping[str, str]) -> Place | None:
    if "OMPI_COMM_WORLD_RANK" not in environment:
        return None
    read = _Reader("Open MPI", environment)
    processes, process = read.number("OMPI_COMM_WORLD_SIZE"), read.number("OMPI_COMM_WORLD_RANK")
    local, here = (read.number(f"OMPI_COMM_WORLD_LOCAL_{name}") for name in ("RANK", "SIZE"))
    devices = _devices(environment, local, here, "")
    return Place(processes, process, _of_mpirun(environment), devices, "Open MPI")


def _of_mpirun(environment: Mapping[str, str]) -> str:
    """An address on the machine of mpirun, where process 0 runs as well unless it was told
    otherwise; "" where it does not say: from version 5 on."""
    # "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911", the number being that of the job
    found = re.match(
        r"(\d+)\..*?(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))",
        environment.get("OMPI_MCA_orte_hnp_uri", ""),
    )
    if found is None:
        return ""
    host = found[2] or f"[{found[3]}]"
    return f"{host}:{_port(int(found[1]) >> 12)}"


def _tpu(environment: Mapping[str, str]) -> Place | None:
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    slices = environment.get("MEGASCALE_NUM_SLICES", "1")
    if len(hosts) > 1 or slices not in ("", "1"):
        return Place(0, 0, launcher="TPU")
    return None


Launcher = Callable[[Mapping[str, str]], Place | None]
LAUNCHERS: tuple[Launcher, ...] = (_supervisor, _slurm, _open_mpi, _tpu)


class _Reader:
    """Variables of a launcher, which have to be there."""

    def __init__(self, launcher: str, environment: Mapping[str, str]):
        self._launcher, self._environment = launcher, environment

    def text(self, name: str) -> str:
        if not (value := self._environment.get(name, "")):
            raise InputError(
                f"{self._launcher}: {name} is not set, though others of its variables are. Start "
                "all processes by it alone, or give --coordinator, --processes and --process."
            )
        return value

    def number(self, name: str) -> int:
        value = self.text(name)
        if not (value.isascii() and value.isdecimal()):
            raise InputError(f"{self._launcher}: {name}={value}: expected a number.")
        return int(value)


def _port(job: int) -> int:
    """A port that other jobs on the same machine do not use."""
    return FIRST_PORT + job % PORTS


def first_host(hosts: str) -> str:
    """The first of SLURM's hosts: "n1,n2" -> "n1", "gpu[007-009,12],x" -> "gpu007"."""
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\])?([^,\[]*)", hosts)
    if found is None:
        raise InputError(f"SLURM: SLURM_STEP_NODELIST={hosts}: expected names of hosts.")
    return found[1] + (found[2] or "") + found[3]


def _tasks_per_node(text: str) -> list[int]:
    """The number of processes on every node: "4(x2),3" -> [4, 4, 3]."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise InputError(
                f"SLURM: SLURM_STEP_TASKS_PER_NODE={text}: expected numbers such as 4(x2)."
            )
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _devices(
    environment: Mapping[str, str], local: int, processes: int, gpus: str
) -> tuple[int, ...] | None:
    """The share of a machine's GPUs of the process with the number `local` among so many there:
    all, where it is alone, or sees only one; else an equal share of those that all of them see."""
    if processes == 1:
        return None
    seen = next((environment[name] for name in VISIBLE if environment.get(name)), "")
    count = len(seen.split(",")) if seen else int(gpus) if gpus.isdecimal() else 0
    if count == 1:
        return None  # the launcher has bound one to each
    if not count:
        return (local,)  # one each; none on a machine without GPUs, where nobody looks at it
    return _share(range(count), local, processes)


def _share(devices: Sequence[int], local: int, processes: int) -> tuple[int, ...]:
    if len(devices) % processes:
        raise InputError(
            f"{processes} processes on one machine do not divide its {len(devices)} GPUs. Start "
            "one for each GPU, or one for each machine."
        )
    size = len(devices) // processes
    return tuple(devices[local * size : (local + 1) * size])
