"""Anthropic's messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interact_jax.endpoints.chat import ChatEndpoint, Reply
from interact_jax.endpoints.retrying import Failed, refusal
from interact_jax.generation.engine import SamplingParams
from interact_jax.schema import InputError, Message

if TYPE_CHECKING:
    import anthropic


class AnthropicChat(ChatEndpoint):
    """See ChatEndpoint. It has no seeds and no min_p."""

    url_variable, key_variable = "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"

    def _connect(self, key: str, url: str | None, timeout: float) -> anthropic.Anthropic:
        try:
            import anthropic
        except ImportError:
            raise InputError(
                "anthropic is not installed: pip install 'interact_jax[endpoints]'"
            ) from None
        self._errors = anthropic
        return anthropic.Anthropic(api_key=key, base_url=url, timeout=timeout, max_retries=0)

    def check(self, params: SamplingParams) -> None:
        super().check(params)
        if params.min_p:
            raise InputError(f"min_p={params.min_p}: Anthropic's endpoint has no such setting.")

    def _ask(self, dialogue: Sequence[Message], params: SamplingParams, seed: int) -> Reply:
        given = {
            "temperature": (params.temperature, 1.0),
            "top_p": (params.top_p, 1.0),
            "top_k": (params.top_k, 0),
            "stop_sequences": (list(params.stop), []),
        }
        # In `extra_body`: newer clients have no arguments for sampling. Models may refuse settings
        # that are named, even at their default.
        extra = {name: value for name, (value, unused) in given.items() if value != unused}
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": params.max_new_tokens,
            "messages": [
                {"role": m.role, "content": m.content} for m in dialogue if m.role != "system"
            ],
        }
        if dialogue[0].role == "system" and dialogue[0].content:
            body["system"] = dialogue[0].content
        return _reply(self._client.messages.create(**body, extra_body=extra | self.extra))

    def _failure(self, error: Exception) -> Failed | None:
        anthropic = self._errors
        if isinstance(error, anthropic.APIStatusError):
            return refusal(error.status_code, error.response.headers, str(error))
        if isinstance(error, anthropic.APIError):
            reason = error.__cause__ or error
            return Failed(f"{type(error).__name__}: {reason}", again=True)
        if isinstance(error, json.JSONDecodeError):
            return Failed(f"an answer that is no JSON: {error}", again=True)
        return None


def _reply(message: Any) -> Reply:
    """The client checks no types: an answer of another form shows here. Raises Failed."""
    try:
        texts = [block.text for block in message.content if block.type == "text"]
        ended, usage = message.stop_reason, message.usage
        tokens = (usage.input_tokens, usage.output_tokens)
    except (AttributeError, TypeError):
        raise Failed(f"no message: {str(message)[:200]}", again=True) from None
    if ended == "refusal":
        raise Failed("the model refused", again=False)
    if not texts and ended not in ("end_turn", "stop_sequence"):
        raise Failed(f"an answer without text, ended by {ended!r}", again=False)
    return Reply("".join(texts), *tokens)
