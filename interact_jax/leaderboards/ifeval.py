"""IFEval: whether replies follow instructions that a program can check, without a network.

    figures = grade(read_prompts("input_data.jsonl"), read_replies("responses.jsonl"))

The 25 checks are those of lm-eval (extra `eval`). What differs from running lm-eval's task: the
language detector is seeded for every check, so that short texts are judged alike each time; NLTK's
sentence splitter comes from a package (`sentences`); an instruction without all its parameters is
refused, where the library would draw the missing ones at random.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax.data.messages import Fault, require
from interact_jax.leaderboards import sentences
from interact_jax.leaderboards.benchmarks import BENCHMARKS
from interact_jax.leaderboards.formats import read_answers, read_questions
from interact_jax.schema import InputError

SEED = 0  # of the language detector
NEEDED = ("lm_eval", "nltk", "langdetect", "immutabledict")
INSTALL = "pip install 'interact_jax[eval]'"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt with its instructions: their ids, and the parameters of each."""

    text: str
    ids: tuple[str, ...]
    parameters: tuple[Mapping[str, Any], ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Followed:
    """Which of a prompt's instructions a reply follows: as it is, and in any of the loose forms."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of IFEval's input_data.jsonl. Raises InputError, with file and line, also for
    instructions that do not exist or lack parameters."""
    checkers = _checkers()
    prompts = []
    for question in read_questions(BENCHMARKS["ifeval"], path):
        try:
            ids = require(dict(question.line), "instruction_id_list", list)
            given = require(dict(question.line), "kwargs", list)
            if len(ids) != len(given) or not ids:
                raise Fault("lists that differ", f"{len(ids)} instructions, {len(given)} kwargs")
            parameters = [
                _parameters(checkers, name, values) for name, values in zip(ids, given, strict=True)
            ]
        except Fault as fault:
            raise InputError(f"{question.source}: {fault.reason}: {fault.detail}.") from None
        prompts.append(Prompt(question.key, tuple(ids), tuple(parameters), question.source))
    return prompts


def _parameters(checkers: Mapping[str, Any], name: Any, values: Any) -> dict[str, Any]:
    """An instruction's parameters without those that are null. Raises Fault."""
    if name not in checkers:
        raise Fault("unknown instruction", f"{name!r}, expected one of {', '.join(checkers)}")
    if not isinstance(values, dict):
        raise Fault("wrong type", f"the kwargs of {name} are {values!r}, expected an object")
    given = {key: value for key, value in values.items() if value is not None}
    known = set(inspect.signature(checkers[name].build_description).parameters) - {"self"}
    if unknown := given.keys() - known:
        raise Fault("unknown parameter", f"{min(unknown)!r} of {name}")
    state = random.getstate()
    try:
        checkers[name](name).build_description(**given)
        if random.getstate() != state:
            expected = ", ".join(sorted(known))
            raise Fault("missing parameter", f"{name} has {given!r}, expected {expected}")
    except Fault:
        raise
    except Exception as error:  # what a checker accepts is only found by trying
        raise Fault("bad parameter", f"{name} refuses {given!r} ({error})") from None
    finally:
        random.setstate(state)
    return given


def read_replies(path: str | Path) -> dict[str, str]:
    """Replies by prompt, from lines of {prompt, response}. Raises InputError, with its place."""
    lines = read_answers(BENCHMARKS["ifeval"], path)
    return {prompt: str(line["response"]) for prompt, line in lines.items()}


def grade(prompts: Sequence[Prompt], replies: Mapping[str, str]) -> dict[str, float]:
    """The four accuracies of IFEval, in per cent, with standard errors over prompts; the number of
    prompts and of instructions. Raises InputError for prompts without a reply."""
    missing = [prompt for prompt in prompts if prompt.text not in replies]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(prompts)} prompts have no reply, the first is "
            f"{missing[0].source}. Answer them all: launch/answer.py goes on where it stopped."
        )
    followed = [check(prompt, replies[prompt.text]) for prompt in prompts]
    figures: dict[str, float] = {}
    for kind in ("strict", "loose"):
        by_prompt = [getattr(one, kind) for one in followed]
        whole = np.array([all(one) for one in by_prompt], float)
        figures[f"prompt_{kind}"] = 100 * float(whole.mean())
        figures[f"prompt_{kind}_error"] = _standard_error(whole)
        figures[f"instruction_{kind}"] = 100 * float(np.mean(np.concatenate(by_prompt)))
    figures["prompts"] = len(prompts)
    figures["instructions"] = sum(len(prompt.ids) for prompt in prompts)
    figures["empty_replies"] = sum(not replies[prompt.text].strip() for prompt in prompts)
    return figures


def _standard_error(whole: np.ndarray) -> float:
    return 100 * float(whole.std(ddof=1) / len(whole) ** 0.5) if len(whole) > 1 else 0.0


def check(prompt: Prompt, reply: str) -> Followed:
    """Which instructions the reply follows."""
    forms = list(loose_forms(reply))
    strict, loose = [], []
    for name, parameters in zip(prompt.ids, prompt.parameters, strict=True):
        checker = _checkers()[name](name)
        checker.build_description(**parameters)
        strict.append(_follows(checker, reply))
        loose.append(any(_follows(checker, form) for form in forms))
    return Followed(tuple(strict), tuple(loose))


def _follows(checker: Any, reply: str) -> bool:
    import langdetect

    langdetect.DetectorFactory.seed = SEED
    return bool(reply.strip() and checker.check_following(reply))


def loose_forms(reply: str) -> Iterator[str]:
    """The eight forms of which one has to follow an instruction: with and without the first line,
    the last line, and asterisks."""
    lines = reply.split("\n")
    whole = (reply, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])))
    for form in whole:
        yield form
        yield form.replace("*", "")


def _checkers() -> Mapping[str, Any]:
    """The checks by the ids of their instructions. Raises InputError where something is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"IFEval's checks need {', '.join(missing)}: {INSTALL}.")
    if not sentences.provide():  # importing the checks would download it
        raise InputError(f"IFEval's checks need NLTK's sentence splitter: {INSTALL}.")
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    return INSTRUCTION_DICT
