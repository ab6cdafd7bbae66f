"""Replies to compare: sampled from models, read from files; on disk as they come.

    replies = Replies(store, Sampling(SamplingParams(temperature=0.0)), rows=64)
    replies.check(side, prompts)                     before any weight is loaded
    found = replies.of(side, prompts, "candidate")   found[prompt][sample].text

Models with the same decoder share one compiled sampler: the checkpoints of a run cost one
compilation.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from interact_jax import progress
from interact_jax.generation.chat_model import text_of
from interact_jax.generation.engine import Completion, Request, SamplingParams, seed_of
from interact_jax.generation.local import Samplers
from interact_jax.generation.prompts import Prompt
from interact_jax.generation.sampler import Sampler
from interact_jax.judges.sides import FileSide, ModelSide, identity
from interact_jax.judges.store import Store, digest
from interact_jax.opening import OpenedModel
from interact_jax.printable import count
from interact_jax.schema import InputError
from interact_jax.settings import Setting

log = logging.getLogger(__name__)

FIELDS = ("completion", "tokens", "finished")  # of a line of the store
OTHERS = ("completion_ids", "logps", "sampling_logps")
"""Fields of another reply, where the prompts are a file of replies."""
SETTINGS = {
    "samples": Setting(1, "replies to each prompt; more than one needs a temperature", least=1),
    "rows": Setting(64, "prompts that are answered at a time, at most", least=1),
}


@dataclasses.dataclass(frozen=True)
class Reply:
    """A reply's text; its tokens with EOS, and whether it ended before its limit (by EOS or a stop
    text), where that is known."""

    text: str
    tokens: int | None = None
    finished: bool | None = None


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How models reply. Each reply has random numbers of its own, which depend on the seed, the
    side, the prompt and the reply's number among those to it: other prompts may come or go."""

    params: SamplingParams
    samples: int = 1
    seed: int = 0

    def check(self) -> None:
        """Raise InputError for settings that make no sense together."""
        self.params.check()
        if self.samples > 1 and not self.params.temperature:
            raise InputError(
                f"--samples {self.samples}: at temperature 0 they would all be the same. Set "
                "--temperature 1, or leave one."
            )

    def seed_of(self, role: str, prompt: Prompt, number: int) -> int:
        """Candidate and baseline draw independently: the win rate is between two independent
        replies, and equal models do not give equal ones."""
        if not self.params.temperature:
            return 0
        return seed_of(self.seed, role, identity(prompt), number)


class Replies:
    """Replies of sides to prompts; those of models are kept in a store, and not sampled twice."""

    def __init__(self, store: Store, sampling: Sampling, rows: int):
        self._store, self._sampling, self._samplers = store, sampling, Samplers(rows)
        self._loaded = ""  # the digest of the weights in memory
        self._ids: dict[tuple[int, str], list[list[int]]] = {}
        self.unused: dict[str, int] = {}  # lines of files that answer none of the prompts

    def check(self, side: ModelSide | FileSide, prompts: Sequence[Prompt]) -> None:
        """Raise InputError, which names the prompt, where a side cannot answer all of them."""
        if isinstance(side, ModelSide):
            self._encode(side, prompts)
        else:
            _, unused = side.find(prompts, self._sampling.samples)
            if unused:
                self.unused[side.name] = unused

    def of(
        self, side: ModelSide | FileSide, prompts: Sequence[Prompt], role: str
    ) -> list[list[Reply]]:
        """The replies to every prompt, one per sample."""
        if isinstance(side, FileSide):
            found, _ = side.find(prompts, self._sampling.samples)
            return [[Reply(text) for text in texts] for texts in found]
        requests = self._requests(side, prompts, role)
        keys = [self._key(side, request) for request in requests]
        waiting = {
            key: r for key, r in zip(keys, requests, strict=True) if not self._store.get(key)
        }
        if waiting:
            self._sample(side, waiting)
        known = len(set(keys)) - len(waiting)
        log.info("%s: %d replies sampled, %d kept from before", side.name, len(waiting), known)
        replies = iter(keys)
        return [[self._read(next(replies)) for _ in range(self._sampling.samples)] for _ in prompts]

    def release(self) -> None:
        """Let go of the weights."""
        self._samplers.unload()
        self._loaded = ""

    def engine_for(self, model: OpenedModel) -> Sampler:
        """The engine that samples from a model: the same one where nothing else is compiled."""
        return self._samplers.of(model)

    def _encode(self, side: ModelSide, prompts: Sequence[Prompt]) -> list[list[int]]:
        key = (id(side.model), side.system)
        if key not in self._ids:
            self._ids[key] = side.encode(prompts)
        return self._ids[key]

    def _requests(self, side: ModelSide, prompts: Sequence[Prompt], role: str) -> list[Request]:
        sampling = self._sampling
        numbers = iter(_numbers(prompts, sampling.samples))
        return [
            Request(ids, sampling.params, sampling.seed_of(role, prompt, next(numbers)))
            for prompt, ids in zip(prompts, self._encode(side, prompts), strict=True)
            for _ in range(sampling.samples)
        ]

    def _key(self, side: ModelSide, request: Request) -> str:
        return digest([side.digest, request.ids, dataclasses.asdict(request.params), request.seed])

    def _sample(self, side: ModelSide, waiting: dict[str, Request]) -> None:
        engine = self.engine_for(side.model)
        if self._loaded != side.digest:
            self.release()  # before the next weights come
            engine.load(side.load(), engine.version + 1)
            self._loaded = side.digest
        keys, requests = list(waiting), list(waiting.values())

        def keep(place: int, completion: Completion) -> None:
            line = {
                "completion": text_of(completion, side.model.chat, requests[place].params.stop),
                "tokens": len(completion.ids),
                "finished": completion.finished or completion.stopped,
            }
            self._store.add(keys[place], line)

        with progress.of(f"{side.name}: sampling {count(len(requests), 'reply', 'replies')}"):
            engine.sample(requests, keep)

    def _read(self, key: str) -> Reply:
        line = self._store.get(key)
        assert line is not None
        return Reply(line["completion"], line["tokens"], line["finished"])


def _numbers(prompts: Sequence[Prompt], samples: int) -> Iterator[int]:
    """The number of every reply among those to its prompt: a prompt that occurs again goes on where
    its first occurrence ended, so that its replies are others."""
    counts: Counter[str] = Counter()
    for prompt in prompts:
        name = identity(prompt)
        yield from range(counts[name], counts[name] + samples)
        counts[name] += samples


def lines_of(prompts: Sequence[Prompt], replies: Sequence[Sequence[Reply]]) -> list[dict[str, Any]]:
    """The lines of a file of replies, which can itself be compared: see `sides.FileSide`."""
    return [
        {
            **{name: value for name, value in prompt.line.items() if name not in OTHERS},
            "completion": reply.text,
            "tokens": reply.tokens,
            "finished": reply.finished,
            "sample": sample,
        }
        for prompt, some in zip(prompts, replies, strict=True)
        for sample, reply in enumerate(some)
    ]


def describe(replies: Sequence[Sequence[Reply]]) -> dict[str, float]:
    """Mean length in characters; where they are known, in tokens, and the share of replies that
    ended by themselves."""
    flat = [reply for some in replies for reply in some]
    tokens = [reply.tokens for reply in flat if reply.tokens is not None]
    finished = [reply.finished for reply in flat if reply.finished is not None]
    shown = {"characters": sum(len(reply.text) for reply in flat) / len(flat)}
    if tokens:
        shown["tokens"] = sum(tokens) / len(tokens)
    if finished:
        shown["finished"] = sum(finished) / len(finished)
    return shown
