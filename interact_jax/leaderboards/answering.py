"""Asking a model the questions of a benchmark, and keeping its answers where a run may go on.

    file = AnswerFile.open(out, benchmark, questions, origin)
    for portion in file.portions(64):
        file.add(answer(model, benchmark, portion, asking, fits), stamp)

A question's random numbers depend on the seed, on the question and on the turn, so that answers do
not depend on where a run was interrupted.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import places
from interact_jax.data.thinking import parts_of
from interact_jax.generation.chat_model import Answer, ChatModel
from interact_jax.generation.engine import SamplingParams, seed_of
from interact_jax.json_files import read_json
from interact_jax.leaderboards.formats import (
    Benchmark,
    Question,
    Stamp,
    read_answers,
    write_answers,
)
from interact_jax.schema import InputError, Message

NO_ROOM = "the prompt leaves no room for an answer in the model's context"
Fits = Callable[[Sequence[Message]], bool]
"""Whether the model's context has room for the dialogue and a reply."""


@dataclasses.dataclass(frozen=True)
class Asking:
    """How answers are sampled; `temperature` None = as the question says, else 0."""

    max_new_tokens: int
    temperature: float | None = None
    seed: int = 0

    def params(self, question: Question) -> SamplingParams:
        """Those of a question."""
        chosen = question.temperature if self.temperature is None else self.temperature
        return SamplingParams(self.max_new_tokens, temperature=chosen or 0.0)

    def seed_of(self, question: Question, turn: int) -> int:
        return seed_of(self.seed, turn, question.key)


@dataclasses.dataclass
class Outcome:
    """The answers to a question's turns. `error` says why the last one is missing; `cut` counts
    those that ended at the limit, `reasoned` those whose reasoning was left out."""

    question: Question
    texts: list[str] = dataclasses.field(default_factory=list)
    error: str = ""
    cut: int = 0
    reasoned: int = 0


def answer(
    model: ChatModel,
    benchmark: Benchmark,
    questions: Sequence[Question],
    asking: Asking,
    fits: Fits = lambda dialogue: True,
) -> list[Outcome]:
    """The outcome of every question, in order; all questions are asked turn by turn together."""
    outcomes = [Outcome(question) for question in questions]
    for turn in range(max((len(q.turns) for q in questions), default=0)):
        groups: dict[SamplingParams, list[Outcome]] = collections.defaultdict(list)
        for outcome in outcomes:
            if turn >= len(outcome.question.turns) or outcome.error:
                continue
            if fits(_dialogue(outcome)):
                groups[asking.params(outcome.question)].append(outcome)
            else:
                outcome.error = f"turn {turn + 1}: {NO_ROOM}"
        for params, group in groups.items():
            seeds = [asking.seed_of(outcome.question, turn) for outcome in group]
            answers = model.answer([_dialogue(outcome) for outcome in group], params, seeds)
            for outcome, reply in zip(group, answers, strict=True):
                _record(outcome, reply, benchmark, turn)
    return outcomes


def _dialogue(outcome: Outcome) -> list[Message]:
    """The turns up to the one that waits for an answer."""
    messages = []
    for turn, text in zip(outcome.question.turns, [*outcome.texts, None], strict=False):
        messages.append(Message("user", turn))
        if text is not None:
            messages.append(Message("assistant", text))
    return messages


def _record(outcome: Outcome, reply: Answer, benchmark: Benchmark, turn: int) -> None:
    if reply.error:
        outcome.error = f"turn {turn + 1}: {reply.error}"
        return
    text, parts = reply.text, parts_of(reply.text)
    if parts is not None:
        text = parts.answer
        outcome.reasoned += 1
    completion = reply.completion
    if completion is not None and not (completion.finished or completion.stopped):
        outcome.cut += 1
    outcome.texts.append(text.strip() if benchmark.strip else text)


class AnswerFile:
    """A benchmark's answer file that grows, beside a note of where its answers come from.

    `OUT.origin.json` holds the note: the model's name and weights, the questions, how they were
    sampled. A file is continued only by the run that began it.
    """

    def __init__(
        self,
        path: str | Path,
        benchmark: Benchmark,
        questions: Sequence[Question],
        lines: dict[str, dict[str, Any]],
    ):
        self.path, self.benchmark, self.questions, self.lines = path, benchmark, questions, lines
        self.found = len(lines)

    @classmethod
    def open(
        cls,
        path: str | Path,
        benchmark: Benchmark,
        questions: Sequence[Question],
        origin: Mapping[str, Any],
    ) -> AnswerFile:
        """A new file, or the one of an interrupted run. Raises InputError for one of another
        origin."""
        if not (is_file(path) and Path(path).exists()):
            return cls(path, benchmark, questions, {})
        note = origin_of(path)
        if not note.is_file():
            raise InputError(
                f"--out {path}: exists, and {note.name} beside it does not, so its answers come "
                "from elsewhere. Name another file, or remove it."
            )
        before = read_json(note)
        other = [key for key, value in origin.items() if before.get(key) != value]
        if other:
            key = other[0]
            raise InputError(
                f"--out {path}: its answers were made with {key}={before.get(key)!r}, not "
                f"{origin[key]!r}. Name another file, or remove this one and {note.name}."
            )
        lines = read_answers(benchmark, path)
        if unknown := lines.keys() - {question.key for question in questions}:
            raise InputError(f"--out {path}: question {min(unknown)!r} is not among the questions.")
        return cls(path, benchmark, questions, lines)

    def portions(self, size: int, limit: int | None = None) -> Iterator[list[Question]]:
        """The questions without an answer, `size` at a time, of the first `limit` questions."""
        unique = {question.key: question for question in self.questions[:limit]}
        left = [question for key, question in unique.items() if key not in self.lines]
        for start in range(0, len(left), size):
            yield left[start : start + size]

    def add(self, outcomes: Sequence[Outcome], stamp: Callable[[Question], Stamp]) -> None:
        """Add the answers that are complete, in memory."""
        for outcome in outcomes:
            if not outcome.error:
                question = outcome.question
                line = self.benchmark.line(question, outcome.texts, stamp(question))
                self.lines[question.key] = line

    def write(self, origin: Mapping[str, Any], last: bool = True) -> None:
        """Write the answers so far, in the order of the questions; to pipes and devices, which
        cannot be written again, only the last time."""
        if is_file(self.path):
            places.write(origin_of(self.path), json.dumps(origin, indent=2) + "\n")
        elif not last:
            return
        ordered = [self.lines[q.key] for q in self.questions if q.key in self.lines]
        write_answers(self.benchmark, self.path, ordered)


def is_file(path: str | Path) -> bool:
    """Whether a name stands for a file, there or not, and not for a pipe or a device."""
    return places.descriptor(path) is None and (Path(path).is_file() or not Path(path).exists())


def origin_of(path: str | Path) -> Path:
    """Where the note beside an answer file is."""
    return Path(f"{path}.origin.json")


def stamps(
    model: str, seed: int, count_tokens: Callable[[str], int]
) -> Callable[[Question], Stamp]:
    """Stamps for the answers of a model; ids follow from model, seed and question."""

    def stamp(question: Question) -> Stamp:
        text = f"{model}\0{seed}\0{question.key}"
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=11)
        return Stamp(model, digest.hexdigest(), time.time(), count_tokens)

    return stamp


def digest_of(questions: Sequence[Question]) -> str:
    """A digest of the questions, in order."""
    text = json.dumps([[question.key, *question.turns] for question in questions])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
