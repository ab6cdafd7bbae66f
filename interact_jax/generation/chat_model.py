"""What answers a dialogue: a model on this machine or one behind an endpoint.

Simulated users, judges and evaluations ask their model through this interface, whatever it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from interact_jax.data.chat import ChatFormat
from interact_jax.data.thinking import PLAIN
from interact_jax.generation.engine import Completion, Engine, Request, SamplingParams
from interact_jax.schema import Message


@dataclasses.dataclass(frozen=True)
class Answer:
    """The reply to a dialogue. `completion` has its ids, where they are known; `error` says why
    there is no reply: what failed after all tries. `refused`: it would fail again (the dialogue is
    too long, or a server will not have it); any other error may pass."""

    text: str
    completion: Completion | None = None
    error: str = ""
    refused: bool = False


class ChatModel(Protocol):
    """What answers dialogues, many at a time. `name` is the model's, and stands in all results."""

    name: str

    def answer(
        self,
        dialogues: Sequence[Sequence[Message]],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
    ) -> list[Answer]:
        """A reply to each dialogue, in order; a failure is an Answer with an `error`."""
        ...


@runtime_checkable
class AnswersEach(Protocol):
    """A chat model that gives its answers as they arrive."""

    def answer_each(
        self,
        dialogues: Sequence[Sequence[Message]],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """(index of the dialogue, its answer), in any order."""
        ...


def answers_of(
    model: ChatModel,
    dialogues: Sequence[Sequence[Message]],
    params: SamplingParams,
    seeds: Sequence[int],
) -> Iterator[tuple[int, Answer]]:
    """(index of the dialogue, its answer): each as it arrives where the model gives them so, else
    all at the end."""
    if isinstance(model, AnswersEach):
        yield from model.answer_each(dialogues, params, seeds)
    else:
        yield from enumerate(model.answer(dialogues, params, seeds))


@dataclasses.dataclass
class LocalChatModel:
    """A model of this process: an engine with its chat format.

    `context` is how many tokens a dialogue and its answer may have, if that is known: a dialogue
    that leaves no room for an answer is then an error of its own, and not one of all that are
    answered with it. `kind` says how prompts treat reasoning (`data.thinking`): closed keeps models
    from thinking that would.
    """

    name: str
    engine: Engine
    chat: ChatFormat
    context: int | None = None
    kind: str = PLAIN

    def answer(
        self,
        dialogues: Sequence[Sequence[Message]],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
    ) -> list[Answer]:
        seeds = range(len(dialogues)) if seeds is None else seeds
        requests = [
            Request(self.chat.prompt(dialogue, kind=self.kind), params, seed)
            for dialogue, seed in zip(dialogues, seeds, strict=True)
        ]
        fitting = [request for request in requests if self._fits(request)]
        completions = iter(self.engine.sample(fitting))
        return [
            self._answer(next(completions), params)
            if self._fits(request)
            else Answer(
                "", error=f"{len(request.ids)} tokens, in a context of {self.context}", refused=True
            )
            for request in requests
        ]

    def _fits(self, request: Request) -> bool:
        return self.context is None or len(request.ids) < self.context

    def _answer(self, completion: Completion, params: SamplingParams) -> Answer:
        return Answer(text_of(completion, self.chat, params.stop), completion)


def message_of(completion: Completion, chat: ChatFormat, stop: Sequence[str] = ()) -> Message:
    """A completion as the assistant's message: its text, its ids as sampled, and those of its
    log-probabilities that are known."""
    logps, sampling_logps = (
        tuple(numbers) or None for numbers in (completion.logps, completion.sampling_logps)
    )
    return Message(
        "assistant",
        text_of(completion, chat, stop),
        token_ids=tuple(completion.ids),
        logps=logps,
        sampling_logps=sampling_logps,
    )


def text_of(completion: Completion, chat: ChatFormat, stop: Sequence[str] = ()) -> str:
    """The text of a completion without the EOS or the stop text that ended it."""
    text = chat.decode(completion.ids[:-1] if completion.finished else completion.ids)
    if completion.stopped:
        text = text[: min(at for end in stop if (at := text.find(end)) >= 0)]
    return text
