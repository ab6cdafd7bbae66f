"""Models behind a chat endpoint, as `ChatModel`s.

    judge = open_chat("openai:gpt-4.1-mini")                        key in OPENAI_API_KEY
    user = open_chat("anthropic:claude-haiku-4-5")                  key in ANTHROPIC_API_KEY
    local = open_chat("openai:Qwen/Qwen3-8B@http://127.0.0.1:8000/v1")
    answers = judge.answer(dialogues, SamplingParams(max_new_tokens=16, temperature=0))

Every dialogue ends as one Answer: a text, or the error that was left after all tries. `counts` has
what happened: requests, answers, failures, tries that failed, tokens in and out as the endpoint
counts them. An answer that was lost on its way is asked for again; only the one that arrived
counts.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from interact_jax.endpoints.http import check_url, key_from
from interact_jax.endpoints.retrying import Failed, Patience, Pause, in_parallel, insist
from interact_jax.generation.chat_model import Answer
from interact_jax.generation.engine import SamplingParams
from interact_jax.schema import InputError, Message

log = logging.getLogger(__name__)

ROLES = ("system", "user", "assistant")
UNUSABLE = (401, 403, 404)  # the key or the model's name is wrong: no request can succeed
NO_KEY = "none"  # what is sent where a server wants no key


@dataclasses.dataclass(frozen=True)
class Reply:
    """What an endpoint said, and the tokens that it counted."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


class ChatEndpoint(abc.ABC):
    """See the module. Subclasses ask one question of their official client."""

    url_variable = key_variable = ""

    def __init__(
        self,
        model: str,
        url: str = "",
        *,
        concurrency: int = 16,
        patience: Patience = Patience(),  # noqa: B008  frozen
        timeout: float = 120.0,
        extra: Mapping[str, Any] | None = None,
    ):
        """`url`: the endpoint; "" takes the environment's, else the service's own. `concurrency`:
        requests at a time. `timeout`: seconds for one try. `extra`: further fields of the request's
        body, such as {"chat_template_kwargs": {"enable_thinking": False}} for vLLM.

        Raises InputError where the client's package or the key is missing.
        """
        if not model:
            raise InputError("an endpoint needs the name of a model, as in openai:NAME.")
        if concurrency < 1:
            raise InputError(f"concurrency={concurrency}: expected at least 1 request at a time.")
        given = url or os.environ.get(self.url_variable, "")
        if given:
            check_url(given)
        self.name = self.model = model
        self.url = given  # "" is the service's own
        self.concurrency, self.patience, self.extra = concurrency, patience, dict(extra or {})
        self.counts: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._proven = False  # whether it has answered before
        # Somebody's own server may want no key; the service itself always does.
        wants_key = not given or self.key_variable in os.environ
        key = key_from(self.key_variable) if wants_key else NO_KEY
        self._client = self._connect(key, given or None, timeout)

    @abc.abstractmethod
    def _connect(self, key: str, url: str | None, timeout: float) -> Any:
        """The official client, which does not retry by itself. Raises InputError."""

    @abc.abstractmethod
    def _ask(self, dialogue: Sequence[Message], params: SamplingParams, seed: int) -> Reply:
        """One try of one request. Raises Failed, and the client's own errors."""

    @abc.abstractmethod
    def _failure(self, error: Exception) -> Failed | None:
        """What an error of the client means; None for an error that is none of the endpoint's."""

    def check(self, params: SamplingParams) -> None:
        """Raise InputError for sampling that the endpoint does not have."""
        params.check()

    def answer(
        self,
        dialogues: Sequence[Sequence[Message]],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
    ) -> list[Answer]:
        """See ChatModel. Raises InputError for dialogues that no endpoint takes, and where the
        endpoint's first answer is that it knows neither key nor model."""
        answers = dict(self.answer_each(dialogues, params, seeds))
        return [answers[index] for index in range(len(dialogues))]

    def answer_each(
        self,
        dialogues: Sequence[Sequence[Message]],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """(index of the dialogue, its answer) as they arrive. Raises as `answer`, for dialogues at
        once."""
        self.check(params)
        for index, dialogue in enumerate(dialogues):
            _check_dialogue(index, dialogue)
        all_seeds = range(len(dialogues)) if seeds is None else seeds
        if len(all_seeds) != len(dialogues):
            raise InputError(f"{len(all_seeds)} seeds for {len(dialogues)} dialogues.")

        def ask(index: int, pause: Pause) -> Answer:
            return self._one(dialogues[index], params, all_seeds[index], pause)

        return in_parallel(ask, len(dialogues), self.concurrency)

    def _one(
        self, dialogue: Sequence[Message], params: SamplingParams, seed: int, pause: Pause
    ) -> Answer:
        self._count(requests=1)
        attempt = functools.partial(self._try, dialogue, params, seed)
        try:
            reply = insist(attempt, self.patience, pause, self._note)
        except Failed as failure:
            self._count(failures=1)
            if failure.status in UNUSABLE and not self._proven:
                raise InputError(
                    f"{self.name}: {failure}. Check the model's name, the key in "
                    f"{self.key_variable}, and the address ({self.url_variable})."
                ) from failure
            log.warning("%s: no answer: %s", self.name, failure)
            return Answer("", error=str(failure), refused=not failure.again)
        self._count(answers=1, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out)
        return Answer(reply.text)

    def _try(self, dialogue: Sequence[Message], params: SamplingParams, seed: int) -> Reply:
        try:
            reply = self._ask(dialogue, params, seed)
        except Failed:
            raise
        except Exception as error:
            if (failure := self._failure(error)) is None:
                raise
            raise failure from error
        self._proven = True
        return reply

    def _note(self, failure: Failed) -> None:
        self._count(failed_tries=1)
        log.info("%s: %s; trying again", self.name, failure)

    def _count(self, **numbers: int) -> None:
        with self._lock:
            self.counts.update({name.replace("_", " "): n for name, n in numbers.items()})


def _check_dialogue(index: int, dialogue: Sequence[Message]) -> None:
    roles = [message.role for message in dialogue]
    if not roles or roles[-1] != "user" or not set(roles) <= set(ROLES) or "system" in roles[1:]:
        raise InputError(
            f"dialogue {index}: roles {', '.join(roles) or 'none'}; expected messages of user and "
            "assistant, the last one the user's, and at most one system message before them."
        )


def open_chat(spec: str, **options: Any) -> ChatEndpoint:
    """The endpoint that "PROVIDER:MODEL" or "PROVIDER:MODEL@URL" names; `options` are those of
    ChatEndpoint. Raises InputError."""
    provider, colon, rest = spec.partition(":")
    model, _, url = rest.partition("@http")
    if not colon or provider not in PROVIDERS:
        raise InputError(
            f"{spec!r}: expected PROVIDER:MODEL or PROVIDER:MODEL@URL, where PROVIDER is one of "
            f"{', '.join(PROVIDERS)}."
        )
    return PROVIDERS[provider]()(model, f"http{url}" if url else "", **options)


def _openai() -> type[ChatEndpoint]:
    from interact_jax.endpoints.openai_chat import OpenaiChat

    return OpenaiChat


def _anthropic() -> type[ChatEndpoint]:
    from interact_jax.endpoints.anthropic_chat import AnthropicChat

    return AnthropicChat


PROVIDERS: dict[str, Callable[[], type[ChatEndpoint]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
}
