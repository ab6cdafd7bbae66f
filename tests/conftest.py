"""Every test runs on 8 virtual CPU devices, and no array is broadcast to a higher rank unasked."""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

# Before jax is imported: it reads both when it starts its backends.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that wants a download has to fail, not to wait

import jax
import pytest

from interact_jax import places

jax.config.update("jax_numpy_rank_promotion", "raise")

CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


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


@pytest.fixture(scope="module")
def compiled_quickly():
    """Compile almost without optimisation, which takes half as long; so do processes that tests
    start. For files about what a run does: what it computes is tested as users compile it."""
    name = "jax_disable_most_optimizations"
    jax.clear_caches()  # they do not know of it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), "1")
        jax.config.update(name, True)
        yield
    jax.config.update(name, False)
    jax.clear_caches()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Golden numbers and real data, which stand beside a checkout and are no part of it."""
    root = Path(__file__).resolve().parents[1]
    places = [root.parent / "shared", root.parent.parent / "shared"]
    found = next((place for place in places if (place / "oracle").is_dir()), None)
    if found is None:
        pytest.skip(f"neither {places[0]} nor {places[1]} is there")
    return found


@pytest.fixture
def standard_input(monkeypatch):
    """A function that says what comes in there."""

    def says(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        places._read_all.cache_clear()

    yield says
    places._read_all.cache_clear()
