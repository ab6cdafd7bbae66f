"""What the benchmarks have in common: questions, answer files, and what a benchmark defines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import places
from interact_jax.data.messages import Fault, require_object
from interact_jax.data.records import Loss, Record, read_records
from interact_jax.schema import InputError


@dataclasses.dataclass(frozen=True)
class Question:
    """What a model is asked: the user's turns, one after the other. `key` names it, `line` is the
    original, `source` its place, `temperature` that of its category."""

    key: str
    turns: tuple[str, ...]
    line: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""
    temperature: float | None = None


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What an answer file says of its origin: the name of the model, an id of the answer, seconds
    since 1970; `count_tokens` measures a text."""

    model: str
    answer_id: str
    time: float
    count_tokens: Callable[[str], int]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark's files.

    `question` reads a line of its questions, which `expected` describes; `line` makes a line of
    answers; `key_of` checks such a line, and returns the key of its question and the model's name
    ("" where the format has none). All raise Fault. `as_list`: answers are one JSON list, not JSON
    Lines. `repeats`: a question may occur again, and then has the same answer. `strip`: white space
    around answers is dropped.
    """

    question: Callable[[dict[str, Any]], Question]
    expected: str
    line: Callable[[Question, Sequence[str], Stamp], dict[str, Any]]
    key_of: Callable[[dict[str, Any]], tuple[str, str]]
    max_new_tokens: int
    as_list: bool = False
    repeats: bool = False
    strip: bool = False


def read_questions(benchmark: Benchmark, path: str | Path) -> list[Question]:
    """The questions of a file, in order. Raises InputError, with file and line."""
    found: list[Question] = []
    places_of: dict[str, str] = {}
    for line, where in read_objects(path, benchmark.expected):
        with FaultAt(where, benchmark.expected):
            question = benchmark.question(line)
        question = dataclasses.replace(question, line=line, source=where)
        if question.key in places_of and not benchmark.repeats:
            raise InputError(
                f"{where}: question {question.key!r} is the one of {places_of[question.key]}; "
                "expected every question once."
            )
        places_of.setdefault(question.key, where)
        found.append(question)
    return found


def read_answers(benchmark: Benchmark, path: str | Path) -> dict[str, dict[str, Any]]:
    """The lines of an answer file by the keys of their questions, checked against the format.
    Raises InputError, with file and line."""
    lines: dict[str, dict[str, Any]] = {}
    for line, where in read_objects(path, "expected the benchmark's answers"):
        with FaultAt(where, "expected an answer in the benchmark's format"):
            key, _ = benchmark.key_of(line)
        if key in lines and not benchmark.repeats:
            raise InputError(f"{where}: question {key!r} is answered twice.")
        lines.setdefault(key, line)
    return lines


def write_answers(
    benchmark: Benchmark, path: str | Path, lines: Sequence[Mapping[str, Any]]
) -> None:
    """Write an answer file; the old one stays until the new one is complete."""
    if benchmark.as_list:
        text = json.dumps(lines, ensure_ascii=False, indent=2) + "\n"
    else:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    places.write(path, text)


def read_objects(path: str | Path, expected: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a file in JSON Lines or a JSON list, plain or gzip, each with its place.
    Raises InputError for what is not one."""
    name = places.input_name(path)
    for item in read_records(str(path), name):
        if isinstance(item, Loss):
            raise InputError(f"{item}; {expected}.")
        assert isinstance(item, Record)
        with FaultAt(item.where, expected):
            value = require_object(item.value)
        yield value, item.where


class FaultAt:
    """Turns a Fault into an InputError with its place."""

    def __init__(self, where: str, expected: str):
        self.where, self.expected = where, expected

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, fault: BaseException | None, trace: Any) -> None:
        if isinstance(fault, Fault):
            message = f"{self.where}: {fault.reason}: {fault.detail}; {self.expected}."
            raise InputError(message) from None
