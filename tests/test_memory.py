"""What a run needs of memory against what there is, said before its first step."""

import json
import logging
import os
import platform
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from interact_jax import cli, config, memory, plan, sharding, train
from interact_jax.cluster import processes
from interact_jax.models.shapes import SHAPES
from launch import train as launch_train
from tests.runs import ROOT, outcome, overrides, records, tiny, train_arguments, write_lines

pytestmark = pytest.mark.compiled_quickly

GB = 10**9
NEEDS = memory.Needs(state=4 * GB, sums=2 * GB, step=9 * GB, copy=4 * GB)


FAULTS = """
import resource
import numpy as np
from interact_jax import startup
startup.begin()  # without PyTorch, which takes seconds to import
from interact_jax import memory

def step():
    return [np.full(8_000_000, 1.0) for _ in range(3)][0][0]

for begin in (lambda: None, memory.keep_freed, memory.return_freed):
    begin()
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**env):
    """Of five steps: as the allocator is, with memory kept, and with it returned again."""
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(
        command, env=inherited | {"JAX_PLATFORMS": "cpu"} | env, capture_output=True, check=True
    )
    return map(int, done.stdout.split())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is meant")
def test_memory_that_is_freed_is_kept_for_the_next_step_and_can_be_returned():
    usual, kept, returned = page_faults()
    assert kept < usual / 10 and returned > usual / 2
    _, user, _ = page_faults(GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072")
    assert user > 10 * kept, "what the user asks for in the environment comes first"


def test_memory_is_kept_only_for_what_is_small_against_the_machine(monkeypatch):
    returned = []
    monkeypatch.setattr(memory, "return_freed", lambda: returned.append(True))
    monkeypatch.setattr(memory, "room", lambda _: memory.Room(40 * GB, 0, "a box"))
    for needed, expected in ((10 * GB, []), (10 * GB + 1, [True])):
        memory.choose_allocator(needed, sharding.make_mesh())
        assert returned == expected


# ------------------------------------------------------------------------------ needs against room


def test_a_run_that_cannot_fit_is_refused_with_the_figures():
    with pytest.raises(
        memory.DoesNotFit, match=r"9\.5 GB of 9\.0 GB that a box has \(500 MB process"
    ):
        memory.check(NEEDS, memory.Room(9 * GB, 0.5 * GB, "a box"))


def test_a_checkpoint_lies_beside_the_next_steps_only_where_there_is_room(caplog):
    with caplog.at_level(logging.INFO):
        assert memory.check(NEEDS, memory.Room(35 * GB, 0.4 * GB, "a box", 8))
        assert (
            "17.4 GB of 35.0 GB that a box has for each of 8 devices" in caplog.text
            and "4.0 GB a checkpoint" in caplog.text
        )
        assert not memory.check(NEEDS, memory.Room(34 * GB, 0.4 * GB, "a box"))
        assert "needs 9.4 GB of 34.0 GB" in caplog.text and "before the next step" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_checkpoint_alone_may_be_what_does_not_fit():
    with pytest.raises(memory.DoesNotFit, match=r"needs 14\.0 GB"):
        memory.check(memory.Needs(7 * GB, GB, 9 * GB, 7 * GB), memory.Room(10 * GB, 0, "a box"))


def test_little_room_is_a_warning_and_an_unknown_device_none(caplog):
    memory.check(NEEDS, memory.Room(9.5 * GB, 0, "a box"))
    assert "which is tight" in caplog.text
    caplog.clear()
    assert memory.check(NEEDS, None)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_host_that_cannot_hold_a_copy_of_its_accelerators_state_is_told(monkeypatch, caplog):
    monkeypatch.setattr(memory, "is_host", lambda _: False)
    for left, told in ((32 * GB, False), (31 * GB, True)):  # eight devices with 4 GB each
        monkeypatch.setattr(memory, "host_left", lambda left=left: (left, 64 * GB, "a box"))
        memory.check_host(NEEDS, sharding.make_mesh())
        assert ("copies 32.0 GB to the host, where a box has 31.0 GB" in caplog.text) == told


def test_needs_are_those_of_the_compiled_step(tmp_path):
    """And the first step finds what was compiled for them."""
    tiny(tmp_path)
    run = start(tmp_path, **{"teacher.name": "ema", "batch.conversations": 6})
    trees = run.dataset.trees_of(range(6))
    needs = memory.needs(
        run.differentiate,
        jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), run.state
        ),
        run.source.packing.largest(trees),
        run.model.mesh,
        several=False,
    )

    def held(tree):
        return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))

    assert needs.state == needs.copy == held(run.state)
    params = held(run.state.params)
    assert params <= needs.sums <= params + 1_000  # and a few numbers
    assert needs.step >= needs.state + needs.sums
    again = memory.needs(
        run.differentiate,
        run.state,
        run.source.packing.largest(trees),
        run.model.mesh,
        several=True,
        fixed=("teacher",),
    )
    assert again.step == needs.step + needs.sums, "sums of the micro-batches before"
    assert again.copy == needs.copy - held(run.state.models["teacher"])
    run.checkpoints.close()


def start(directory, **settings):
    data = write_lines(directory / "talks.jsonl", records())
    given = {"model.path": directory, "data.path": data, "steps": 2, "epochs": 0}
    given |= {"data.max_length": 256, "batch.row_tokens": 256, "attention": "dense", **settings}
    given = {"batch.interactions": 0, "batch.conversations": 6, **given}
    cfg = config.load(str(ROOT / "configs/quickstart.py"), overrides(given))
    return train.start(cfg, directory / "run")


@pytest.mark.slow
def test_a_model_larger_than_the_machine_is_refused_with_what_fits(tmp_path, capsys):
    """Before a weight is there. What it is told fits by the compiler's figures."""
    mesh = sharding.make_mesh(data=1, fsdp=8)
    room = memory.room(mesh)
    left = (room.limit - room.taken) * 8
    # With Adam in float32 16 bytes a parameter, in bfloat16 with sgd 6: one does not fit.
    D, V = 1_024, 512
    layers = int(left / 12 / (3 * D * 4 * D))
    sizes = {"hidden_size": D, "intermediate_size": 4 * D, "num_hidden_layers": layers}
    tiny(tmp_path)
    shape = SHAPES["small"] | sizes | {"vocab_size": V}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    data = write_lines(tmp_path / "talks.jsonl", records())
    given = {"model.path": tmp_path, "model.init": "random", "data.path": data}
    given |= {"mesh.data": 1, "mesh.fsdp": 8, "remat": "full", "optim.name": "adamw"}
    arguments = train_arguments(tmp_path / "run", given)
    status, said = outcome(launch_train.main, arguments, capsys)
    assert status == 2 and "the run does not fit into memory" in said, said
    assert not (tmp_path / "run" / "checkpoints").exists()
    advice = said.rpartition("It fits with ")[2].strip().rstrip(".").split()
    assert advice and all(one.startswith("--config.") for one in advice), said
    cfg = config.load(str(ROOT / "configs/quickstart.py"), [*overrides(given), *advice])
    assert plan.make_plan(cfg, plan.work_of(cfg), plan.HERE).fits


# ------------------------------------------------------------------------------------ what is there


def test_room_of_a_host_is_shared_by_its_devices():
    one, eight = (memory.room(sharding.make_mesh(devices=jax.devices()[:n])) for n in (1, 8))
    assert one.limit <= psutil.virtual_memory().total
    assert one.limit == pytest.approx(8 * eight.limit, rel=0.1)
    held = psutil.Process().memory_info().rss
    assert one.taken == pytest.approx(held + memory.COMPILER, rel=0.1)


def written(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")


def test_the_limits_of_a_container_count_at_every_level(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/pod/box\n")
    written(
        tmp_path,
        {
            "pod/box/memory.max": "max",
            "pod/box/memory.current": 100,
            "pod/box/memory.stat": "anon 60\ninactive_file 40",
            "pod/memory.max": 1000,
            "pod/memory.current": 300,
            "pod/memory.stat": "anon 100\ninactive_file 200",
        },
    )
    assert list(memory.cgroups_left(own, tmp_path)) == [
        (900, 1000, tmp_path / "pod" / "memory.max")
    ]


def test_the_older_kind_of_control_groups_too(tmp_path):
    own = tmp_path / "own"
    own.write_text("5:cpu:/x\n4:memory,hugetlb:/box\n0::/\n")
    written(
        tmp_path / "memory",
        {
            "box/memory.limit_in_bytes": 500,
            "box/memory.usage_in_bytes": 450,
            "box/memory.stat": "cache 100\ntotal_inactive_file 70",
            "memory.limit_in_bytes": 10**19,
            "memory.usage_in_bytes": 1,
            "memory.stat": "cache 1",
        },
    )
    found = dict((place.parent.name, left) for left, _, place in memory.cgroups_left(own, tmp_path))
    assert found == {"box": 120, "memory": 10**19 - 1}


def test_no_control_groups_are_no_limit(tmp_path):
    assert list(memory.cgroups_left(tmp_path / "absent", tmp_path)) == []


# ------------------------------------------------------------------------------------- when it ends


def test_a_device_that_runs_out_is_one_message_with_advice(capsys):
    def main():
        jnp.zeros(2**46, jnp.float32).block_until_ready()

    with pytest.raises(SystemExit) as ended:
        cli.run(main, "Use less.")
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "Traceback" not in said
    assert said.startswith("error: out of memory: ") and said.endswith("Use less.\n")


def test_a_host_that_runs_out_is_one_message_with_advice(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: np.zeros(2**50, np.int8) + 1, "Use less.")
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "Traceback" not in said
    assert said.startswith("error: out of memory: ") and said.endswith("Use less.\n")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("INTERNAL: Gloo all-reduce: Connection closed by peer", "stopped: a computation of all"),
        ("RESOURCE_EXHAUSTED: Out of memory: 8 bytes for a Gloo buffer", "error: out of memory: "),
    ],
)
def test_memory_that_runs_out_is_no_lost_process(said, expected, capsys, monkeypatch):
    """Also where the message has a sign of one."""

    def fails():
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(processes, "are_several", lambda: True)
    monkeypatch.setattr(os, "_exit", sys.exit)  # which ends a process that others wait for
    with pytest.raises(SystemExit) as ended:
        cli.run(fails, "Use less.")
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(expected)


def test_where_there_is_no_room_for_a_thread_that_is_said(capsys, monkeypatch):
    def refused(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "_start_new_thread", refused)
    with pytest.raises(SystemExit) as ended:
        cli.run(threading.Thread(target=print).start, "Use less.")
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "Traceback" not in said
    assert said.startswith("error: out of memory, or of processes: ")
    assert said.endswith("Use less.\n")


def test_the_limit_of_the_process_counts(monkeypatch):
    taken = psutil.Process().memory_info().vms
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (taken + 10**6, taken + 10**6))
    left, most, name = memory.host_left()
    assert 0 <= left <= 10**6 + 10**8 and most == taken + 10**6 and "ulimit" in name
