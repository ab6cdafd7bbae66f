"""C++ of ours is compiled once for a machine, and where that cannot be, a message says why."""

import logging
import shlex
import stat
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import foreign, sharding
from interact_jax.models.attention import backend_for
from interact_jax.schema import InputError
from tests.marks import needs_compiler

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
def test_a_source_is_compiled_once(monkeypatch, tmp_path):
    made = compiler_that_counts(monkeypatch, tmp_path)
    source = tmp_path / "halve.cc"
    source.write_text(HALVE)
    target = foreign.load(source, ("halve_handler",))["halve_handler"]
    x = jnp.arange(5, dtype=jnp.float32)
    halve = jax.jit(jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(x.shape, x.dtype)))
    np.testing.assert_array_equal(halve(x), x / 2)

    foreign.load.cache_clear()  # as another process would
    assert foreign.load(source, ("halve_handler",)) == {"halve_handler": target}
    assert made() == 1
    kept = list((tmp_path / "cache/interact_jax/native").iterdir())
    assert [path.suffix for path in kept] == [".so"]  # and nothing half-made


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


def test_a_cache_that_cannot_be_written_is_no_failure(monkeypatch, tmp_path):
    """A file is where the directory should be: not even root can write there."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert backend_for("auto", sharding.make_mesh()) == "xla"


@needs_compiler
def test_a_cpu_has_it():
    assert backend_for("auto", sharding.make_mesh()) == "native"
