"""What launch/train.py says to bad input: status 2 and one message that names place and remedy;
with data.on_error=skip everything good comes through."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from interact_jax import cli, config
from interact_jax.train import loop, start
from launch import train
from tests.runs import (
    EVEN,
    ROOT,
    outcome,
    program,
    read_lines,
    small_settings,
    tensors,
    train_arguments,
    write_lines,
)

pytestmark = pytest.mark.compiled_quickly


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Settings of a run that would work, of one step."""
    return {
        **small_settings(tmp_path_factory.mktemp("small"), EVEN),
        "batch.interactions": 0,
        "batch.conversations": 6,
        "epochs": 0,
        "steps": 1,
    }


def check_refused(arguments, capsys, *expected):
    """Status 2, and one message, no traceback, that holds what is expected."""
    status, said = outcome(train.main, arguments, capsys)
    assert status == 2, said
    assert said.count("error:") == 1 and "Traceback" not in said
    for text in expected:
        assert text in said, said


# --------------------------------------------------------------------------------- conversations


def talk(identity, *turns):
    return {"id": identity, "messages": [{"role": r, "content": c} for r, c in turns]}


USER, REPLY, NEXT = ("user", "Hi"), ("assistant", "Hello"), ("user", "Thanks")
GOOD = [talk(f"good{n}", USER, REPLY, NEXT) for n in range(4)]
# what is wrong -> a line that has it
BAD_LINES = {
    "two messages of one role in a row": talk("b1", USER, USER, REPLY, NEXT),
    "empty message of the assistant": talk("b2", USER, ("assistant", " \n"), NEXT),
    "unknown role": talk("b3", USER, ("robot", "Hello"), NEXT),
    "missing key": {"id": "b4", "messages": [{"role": "user"}, {"role": "assistant"}]},
    "broken JSON": b'{"id": "b5", "messages": [{"role": "user", "content": "Hi"',
    "not UTF-8": b'{"id": "b6", "messages": [{"role": "user", "content": "\xff"}]}',
    "token_ids": {
        "id": "b7",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello", "token_ids": [5, 1000]},
            {"role": "user", "content": "Thanks"},
        ],
    },
}
SPECIAL = talk("b8", USER, ("assistant", "Hello<|im_end|>"), NEXT)


@pytest.mark.parametrize("wrong", BAD_LINES)
def test_bad_line(small, wrong, tmp_path, capsys):
    file = write_lines(tmp_path / "talks.jsonl", [GOOD[0], BAD_LINES[wrong], GOOD[1]])
    settings = {**small, "data.path": file, "data.repair": "stop"}
    arguments = train_arguments(tmp_path / "run", settings)
    check_refused(arguments, capsys, f"{file}:2", wrong, "data.on_error=skip")


def test_text_of_a_special_token(small, tmp_path, capsys):
    file = write_lines(tmp_path / "talks.jsonl", [GOOD[0], SPECIAL])
    settings = {**small, "data.path": file, "data.special_tokens": "stop"}
    arguments = train_arguments(tmp_path / "run", settings)
    check_refused(arguments, capsys, f"{file}:2", "'<|im_end|>'", "data.special_tokens=drop")


def damaged_gzip(file):
    """Two good conversations, then a third whose end is missing."""
    whole = [gzip.compress(json.dumps(one).encode() + b"\n") for one in (*GOOD[2:], SPECIAL)]
    file.write_bytes(whole[0] + whole[1] + whole[2][:-20])
    return file


@pytest.mark.parametrize(
    "name, content, wrong",
    [
        ("empty.jsonl", b"", "empty file"),
        ("blank.jsonl", b" \n\n", "empty file"),
        ("zip.jsonl.gz", None, "damaged gzip"),
    ],
)
def test_bad_file(small, name, content, wrong, tmp_path, capsys):
    file = tmp_path / name
    damaged_gzip(file) if content is None else file.write_bytes(content)
    arguments = train_arguments(tmp_path / "run", {**small, "data.path": file})
    check_refused(arguments, capsys, str(file), wrong, "data.on_error=skip")


def test_a_missing_file_is_noticed_before_a_model_is_downloaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    nowhere = tmp_path / "nowhere.jsonl"
    given = {"model.path": "somebody/model", "data.path": nowhere}
    check_refused(train_arguments(tmp_path / "run", given), capsys, f"{nowhere}: no such file")


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_no_interaction_in_the_whole_file(small, on_error, tmp_path, capsys):
    file = write_lines(tmp_path / "talks.jsonl", [talk("short", USER, REPLY)])
    settings = {**small, "data.path": file, "data.on_error": on_error}
    arguments = train_arguments(tmp_path / "run", settings)
    check_refused(arguments, capsys, f"{file}: no interaction", "no follow-up", f"{file}:1")


def test_skip_keeps_all_that_is_good(small, tmp_path, capsys):
    logs = tmp_path / "logs"
    logs.mkdir()
    write_lines(logs / "mixed.jsonl", [GOOD[0], *BAD_LINES.values(), SPECIAL, GOOD[1]])
    damaged_gzip(logs / "cut.jsonl.gz")
    (logs / "empty.jsonl").write_bytes(b"")
    settings = {**small, "data.path": logs, "data.on_error": "skip", "batch.conversations": 4}
    train.main(train_arguments(tmp_path / "run", settings))
    said = capsys.readouterr()
    (line,) = read_lines(tmp_path / "run/metrics.jsonl")
    assert line["interactions"] == 4 == len(GOOD)
    for wrong in (*BAD_LINES, "special token", "damaged gzip", "empty file"):
        assert wrong in said.out, said.out


def test_the_command_itself(small, tmp_path):
    """As a process: the status that a shell sees, nothing on stdout, one line on stderr."""
    file = write_lines(tmp_path / "talks.jsonl", [GOOD[0], BAD_LINES["broken JSON"]])
    settings = {**small, "data.path": file}
    ended = program("train", [*train_arguments(tmp_path / "run", settings), "--quiet"])
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        ended.stderr.startswith(f"error: {file}:2: broken JSON") and ended.stderr.count("\n") == 1
    )


# -------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"optim.lrr": 1}, "Did you mean optim.lr"),
        ({"batch.rows": "two"}, "batch.rows=two: expected a whole number"),
        ({"epochs": 2}, "steps=1 and epochs=2.0: exactly one"),
        ({"steps": 0, "epochs": "inf"}, "epochs=inf: expected at most"),
        ({"objective.name": "ppo"}, "expected one of 'sdpo'"),
        ({"optim.name": "lion"}, "expected one of 'adamw', 'sgd'"),
        ({"optim.schedule": "step"}, "expected one of 'constant'"),
        ({"remat": "all"}, "expected one of 'none'"),
        ({"data.path": ""}, "data.path is not set"),
        ({"data.path": "-"}, "resumed reads its data again"),
        ({"data.path": "none.jsonl"}, "none.jsonl: no such file"),
        ({"data.max_length": 513}, "Set data.max_length to 512 or less"),
        ({"hindsight": "what they said"}, "{o}"),
        ({"mesh.data": 3}, "multiply to the number of devices, 8"),
        (
            {"mesh.fsdp": 2**32, "mesh.tensor": 2**32},
            "x mesh.tensor=4294967296 does not divide the 8 devices",
        ),
        (
            {"mesh.slices": -1},
            "expected positive sizes, and -1 for at most one of them, other than",
        ),
        ({"mesh.fsdp": 0}, "mesh.tensor=1, mesh.sequence=1: expected positive sizes"),
        ({"model.path": "nowhere/at-all"}, "nowhere/at-all"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_setting(small, settings, expected, tmp_path, capsys):
    arguments = train_arguments(tmp_path / "run", {**small, **settings})
    check_refused(arguments, capsys, expected)


@pytest.mark.parametrize(
    "config, expected",
    [
        ("none.py", "no such file"),
        ("README.md", "expected a Python file"),
    ],
)
def test_bad_config_file(small, config, expected, tmp_path, capsys):
    arguments = ["--config", str(ROOT / config), "--workdir", str(tmp_path)]
    check_refused(arguments, capsys, config, expected)


def test_bad_argument(tmp_path, capsys):
    arguments = [*train_arguments(tmp_path, {}), "--steps=3"]
    status, said = outcome(train.main, arguments, capsys)
    assert status == 2 and said.startswith("error: --steps: there is no such option. ")


NO_OPTION = "there is no such option"


@pytest.mark.parametrize(
    "given, expected",
    [
        (["--steps=3"], [f"--steps: {NO_OPTION}. Did you mean --config.steps=3?"]),
        (["--steps", "3"], [f"--steps: {NO_OPTION}. Did you mean --config.steps=3?"]),
        (["--steps=2", "--steps=3"], [f"--steps: {NO_OPTION}. Did you mean --config.steps=3?"]),
        (["config.steps=3"], [f"config.steps: {NO_OPTION}. Did you mean --config.steps=3?"]),
        (["--config.steps", "3"], ["--config.steps: expected --config.steps=3."]),
        (["--config.hindsight", "a b"], ["--config.hindsight: expected --config.hindsight='a b'."]),
        (["--config.steps"], ["--config.steps: expected --config.steps=VALUE."]),
        (["--config.stps", "3"], [f"--config.stps: {NO_OPTION}. Did you mean --config.steps=3?"]),
        (
            ["--learning_rate", "1e-4", "--max-steps=5"],
            [
                f"--learning_rate: {NO_OPTION}. Did you mean --config.optim.lr=1e-4?",
                f"--max-steps: {NO_OPTION}. Did you mean --config.steps=5?",
            ],
        ),
        (
            ["--config.optim.lr", "-1", "--gradient-checkpointing"],
            [
                "--config.optim.lr: expected --config.optim.lr=-1.",
                f"--gradient-checkpointing: {NO_OPTION}. Did you mean --config.remat=VALUE?",
            ],
        ),
        (["--quite"], [f"--quite: {NO_OPTION}. Did you mean --quiet?"]),
        (["config.stps=3"], [f"config.stps: {NO_OPTION}. Did you mean --config.steps=3?"]),
        (
            ["--config.xyzzy"],
            [f"--config.xyzzy: {NO_OPTION}. Settings are given as --config.KEY=VALUE."],
        ),
        (["--xyzzy"], [f"--xyzzy: {NO_OPTION}. Settings are given as --config.KEY=VALUE."]),
        (["runs"], ["runs: this argument belongs to no option."]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_is_no_argument_is_answered_with_how_it_is_written(given, expected, tmp_path, capsys):
    status, said = outcome(train.main, [*train_arguments(tmp_path, {}), *given], capsys)
    *lines, advice = said.splitlines()
    assert status == 2 and lines == [f"error: {expected[0]}", *expected[1:]]
    assert advice.endswith(" --help` shows all arguments.")


# ----------------------------------------------------------------------------------------- models


def edit(file, **changes):
    """Change keys of a JSON file; None takes one out."""
    found = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def no_template(model):
    (model / "chat_template.jinja").unlink()


def no_eos(model):
    edit(model / "tokenizer_config.json", eos_token=None)


def small_embedding(model):
    edit(model / "config.json", vocab_size=256)


def other_family(model):
    edit(model / "config.json", model_type="gpt2")


def no_tokenizer(model):
    (model / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    "spoil, expected",
    [
        (no_template, ("no chat template", "chat_template.jinja", "model.tokenizer")),
        (no_eos, ("no EOS token", '"eos_token"')),
        (small_embedding, ("the model's embedding only 256 rows", "model.tokenizer")),
        (other_family, ("'gpt2' is not supported", "qwen3, qwen2, llama, mistral")),
        (no_tokenizer, ("no usable tokenizer", "model.tokenizer")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_model(small, spoil, expected, tmp_path, capsys):
    model = shutil.copytree(small["model.path"], tmp_path / "model")
    spoil(model)
    settings = {**small, "model.path": model, "model.init": "random"}
    check_refused(train_arguments(tmp_path / "run", settings), capsys, *expected)


# ------------------------------------------------------------------------------------------- disk


def test_workdir_that_is_a_file(small, tmp_path, capsys):
    file = tmp_path / "run"
    file.write_text("")
    check_refused(train_arguments(file, small), capsys, str(file))


@pytest.mark.parametrize("name", ["export", "report", "tensorboard", "summary.json", ""])
def test_what_could_not_be_written_at_the_end_is_refused_at_the_start(
    small, name, tmp_path, monkeypatch, capsys
):
    monkeypatch.delattr("interact_jax.feeds.load_dataset")
    place = tmp_path / "run" / name
    place.parent.mkdir(exist_ok=True)
    expected = "a file; expected a directory"
    if name == "summary.json":
        place.mkdir()
        expected = "is a directory; expected the file to write"
    else:
        place.write_text("mine")
    check_refused(train_arguments(tmp_path / "run", small), capsys, f"{place}: ", expected)
    assert place.is_dir() or place.read_text() == "mine"


def test_files_of_others_in_the_export_are_none_of_its_business(small, tmp_path):
    (card := tmp_path / "export/README.md").parent.mkdir()
    card.write_text("a model card")
    train.main(train_arguments(tmp_path, small))
    assert tensors(tmp_path / "export") and card.read_text() == "a model card"


@pytest.mark.parametrize(
    "room", [pytest.param(64, marks=pytest.mark.slow), 4096], ids=["log", "checkpoint"]
)
def test_full_disk_costs_no_checkpoint(small, room, tmp_path, capsys):
    """From step 3 on no file may grow beyond `room` bytes: first the log fails, or a checkpoint."""
    settings = {**small, "batch.conversations": 2, "steps": 4, "checkpoint.every": 2}
    arguments = train_arguments(tmp_path, settings)
    run = start(config.load(arguments[1], arguments[4:]), tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    original = run.source.next

    def next_batch(state):
        if int(state.step) + 1 == 3:
            run.checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        return original(state)

    run.source.next = next_batch
    try:
        status, said = outcome(lambda _: loop(run), [], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1, said
    assert os.strerror(errno.EFBIG) in said and "Traceback" not in said
    assert not (tmp_path / "export").exists()

    train.main(arguments)
    assert "resuming from step 2" in capsys.readouterr().err
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert tensors(tmp_path / "export")


FULL = """
import resource, sys
from interact_jax import startup
startup.begin()  # as the program does: without PyTorch, which takes seconds to import
from interact_jax import cli
from interact_jax.data.pipeline import LogBatches
from launch import train

original = LogBatches.next

def next_batch(self, state=None):
    if int(state.step) == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    return original(self, state)

LogBatches.next = next_batch
cli.run(lambda: train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_full_disk_is_said_once(small, tmp_path):
    """And not by every array and every thread that could not write."""
    settings = {**small, "batch.conversations": 2, "steps": 6, "checkpoint.every": 3}
    arguments = train_arguments(tmp_path, {**settings, "compile_cache": ""})
    command = [sys.executable, "-c", FULL, *arguments, "--quiet"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = ended.stderr.splitlines()
    said = [line for line in lines if line.startswith("error") or "Traceback" in line]
    assert ended.returncode == 1 and len(said) == 1, ended.stderr
    assert os.strerror(errno.EFBIG) in said[0]


@pytest.mark.parametrize(
    "number, remedy",
    [(errno.ENOSPC, "Make room"), (errno.EROFS, "Make it writable"), (errno.EIO, "disk fails")],
)
def test_full_disk_is_no_internal_failure(number, remedy, capsys):
    def main():
        raise OSError(number, os.strerror(number), "scores.jsonl")

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert os.strerror(number) in said and "scores.jsonl" in said and "Traceback" not in said
    assert remedy in said
