"""What a run says that it needs, and what it takes: two steps of a model of Qwen3-0.6B's shape.

    python benchmarks/peak_memory.py

The model is random, with the pocket model's tokenizer; parameters and computation in bfloat16,
AdamW, one row of 1,200 tokens, a checkpoint after every step. It takes 13 GB and five minutes on
two cores; `--shape small` needs less of both.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # programs find one another there

from interact_jax import cli, pocket
from interact_jax.arguments import Parser
from interact_jax.data.chat import ChatFormat
from interact_jax.data.native import to_record
from interact_jax.models.shapes import SHAPES
from interact_jax.schema import Conversation, Message

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "model.init": "random",
    "model.dtype": "bfloat16",
    "model.param_dtype": "bfloat16",
    "remat": "full",
    "optim.name": "adamw",
    "batch.interactions": 0,
    "batch.conversations": 1,
    "batch.rows": 1,
    "batch.row_tokens": 1,  # as long as the conversation is
    "data.max_length": 2048,
    "steps": 2,
    "epochs": 0,
    "checkpoint.every": 1,
    "evaluation.name": "none",
    "evaluation.holdout": 0,
    "report.interactions": 0,
    "check_hindsight": 0,
}
ANNOUNCED = re.compile(r"memory(?: of a device)?: (?:a device needs )?([\d.]+) (GB|MB)")


def write_model(folder: Path, shape: str) -> None:
    """A model without weights."""
    folder.mkdir()
    for file in Path(pocket.MODEL).iterdir():
        if file.name.startswith(("tokenizer", "chat_template")):
            shutil.copyfile(file, folder / file.name)
    (folder / "config.json").write_text(json.dumps(SHAPES[shape]))


def write_talk(file: Path, tokens: int) -> None:
    """One conversation of two interactions, whose trunk has about so many tokens."""
    chat, sentence = ChatFormat.load(str(pocket.MODEL)), "Please answer in one whole sentence. "
    text = (sentence * (tokens // (4 * len(chat.encode(sentence))))).strip()
    said = [Message(role, text) for role in ("user", "assistant") * 2]
    talk = Conversation("long", (*said, Message("user", "Shorter!")))
    file.write_text(json.dumps(to_record(talk)) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Callable[..., object] = parser.add_argument
    add("--shape", default="qwen3-0.6b", choices=list(SHAPES), help="of the model")
    add("--tokens", type=int, default=1200, help="in the row")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model", args.shape)
        write_talk(folder / "talk.jsonl", args.tokens)
        places = {"model.path": folder / "model", "data.path": folder / "talk.jsonl"}
        given = [f"--config.{name}={value}" for name, value in {**SETTINGS, **places}.items()]
        command = [sys.executable, str(ROOT / "launch" / "train.py"), "--workdir", f"{folder}/run"]
        ended = subprocess.run(
            [*command, "--config", "quickstart", *given],
            capture_output=True,
            text=True,
            check=False,
        )
        steps = (folder / "run/metrics.jsonl").read_text() if not ended.returncode else ""
    if ended.returncode:
        sys.exit(ended.stderr)
    found = ANNOUNCED.search(ended.stderr)
    assert found, ended.stderr
    announced = float(found[1]) * (1 if found[2] == "GB" else 1e-3)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(
        f"{len(steps.splitlines())} steps: announced {announced:.2f} GB, took at most "
        f"{peak:.2f} GB, {peak / announced:.2f} times as much"
    )


if __name__ == "__main__":
    cli.run(main)
