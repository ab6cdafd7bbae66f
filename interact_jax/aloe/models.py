"""The models that a command line names for ALOE's roles, opened: here or behind endpoints.

opener = Opener(cache, dtype="bfloat16")
small = opener.open("runs/mine")                      a directory, a hub id, a run, pocket
big = opener.open("openai:gpt-4.1-mini")              also openai:MODEL@URL, anthropic:MODEL
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from interact_jax.aloe.calls import ASKED, FAILED, FOUND, CachedModel, CallCache
from interact_jax.data.chat import ChatFormat
from interact_jax.data.rendering import DATE
from interact_jax.endpoints.chat import open_chat
from interact_jax.endpoints.retrying import Patience
from interact_jax.generation.chat_model import Answer
from interact_jax.generation.engine import SamplingParams
from interact_jax.generation.local import ROWS, sampler_of
from interact_jax.judges.local import LoadedAtUse
from interact_jax.judges.model_judge import break_special_tokens
from interact_jax.judges.remote import is_remote
from interact_jax.judges.sides import open_weights
from interact_jax.schema import Message

SHOWN = (ASKED, FOUND, FAILED, "failed tries", "tokens in", "tokens out")


@dataclasses.dataclass
class Opener:
    """Opens each model once. `concurrency`, `timeout` (seconds), `patience` and `extra` (fields of
    the request's body) are those of endpoints; `dtype`, `rows` and `date` of models here."""

    cache: CallCache
    concurrency: int = 16
    timeout: float = 120.0
    patience: Patience = Patience()  # noqa: RUF009  frozen
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"
    rows: int = ROWS
    date: str = DATE
    opened: dict[str, CachedModel] = dataclasses.field(default_factory=dict)

    def open(self, spec: str) -> CachedModel:
        """Raises InputError for what cannot be opened; a model here is loaded at its first call."""
        if spec not in self.opened:
            opening = self._remote if is_remote(spec) else self._local
            self.opened[spec] = opening(spec)
        return self.opened[spec]

    def counts(self) -> list[str]:
        """A line for each model: what was asked, and what it cost."""
        lines = []
        for spec, model in self.opened.items():
            known = model.counts + collections.Counter(getattr(model.model, "counts", {}))
            shown = ", ".join(f"{known[name]:,} {name}" for name in SHOWN if known[name])
            lines.append(f"{spec}: {shown or 'nothing was asked'}")
        return lines

    def _remote(self, spec: str) -> CachedModel:
        model = open_chat(
            spec,
            concurrency=self.concurrency,
            timeout=self.timeout,
            patience=self.patience,
            extra=self.extra,
        )
        settings: dict[str, Any] = {
            "provider": spec.partition(":")[0],
            "model": model.name,
            "url": model.url,
        }
        if self.extra:
            settings["extra"] = dict(self.extra)
        return CachedModel(model, settings, self.cache)

    def _local(self, spec: str) -> CachedModel:
        side = open_weights(spec, self.dtype, self.date)
        model = Fitted(LoadedAtUse(side, sampler_of(side.model, rows=self.rows)), side.model.chat)
        return CachedModel(model, {"weights": side.digest, "date": self.date}, self.cache)


class Fitted:
    """A model of this process that reads texts of others: no text in them is a special token, and
    where its chat template shows no system message, that begins the user's first."""

    def __init__(self, model: LoadedAtUse, chat: ChatFormat):
        self.name, self._model = model.name, model
        self._clean = functools.partial(break_special_tokens, chat=chat)
        self._system = chat.abilities.system

    def answer(
        self,
        dialogues: Sequence[Sequence[Message]],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
    ) -> list[Answer]:
        return self._model.answer([self._fit(dialogue) for dialogue in dialogues], params, seeds)

    def _fit(self, dialogue: Sequence[Message]) -> list[Message]:
        messages = [Message(m.role, self._clean(m.content)) for m in dialogue]
        first, *rest = messages
        if self._system or first.role != "system":
            return messages
        return [Message("user", f"{first.content}\n\n{rest[0].content}"), *rest[1:]]
