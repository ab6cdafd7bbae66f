"""What is asked outside of a run, by process 0 alone: all processes get the same answers.

    engine = engine_for_all(engine)                      a server's; the mesh's own sampler stays
    model = chat_for_all(lambda: open_chat("openai:gpt-4.1-mini"))

All processes call the same methods in the same order. With one process both are what they were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from interact_jax.cluster import processes
from interact_jax.generation.chat_model import Answer, ChatModel
from interact_jax.generation.engine import Completion, Done, Engine, Request, SamplingParams
from interact_jax.generation.server_engine import ServerEngine
from interact_jax.schema import Message


def engine_for_all(engine: Engine) -> Engine:
    """An engine for all processes, of which each has opened it."""
    if processes.are_several() and isinstance(engine, ServerEngine):
        return EngineOfFirst(engine)
    return engine


def chat_for_all(open_model: Callable[[], ChatModel]) -> ChatModel:
    """A chat model for all processes. Process 0 opens it, and alone needs its key."""
    opened: list[ChatModel] = []

    def name() -> str:
        opened.append(open_model())
        return opened[0].name

    known = processes.by_first("chat model", name)
    return ChatOfFirst(known, opened) if processes.are_several() else opened[0]


class EngineOfFirst:
    """A server, as an `Engine`: all processes write the weights, and process 0 speaks with it."""

    def __init__(self, engine: ServerEngine):
        self.engine, self.name, self.version = engine, engine.name, engine.version

    def sample(self, requests: Sequence[Request], done: Done | None = None) -> list[Completion]:
        """See ServerEngine; `done` is called when all completions are there."""

        def ask() -> list[dict[str, Any]]:
            return [dataclasses.asdict(found) for found in self.engine.sample(requests)]

        completions = [Completion(**found) for found in processes.by_first("completions", ask)]
        if done is not None:
            for index, completion in enumerate(completions):
                done(index, completion)
        return completions

    def load(self, params: Any, version: int) -> None:
        """See ServerEngine."""
        label = self.engine.write(params, version)
        processes.by_first("weights", lambda: self.engine.take(label, version))
        self.version = version


class ChatOfFirst:
    """A `ChatModel` that process 0 has opened: `opened` is empty in the others."""

    def __init__(self, name: str, opened: Sequence[ChatModel]):
        self.name, self._opened = name, opened

    def answer(
        self,
        dialogues: Sequence[Sequence[Message]],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
    ) -> list[Answer]:
        def ask() -> list[tuple[str, str]]:
            answers = self._opened[0].answer(dialogues, params, seeds)
            return [(answer.text, answer.error) for answer in answers]

        return [Answer(text, error=error) for text, error in processes.by_first("answers", ask)]
