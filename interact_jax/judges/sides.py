"""The two sides of a comparison: models, checkpoints of a run, files of replies.

    side = open_side("pocket", dtype="float32", date=DATE)
    [*curve] = open_run("runs/quickstart", "all", dtype="float32", date=DATE)
    line = with_oracle(side, "Short answers, please.")

Nothing is loaded here: a side knows where its weights are, and their digest.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from interact_jax import checkpoint, digests, metrics, sharding
from interact_jax.data.ending import END
from interact_jax.data.rendering import DATE
from interact_jax.generation.prompts import Prompt, encode_prompt, fit_prompt, read_prompts
from interact_jax.json_files import read_json
from interact_jax.judges.store import digest
from interact_jax.opening import OpenedModel, open_model
from interact_jax.places import input_name
from interact_jax.printable import count
from interact_jax.schema import InputError, Message

log = logging.getLogger(__name__)

MODEL_FILES = (".json", ".jinja", ".model", ".safetensors", ".tiktoken", ".txt")
ALL, LAST = "all", "last"


@dataclasses.dataclass(frozen=True)
class Side:
    """Who replies. `name` is for people and in results; a checkpoint is the `step` of a `run`, at
    which it had learned from so many `interactions` (None: its log does not say)."""

    name: str
    run: str = ""
    step: int | None = None
    interactions: int | None = None
    oracle: bool = False

    @property
    def place(self) -> dict[str, Any]:
        """Where it stands on a curve, as JSON."""
        names = ("run", "step", "interactions", "oracle")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class ModelSide(Side):
    """Weights that reply; `load` reads them, `digest` is that of all they depend on. `system` is
    added to the system message of every prompt."""

    model: OpenedModel = dataclasses.field(kw_only=True)
    load: Callable[[], Any] = dataclasses.field(kw_only=True)
    digest: str = dataclasses.field(kw_only=True)
    system: str = ""

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The ids of every prompt. Raises InputError, which names the prompt, where the model
        cannot answer it."""
        chat, context = self.model.chat, self.model.config.max_positions
        if self.system and not chat.abilities.system:
            raise InputError(
                f"{self.name}: the chat template of this model shows no system message, so a "
                "persona cannot be put there. Leave --oracle out."
            )
        asked = [with_system(fit_prompt(prompt, chat), self.system) for prompt in prompts]
        return [encode_prompt(prompt, chat, context) for prompt in asked]


@dataclasses.dataclass(frozen=True)
class FileSide(Side):
    """Replies that somebody else made: the lines of a file of launch/generate.py."""

    lines: tuple[Prompt, ...] = ()
    source: str = ""

    def find(self, prompts: Sequence[Prompt], samples: int) -> tuple[list[list[str]], int]:
        """`samples` replies to each prompt, in their order in the file, and how many lines were not
        used. Raises InputError where there are too few."""
        replies: dict[str, list[str]] = {}
        for line in self.lines:
            replies.setdefault(identity(line), []).append(line.line["completion"])
        found, unused = [], len(self.lines)
        for prompt in prompts:
            waiting = replies.get(identity(prompt), [])
            if len(waiting) < samples:
                raise InputError(
                    f"{prompt.source}: {self.source} has "
                    f"{count(len(waiting), 'unused reply', 'unused replies')} to this prompt; "
                    f"expected {samples}. Make it with launch/generate.py from the same prompts."
                )
            found.append([waiting.pop(0) for _ in range(samples)])
            unused -= samples
        return found, unused


def identity(prompt: Prompt) -> str:
    """The digest of what is asked, wherever it was read."""
    messages = [[m.role, m.content, dict(m.fields)] for m in prompt.messages]
    return digest([messages, list(prompt.tools)])


def with_system(prompt: Prompt, text: str) -> Prompt:
    """The prompt with a text added to its system message, or as one."""
    if not text:
        return prompt
    first, *rest = prompt.messages
    if first.role != "system":
        return dataclasses.replace(prompt, messages=(Message("system", text), *prompt.messages))
    first = dataclasses.replace(first, content=f"{first.content}\n\n{text}")
    return dataclasses.replace(prompt, messages=(first, *rest))


# --------------------------------------------------------------------------------- opening them


def open_side(path: str, dtype: str, date: str = DATE) -> ModelSide | FileSide:
    """A file of replies if `path` is a file, else a model."""
    return open_file(path) if Path(path).is_file() else open_weights(path, dtype, date)


def open_file(path: str) -> FileSide:
    """A file of launch/generate.py. Raises InputError, with the line, where there is no reply."""
    lines = read_prompts(path)
    for line in lines:
        if not isinstance(line.line.get("completion"), str):
            raise InputError(
                f'{line.source}: no reply; expected {{"prompt": "...", "completion": "..."}}, as '
                "launch/generate.py writes it."
            )
    return FileSide(path, lines=tuple(lines), source=input_name(path))


def open_weights(path: str, dtype: str, date: str = DATE) -> ModelSide:
    """A Hugging Face directory, a hub id, a run that has ended, or "pocket"."""
    model = open_model(path, mesh=_one_device(), dtype=dtype, attention="auto", date=date)
    files = digest_of_model(model.files, model.tokenizer_files)
    return ModelSide(path, model=model, load=model.load, digest=digest([files, dtype]))


def open_run(
    path: str, steps: str, dtype: str, date: str = DATE, several: bool = False
) -> list[ModelSide]:
    """The checkpoints of a run, by step; `steps` is "all", "last" or numbers with commas between.
    The name of a step has that of the run where there are `several`.

    Raises InputError where there is no such checkpoint.
    """
    run, _ = checkpoint.find(path)
    if not isinstance(run, Path):
        raise InputError(f"{path}: expected a directory here. Export its steps, and compare those.")
    chosen = choose_steps(path, steps, sorted(checkpoint.finished_steps(run)))
    files = checkpoint.check_model_files(run)
    model = open_model(
        files,
        mesh=_one_device(),
        weights=False,
        dtype=dtype,
        attention="auto",
        date=date,
        end=_end_of(run),
    )
    own = digest_of_model(files)
    prefix = f"{path} " if several else ""

    learned = metrics.interactions_until(run / "metrics.jsonl", chosen)
    if None in learned:
        log.warning("%s: metrics.jsonl does not have all steps: the curve is over steps", path)

    def side(step: int, interactions: int | None) -> ModelSide:
        place = run / "checkpoints" / str(step)

        def load() -> Any:
            return checkpoint.restore_params(str(place), model.abstract())

        known = digest([own, digest_of_checkpoint(place), dtype])
        return ModelSide(
            f"{prefix}step {step}",
            path,
            step,
            interactions,
            model=model,
            load=load,
            digest=known,
        )

    return [side(step, count) for step, count in zip(chosen, learned, strict=True)]


def choose_steps(path: str, steps: str, found: Sequence[int]) -> list[int]:
    """The steps that `steps` names, of those there are. Raises InputError."""
    if steps in (ALL, LAST):
        return list(found) if steps == ALL else list(found[-1:])
    listed = ", ".join(map(str, found))
    try:
        chosen = [int(step) for step in steps.split(",")]
    except ValueError:
        raise InputError(
            f"--steps {steps}: expected {ALL}, {LAST}, or numbers such as {listed}."
        ) from None
    if missing := [step for step in chosen if step not in found]:
        raise InputError(
            f"--steps {steps}: {path} has no checkpoint of step {missing[0]}; there are {listed}. "
            "A run keeps the newest --config.checkpoint.keep of them."
        )
    return sorted(set(chosen))


def with_oracle(side: ModelSide, persona: str) -> ModelSide:
    """The model that is told in its system message what it should have learned."""
    return dataclasses.replace(
        side,
        name=f"{side.name}, told",
        oracle=True,
        system=persona,
        run="",
        step=None,
        interactions=None,
    )


def digest_of_model(*folders: Path) -> str:
    """The digest of a model's files: config, weights, tokenizer."""
    files = [
        path
        for folder in dict.fromkeys(folders)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix in MODEL_FILES
    ]
    hashes = digests.of_files(files)
    return digest([[path.name, each] for path, each in zip(files, hashes, strict=True)])


def digest_of_checkpoint(place: Path) -> str:
    """The digest of a checkpoint: that of its own digests, where it has them."""
    sealed = sorted(p for p in place.iterdir() if digests.NAME_PATTERN.fullmatch(p.name))
    files = sealed or sorted(p for p in place.rglob("*") if p.is_file())
    names = [path.relative_to(place).as_posix() for path in files]
    return digest(list(zip(names, digests.of_files(files), strict=True)))


def _one_device() -> jax.sharding.Mesh:
    return sharding.make_mesh(devices=jax.local_devices()[:1])


def _end_of(run: Path) -> str:
    """The run's `data.end`; runs that are older than it have none."""
    end = read_json(run / "config.json").get("data.end", "auto")
    return end if end in END else "auto"
