"""A run that has ended says so, and starts as any other where something is not as it was."""

import json
import shutil

import pytest

from launch import train as launch_train
from tests.runs import records, tiny, train_arguments, write_lines


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    tiny(folder / "model")
    settings = {
        "model.path": folder / "model",
        "data.path": write_lines(folder / "logs.jsonl", records()),
        "steps": 2,
        "epochs": 0,
        "data.max_length": 256,
        "batch.row_tokens": 128,
        "report.interactions": 1,
    }
    launch_train.main(train_arguments(folder / "run", settings))
    return folder, settings


@pytest.fixture
def run(given, tmp_path):
    """(a directory of a run that has ended, its settings, what starts it again)."""
    folder, settings = given
    shutil.copytree(folder / "run", tmp_path / "run")
    return tmp_path / "run", settings


def ended(workdir, settings, capsys, monkeypatch):
    """Whether the run says that it has ended, without opening a model."""

    class Started(Exception):
        pass

    def start(*_):
        raise Started

    with monkeypatch.context() as patch:
        patch.setattr(launch_train, "start", start)
        capsys.readouterr()
        try:
            launch_train.main(train_arguments(workdir, settings))
        except Started:
            return False
    assert "had ended already" in capsys.readouterr().out
    return True


def test_what_it_said_is_said_again(run, capsys, monkeypatch):
    workdir, settings = run
    assert ended(workdir, settings, capsys, monkeypatch)
    launch_train.main(train_arguments(workdir, settings))
    said = capsys.readouterr().out
    assert "2 steps, " in said and "report: " in said and "model: " in said


def test_other_settings_start_it(run, capsys, monkeypatch):
    workdir, settings = run
    assert not ended(workdir, {**settings, "steps": 3}, capsys, monkeypatch)


def test_other_data_start_it(run, capsys, monkeypatch, given):
    workdir, settings = run
    file = settings["data.path"]
    before = file.read_bytes()
    try:
        file.write_bytes(before + b"\n")
        assert not ended(workdir, settings, capsys, monkeypatch)
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize(
    "name",
    [
        "export/model.safetensors",
        "export/tokenizer.json",
        "metrics.jsonl",
        "summary.json",
        "config.json",
        "finished.json",
        "report/index.html",
        "checkpoints/2",
    ],
)
@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_what_is_not_as_it_was_starts_it(run, capsys, monkeypatch, name, damage):
    workdir, settings = run
    place = workdir / name
    if place.is_dir():
        (place / next(p.name for p in place.glob("digests-*"))).unlink()
    elif damage == "gone":
        place.unlink()
    else:
        data = bytearray(place.read_bytes())
        data[len(data) // 2] ^= 1
        place.write_bytes(data)
    assert not ended(workdir, settings, capsys, monkeypatch)


def test_the_note_names_what_was_left(run):
    seen = json.loads((run[0] / "finished.json").read_text())
    assert {"export/model.safetensors", "export/tokenizer.json"} <= seen["files"].keys()
