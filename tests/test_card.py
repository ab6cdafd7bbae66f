"""The model card of an export says what was done, and takes no one's place."""

from __future__ import annotations

import json
import re
import shutil

import pytest

import interact_jax
from interact_jax import card, config, train
from launch import export
from launch import train as launch_train
from tests.runs import (
    EVEN,
    FLOAT32,
    ONE_ROW_SHARD,
    outcome,
    read_lines,
    records,
    tiny,
    train_arguments,
    write_lines,
)

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a run of two steps."""
    folder = tmp_path_factory.mktemp("private")
    tiny(folder / "small-model")
    settings = {
        "model.path": folder / "small-model",
        "data.path": write_lines(folder / "talks.jsonl", records(EVEN)),
        "data.max_length": 512,
        "batch.conversations": 3,
        "batch.interactions": 0,
        "steps": 2,
        "report.interactions": 0,
        "hindsight": "a | {o}",
        **FLOAT32,
        **ONE_ROW_SHARD,
    }
    given = train_arguments(folder / "run", settings)
    launch_train.main(given)
    (folder / "run/given.json").write_text(json.dumps(given[4:]))
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy to do something to."""
    return shutil.copytree(trained, tmp_path / "run")


def table(text):
    """{first cell: the others} of all tables of a card."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_a_run_says_what_was_trained_on_what(trained):
    text = (trained / "export/README.md").read_text()
    found = table(text)
    interactions = sum(line["interactions"] for line in read_lines(trained / "metrics.jsonl"))
    assert found["base model"] == ["small-model"]
    assert found["data"] == ["talks.jsonl"]
    assert found["steps"] == ["2"]
    assert found["interactions learned from"] == [str(interactions)]
    assert found["interact_jax"] == [interact_jax.__version__]
    assert found["objective, teacher"] == ["sdpo, self"]
    assert found["optim.lr"] == ["0.00013"]
    assert found["hindsight"] == ["a &#124; {o}"]
    assert "mesh.sequence" not in found and "Measured" not in text
    assert str(trained.parent) not in text and trained.parent.name not in text


def test_a_run_that_no_program_began_has_one_too(run):
    before = (run / "export/README.md").read_text()
    (run / "export/README.md").unlink()
    again = train.start(
        config.load("quickstart", json.loads((run / "given.json").read_text())), run
    )
    train.finish(again)
    assert (run / "export/README.md").read_text() == before


def summary(run, **changed):
    file = run / "summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def test_what_was_measured_goes_with_the_weights_that_it_was_measured_of(run):
    summary(run, before={"correct": 0.5, "new": None}, after={"correct": 0.75})
    card.write(run, run / "export", 2)
    text = (run / "export/README.md").read_text()
    assert table(text)["correct"] == ["0.5", "0.75"]
    for step, weights in ((1, "policy"), (2, "teacher")):
        card.write(run, run / "export", step, weights)
        assert "0.75" not in (run / "export/README.md").read_text()


def test_an_export_of_a_checkpoint_counts_up_to_there(run, tmp_path):
    out = tmp_path / "out"
    export.main(["--checkpoint", str(run), "--out", str(out)])
    assert table((out / "README.md").read_text())["steps"] == ["2"]
    lines = read_lines(run / "metrics.jsonl")
    card.write(run, out, 1)
    found = table((out / "README.md").read_text())
    assert found["interactions learned from"] == [str(lines[0]["interactions"])]


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_somebody_else_wrote_stays(kind, run, tmp_path):
    place, theirs = tmp_path / "out/README.md", tmp_path / "theirs.md"
    place.parent.mkdir()
    theirs.write_text("Mine\n")
    if kind == "file":
        place.write_text("Mine\n")
    elif kind == "directory":
        place.mkdir()
    else:
        place.symlink_to(theirs if kind == "link" else "")
    export.main(["--checkpoint", str(run), "--out", str(place.parent)])
    assert (place.parent / "model.safetensors").is_file()
    assert place.is_dir() if kind == "directory" else place.read_text() == "Mine\n"
    assert theirs.read_text() == "Mine\n"


def test_our_own_is_replaced(run):
    place = run / "export/README.md"
    before = place.read_text()
    place.write_text(before.replace("small-model", "another"))
    card.write(run, place.parent, 2)
    assert place.read_text() == before


@pytest.mark.parametrize("change", ["deleted", "a line deleted", "damaged"])
def test_a_run_without_its_log_has_a_card_without_interactions(change, run, tmp_path, capsys):
    log = run / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    left = {"deleted": None, "a line deleted": lines[1:], "damaged": [b"\xff", *lines]}[change]
    log.unlink() if left is None else log.write_bytes(b"".join(left))
    export.main(["--checkpoint", str(run), "--out", str(tmp_path / "out")])
    found = table((tmp_path / "out/README.md").read_text())
    assert found["interactions learned from"] == ["not known"]
    assert "lacks a step up to 2" in capsys.readouterr().err


def test_an_export_of_a_run_whose_last_checkpoint_is_gone_says_so(run, tmp_path, capsys):
    arguments = ["--checkpoint", str(run), "--out", str(tmp_path / "out")]
    export.main(arguments)
    assert "by its log" not in capsys.readouterr().err
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3, "interactions": 4}\n')
    export.main(arguments)
    said = capsys.readouterr().err
    assert "came to step 3 by its log; its newest checkpoint is of step 2" in said
    export.main(["--checkpoint", str(run / "checkpoints/2"), *arguments[2:]])
    assert "by its log" not in capsys.readouterr().err


@pytest.mark.parametrize("file", ["config.json", "summary.json"])
def test_a_damaged_run_is_exported_without_a_card(file, run, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(card.log, "error", lambda text, *given: said.append(text % given))
    (run / file).write_bytes(b"\xff{")
    export.main(["--checkpoint", str(run), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out/model.safetensors").is_file()
    assert not (tmp_path / "out/README.md").exists()
    assert len(said) == 1 and "the model card was not written" in said[0]


def test_what_cannot_be_pushed_is_exported_all_the_same(run, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(card.huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    out = tmp_path / "out"
    given = ["--checkpoint", str(run), "--out", str(out), "--push-to-hub", "team/mine"]
    status, said = outcome(export.main, given, capsys)
    assert status == 2 and "error: --push-to-hub team/mine: there is no token" in said
    assert (out / "model.safetensors").is_file() and card.MARK in (out / "README.md").read_text()


def test_the_paper_is_named_where_its_method_was_used(run):
    assert card.PAPER in card.text(run, 2, "policy")
    for name, recipe in (("dpo", "auto"), ("sft", "replies")):
        saved = json.loads((run / "config.json").read_text())
        changed = {**saved, "objective.name": name, "data.recipe": recipe}
        (run / "config.json").write_text(json.dumps(changed))
        text = card.text(run, 2, "policy")
        assert card.PAPER not in text and f"by the objective {name}" in text


def test_a_base_model_is_claimed_where_it_is_known_to_be_one_of_the_hub(run, tmp_path, monkeypatch):
    """OWNER/NAME may be a directory, too."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--owner--name/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (cache / "models--owner--name/refs").mkdir()
    (cache / "models--owner--name/refs/main").write_text("abc")
    monkeypatch.setattr(card.huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    saved = json.loads((run / "config.json").read_text())
    for path, claimed in (("owner/name", True), ("owner/other", False), ("pocket", False)):
        (run / "config.json").write_text(json.dumps({**saved, "model.path": path}))
        text = card.text(run, 2, "policy")
        assert (f"base_model: {path}\n" in text) == claimed
        assert table(text)["base model"] == [path if claimed else path.split("/")[-1]]
    (tmp_path / "owner/name").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({**saved, "model.path": "owner/name"}))
    assert "base_model" not in card.text(run, 2, "policy")


def test_every_card_begins_with_what_the_hub_reads(run):
    title = "# small-model, trained on talks.jsonl"
    head = re.match(rf"---\n(.*?)\n---\n\n{title}\n", card.text(run, 2, "policy"), re.DOTALL)
    assert head and "library_name: transformers" in head[1].splitlines()


def test_paths_are_settings():
    assert set(card.PATHS) | set(card.ALWAYS) | {"data.weigh"} <= set(config.settings())
