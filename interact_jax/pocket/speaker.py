"""A model that answers prompts of the pocket world."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interact_jax.data.chat import ChatFormat
from interact_jax.generation import Completion, Sampler, SamplingParams, requests_for
from interact_jax.models.decoder import Decoder
from interact_jax.opening import open_model
from interact_jax.pocket import measure


class Speaker:
    """Decoder, parameters and chat format together; all replies are sampled (float32)."""

    def __init__(self, decoder: Decoder, params: Any, chat: ChatFormat, rows: int = 256):
        self.decoder, self.params, self.chat, self.rows = decoder, params, chat, rows
        self.sampler = Sampler(decoder, [chat.eos_id], rows=rows, vocab_limit=len(chat.tokenizer))

    @classmethod
    def load(cls, directory: Path, hindsight: str = "offline", rows: int = 256) -> Speaker:
        """Load a Hugging Face directory. Raises InputError if it is damaged."""
        model = open_model(directory, hindsight=hindsight, attention="xla")
        return cls(model.decoder, model.load(), model.chat, rows)

    def with_hindsight(self, chat: ChatFormat) -> Speaker:
        """The same model with another hindsight prompt; nothing is compiled again."""
        other = copy.copy(self)
        other.chat = chat
        return other

    def with_params(self, params: Any) -> Speaker:
        """The same model with other weights; nothing is compiled again."""
        other = copy.copy(self)
        other.params = params
        return other

    def replies(
        self, prompts: Sequence[Sequence[int]], seed: int, temperature: float = 1.0
    ) -> list[Completion]:
        """A completion for every prompt (token ids)."""
        params = SamplingParams(measure.MAX_NEW_TOKENS, temperature=temperature)
        self.sampler.load(self.params)
        return self.sampler.sample(requests_for(prompts, params, seed))

    def text(self, completion: Completion) -> str:
        """The text of a completion, without the EOS."""
        return self.chat.decode([i for i in completion.ids if i != self.chat.eos_id])
