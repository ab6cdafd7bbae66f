"""Runs of the programs in `launch/` for tests: in this process, or in one of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from interact_jax import cli, config, train
from interact_jax.data.pipeline import LogBatches
from launch import train as launch_train
from tests.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[1]

FLOAT32 = {"model.dtype": "float32", "model.param_dtype": "float32", "export.dtype": "float32"}
PLAIN_SGD = {
    "optim.name": "sgd",
    "optim.weight_decay": 0,
    "optim.schedule": "constant",
    "optim.warmup_fraction": 0,
    "optim.clip_norm": "inf",
}
ONE_ROW_SHARD = {
    "mesh.data": 1,
    "mesh.sequence": -1,
}  # devices share one row, instead of 1/8 of the rows each


def tiny(directory: Path, template: str = "chatml", family: str = "qwen3", **sizes: Any) -> Any:
    """Write a model of two layers with its tokenizer into one directory; the model, in torch."""
    tiny_tokenizer(directory, template)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, **sizes}
    return tiny_model(directory, family, **small)


TALKS = [
    ["Hi", "Hello, how may I help you?", "Shorter please", "Hi!", "Thank you, that is polite"],
    ["What is the capital of France?", "The capital of France is Lyon.", "That is wrong"],
    [
        *("How do I sort a list in Python?", "Use list.sort() or sorted(list)", "The list stays?"),
        *("sorted(list) leaves it, list.sort() does not.", "And a set?", "Use sorted(set)", "ok"),
        *("Anything else?", "no"),
    ],
    ["Answer in one word: sky?", "Blue", "Yes"],
    [
        *("Say y", "y", "Now say it in capitals, and then explain at length why you did.", "Y"),
        *("Why?", "Because you asked me to say it in capitals, which are larger letters."),
        "That is a long answer to a short question; I asked for less than that, did I not?",
    ],
    ["Grüße! 🙂", "Grüße zurück 🙂", "In English, please"],
]
"""Dialogues of 1 to 4 interactions, replies of 1 to some 40 tokens; user and assistant in turn."""

EVEN = [
    [f"What is number {n}?", f"It is number {n}.", "Shorter please", f"Is {n}.", "Thank you"]
    for n in range(6)
]
"""Dialogues of the same lengths: all steps have rows of one shape, so a run compiles one program
instead of four. For what does not depend on rows."""


MEASURED = {
    "data.max_length": 256,
    "batch.row_tokens": 128,
    "batch.interactions": 8,
    "evaluation.holdout": 0.3,
    "epochs": 0,
    "optim.lr": 0.01,
    "optim.schedule": "constant",
    "report.interactions": 0,
    "check_hindsight": 0,
}
"""Settings of a few steps on some 120 short talks, of which a good quarter are held out."""


def records(talks: Sequence[Sequence[str]] = TALKS, system: str = "") -> list[dict[str, Any]]:
    """Native records with the ids t0, t1, ...; `system` opens every second one."""
    found = []
    for n, texts in enumerate(talks):
        turns = [
            {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
        ]
        opening = [{"role": "system", "content": system}] if system and n % 2 else []
        found.append({"id": f"t{n}", "messages": opening + turns})
    return found


def write_lines(file: Path, lines: Sequence[Any]) -> Path:
    """Write JSON Lines; what is bytes already is written as it is."""
    encoded = (x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    file.write_bytes(b"".join(line + b"\n" for line in encoded))
    return file


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """{"optim.lr": 0.1} -> ["--config.optim.lr=0.1"]."""
    return [f"--config.{name}={value}" for name, value in settings.items()]


def train_arguments(workdir: Path, settings: Mapping[str, Any]) -> list[str]:
    """What follows `launch/train.py` on the command line."""
    config = str(ROOT / "configs/quickstart.py")
    settings = {"check_hindsight": 0, **settings}
    return ["--config", config, "--workdir", str(workdir), *overrides(settings)]


def small_settings(directory: Path, talks: Sequence[Sequence[str]] = TALKS) -> dict[str, Any]:
    """Settings of a model and data of no size, which are written there: 6 conversations, 12
    interactions."""
    tiny(directory / "model")
    return {
        "model.path": directory / "model",
        "data.path": write_lines(directory / "talks.jsonl", records(talks)),
        "data.max_length": 512,
        **FLOAT32,
        "report.interactions": 0,
        "batch.row_tokens": 64,
        "batch.rows": 1,
    }


def begin(workdir: Path, settings: Mapping[str, Any]) -> train.Run:
    """A run that is about to make its next step."""
    cfg = config.load(str(ROOT / "configs/quickstart.py"), overrides(settings))
    return train.start(cfg, workdir)


def program(name: str, arguments: Sequence[str], **environment: str) -> Any:
    """Run `python launch/NAME.py ARGUMENTS` in a process of its own, on 8 devices unless XLA_FLAGS
    says otherwise; its CompletedProcess."""
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / f"{name}.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


SEVERAL = """
import json, sys
from interact_jax import startup
startup.begin()
from launch import train

for arguments in json.loads(sys.argv[1]):
    train.main(arguments)
"""


def train_several(runs: Sequence[Sequence[str]], **environment: str) -> Any:
    """Run launch/train.py with each of these arguments, all in one process of its own: starting it
    takes longer than a small run; its CompletedProcess."""
    return subprocess.run(
        [sys.executable, "-c", SEVERAL, json.dumps(runs)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


KILLED = """
import os, signal, sys
from interact_jax import startup
startup.begin()  # as the program does: without PyTorch, which takes seconds to import
from interact_jax.data.pipeline import LogBatches
from launch import train

original, last = LogBatches.next, int(sys.argv[1])

def next_batch(self, state=None):
    if int(state.step) + 1 == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, state)

LogBatches.next = next_batch
train.main(sys.argv[2:])
"""


def train_and_kill(arguments: Sequence[str], step: int) -> None:
    """Run launch/train.py in a process that is killed when it asks for the batch of `step`."""
    command = [sys.executable, "-c", KILLED, str(step), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


class Ended(Exception):
    """A run that a test ends."""


def train_and_end(arguments: Sequence[str], step: int) -> None:
    """Run launch/train.py in this process, ended by an error when it asks for the batch of `step`:
    on disk that is as if it had been killed there, once its checkpoints are written."""
    original = LogBatches.next

    def next_batch(self: LogBatches, state: Any = None) -> Any:
        if int(state.step) + 1 == step:
            raise Ended
        return original(self, state)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Ended):
        patch.setattr(LogBatches, "next", next_batch)
        launch_train.main(list(arguments))


def outcome(
    main: Callable[[Sequence[str]], None], arguments: Sequence[str], capsys: Any
) -> tuple[int, str]:
    """Run a program's main in this process as the command line does: exit status, stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: main(list(arguments)))
    return ended.value.code or 0, capsys.readouterr().err


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree, on the host, by name."""
    found = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): leaf for path, leaf in found}


def check_same(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], **tolerance: float
) -> None:
    """Equal bit for bit, or within a tolerance where one is given."""
    assert found.keys() == expected.keys()
    check = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    for name, value in expected.items():
        check(found[name], value, err_msg=name, **tolerance)


def tensors(directory: Path) -> dict[str, np.ndarray]:
    """All tensors of a Hugging Face directory."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= load_file(file)
    return found
