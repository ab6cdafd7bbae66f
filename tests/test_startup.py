"""What a program does before it imports what takes seconds."""

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
