"""Where programs read and write: whatever it is, it gets the whole result and stays what it was."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import socket
import stat
import sys
import threading

import pytest

from interact_jax import checkpoint, cli, config, places
from interact_jax.data import weighing
from interact_jax.data.records import Loss, find_files, read_records
from interact_jax.models import hf
from interact_jax.schema import InputError
from launch import answer, bench, evaluate, generate, make_pocket, plan, score
from launch import train as launch_train
from tests.runs import ROOT, outcome


def write(out, text="new\n"):
    places.check_output(f"--out {out}", out)
    with places.writing(out) as file:
        file.write(text.encode())


def names(directory):
    return sorted(path.name for path in directory.iterdir())


# ------------------------------------------------------------------------- what is no name at all


NO_NAMES = {
    "": "an empty name",
    "x" * 5000: "File name too long",
    "a\0b": "null byte",
    "\ud83d": "can't encode",
}
ASKED = {
    "config": config.load,
    "model": hf.resolve,
    "checkpoint": checkpoint.find,
    "weights": lambda name: weighing.load(f"{name}:weigh"),
    "prompts": places.reading,
    "out": lambda name: places.check_output(f"--out {name}", name),
    "directory": lambda name: places.check_directory(f"--report {name}", name),
    "export": hf.check_place,
    "workdir": lambda name: launch_train.main(["--config", "quickstart", "--workdir", name]),
}


@pytest.mark.parametrize("name", NO_NAMES, ids=NO_NAMES.values())
@pytest.mark.parametrize("asked", ASKED)
def test_what_no_file_can_be_called_is_refused(asked, name):
    with pytest.raises(InputError, match=f"{NO_NAMES[name]}.*Give another path"):
        ASKED[asked](name)


def test_a_plan_refuses_such_a_path_of_data(capsys):
    given = ["--config", str(ROOT / "configs/quickstart.py"), "--topology=v5e:1x1"]
    status, said = outcome(plan.main, [*given, f"--config.data.path={'x' * 5000}"], capsys)
    assert status == 2 and "File name too long" in said


# ----------------------------------------------------------------------------------- files


@pytest.mark.parametrize("target", ["file", "nothing"])
def test_a_link_stays_and_what_it_points_to_is_replaced(target, tmp_path):
    (tmp_path / "disk").mkdir()
    real, link, another = tmp_path / "disk/real", tmp_path / "link", tmp_path / "another"
    if target == "file":
        real.write_text("old")
        os.link(real, tmp_path / "kept")  # what was there is replaced, not written over
    link.symlink_to("disk/real")
    another.symlink_to(link)
    write(another)
    assert link.is_symlink() and another.is_symlink() and not real.is_symlink()
    assert real.read_text() == "new\n" and names(tmp_path / "disk") == ["real"]
    assert target == "nothing" or (tmp_path / "kept").read_text() == "old"


def test_a_file_keeps_its_permissions_and_a_new_one_has_the_usual_ones(tmp_path):
    old, new, usual = tmp_path / "old", tmp_path / "new", tmp_path / "usual"
    old.write_text("old")
    old.chmod(0o604)
    usual.write_text("")
    write(old), write(new)
    assert stat.S_IMODE(old.stat().st_mode) == 0o604
    assert new.stat().st_mode == usual.stat().st_mode


def test_two_programs_may_write_to_one_place(tmp_path):
    out = tmp_path / "a.jsonl"
    with places.writing(out) as one, places.writing(out) as other:
        one.write(b"one")
        other.write(b"other")
    assert out.read_bytes() == b"one"  # it ended last
    assert names(tmp_path) == ["a.jsonl"]


def test_a_name_as_long_as_names_may_be(tmp_path):
    write(tmp_path / ("ä" * 127))
    assert names(tmp_path) == ["ä" * 127]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), None])
def test_after_a_failure_there_is_what_was_there(failure, tmp_path, monkeypatch):
    (out := tmp_path / "out").write_text("old")
    if failure is None:
        failure = OSError(errno.EIO, "the disk fails")
        monkeypatch.setattr(os, "fsync", lambda _: throw(failure))
    with pytest.raises(type(failure)) as met, places.writing(out) as file:
        file.write(b"half")
        file.flush()
        if not isinstance(failure, OSError) or failure.errno == errno.ENOSPC:
            raise failure
    assert out.read_text() == "old" and names(tmp_path) == ["out"]
    if isinstance(failure, OSError):
        assert met.value.filename == str(out)  # the system does not say which file it was


def throw(error):
    raise error


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []

    def sync(number):
        done.append(os.readlink(f"/proc/self/fd/{number}"))

    def replace(old, new):
        done.append((str(old), str(new)))

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write(tmp_path / "out")
    (temporary, renamed, directory) = done
    assert renamed == (temporary, str(tmp_path / "out")) and directory == str(tmp_path)


# ----------------------------------------------------------------- what is no regular file


@pytest.fixture
def pipe(tmp_path):
    """A named pipe and a list that gets all that goes through it."""
    os.mkfifo(place := tmp_path / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append(place.read_bytes()), daemon=True)
    reader.start()
    yield place, found, reader
    with contextlib.suppress(OSError):  # lets the reader go where nothing was written
        os.close(os.open(place, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_pipe_is_written_to_and_stays_one(pipe, name, tmp_path):
    place, found, reader = pipe
    (tmp_path / "link").symlink_to("pipe")
    cli.write_lines(tmp_path / name, [{"id": 1}, {"id": 2}])
    reader.join(10)
    assert found == [b'{"id": 1}\n{"id": 2}\n']
    assert stat.S_ISFIFO(place.lstat().st_mode) and names(tmp_path) == ["link", "pipe"]


def test_a_device_is_written_to_and_stays_one(tmp_path):
    """A terminal, as /dev/null is none that a test should put at risk."""
    ours, theirs = os.openpty()
    (link := tmp_path / "link").symlink_to(os.ttyname(theirs))
    before = os.stat(os.ttyname(theirs))
    write(link, "hello\n")
    assert os.read(ours, 100) == b"hello\r\n"
    after = os.stat(os.ttyname(theirs))
    assert (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
    assert link.is_symlink() and names(tmp_path) == ["link"]
    os.close(ours), os.close(theirs)


def test_an_open_file_is_written_to_where_it_is(tmp_path):
    """As a shell opens it: `3>> log`. Nothing before it is lost, and the name stays its own."""
    (log := tmp_path / "log").write_text("before\n")
    number = os.open(log, os.O_WRONLY | os.O_APPEND)
    inode = log.stat().st_ino
    (link := tmp_path / "link").symlink_to(f"/proc/self/fd/{number}")
    for place in (f"/dev/fd/{number}", link):
        write(place)
    os.write(number, b"after\n")
    os.close(number)
    assert log.read_text() == "before\nnew\nnew\nafter\n" and log.stat().st_ino == inode


@pytest.mark.parametrize("place", ["-", "/dev/stdout", "/dev/fd/1"])
def test_results_are_alone_on_standard_output(place, capfd):
    print("before", flush=True)
    with cli.reserve_stdout(place):
        print("summary")
        cli.write_lines(place, [{"id": "é"}])
    print("after", flush=True)
    said = capfd.readouterr()
    assert said.out == 'before\n{"id": "é"}\nafter\n' and said.err == "summary\n"


def test_where_results_go_to_a_file_the_summary_is_on_standard_output(tmp_path, capfd):
    with cli.reserve_stdout(tmp_path / "out"):
        print("summary")
    assert capfd.readouterr().out == "summary\n"


# ----------------------------------------------------------------------------------- refused


REFUSED = {
    "directory": (lambda d: d, "is a directory"),
    "slash": (lambda d: f"{d}/new/", "is a directory"),
    "no parent": (lambda d: d / "none/out", "there is no directory"),
    "file for a parent": (lambda d: d / "file/out", "Not a directory"),
    "long": (lambda d: d / ("a" * 300), "File name too long"),
    "loop": (lambda d: d / "loop", "Too many levels of symbolic links"),
    "link into nothing": (lambda d: d / "lost", "there is no directory"),
    "socket": (lambda d: d / "socket", "is a socket"),
    "given": (lambda d: d / "file", "is the file that is read"),
    "given by a link": (lambda d: d / "link", "is the file that is read"),
    "closed": (lambda d: "/dev/fd/987", "descriptor 987 is not open"),
    "no number": (lambda d: f"/dev/fd/{10**30}", "is not open"),
    "for reading": (lambda d: f"/dev/fd/{os.open(d / 'file', os.O_RDONLY)}", "reading only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_written_is_refused_before_any_work(case, tmp_path):
    place, expected = REFUSED[case]
    (tmp_path / "file").write_text("data")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("none/out")
    socket.socket(socket.AF_UNIX).bind(str(tmp_path / "socket"))
    before = names(tmp_path)
    out = place(tmp_path)
    with pytest.raises(InputError, match=expected) as refused:
        cli.check_output(out, tmp_path / "other", tmp_path / "file", option="--json")
    assert f"--json {out}" in str(refused.value)
    assert names(tmp_path) == before and (tmp_path / "file").read_text() == "data"


def test_no_permission_is_refused_before_any_work(tmp_path, monkeypatch):
    """Root may write anywhere, so the system's answer is played here."""
    (tmp_path / "file").write_text("old")
    closed = set()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in closed)
    for place, out in [(tmp_path, "new"), (tmp_path, "file"), (tmp_path / "file", "file")]:
        closed = {str(place)}
        with pytest.raises(InputError, match="no permission to write"):
            places.check_output("--out", tmp_path / out)
    closed = {str(tmp_path)}
    for deep in ("report", "a/b/report", "."):
        with pytest.raises(InputError, match=f"no permission to write into {tmp_path}"):
            places.check_directory("--report", tmp_path / deep)


def test_a_directory_to_write_to_is_one_or_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("none")
    (tmp_path / "here").symlink_to(".")
    for fine in (".", "new", "a/b/c", "here", "here/new"):
        places.check_directory("--report", tmp_path / fine)
    for wrong, expected in {
        "file": "a file",
        "file/new": "Not a dir",
        "link": "a dangling link",
    }.items():
        with pytest.raises(InputError, match=expected):
            places.check_directory("--report", tmp_path / wrong)


@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y", "fine/" + "x" * 300])
def test_where_nothing_can_be_made_is_refused(place, tmp_path, monkeypatch):
    """Though root has the permission, and the name in itself is possible."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"nothing can be made in .*Give another path"):
        places.check_directory("--report", place)
    with pytest.raises(InputError, match="nothing can be made in /proc"):
        places.check_output("--out", "/proc/x")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "program, arguments",
    {
        answer: "--model pocket --benchmark ifeval --questions {file} --out /proc/x",
        bench: "--json /proc/x",
        evaluate: "--model pocket --baseline {file} --judge people --out /proc/x",
        generate: "--model pocket --prompts {file} --out /proc/x",
        make_pocket: "train --out /proc/x",
        plan: "--config quickstart --topology none --json /proc/x",
        score: "--model pocket --data pocket --out {file}.out --report /proc/x",
        launch_train: "--config quickstart --workdir /proc/x",
    }.items(),
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_every_program_refuses_such_a_place_at_once(program, arguments, tmp_path, capsys):
    file = tmp_path / "given.jsonl"
    file.write_text('{"prompt": "Hi"}\n')
    given = arguments.format(file=file).split()
    status, said = outcome(program.main, given, capsys)
    assert status == 2 and "/proc/x: nothing can be made in /proc" in said
    assert "Traceback" not in said


# ----------------------------------------------------------------------------------- standard input


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input_is_read_as_often_as_it_is_asked_for(standard_input, pack):
    lines = b'{"n": 0}\n' + b'{"n": "' + b"x" * 200_000 + b'"}\n{"n": '
    standard_input(pack(lines))
    assert find_files("-") == {"-": "stdin"}
    twice = [list(read_records("-", "stdin")) for _ in range(2)]
    assert twice[0] == twice[1]
    one, two, broken = twice[0]
    assert (one.where, one.name, two.value["n"][:3]) == ("standard input:1", "stdin.1", "xxx")
    assert isinstance(broken, Loss) and broken.where == "standard input:3"
    # Side by side, too: every reader has its own position.
    a, b = read_records("-", "stdin"), read_records("-", "stdin")
    assert [x == y for x, y in zip(a, b, strict=True)] == [True] * 3


def test_a_pipe_is_read_as_often_as_it_is_asked_for(tmp_path):
    os.mkfifo(place := tmp_path / "pipe.jsonl")
    writer = threading.Thread(target=place.write_bytes, args=(b'{"n": 0}\n{"n": 1}\n',))
    writer.start()
    found = [[record.value["n"] for record in read_records(str(place), "pipe")] for _ in range(2)]
    writer.join()
    assert found == [[0, 1]] * 2


def test_closed_standard_input_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    places._read_all.cache_clear()
    with pytest.raises(InputError, match="standard input is closed"):
        places.reading("-")


def test_what_a_killed_writer_left_is_found_by_its_name(tmp_path):
    """As `writing` calls it, also where it shortens the name."""
    for name in ("a.json", "x" * 60):
        with pytest.raises(KeyboardInterrupt), places.writing(tmp_path / name):
            (left,) = names(tmp_path)
            raise KeyboardInterrupt
        (tmp_path / left).touch()
        places.remove_partial(tmp_path, "b.json", "x" * 20)
        assert names(tmp_path) == [left]
        places.remove_partial(tmp_path, name)
        assert names(tmp_path) == []
        (tmp_path / left).touch()
        places.remove_partial(tmp_path)
        assert names(tmp_path) == []
    places.remove_partial(tmp_path / "not there")
