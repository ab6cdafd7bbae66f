"""OpenAI's chat completions, and the many servers that speak the same protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interact_jax.endpoints.chat import ChatEndpoint, Reply
from interact_jax.endpoints.retrying import Failed, refusal
from interact_jax.generation.engine import SamplingParams
from interact_jax.schema import InputError, Message

if TYPE_CHECKING:
    import openai

OUT_OF_CREDIT = "insufficient_quota"  # the code of a 429 that waiting does not help


class OpenaiChat(ChatEndpoint):
    """See ChatEndpoint. The service itself wants `max_completion_tokens`, other servers know
    `max_tokens`; `top_k` and `min_p` are sent only where they are used, for servers that know them.
    """

    url_variable, key_variable = "OPENAI_BASE_URL", "OPENAI_API_KEY"

    def _connect(self, key: str, url: str | None, timeout: float) -> openai.OpenAI:
        try:
            import openai
        except ImportError:
            raise InputError(
                "openai is not installed: pip install 'interact_jax[endpoints]'"
            ) from None
        self._errors = openai
        self._limit = "max_tokens" if url else "max_completion_tokens"
        return openai.OpenAI(api_key=key, base_url=url, timeout=timeout, max_retries=0)

    def _ask(self, dialogue: Sequence[Message], params: SamplingParams, seed: int) -> Reply:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in dialogue],
            self._limit: params.max_new_tokens,
            "temperature": params.temperature,
            "seed": seed,
        }
        optional = {"top_p": (params.top_p, 1.0), "stop": (list(params.stop), [])}
        more = {"top_k": (params.top_k, 0), "min_p": (params.min_p, 0.0)}
        body |= {name: value for name, (value, unused) in optional.items() if value != unused}
        extra = {name: value for name, (value, unused) in more.items() if value != unused}
        completion = self._client.chat.completions.create(**body, extra_body=extra | self.extra)
        return _reply(completion)

    def _failure(self, error: Exception) -> Failed | None:
        openai = self._errors
        if isinstance(error, openai.APIStatusError):
            failure = refusal(error.status_code, error.response.headers, str(error))
            failure.again &= error.code != OUT_OF_CREDIT
            return failure
        if isinstance(error, openai.APIError):  # no connection, silence, an answer of another form
            reason = error.__cause__ or error
            return Failed(f"{type(error).__name__}: {reason}", again=True)
        if isinstance(error, json.JSONDecodeError):
            return Failed(f"an answer that is no JSON: {error}", again=True)
        return None


def _reply(completion: Any) -> Reply:
    """The client checks no types: an answer of another form shows here. Raises Failed."""
    try:
        choice, usage = completion.choices[0], completion.usage
        message, ended = choice.message, choice.finish_reason
        text = message.content
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    except (AttributeError, IndexError, TypeError):
        raise Failed(f"no chat completion: {str(completion)[:200]}", again=True) from None
    if refused := getattr(message, "refusal", None):
        raise Failed(f"the model refused: {refused}", again=False)
    if not isinstance(text, str) or (not text and ended != "stop"):
        raise Failed(f"an answer without text, ended by {ended!r}", again=False)
    return Reply(text, *tokens)
