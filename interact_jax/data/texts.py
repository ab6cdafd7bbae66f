"""The texts of sequences, and their ids, as `encode` asks for them.

Texts          every one rendered and tokenised by itself
SharedTexts    rendered for many conversations at once, and joined from stretches that are tokenised
               once
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from interact_jax.data.chat import ChatFormat
from interact_jax.data.examples import as_ids
from interact_jax.data.stretches import Cuts, Entangled
from interact_jax.data.templates import Refusal
from interact_jax.schema import History, Message

AHEAD = 1 << 24  # characters of messages that are rendered before they are asked for
BATCH = 1 << 20  # characters of messages that the chat template's process has at once


class Prompt(NamedTuple):
    """What comes before y: the history x, the follow-up o where it is shown in hindsight, the tools
    on offer, and the kind of prompt (see `thinking`)."""

    x: Sequence[Message]
    o: str | None
    tools: Sequence[Any]
    kind: str

    @property
    def key(self) -> tuple[Any, ...]:
        """Tells prompts of living messages apart."""
        x = self.x.key if isinstance(self.x, History) else tuple(map(id, self.x))
        return (*x, self.o, self.kind)


Rendered = Mapping[tuple[Any, ...], str | Refusal | None]
"""Texts of prompts, or how they were refused, by `Prompt.key`."""


class Texts:
    """Every text by itself."""

    def __init__(self, chat: ChatFormat) -> None:
        self.chat = chat

    def render(self, prompt: Prompt) -> str:
        """Raises Refusal where the chat template does."""
        return self.chat.render(*prompt)

    def ids(self, text: str) -> np.ndarray:
        """The token ids [L] of a text that begins as a prompt does."""
        return as_ids(self.chat.encode(text))


class Sample(NamedTuple):
    """A text that is tokenised whole, as `ids` [L]; `asked`, which will be asked for, begins it."""

    asked: str
    text: str
    ids: np.ndarray


class SharedTexts(Texts):
    """Texts of one conversation; prompts that are not among the `rendered` are when asked for."""

    def __init__(self, chat: ChatFormat, cuts: Cuts, rendered: Rendered, sample: Sample) -> None:
        super().__init__(chat)
        self._cuts, self._rendered, self._sample = cuts, rendered, sample
        self._shortest, self._asked = "", False  # the shortest text, and if the sample's was

    def render(self, prompt: Prompt) -> str:
        text = self._rendered.get(prompt.key)
        if isinstance(text, Refusal):
            raise text
        return super().render(prompt) if text is None else text

    def ids(self, text: str) -> np.ndarray:
        """Raises Entangled where stretches do not become ids by themselves."""
        if text == self._sample.asked:
            self._asked = True
        elif not self._shortest or len(text) < len(self._shortest):
            self._shortest = text
        return self._cuts.ids(text)

    def check(self) -> None:
        """Raise Entangled if one of the texts has other ids when it is tokenised whole: one that
        was, else the shortest."""
        _, text, whole = self._sample
        if not self._asked:
            text, whole = self._shortest, super().ids(self._shortest)
        if not np.array_equal(whole, self._cuts.ids(text)):
            raise Entangled


def render_ahead(chat: ChatFormat, prompts: Iterable[Prompt], stop: threading.Event) -> Rendered:
    """These prompts, rendered BATCH characters of messages at a time; the first ones only, where
    they have more than AHEAD, and as far as it has come when `stop` is set."""
    rendered: dict[tuple[Any, ...], str | Refusal | None] = {}
    rows: dict[int, dict[str, Any]] = {}
    for batch in _batches(prompts):
        if stop.is_set():
            break
        texts = chat.template.render_all(
            [chat.rendering(*prompt, rows) for prompt in batch.values()]
        )
        for (key, prompt), text in zip(batch.items(), texts, strict=True):
            rendered[key] = chat.finish(text, prompt.kind) if isinstance(text, str) else text
    return rendered


def _batches(prompts: Iterable[Prompt]) -> Iterator[dict[tuple[Any, ...], Prompt]]:
    """The prompts by their keys, each once."""
    seen, batch = set[tuple[Any, ...]](), dict[tuple[Any, ...], Prompt]()
    sizes = [0, 0]  # characters of the batch, and of all
    for prompt in prompts:
        key = prompt.key
        if key in seen:
            continue
        size = sum([len(message.content) for message in prompt.x]) + len(prompt.o or "")
        sizes = [sizes[0] + size, sizes[1] + size]
        if sizes[1] > AHEAD:
            break
        if batch and sizes[0] > BATCH:
            yield batch
            batch, sizes[0] = {}, size
        seen.add(key)
        batch[key] = prompt
    if batch:
        yield batch
