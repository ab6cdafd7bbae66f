"""Where cases of damaged input happen, and the sound files that they begin with."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interact_jax.data import dataset
from interact_jax.data.chat import ChatFormat
from interact_jax.data.encode import EncodeSettings
from tests.faults import corrupt, talks
from tests.runs import TALKS, records, tiny, write_lines

Program = tuple[Callable[[list[str]], Any], list[str]]


@dataclasses.dataclass
class Case:
    """What was damaged, and how. `opened` reads it in this process and says what is wrong with what
    came of it; `program` reads the same, a main of launch/ with its arguments."""

    what: str
    opened: Callable[[], str]
    program: Callable[[], Program] | None = None


@dataclasses.dataclass
class Stand:
    """Where cases happen: `folder` keeps what is made once, `scratch` is anew for every case."""

    folder: Path
    scratch: Path

    def prepare(self) -> None:
        """The sound models and data; the second time there is nothing to do."""
        if (self.folder / "prompts.jsonl").is_file():
            return
        for name, sizes in (("several", {"max_shard_size": "50KB"}), ("one", {"tied": True})):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            tiny(self.folder / name, "think" if sizes.get("tied") else "chatml", **sizes)
            added = {"<|tool|>": 310}
            (self.folder / name / "added_tokens.json").write_text(json.dumps(added))
            tokens = {"eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"}}
            (self.folder / name / "special_tokens_map.json").write_text(json.dumps(tokens))
        write_lines(self.folder / "talks.jsonl", records())
        write_lines(self.folder / "prompts.jsonl", prompt_lines())

    @functools.cached_property
    def chat(self) -> ChatFormat:
        return ChatFormat.load(self.folder / "several")

    def run(self) -> Path:
        """A run at rest, with two checkpoints."""
        (self.folder / "runs").mkdir(exist_ok=True)
        return corrupt.make(self.folder / "runs", "dpo")[0]


ENCODED = 0.2  # how often what was read is encoded, too, which takes longer
ENCODING = EncodeSettings(max_length=512, max_reply=64, on_error="skip")


def encoded(stand: Stand, file: Path, format: str, chat: ChatFormat, recipe: str) -> None:
    """Read it, and make tokens and trees of it, in both modes."""
    for on_error in ("skip", "stop"):
        settings = dataclasses.replace(ENCODING, on_error=on_error)
        dataset.load_dataset(str(file), format, chat, settings, "tree", recipe=recipe)


def prompt_lines() -> list[Any]:
    lines: list[Any] = [{"prompt": talk[0], "tag": n} for n, talk in enumerate(TALKS[:3])]
    system = {"role": "system", "content": "Be brief."}
    return [*lines, *({"messages": [system, *talks.messages(talk[:3])]} for talk in TALKS[3:])]
