"""C++ of ours is compiled once for a machine, and where that cannot be, a message says why."""

import contextlib
import logging
import shlex
import stat
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import cli, foreign, progress, sharding
from interact_jax.models.attention import backend_for, native
from interact_jax.schema import InputError
from tests.marks import needs_compiler

pytestmark = pytest.mark.compiled_quickly

HALVE = """
#include "xla/ffi/api/ffi.h"
namespace ffi = xla::ffi;
ffi::Error halve(ffi::Buffer<ffi::F32> x, ffi::ResultBuffer<ffi::F32> y) {
  for (size_t i = 0; i < x.element_count(); ++i) y->typed_data()[i] = x.typed_data()[i] / 2;
  return ffi::Error::Success();
}
XLA_FFI_DEFINE_HANDLER_SYMBOL(halve_handler, halve,
    ffi::Ffi::Bind().Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>());
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A user who has compiled nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    foreign.load.cache_clear()
    yield
    foreign.load.cache_clear()


@pytest.fixture
def halve_cc(tmp_path):
    source = tmp_path / "halve.cc"
    source.write_text(HALVE)
    return source


def kept(tmp_path):
    """What is in this user's cache."""
    return sorted((tmp_path / "cache/interact_jax/native").iterdir())


def compiler_that_counts(monkeypatch, tmp_path):
    """A compiler that notes its calls that make something."""
    calls = tmp_path / "calls"
    script = tmp_path / "compiler"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        f"if '-E' not in sys.argv: open({str(calls)!r}, 'a').write('made\\n')\n"
        f"command = {shlex.split(foreign.compiler())!r}\n"
        "os.execvp(command[0], [*command, *sys.argv[1:]])\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(script))
    return lambda: calls.read_text().count("made") if calls.exists() else 0


@needs_compiler
def test_a_source_is_compiled_once(monkeypatch, tmp_path, halve_cc):
    made = compiler_that_counts(monkeypatch, tmp_path)
    target = foreign.load(halve_cc, ("halve_handler",))["halve_handler"]
    x = jnp.arange(5, dtype=jnp.float32)
    halve = jax.jit(jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(x.shape, x.dtype)))
    np.testing.assert_array_equal(halve(x), x / 2)

    foreign.load.cache_clear()  # as another process would
    assert foreign.load(halve_cc, ("halve_handler",)) == {"halve_handler": target}
    assert made() == 1
    assert [path.suffix for path in kept(tmp_path)] == [".so"]  # and nothing half-made


@needs_compiler
def test_a_compilation_counts_its_seconds(monkeypatch, halve_cc, caplog):
    monkeypatch.setattr(progress, "FIRST", 0.01)
    with caplog.at_level(logging.INFO, logger="interact_jax"):
        foreign._library(halve_cc)
        assert "compiling halve.cc: 0 s so far" in caplog.text
        caplog.clear()
        foreign._library(halve_cc)
    assert "compiling" not in caplog.text


@needs_compiler
def test_a_damaged_library_is_made_again(monkeypatch, tmp_path, halve_cc):
    foreign._library(halve_cc)
    (whole,) = kept(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    damaged = tmp_path / "other/interact_jax/native" / whole.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(whole.read_bytes()[:100])
    foreign._library(halve_cc)
    assert damaged.read_bytes() == whole.read_bytes()


def a_file(cache):
    """Not even root can write there."""
    cache.touch()
    return "Not a directory"


def everybodys(cache):
    (cache / "interact_jax/native").mkdir(parents=True)
    (cache / "interact_jax/native").chmod(0o777)
    return "others can write there"


@needs_compiler
@pytest.mark.parametrize("place", [pytest.param(a_file, marks=pytest.mark.slow), everybodys])
def test_without_a_cache_every_process_compiles(monkeypatch, tmp_path, halve_cc, caplog, place):
    why = place(tmp_path / "cache")
    made = compiler_that_counts(monkeypatch, tmp_path)
    with caplog.at_level(logging.INFO, logger="interact_jax"):
        for _ in range(2):
            assert foreign.load(halve_cc, ("halve_handler",))
            foreign.load.cache_clear()
    assert made() == 2 and why in caplog.text
    assert (tmp_path / "cache").is_file() or not kept(tmp_path)


@needs_compiler
def test_a_user_without_a_home(monkeypatch, halve_cc, caplog):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with caplog.at_level(logging.INFO, logger="interact_jax"):
        assert foreign.load(halve_cc, ("halve_handler",))
        with no_kept_programs():
            cli.keep_compiled()
    assert caplog.text.count("XDG_CACHE_HOME") == 2


@contextlib.contextmanager
def no_kept_programs():
    """As before the tests told jax where to keep them."""
    told = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", told)


def no_home():
    raise RuntimeError("Could not determine home directory.")


@needs_compiler
def test_options_of_the_user_come_after_our_wishes(monkeypatch, halve_cc):
    monkeypatch.setenv("CXX", f"{foreign.compiler()} -O1 -ffast-math")
    *_, last = (option for option in foreign._command() if option.startswith("-O"))
    assert last == "-O1"
    assert foreign.load(Path(native.__file__).with_suffix(".cc"), ()) == {}  # exact all the same


@needs_compiler
def test_what_does_not_compile_is_said(tmp_path):
    source = tmp_path / "wrong.cc"
    source.write_text("int f() { return nothing; }\n")
    with pytest.raises(foreign.Unavailable, match="nothing"):
        foreign.load(source, ("f",))


def test_without_a_compiler_attention_falls_back_and_says_so(monkeypatch, caplog):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    mesh = sharding.make_mesh()
    with caplog.at_level(logging.INFO, logger="interact_jax"):
        assert backend_for("auto", mesh) == "xla"
    assert "/no/such/compiler" in caplog.text
    with pytest.raises(InputError, match=r"/no/such/compiler.*attention=auto"):
        backend_for("native", mesh)


@pytest.mark.parametrize(
    "cxx, why",
    [("/", "/: Permission denied"), ('g++ "', "No closing quotation"), (" ", "is not a command")],
)
def test_what_is_no_compiler_is_said(monkeypatch, tmp_path, cxx, why):
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(foreign.Unavailable, match=why):
        foreign.load(tmp_path, ())


@pytest.mark.slow  # without it, no test of attention="native" would pass
@needs_compiler
def test_a_cpu_has_it():
    assert backend_for("auto", sharding.make_mesh()) == "native"
