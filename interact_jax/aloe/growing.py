"""Pools that grow by themselves: a model writes texts like those that are there.

    grown = grow(model, encoder, PROFILES, shipped("profiles"), 331, seed=0)
    grown.pool                            the seeds and what was kept, in order

Every call shows five texts of the pool at random and asks for twenty new ones. A new text is kept
if it is like none in the pool: its largest cosine similarity is at most 0.6. Calls are asked a few
at a time, and read in their order, so that the pool does not depend on which answer came first; a
killed program finds its answers in the cache of its model's calls and grows the same pool.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import random
import re
from collections.abc import Sequence

import numpy as np

from interact_jax.aloe import prompts
from interact_jax.aloe.encoders import Encoder
from interact_jax.generation.chat_model import ChatModel
from interact_jax.generation.engine import SamplingParams, seed_of
from interact_jax.json_files import short
from interact_jax.printable import count
from interact_jax.schema import Message, RunStopped
from interact_jax.settings import Setting

log = logging.getLogger(__name__)

SETTINGS = {
    "examples": Setting(5, "texts of the pool that a call shows", least=1),
    "asked": Setting(20, "new texts that a call asks for", least=1),
    "similarity": Setting(0.6, "largest cosine similarity of a new text to the pool", most=1.0),
    "together": Setting(4, "calls that are asked from the same pool", least=1),
    "fruitless": Setting(20, "calls in a row that bring nothing new, after which it ends", least=1),
}
SAMPLING = SamplingParams(max_new_tokens=3_000, temperature=0.8)
KEPT, ALIKE, UNREADABLE, FAILED = "kept", "too similar", "unreadable answers", "failed calls"
CUT = "texts cut off at the limit of tokens"
SHORTEST, LONGEST = 10, 2_000  # characters of a text

SYSTEM = "You invent people for a study of conversations. They are varied, and none is a cliché."
TASK = """Here are {number} examples of {what}:

{examples}

Write {asked} new ones of the same kind and about the same length, about people who differ from \
these and from each other in every respect that matters. Write them as a numbered list: each on \
one line, from "1." to "{asked}.", and nothing before or after the list."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a pool is of: `name` for files and seeds, `what` for the model."""

    name: str
    what: str


PROFILES = Kind(
    "profiles",
    "who somebody is: work, family, interests and present cares, in one to three sentences",
)
PERSONALITIES = Kind("personalities", "what somebody is like and how they talk, in one sentence")
KINDS = {kind.name: kind for kind in (PROFILES, PERSONALITIES)}


@dataclasses.dataclass
class Grown:
    """A pool, and what became of the texts that were offered."""

    pool: list[str]
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    calls: int = 0
    example: str = ""  # of an answer that could not be read, or the last error


class Vectors:
    """The vectors of a pool, which grows."""

    def __init__(self, encoder: Encoder, texts: Sequence[str]):
        self._rows = encoder.encode(texts)
        self._used = len(texts)

    def largest_similarity(self, vector: np.ndarray) -> float:
        return float(np.max(self._rows[: self._used] @ vector, initial=-1.0))

    def add(self, vector: np.ndarray) -> None:
        if self._used == len(self._rows):  # twice as many: few copies
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[self._used] = vector
        self._used += 1


def grow(
    model: ChatModel,
    encoder: Encoder,
    kind: Kind,
    seeds: Sequence[str],
    number: int,
    seed: int,
    *,
    examples: int = SETTINGS["examples"].default,
    asked: int = SETTINGS["asked"].default,
    similarity: float = SETTINGS["similarity"].default,
    together: int = SETTINGS["together"].default,
    fruitless: int = SETTINGS["fruitless"].default,
    params: SamplingParams = SAMPLING,
) -> Grown:
    """Grow a pool from `seeds`, which it begins with, until it has `number` texts.

    Raises RunStopped where `fruitless` calls in a row have
    brought nothing, and where a call was not answered, but may be another time: what the pool
    becomes must not depend on that.
    """
    grown, vectors, idle = Grown(list(seeds)[:number]), Vectors(encoder, seeds[:number]), 0
    while len(grown.pool) < number:
        calls = range(grown.calls, grown.calls + together)
        call_seeds = [seed_of(seed, kind.name, call) for call in calls]
        dialogues = [_dialogue(kind, grown.pool, examples, asked, each) for each in call_seeds]
        answers = model.answer(dialogues, params, call_seeds)
        if lost := [answer.error for answer in answers if answer.error and not answer.refused]:
            raise RunStopped(
                f"{kind.name}: {count(len(lost), 'call')} without an answer ({lost[0]}). When that "
                "is mended, the same command goes on; calls that were answered are kept."
            )
        for answer in answers:
            before = len(grown.pool)
            grown.calls += 1
            texts = read_texts(prompts.answer_in(answer.text))
            if texts and len(texts) < asked and texts[-1][-1] not in ENDS:
                texts.pop()  # cut off at the limit of tokens
                grown.counts[CUT] += 1
            if answer.error or not texts:
                grown.counts[FAILED if answer.error else UNREADABLE] += 1
                grown.example = answer.error or short(answer.text)
            _offer(texts, grown, vectors, encoder, number, similarity)
            idle = 0 if len(grown.pool) > before else idle + 1
        if idle >= fruitless and len(grown.pool) < number:
            raise RunStopped(_fruitless(kind, grown, number, idle))
        calls_made = count(grown.calls, "call")
        log.info("%s: %d in the pool after %s", kind.name, len(grown.pool), calls_made)
    return grown


def _dialogue(
    kind: Kind, pool: Sequence[str], examples: int, asked: int, seed: int
) -> list[Message]:
    shown = random.Random(seed).sample(range(len(pool)), min(examples, len(pool)))
    text = prompts.fill(
        TASK,
        number=str(len(shown)),
        what=kind.what,
        examples="\n".join(f"- {pool[place]}" for place in shown),
        asked=str(asked),
    )
    return [Message("system", SYSTEM), Message("user", text)]


def _offer(
    texts: Sequence[str],
    grown: Grown,
    vectors: Vectors,
    encoder: Encoder,
    number: int,
    similarity: float,
) -> None:
    for text, vector in zip(texts, encoder.encode(texts), strict=True):
        if len(grown.pool) == number:
            return
        if vectors.largest_similarity(vector) > similarity:
            grown.counts[ALIKE] += 1
            continue
        grown.pool.append(text)
        vectors.add(vector)
        grown.counts[KEPT] += 1


ENDS = ".!?…)\"'”’"  # of a text that is whole
NUMBERED = re.compile(r"\s*(\d{1,3})[.)]\s+(.*\S)\s*")
MARKS = re.compile(r"^\*\*(.*)\*\*$")


def read_texts(answer: str) -> list[str]:
    """The texts of an answer: a numbered list that counts 1, 2, 3, ..., one to a line, or
    paragraphs between blank lines. [] for anything else: such an answer is not taken in part."""
    lines = [line for line in answer.splitlines() if line.strip()]
    matches = [NUMBERED.fullmatch(line) for line in lines]
    if matches and all(matches):
        numbers = [int(match[1]) for match in matches if match]
        texts = [match[2] for match in matches if match]
        return _clean(texts) if numbers == list(range(1, len(numbers) + 1)) else []
    if any(matches):
        return []
    paragraphs = re.split(r"\n\s*\n", answer.strip())
    whole = len(paragraphs) > 1 and all("\n" not in text.strip() for text in paragraphs)
    return _clean(paragraphs) if whole else []


def _clean(texts: Sequence[str]) -> list[str]:
    """The texts without marks around them; [] where one cannot be what was asked for."""
    clean = [" ".join(MARKS.sub(r"\1", text.strip()).split()) for text in texts]
    return clean if all(SHORTEST <= len(text) <= LONGEST for text in clean) else []


def _fruitless(kind: Kind, grown: Grown, number: int, idle: int) -> str:
    counted = ", ".join(f"{n:,} {what}" for what, n in grown.counts.items())
    last = f" (such as {grown.example})" if grown.example else ""
    return (
        f"{kind.name}: the last {idle} calls brought nothing new, at {len(grown.pool):,} of "
        f"{number:,}: {counted}{last}. Take a model that follows the form of the list, a higher "
        "--similarity, more seeds, or fewer."
    )
