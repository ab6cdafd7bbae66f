"""Token ids of texts, each stretch between two special tokens tokenised only once.

A tokenizer first cuts a text at its special tokens, and makes ids of what lies between two of them
whatever the rest of the text holds. The sequences of a conversation consist of the same stretches,
turn after turn and view after view:

    <|user|> Hi <|end|> <|assistant|> Hello. <|end|> <|user|> Thanks <|end|> <|assistant|>

What becomes of a stretch may depend on whether it begins the text, and on a neighbour that swallows
white space, so it is tokenised with what is before it, and with such a neighbour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from interact_jax import startup

with startup.without_torch("transformers"):
    from transformers import PreTrainedTokenizerFast


class Entangled(Exception):
    """A special token is no token of its own in the ids of a text."""


class Stretch(NamedTuple):
    """Text between two special tokens. `before` is the first of these, "" where the text begins;
    `after` is the second if it swallows white space before it, else ""."""

    before: str
    text: str
    after: str


class SpecialTokens:
    """A tokenizer, and those of its special tokens at which it cuts texts."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        tokens = [
            token
            for token in tokenizer.added_tokens_decoder.values()
            # Others are looked for in normalised text, or between words.
            if token.special and not token.normalized and not token.single_word
        ]
        ids = tokenizer.convert_tokens_to_ids([token.content for token in tokens])
        self.ids = {
            token.content: np.asarray([id], np.int32) for token, id in zip(tokens, ids, strict=True)
        }
        own = getattr(type(tokenizer), "_encode_plus", None)
        self._is_plain = own is PreTrainedTokenizerFast._encode_plus
        self._strip_before = {token.content for token in tokens if token.lstrip}
        # A text without any is one stretch; the pattern then matches nothing.
        longest_first = sorted(self.ids, key=lambda token: (-len(token), token))
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, tokenised whole."""
        if not self._is_plain:
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        # As the call above does it, but without the place of each token in its text.
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = False
        found = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def cut(self, text: str) -> list[Stretch]:
        """The stretches of a text, at least one: empty ones, too."""
        cut = self._pattern.split(text)  # stretch, token, stretch, ..., stretch
        befores, afters = ["", *cut[1::2]], [*cut[1::2], ""]
        return [
            Stretch(before, text, after if after in self._strip_before else "")
            for before, text, after in zip(befores, cut[::2], afters, strict=True)
        ]


class Stretches:
    """Ids of texts; every stretch is remembered."""

    def __init__(self, special: SpecialTokens) -> None:
        self._special = special
        self._known: dict[Stretch, np.ndarray | None] = {}

    def ids(self, text: str) -> np.ndarray:
        """The ids [L] of a text. Raises Entangled where the tokenizer does not work as said
        above."""
        stretches = self._special.cut(text)
        self._learn(stretches)
        parts: list[np.ndarray] = []
        for n, stretch in enumerate(stretches):
            if n:
                parts.append(self._special.ids[stretch.before])
            if stretch.text:
                ids = self._known[stretch]
                if ids is None:
                    raise Entangled
                parts.append(ids)
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def prepare(self, texts: Iterable[str]) -> None:
        """Tokenise what is new in these texts, all together."""
        self._learn(stretch for text in texts for stretch in self._special.cut(text))

    def _learn(self, stretches: Iterable[Stretch]) -> None:
        new = list(dict.fromkeys(s for s in stretches if s.text and s not in self._known))
        if not new:
            return
        found = self._special.encode_all(["".join(s) for s in new])
        for stretch, ids in zip(new, found, strict=True):
            self._known[stretch] = self._within(stretch, np.asarray(ids, np.int32))

    def _within(self, stretch: Stretch, ids: np.ndarray) -> np.ndarray | None:
        """The ids without those of the neighbours; None if these are not where they should be."""
        if stretch.before:
            if not len(ids) or ids[0] != self._special.ids[stretch.before]:
                return None
            ids = ids[1:]
        if stretch.after:
            if not len(ids) or ids[-1] != self._special.ids[stretch.after]:
                return None
            ids = ids[:-1]
        return ids
