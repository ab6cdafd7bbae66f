"""Curves: every logger gets the numbers of every step, and none of them can end a run."""

from __future__ import annotations

import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from interact_jax import config, loggers, train
from interact_jax.loggers import Kind, Loggers
from interact_jax.schema import InputError
from tests.runs import (
    FLOAT32,
    ONE_ROW_SHARD,
    overrides,
    read_lines,
    records,
    tiny,
    write_lines,
)

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


def events(workdir):
    """{name: {step: value}} of all event files: length (8), check (4), Event, check (4)."""
    found = {}
    for file in sorted((workdir / "tensorboard").glob("events*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def offline_records(workdir):
    """Of Weights & Biases, one list a process; files are blocks of 32,768 bytes with pieces that
    have a check (4), a length (2) and a kind (1: whole, 2, 3, 4: begins, goes on, ends)."""
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(workdir.rglob("*.wandb")):
        data, at, whole, found = file.read_bytes(), 7, b"", []
        while at + 7 <= len(data):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                found.append(Record.FromString(whole))
                whole = b""
        yield found


def write(workdir, chosen, first, last):
    found = Loggers(chosen, workdir, first, {"optim.lr": 0.5})
    for step in range(first + 1, last + 1):
        found.write(step, {"loss": step / 4})
    found.close()


def test_tensorboard_has_every_step(tmp_path):
    write(tmp_path, "tensorboard", 0, 3)
    assert events(tmp_path) == {"loss": {1: 0.25, 2: 0.5, 3: 0.75}}


def test_nowhere_is_nowhere(tmp_path):
    write(tmp_path, "", 0, 3)
    assert list(tmp_path.iterdir()) == []


def test_weights_and_biases_has_every_step_of_one_run(tmp_path, monkeypatch):
    """A run that is resumed goes on there; steps that a crash undid come once more."""
    import wandb  # here, as it takes a second

    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "of_wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    workdir = tmp_path / "mine"
    workdir.mkdir()
    write(workdir, "wandb", 0, 3)
    write(workdir, "wandb", 2, 4)
    wandb.teardown()  # its own process may write the file after a run's end, but not after this
    told, ids, given = [], set(), {}
    for found in offline_records(workdir):
        runs = [record.run for record in found if record.WhichOneof("record_type") == "run"]
        ids |= {(run.run_id, run.project, run.display_name) for run in runs}
        # Under load, wandb writes settings behind the record of the run rather than in it.
        configs = [run.config for run in runs] + [record.config for record in found]
        given |= {item.key: item.value_json for config in configs for item in config.update}
        for record in found:
            if record.WhichOneof("record_type") == "history":
                items = {item.nested_key[0]: item.value_json for item in record.history.item}
                told.append((int(items["step"]), float(items["loss"])))
    assert json.loads(given["optim.lr"]) == 0.5
    assert told == [(1, 0.25), (2, 0.5), (3, 0.75), (3, 0.75), (4, 1.0)]
    assert ids == {((workdir / "wandb_run").read_text().strip(), "interact_jax", "mine")}


class Fails:
    """Raises at one of its three moments."""

    def __init__(self, moment):
        self._moment = moment

    def start(self, workdir, first, settings):
        self._at("start")
        return self

    def write(self, step, values):
        self._at(f"step {step}")

    def close(self):
        self._at("close")

    def _at(self, moment):
        if moment.startswith(self._moment):
            raise ConnectionError(f"no answer at {moment}")


@pytest.fixture
def said(monkeypatch):
    """What a quiet run shows of it, too."""
    found = []
    monkeypatch.setattr(loggers.log, "error", lambda text, *given: found.append(text % given))
    return found


def with_one_that_fails(monkeypatch, moment):
    kind = Kind(Fails(moment).start, "json")
    monkeypatch.setattr(loggers, "LOGGERS", {"fails": kind, **loggers.LOGGERS})


@pytest.mark.parametrize("moment", ["start", "step", "close"])
def test_what_fails_is_reported_once_and_the_others_go_on(moment, tmp_path, monkeypatch, said):
    with_one_that_fails(monkeypatch, moment)
    write(tmp_path, "fails,tensorboard", 0, 3)
    assert events(tmp_path) == {"loss": {1: 0.25, 2: 0.5, 3: 0.75}}
    (one,) = said
    assert one.startswith(f"loggers: fails fails (ConnectionError: no answer at {moment}")


def test_a_run_survives_its_loggers(tmp_path, monkeypatch, said):
    with_one_that_fails(monkeypatch, "step")
    tiny(tmp_path / "model")
    settings = {
        "model.path": tmp_path / "model",
        "data.path": write_lines(tmp_path / "talks.jsonl", records()[:3]),
        "data.max_length": 512,
        "batch.conversations": 3,
        "batch.interactions": 0,
        "steps": 3,
        "loggers": "fails,tensorboard",
        **FLOAT32,
        **ONE_ROW_SHARD,
    }
    run = train.start(config.load("quickstart", overrides(settings)), tmp_path / "run")
    train.loop(run)
    lines = read_lines(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    losses = events(tmp_path / "run")["loss"]
    assert losses == {line["step"]: pytest.approx(line["loss"]) for line in lines}
    assert len(said) == 1


def test_a_logger_that_is_not_there_is_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no logger 'tensorbord'\. Available: tensorboard, wandb"):
        config.load("quickstart", ["loggers=wandb, tensorbord"])
    monkeypatch.setitem(loggers.LOGGERS, "absent", Kind(Fails("").start, "no_such_package"))
    cfg = config.load("quickstart", ["loggers=tensorboard,absent"])
    with pytest.raises(InputError, match=r"no_such_package: pip install 'interact_jax\[absent\]'"):
        train.start(cfg, tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_the_meaning_of_the_setting_names_them_all():
    assert all(name in loggers.SETTINGS["loggers"].meaning for name in loggers.LOGGERS)
