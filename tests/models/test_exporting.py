"""What an export finds in its place: an earlier one, files of others, nothing that it can use."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from interact_jax import digests, places, store
from interact_jax.models import hf
from interact_jax.models.hf.tensor_files import write_tensors
from interact_jax.schema import InputError
from tests import buckets
from tests.cluster.threads import as_processes
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

FOREIGN = {
    "README.md": "a model card",
    ".gitattributes": "*.safetensors filter=lfs",
    "pictures/loss.png": "a picture",
    "model_old.safetensors": "weights of somebody else",
    "model-00001-of-00002.safetensors.part": "half a download",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    tiny_tokenizer(directory)
    tiny_model(directory, num_hidden_layers=2)
    return directory


def exported(model, out, factor=1.0, **how):
    """Export the model with its parameters times a factor."""
    raw, config = hf.load_config(model)
    params = jax.tree.map(lambda x: x * factor, hf.load_params(model, config, jnp.float32))
    where = {"source_dir": model, "tokenizer_dir": model, **how}
    hf.export(params, config, raw, out, dtype="float32", eos_ids=[2], **where)


def loaded(directory):
    """All parameters, as one array; None where the directory cannot be loaded."""
    try:
        _, config = hf.load_config(directory)
        params = hf.load_params(directory, config, jnp.float32)
    except InputError:
        return None
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


def contents(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def put_foreign(directory):
    for name, text in FOREIGN.items():
        (directory / name).parent.mkdir(exist_ok=True, parents=True)
        (directory / name).write_text(text)


def check_foreign(directory):
    assert {name: (directory / name).read_text() for name in FOREIGN} == FOREIGN


SMALL, LARGE = {"max_shard_size": "60KB"}, {"max_shard_size": "120KB"}
CHANGES = {"to one": (SMALL, {}), "to several": ({}, SMALL), "to fewer": (SMALL, LARGE)}


@pytest.mark.parametrize("change", CHANGES)
def test_files_of_ours_are_replaced_and_others_stay(model, change, tmp_path):
    before, after = CHANGES[change]
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    put_foreign(out)
    exported(model, out, 2.0, **before)
    (out / "additional_chat_templates").mkdir()
    (out / "additional_chat_templates/rag.jinja").write_text("of another tokenizer")
    exported(model, out, **after)
    exported(model, fresh, **after)
    check_foreign(out)
    ours = {name: data for name, data in contents(out).items() if name not in FOREIGN}
    assert ours == contents(fresh)


def test_a_link_to_a_directory_stays(model, tmp_path):
    (tmp_path / "disk").mkdir()
    (link := tmp_path / "export").symlink_to("disk")
    for factor in (1.0, 2.0):
        exported(model, link, factor)
        assert link.is_symlink() and (tmp_path / "disk/config.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "export"]


class Crash(BaseException):
    """The end of a process: nothing is cleaned up behind it."""


def crash_at(step, monkeypatch):
    """Crash before a change of the file system, once the export is complete. Nothing works then."""
    count = 0

    def crashing(original):
        def change(*args, **more):
            nonlocal count
            count += 1
            if count > step:
                raise Crash
            return original(*args, **more)

        return change

    seal = digests.seal

    def begin(directory):
        seal(directory)
        for module, name in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (shutil, "rmtree")):
            monkeypatch.setattr(module, name, crashing(getattr(module, name)))

    monkeypatch.setattr(digests, "seal", begin)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("to one", marks=pytest.mark.slow),
        pytest.param("to several", marks=pytest.mark.slow),
        pytest.param("to fewer", marks=pytest.mark.slow),
    ],
)
def test_a_crash_at_any_moment_leaves_no_mixture(model, change, tmp_path, monkeypatch):
    before, after = CHANGES[change]
    old, new, out = tmp_path / "old", tmp_path / "new", tmp_path / "out"
    exported(model, old, 2.0, **before)
    exported(model, new, **after)
    whole, states = {"old": loaded(old), "new": loaded(new)}, []
    for step in range(100):
        shutil.copytree(old, out)
        put_foreign(out)
        with monkeypatch.context() as patch:
            crash_at(step, patch)
            try:
                exported(model, out, **after)
                break
            except Crash:
                pass
        found = loaded(out)
        states += [next((n for n, x in whole.items() if np.array_equal(found, x)), "mixture")]
        states[-1] = "nothing" if found is None else states[-1]
        check_foreign(out)
        exported(model, out, **after)  # the next one finds its way
        np.testing.assert_array_equal(loaded(out), whole["new"])
        assert not (out / ".partial").exists()
        shutil.rmtree(out)
    assert list(dict.fromkeys(states)) == ["old", "nothing", "new"]


def test_files_are_on_disk_before_they_take_the_place_of_others(model, tmp_path, monkeypatch):
    exported(model, out := tmp_path / "out", 2.0)
    synced, replaced = set(), []
    real_sync, real_replace = os.fsync, os.replace

    def sync(number):
        synced.add(os.readlink(f"/proc/self/fd/{number}"))
        real_sync(number)

    def replace(source, target):
        replaced.append(str(source))
        assert str(source) in synced and (out / source).is_file()
        synced.add(str(target))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    exported(model, out)
    assert len(replaced) >= 5 and replaced[-1].endswith("model.safetensors")
    assert str(out) in synced


def test_a_failure_leaves_the_last_export_whole(model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    exported(model, out)
    before, calls = contents(out), []

    def full(path, *_):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"half")

    monkeypatch.setattr("interact_jax.models.hf.tensor_files._write_file", full)
    with pytest.raises(InputError, match=r"could not be written.*No space left.*unchanged"):
        exported(model, out, **SMALL)
    assert contents(out) == before and not (out / ".partial").exists()
    calls.clear()
    with pytest.raises(InputError, match=r"could not be written"):
        exported(model, tmp_path / "new", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 70), (ml_dtypes.bfloat16, 1000)])
def test_files_are_those_of_safetensors(dtype, most, tmp_path):
    """Byte for byte, though tensors are written one by one, as they are made."""
    rng, made = np.random.default_rng(0), []
    shapes = {"b": (3, 5), "a": (2,), "é": (1, 1, 4), "none": (0, 3), "c": ()}
    tensors = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}

    def make(name, wanted):
        made.append(name)
        return tensors[name].T.copy().T if wanted else None

    write_tensors(tmp_path, shapes, make, np.dtype(dtype).itemsize, most)
    assert made == list(shapes)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == (2 if most == 70 else 1)
    for file in files:
        with safe_open(file, "numpy") as found:
            names = list(found.keys())
        expected = tmp_path / "expected"
        save_file({name: tensors[name] for name in names}, expected, {"format": "pt"})
        assert file.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("change", [{}, SMALL], ids=["one", "several"])
def test_a_changed_file_of_an_export_is_named(model, change, tmp_path):
    """Whatever it is, and whichever bit: the first of the weights, and one of the last number."""
    exported(model, out := tmp_path / "out", **change)
    (out / "README.md").write_text("a card may be edited")
    assert hf.resolve(str(out)) == out
    sealed = out / digests.NAME.format(0, 1)
    names = set(contents(out)) - {"README.md", sealed.name}
    assert len(names) > 4 and any(name.endswith(".safetensors") for name in names)
    for name in sorted(names):
        sound = bytearray((out / name).read_bytes())
        for place in (0, -1):
            damaged = sound.copy()
            damaged[place] ^= 1
            (out / name).write_bytes(damaged)
            with pytest.raises(InputError, match=f"is damaged: {re.escape(name)} .* {sealed}"):
                hf.resolve(str(out))
            if "safetensors" in name:
                hf.resolve(str(out), weights=False)
            else:
                with pytest.raises(InputError):
                    hf.resolve(str(out), weights=False)
        (out / name).write_bytes(sound)
    (out / "config.json").write_text("{}")
    sealed.unlink()  # as the message says
    hf.resolve(str(out))


def folder(out, name):
    (out / name).mkdir(parents=True)


def text(out, name, said="{}"):
    out.mkdir(parents=True, exist_ok=True)
    (out / name).write_text(said)


REFUSED = {
    "a file": (lambda out: text(out.parent, out.name), "a file; expected a directory"),
    "a link into nothing": (lambda out: out.symlink_to("none"), "a dangling link"),
    "a loop": (lambda out: out.symlink_to(out), "symbolic links"),
    "another's config": (lambda out: text(out, "config.json"), "would replace config.json"),
    "broken config": (lambda out: text(out, "config.json", "{"), "would replace config.json"),
    "a folder": (lambda out: folder(out, "vocab.txt"), "would replace vocab.txt"),
    "a pipe": (os.mkfifo, "a file; expected a directory"),
    "another's words": (lambda out: text(out, "vocab.csv"), "would replace vocab.csv"),
    "a tokenizer alone": (lambda out: text(out, "tokenizer.json"), "replace tokenizer.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_place_for_an_export_is_refused_and_stays(model, case, tmp_path):
    make, expected = REFUSED[case]
    make(out := tmp_path / "out")
    for refuse in (hf.check_place, lambda out: exported(model, out)):
        with pytest.raises(InputError, match=expected) as refused:
            refuse(out)
        assert str(refused.value).startswith(str(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_model_that_an_export_comes_from_is_not_overwritten(model, tmp_path):
    (link := tmp_path / "link").symlink_to(model)
    before = contents(model)
    for out in (model, link):
        with pytest.raises(InputError, match="would overwrite the model that it came from"):
            exported(model, out)
    assert contents(model) == before


def test_a_place_without_permission_is_refused(tmp_path, monkeypatch):
    """Root may write anywhere, so the system's answer is played here."""
    monkeypatch.setattr(places.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=f"no permission to write into {tmp_path}"):
        hf.check_place(tmp_path / "out")


@pytest.mark.parametrize("where", ["here", "bucket"])
def test_several_processes_write_the_files_of_one(model, where, tmp_path):
    """Each some of them, from threads in place of processes; real ones: tests/cluster."""
    raw, config = hf.load_config(model)
    params = hf.load_params(model, config, jnp.float32)
    how = {"source_dir": model, "tokenizer_dir": model, **SMALL}
    alone = tmp_path / "alone"
    hf.export(params, config, raw, alone, dtype="float32", eos_ids=[2], **how)

    def export(process):
        hf.export(params, config, raw, out, dtype="float32", eos_ids=[2], **how)
        return sorted(store.of(out).names(store.place(out)))

    with contextlib.ExitStack() as stack:
        out = str(tmp_path / "out")
        if where == "bucket":
            stack.enter_context(buckets.in_memory())
            out = f"gs://{buckets.BUCKET}/out"
        names = stack.enter_context(as_processes(2))(export)
        assert names == [sorted(contents(alone))] * 2  # complete, when either goes on
        found = contents(Path(out) if where == "here" else buckets.fetch(out, tmp_path / "copy"))
    assert found == contents(alone)
    assert sum(name.endswith(".safetensors") for name in found) > 2
