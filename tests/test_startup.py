"""What a program does before it imports what takes seconds."""

import io
import subprocess
import sys
import threading

import pytest

from interact_jax import startup


def test_devices_tell_of_an_accelerator(tmp_path):
    assert not startup.has_accelerator(tmp_path)
    for name in ("null", "accel", "vfio/vfio"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert not startup.has_accelerator(tmp_path)
    (tmp_path / "accel0").touch()
    assert startup.has_accelerator(tmp_path)


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("libtpu", [False, True])
def test_libtpu_is_left_alone_where_there_is_nothing_for_it(monkeypatch, accelerator, libtpu):
    environment = {}
    monkeypatch.setattr(startup.os, "environ", environment)
    monkeypatch.setattr(startup, "has_accelerator", lambda: accelerator)
    spec = object() if libtpu else None
    monkeypatch.setattr(startup.importlib.util, "find_spec", lambda name: spec)
    startup.quieten()
    assert environment.get("JAX_PLATFORMS") == ("cpu" if libtpu and not accelerator else None)


def test_what_is_set_stays(monkeypatch):
    monkeypatch.setattr(startup.os, "environ", {"JAX_PLATFORMS": "tpu"})
    monkeypatch.setattr(startup, "has_accelerator", lambda: False)
    startup.quieten()
    assert startup.os.environ["JAX_PLATFORMS"] == "tpu"


class Terminal(io.StringIO):
    """A terminal that says when so many lines have been written."""

    def __init__(self, lines):
        super().__init__()
        self.lines, self.full = lines, threading.Event()

    def isatty(self):
        return True

    def write(self, text):
        length = super().write(text)
        if self.getvalue().count("\n") >= self.lines:
            self.full.set()
        return length


def test_long_imports_are_not_silent(monkeypatch):
    terminal = Terminal(lines=3)
    monkeypatch.setattr(startup.ends, "install_handlers", lambda: None)
    monkeypatch.setattr(startup, "quieten", lambda: None)
    monkeypatch.setattr(startup, "INTERVAL", 0.001)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    before = set(threading.enumerate())
    startup.begin()
    (counting,) = set(threading.enumerate()) - before
    assert terminal.full.wait(60)
    startup.end_imports()
    counting.join(60)
    assert not counting.is_alive()
    first, *others = terminal.getvalue().splitlines()
    assert first.startswith("interact_jax ")
    assert all(line.startswith("loading libraries: ") for line in others)


IMPORTS = """
import importlib.util, sys
from pathlib import Path
from interact_jax import startup
{begins}
from interact_jax import loggers
from interact_jax.data import tokenizer
loggers.Loggers("tensorboard", Path(sys.argv[1]), 0, {{}}).write(1, {{"loss": 0.5}})
print("torch" in sys.modules, importlib.util.find_spec("torch") is not None)
"""


@pytest.mark.parametrize(
    "begins, imported",
    [
        ("startup.begin()", False),
        pytest.param("startup.begin(torch=True)", True, marks=pytest.mark.slow),
        ("", True),
    ],
)
def test_programs_leave_torch_alone(begins, imported, tmp_path):
    """As long to import as all the rest; whoever asks for it later still finds it."""
    code = IMPORTS.format(begins=begins)
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.stdout == f"{imported} True\n", ended.stderr
