"""Tests run on 8 virtual CPU devices, in files marked `one_device` on one of them; and no array is
broadcast to a higher rank unasked."""

import functools
import gc
import io
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from tests import compiling

# Before jax is imported, which reads the first two when it starts its backends.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = compiling.flags_with(compiling.EIGHT_DEVICES)
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that wants a download has to fail, not to wait
# Programs do not note which lines of ours their operations come from: a tenth of the time of runs.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

import jax
import orbax.checkpoint as ocp
import pytest

from interact_jax import places, sharding

jax.config.update("jax_numpy_rank_promotion", "raise")
# Of arrays that all devices hold, Orbax writes a part from each, and compiles a program for every
# part: 72 for a tiny model. Runs in processes of their own do so, those in this one need not.
logging.getLogger("absl").disabled = True  # it warns that this replaces a handler
ocp.type_handlers.register_type_handler(
    jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False), override=True
)
logging.getLogger("absl").disabled = False

CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
# What takes more than half a minute of processor time, the longest first. One worker runs a whole
# file, so a long one must not start last.
LONG = (
    "online/test_loop.py",
    "test_held_out.py",
    "test_checkpoint.py",
    "test_resume.py",
    "test_prepared_runs.py",
    "generation/test_server_engines.py",
    "generation/test_sampler.py",
    "test_models_of_a_run.py",
    "test_teachers.py",
    "models/test_attention.py",
    "launch/test_oracle.py",
    "cluster/test_training.py",
    "models/test_sight.py",
    "pocket/test_model.py",
    "test_notebooks.py",
    "test_ends.py",
    "launch/test_bad_input.py",
    "faults/test_faults.py",
    "test_report.py",
    "models/test_native_layers.py",
    "test_train.py",
    "test_memory.py",
    "test_strangers.py",
    "launch/test_golden_steps.py",
    "launch/test_golden_objectives.py",
    "test_harness.py",
    "test_foreign.py",
    "models/test_tpu_compile.py",
)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compile every program once per session, also for the processes that tests start.

    TEST_COMPILED names a directory that outlives the session."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent  # that of all workers
    directory = Path(os.environ.get("TEST_COMPILED") or session / "compiled")
    directory.mkdir(exist_ok=True)
    settings = {"jax_compilation_cache_dir": str(directory), **CACHE}
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(scope="module", autouse=True)
def optimisation(request):
    """Compile a file marked `compiled_quickly` almost without optimisation, also in the processes
    that its tests start, and every other file as users do. The slow tests are all compiled so."""
    marked = request.node.get_closest_marker("compiled_quickly") is not None
    compiling.compile_quickly(marked and request.config.option.markexpr != "slow")


@pytest.fixture(scope="module", autouse=True)
def devices(request, optimisation):
    """A file marked `one_device` sees one, as the CPU that most people begin on, and so do the
    processes that its tests start: sampling on 8 is to do the same 8 times on the same cores."""
    if request.node.get_closest_marker("one_device") is None:
        yield
        return
    first = jax.devices()[:1]  # this process starts all of them, whatever its first file is
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", compiling.flags_of_one_device())
        for name in ("make_mesh", "storage_mesh"):
            alone = functools.partial(getattr(sharding, name), devices=first)
            patch.setattr(sharding, name, alone)
        yield


def pytest_collection_finish():
    """Tracing makes many objects: looking for cycles among all that was imported, again and again,
    takes a tenth of the time of a run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items):
    """Among workers, long files first; then those that are compiled alike one after another."""
    tests = Path(__file__).resolve().parent
    place = {tests / name: n for n, name in enumerate(LONG)}
    if missing := [str(path) for path in place if not path.is_file()]:
        raise pytest.UsageError(
            f"LONG in tests/conftest.py names files that are not there: {missing}"
        )

    workers = "PYTEST_XDIST_WORKER" in os.environ

    def order(item):
        quickly = item.get_closest_marker("compiled_quickly") is not None
        return place.get(item.path, len(LONG)) if workers else 0, not quickly

    items.sort(key=order)


@pytest.fixture(autouse=True)
def package_log():
    """Programs that a test calls take over the package's log; the next test has it back."""
    logger = logging.getLogger("interact_jax")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Golden numbers and real data, which stand beside a checkout and are no part of it."""
    root = Path(__file__).resolve().parents[1]
    beside = [root.parent / "shared", root.parent.parent / "shared"]
    found = next((place for place in beside if (place / "oracle").is_dir()), None)
    if found is None:
        pytest.skip(f"neither {beside[0]} nor {beside[1]} is there")
    return found


@pytest.fixture
def standard_input(monkeypatch):
    """A function that says what comes in there."""

    def says(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        places._read_all.cache_clear()

    yield says
    places._read_all.cache_clear()
