"""Files appear whole or not at all, and a directory that goes while it is written to is noticed."""

from __future__ import annotations

import os

import pytest

from interact_jax import cli, files
from interact_jax.schema import RunStopped


class Crash(Exception):
    pass


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_crash_before_the_end_leaves_what_was_there(tmp_path):
    file, folder = tmp_path / "config.json", tmp_path / "model"
    for content in ("one", "two"):
        files.write(file, content)
        with files.whole_directory(folder) as partial:
            (partial / content).write_text(content)
    with pytest.raises(Crash), files.whole(file) as partial:
        partial.write_text("half")
        raise Crash
    with pytest.raises(Crash), files.whole_directory(folder) as partial:
        (partial / "half").write_text("half")
        raise Crash
    assert names(tmp_path) == ["config.json", "model/two"]
    assert file.read_text() == "two"


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


def test_it_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """The bytes first, then the name, then the directory that holds it."""
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda d: (done.append(os.readlink(f"/proc/self/fd/{d}")), sync(d))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("renamed"), replace(a, b)))
    files.write(tmp_path / "file", "text")
    assert done == [str(tmp_path / ".file.partial"), "renamed", str(tmp_path)]
    done.clear()
    cli.write_lines(tmp_path / "lines.jsonl", [{}])
    assert done == [str(tmp_path / ".lines.jsonl.partial"), "renamed", str(tmp_path)]


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    files.write(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write(tmp_path / "pipe", "text")
    assert os.read(reading, 10) == b"text"
    os.close(reading)


@pytest.mark.parametrize("how", ["deleted", "moved", "made anew"])
def test_a_directory_that_goes_is_noticed(how, tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    with pytest.raises(RunStopped, match="run is gone, or another"), files.standing(place) as found:
        (place / "file").touch()
        (place / "file").unlink()
        found.check()
        place.rename(tmp_path / "else") if how == "moved" else place.rmdir()
        if how == "made anew":
            place.mkdir()
            found.check()
        (place / "file").write_text("")  # FileNotFoundError, which does not say why
