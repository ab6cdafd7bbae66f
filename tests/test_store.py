"""Files in buckets, as in directories: on objects in memory. Whole runs: test_bucket_runs.py."""

import errno
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from types import SimpleNamespace

import pytest

from interact_jax import bucket_lock, checkpoint, cli, digests, stage, store
from interact_jax.schema import InputError, RunStopped
from launch import export
from tests import buckets
from tests.runs import outcome

HOME = f"gs://{buckets.BUCKET}/run"


@pytest.fixture
def home():
    with buckets.in_memory():
        yield store.place(HOME)


@pytest.fixture(params=["here", "bucket"])
def place(request, tmp_path):
    if request.param == "here":
        yield tmp_path / "run"
        return
    with buckets.in_memory():
        yield store.place(HOME)


def fill(place, **content):
    """Files below a place: the letters of their names are its directories."""
    for name, text in content.items():
        file = place / name.replace("_", "/")
        store.of(place).make(file.parent)
        store.of(place).write(file, text)


def test_both_kinds_do_the_same(place):
    files = store.of(place)
    assert files.entries(place) == files.names(place) == []
    assert not files.is_dir(place)
    fill(place, a="1", b_c="22", b_d_e="333")
    assert files.entries(place) == ["a", "b"]
    assert files.names(place) == ["a", "b/c", "b/d/e"]
    assert files.missing(place, ["a", "b", "b/c", "c"]) == ["b", "c"]
    assert files.is_dir(place / "b") and not files.is_dir(place / "a")
    assert files.is_file(place / "a") and not files.is_file(place / "b")
    assert files.sizes(place, ["b/d/e", "a"]) == {"b/d/e": 3, "a": 1}
    assert files.sizes(place / "b", ["d/e"]) == {"d/e": 3}
    with pytest.raises(FileNotFoundError, match="b/d/none"):
        files.sizes(place / "b", ["c", "d/none"])
    with files.open(place / "b/c") as file:
        assert file.read() == b"22"
    with files.fetched(place / "b/c") as here:
        assert here.read_text() == "22"
    files.write(place / "a", "new")
    files.move(place / "a", place / "b/c")
    with files.open(place / "b/c") as file:
        assert file.read() == b"new"
    files.make(place / "aside")
    files.move(place / "b", place / "aside/b")
    assert files.names(place) == ["aside/b/c", "aside/b/d/e"]
    with files.making(place / "made") as here:
        here.mkdir()
        (here / "f").write_text("4")
    files.remove(place / "aside/b/c")
    assert files.names(place) == ["aside/b/d/e", "made/f"]
    files.remove(place / "aside")
    files.remove(place / "made", marks=digests.is_own)
    files.remove(place / "none")
    assert files.names(place) == []


def test_digests_name_what_is_damaged(place):
    fill(place, a="1", b_c="22")
    assert not digests.check(place)
    digests.seal(place)
    assert digests.check(place)
    fill(place, b_c="23")
    with pytest.raises(digests.Damaged, match="run is damaged: b/c is not what was written"):
        digests.check(place)
    store.of(place).remove(place / "b/c")
    with pytest.raises(digests.Damaged, match="b/c is missing"):
        digests.check(place)


def test_what_is_half_deleted_has_no_digests(home, monkeypatch):
    fill(home, a="1", b="2")
    digests.seal(home)
    bucket = store.of(home)
    removed, remove = [], type(bucket._system).rm

    def rm(self, paths, **more):
        if removed:
            raise ConnectionError("gone")
        removed.extend(paths)
        remove(self, paths, **more)

    monkeypatch.setattr(type(bucket._system), "rm", rm)
    with pytest.raises(RunStopped, match="the store fails"):
        bucket.remove(home, marks=digests.is_own)
    assert bucket.names(home) == ["a", "b"]


@pytest.mark.parametrize(("action", "before"), [("copy", 0), ("copy", 2), ("rm", 0), ("rm", 1)])
def test_a_move_to_damaged_that_is_interrupted_is_made_again(home, action, before, monkeypatch):
    """No half is left, and where nothing had been removed, the earlier copy is whole, too."""
    settings = SimpleNamespace(keep=2, damaged="fall_back")
    damaged, kind = home / "checkpoints/4", type(store.of(home)._system)
    fill(home, checkpoints_4_data="1", checkpoints_4_state="2", damaged_4_data="of an earlier one")
    digests.seal(home / "damaged/4")
    digests.seal(damaged)
    names, left, do = store.of(home).names(damaged), [None] * before, getattr(kind, action)

    def interrupted(self, *given, **more):
        if not left:
            raise ConnectionError("gone")
        left.pop()
        do(self, *given, **more)

    monkeypatch.setattr(kind, action, interrupted)
    run = checkpoint.Checkpoints(home, settings)
    run._bad = [damaged]
    with pytest.raises(RunStopped, match="the store fails"):
        run._clean()
    monkeypatch.undo()
    run = checkpoint.Checkpoints(home, settings)
    run._bad = [damaged] if run.latest() == 4 else []  # which is still damaged
    run._clean()
    files = store.of(home)
    assert files.names(damaged) == []
    moved = "4-3" if (action, before) == ("rm", 0) else "4-2"  # nothing of it was removed
    assert files.names(home / "damaged" / moved) == names
    assert digests.check(home / "damaged/4-2")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://bucket/run", "does not write to s3://"),
        ("az://bucket/run", "expected a directory, or gs://BUCKET/run"),
        ("gs://bucket", "expected a bucket, and a name in it"),
        ("gs:///run", "expected a bucket, and a name in it"),
        ("gs://bucket/a/../b", "expected a bucket, and a name in it"),
    ],
)
def test_other_addresses_are_refused(address, said):
    with pytest.raises(InputError, match=said):
        store.place(address)


def test_a_missing_library_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    store._bucket.cache_clear()
    status, said = outcome(lambda given: store.place(*given), [HOME], capsys)
    assert status == 2 and "pip install gcsfs" in said


@pytest.mark.parametrize("flag", ["--checkpoint", "--out"])
def test_an_export_that_loses_its_store_names_the_flag(home, flag, tmp_path, monkeypatch, capsys):
    """And not what a run does then."""
    fill(tmp_path, run_checkpoints_3_data="1")
    digests.seal(tmp_path / "run/checkpoints/3")

    def refused(self, *given, **more):
        raise PermissionError("403")

    monkeypatch.setattr(type(store.of(home)._system), "ls", refused)
    given = {"--checkpoint": str(tmp_path / "run"), "--out": str(tmp_path / "out"), flag: HOME}
    status, said = outcome(export.main, [x for pair in given.items() for x in pair], capsys)
    assert status == 1 and said.startswith(f"stopped: {flag} {HOME}: {HOME}")
    assert "the store fails (403)" in said and said.endswith("exports all of it again.\n")
    assert "newest" not in said


# ------------------------------------------------------------------------------------ stage


def test_small_files_go_there_and_back(home):
    with stage.open(home) as kept:
        fill(kept.folder, config="1", model_a="2", checkpoints_3="no", weights_w="no")
        (kept.folder / ".summary.json.0123456789abcdef.tmp").write_text("half")
        kept.push()
        assert store.of(home).names(home) == ["config", "model/a"]
    fill(home, checkpoints_4_state="large", lock="{}", export_model="large")
    with stage.open(home) as kept:
        assert store.HERE.names(kept.folder) == ["config", "model/a"]
        assert (kept.folder / "model/a").read_text() == "2"
    assert not kept.folder.exists()


def test_only_what_is_wanted_is_fetched(home):
    fill(home, config="1", model_a="2", model_b_c="3", report_page="large", modelcard="4")
    with stage.open(home, wanted=("model", "config", "summary")) as kept:
        assert store.HERE.names(kept.folder) == ["config", "model/a", "model/b/c"]


def test_sizes_are_asked_for_in_one_list(home, monkeypatch):
    """Where files are shared out to be hashed: there may be thousands."""
    fill(home, a="1", b_c="22", b_d="333", e="4444")
    kind, asked = type(store.of(home)._system), []
    find = kind.find

    def listing(self, *given, **more):
        asked.append("list")
        return find(self, *given, **more)

    monkeypatch.setattr(kind, "find", listing)
    names = digests.names_in(home)
    asked.clear()
    shares = [digests._share(home, names, own, 2) for own in range(2)]
    assert sorted(map(sorted, shares)) == [["a", "e"], ["b/c", "b/d"]]
    assert len(asked) == 2


def test_only_what_changed_is_pushed(home, monkeypatch):
    written = []
    monkeypatch.setattr(
        type(store.of(home)), "write", lambda self, place, data: written.append(place.name)
    )
    with stage.open(home) as kept:
        fill(kept.folder, a="1", b="2")
        (kept.folder / "finished.json").write_text("{}")
        kept.push()
        assert written == ["a", "b", "finished.json"]
        written.clear()
        (kept.folder / "b").write_text("more")
        kept.push()
    assert written == ["b"]


def test_a_run_that_fails_leaves_its_log(home):
    with bucket_lock.hold(home) as held, pytest.raises(ValueError), stage.open(home, held) as kept:
        fill(kept.folder, log="what happened")
        raise ValueError
    assert store.of(home).names(home) == ["log"]


@pytest.mark.parametrize("link", [False, True])
def test_what_is_said_names_the_bucket(home, link, tmp_path, monkeypatch, capsys):
    """In errors of any kind, in the log, and in what a program shows, by any way to the place."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("link" if link else "real")))

    def fails(given):
        with stage.open(home) as kept:
            cli.log_to_stderr()
            folder = kept.folder.resolve() if link else kept.folder
            logging.getLogger("interact_jax.test").warning("%s/metrics.jsonl: cut off", folder)
            cli.show(f"report: {kept.folder}/report/index.html")
            if given == ["input"]:
                raise InputError(f"{folder}/config.json: odd.")
            raise OSError(errno.ENOSPC, "No space left", f"{folder}/metrics.jsonl")

    def said(kind):
        with pytest.raises(SystemExit):
            cli.run(lambda: fails([kind]))
        shown = capsys.readouterr()
        return [*shown.out.splitlines(), *shown.err.splitlines()]

    same = [f"report: {HOME}/report/index.html", f"{HOME}/metrics.jsonl: cut off"]
    assert said("input") == [*same, f"error: {HOME}/config.json: odd."]
    *before, last = said("system")
    here = f"meanwhile under {tempfile.gettempdir()}, TMPDIR of this machine"
    assert before == same
    assert last.startswith(f"error: {HOME}/metrics.jsonl ({here}): No space left. Make")


# ------------------------------------------------------------------------------------- lock


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bucket_lock, "RENEWED", 0.05)
    monkeypatch.setattr(bucket_lock, "PATIENCE", 1.0)
    monkeypatch.setattr(bucket_lock, "MOMENT", 0.01)


def owner_in(home):
    with store.of(home).open(home / "lock") as file:
        return json.loads(file.read())


def test_a_second_run_is_refused_and_the_first_keeps_its_lock(home, quick):
    with bucket_lock.hold(home) as held:
        with pytest.raises(InputError, match=f"another run is active .*process {os.getpid()} on"):
            bucket_lock.hold(home).__enter__()
        held.check()
    assert store.of(home).names(home) == []


@pytest.mark.parametrize("content", ['{"host": "other", "process": 3}', "{", "[]"])
def test_a_stale_lock_is_taken_over(home, quick, content):
    fill(home, lock=content)
    with bucket_lock.hold(home) as held:
        held.check()
        assert owner_in(home)["process"] == os.getpid()


def test_an_owner_of_this_machine_that_is_gone_is_not_waited_for(home, monkeypatch):
    if not bucket_lock._system():
        pytest.skip("nothing tells this machine from others")
    monkeypatch.setattr(bucket_lock, "MOMENT", 0.01)
    monkeypatch.setattr(bucket_lock.Held, "_wait_for_a_renewal", lambda *_: pytest.fail("waits"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    fill(home, lock=json.dumps({"process": ended.pid, "system": bucket_lock._system()}))
    with bucket_lock.hold(home) as held:
        held.check()


def test_of_several_that_take_over_one_holds_it(home, quick, monkeypatch):
    monkeypatch.setattr(bucket_lock, "MOMENT", 0.5)
    fill(home, lock='{"host": "other", "process": 3}')
    began, ended, held = threading.Barrier(8), threading.Event(), []

    def run():
        began.wait()
        try:
            with bucket_lock.hold(home) as mine:
                held.append(mine)
                ended.wait(10)
        except InputError:
            pass
        finally:
            refused.release()

    refused = threading.Semaphore(0)
    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(7):
        assert refused.acquire(timeout=30)
    ended.set()
    for thread in threads:
        thread.join()
    assert len(held) == 1


def test_who_has_lost_the_lock_pushes_nothing(home, quick):
    with bucket_lock.hold(home) as held, stage.open(home, held) as kept:
        fill(home, lock='{"host": "other", "process": 3, "id": "theirs"}')
        fill(kept.folder, log="mine")
        with pytest.raises(RunStopped, match="process 3 on other has the lock of this run"):
            kept.push()
    assert store.of(home).names(home) == ["lock"]  # theirs


def test_damaged_digests_are_damage(place):
    """Also where they are no text any more."""
    fill(place, a="1", b_c="22")
    digests.seal(place)
    own = place / digests.NAME.format(0, 1)
    with store.of(place).open(own) as file:
        sound = file.read()
    store.of(place).write(own, sound[:9] + bytes([sound[9] ^ 128]) + sound[10:])
    with pytest.raises(digests.Damaged, match=r"is damaged: digests-0-of-1\.b2"):
        digests.check(place)


def test_an_object_that_leads_out_of_a_run_is_refused(home, monkeypatch):
    fill(home, a_b="1")
    monkeypatch.setattr(type(store.of(home)), "names", lambda *_: ["../../b"])
    with pytest.raises(InputError, match="no run has written"), stage.open(home):
        pass


def test_a_step_that_is_recorded_meanwhile_is_whole_or_not_there(home, monkeypatch):
    """Of an online run: what its line names is in the file beside it."""
    kind = type(store.of(home))
    write = kind.write
    with stage.open(home) as kept:
        said, steps = kept.folder / "conversations.jsonl", kept.folder / "rollouts.jsonl"
        said.write_text("one")
        steps.write_text("3")

        def recorded_meanwhile(self, file, data):
            said.write_text("onetwo")
            steps.write_text("6")
            write(self, file, data)

        monkeypatch.setattr(kind, "write", recorded_meanwhile)
        kept.push()
        monkeypatch.undo()
        files = store.of(home)
        with files.open(home / said.name) as text, files.open(home / steps.name) as end:
            assert len(text.read()) >= int(end.read())
