"""A run that has ended says so, and starts as any other where something is not as it was."""

import json
import shutil

import numpy as np
import pytest

from interact_jax.models import hf
from interact_jax.schema import InputError
from launch import export as launch_export
from launch import train as launch_train
from tests.runs import records, tensors, tiny, train_arguments, write_lines

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


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
        "export.dtype": "float32",
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
    assert "had already ended" in capsys.readouterr().out
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


def test_a_run_stands_for_its_model(run, tmp_path):
    workdir, _ = run
    assert hf.resolve(str(workdir)) == workdir / "export"
    shutil.rmtree(workdir / "export")
    with pytest.raises(InputError, match=r"launch/export.py --checkpoint"):
        hf.resolve(str(workdir))


def test_its_export_can_be_made_again_in_its_own_type(run, tmp_path):
    workdir, _ = run
    arguments = ["--checkpoint", str(workdir), "--out"]
    launch_export.main([*arguments, str(tmp_path / "same")])
    launch_export.main([*arguments, str(tmp_path / "other"), "--dtype", "bfloat16"])
    of = {name: tensors(tmp_path / name) for name in ("same", "other")}
    for name, expected in tensors(workdir / "export").items():
        assert of["same"][name].dtype == expected.dtype == "float32"
        np.testing.assert_array_equal(of["same"][name], expected)
    weights = [tmp_path / name / "model.safetensors" for name in of]
    assert weights[1].stat().st_size < 0.6 * weights[0].stat().st_size


@pytest.mark.parametrize("damaged", ['{"export.dtype": "bfloat17"}', '{"export.dtype": 5}', "{"])
def test_a_damaged_setting_of_an_export_is_taken_for_its_default(damaged, tmp_path, caplog):
    (tmp_path / "config.json").write_text(damaged)
    assert launch_export.saved_setting(tmp_path, "export.dtype") == "bfloat16"
    assert "export.dtype is taken to be bfloat16" in caplog.text
