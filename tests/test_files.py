"""Directories appear whole or not at all, and one that goes while it is written to is noticed."""

from __future__ import annotations

import os

import pytest

from interact_jax import files
from interact_jax.schema import RunStopped


class Crash(Exception):
    pass


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_crash_before_the_end_leaves_what_was_there(tmp_path):
    for content in ("one", "two"):
        with files.whole_directory(tmp_path / "model") as partial:
            (partial / content).write_text(content)
    with pytest.raises(Crash), files.whole_directory(tmp_path / "model") as partial:
        (partial / "half").write_text("half")
        raise Crash
    assert names(tmp_path) == ["model/two"]


def test_what_a_killed_process_left_beside_it_does_not_matter(tmp_path):
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial/stray").touch()
    (tmp_path / ".model.old").mkdir()
    with files.whole_directory(tmp_path / "model") as partial:
        (partial / "new").touch()
    with files.whole_directory(tmp_path / "model") as partial:
        (partial / "newer").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert names(tmp_path) == ["model/newer"]


def test_all_of_it_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """The bytes first, then the name, then the directory that holds it."""
    done = []
    sync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda d: (done.append(os.readlink(f"/proc/self/fd/{d}")), sync(d))
    )
    monkeypatch.setattr(os, "rename", lambda a, b: (done.append("renamed"), rename(a, b)))
    with files.whole_directory(tmp_path / "model") as partial:
        (partial / "inner").mkdir()
        (partial / "inner/file").write_text("text")
    *first, renamed, last = done
    inner = partial / "inner"
    assert sorted(first) == sorted(map(str, (inner / "file", inner, partial)))
    assert renamed == "renamed" and last == str(tmp_path)


@pytest.mark.parametrize("how", ["deleted", "moved", "made anew"])
def test_a_directory_that_goes_is_noticed(how, tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    with (
        pytest.raises(RunStopped, match="run is gone or was replaced"),
        files.watch(place) as found,
    ):
        (place / "file").touch()
        (place / "file").unlink()
        found.check()
        place.rename(tmp_path / "else") if how == "moved" else place.rmdir()
        if how == "made anew":
            place.mkdir()
            found.check()
        (place / "file").write_text("")  # FileNotFoundError, which does not say why
