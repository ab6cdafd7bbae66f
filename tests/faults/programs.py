"""Programs that read what a run wrote, and what each of them makes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from interact_jax.data.fingerprint import digest_trees
from interact_jax.plan import Work
from launch import export, generate
from launch import plan as launch_plan
from tests.runs import ROOT, read_lines, write_lines


@dataclasses.dataclass(frozen=True)
class Program:
    """`of_run` says whether it reads a run's directory or the model that a run has exported.
    `make` calls it on a directory and gives what came of it, written to another."""

    of_run: bool
    make: Callable[[Path, Path], Any]


def exported(run: Path, out: Path) -> dict[str, bytes]:
    export.main(["--checkpoint", str(run), "--out", str(out / "model"), "--dtype", "float32"])
    return {file.name: file.read_bytes() for file in sorted((out / "model").iterdir())}


def generated(model: Path, out: Path) -> list[dict[str, Any]]:
    prompts = write_lines(out / "prompts.jsonl", [{"prompt": "What is the capital of France?"}])
    replies = out / "replies.jsonl"
    given = ["--model", str(model), "--prompts", str(prompts), "--out", str(replies)]
    generate.main([*given, "--max-new-tokens", "4"])
    return read_lines(replies)


def read_plan(arguments: list[str]) -> Work:
    """What `launch/plan.py` reads. It ends there: to compile a step takes too long here."""
    compiling = mock.patch.object(launch_plan.plan, "make_plan", side_effect=_Read)
    with compiling as asked, contextlib.suppress(_Read):
        launch_plan.main([*arguments, "--topology", "here"])
    work: Work = asked.call_args.args[1]
    print(f"{work.name}, {work.data}")
    return work


class _Read(Exception):
    """A plan has read everything."""


def planned(model: Path, out: Path) -> tuple[str, str]:
    data = write_lines(out / "talks.jsonl", [{"id": "t", "messages": TALK}])
    settings = {"model.path": model, "data.path": data, "data.max_length": 512}
    given = [f"--config.{name}={value}" for name, value in settings.items()]
    work = read_plan(["--config", str(ROOT / "configs/quickstart.py"), *given])
    return repr(work.model), digest_trees(work.trees)


TALK = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate("abc")]
PROGRAMS = {
    "export": Program(True, exported),
    "generate": Program(False, generated),
    "plan": Program(False, planned),
}


def quietly(program: Program, directory: Path, out: Path) -> Any:
    out.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        return program.make(directory, out)
