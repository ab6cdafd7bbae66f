"""Ids of a user's turn in hindsight, from those of its two messages, which are known already.

    known    the user's turn                         |user| Sort these.
    known    the user's next turn                    |user| Thanks, but by name.
    new      the first one, the second in hindsight  |user| Sort these. [SEEN] Thanks, but by name.

Byte pair encoding joins the leftmost of the pairs with the lowest rank until there is none to join.
Tokens are the encoding of a text if, and only if, each two neighbours are that of their own text:
up to the first join across the border of two, all joins within them are those within them alone,
and the same one would be next there. So the tokens of the first message, of the block and of the
second message may be put side by side where the pairs at the seams, which are tried and remembered,
are the encoding of their own text.

This is so where nothing but byte pair encoding makes the ids: no pattern cuts the text into words
first, nothing is drawn at random, and what is done to the text before is done to every character by
itself. `splicer` recognises such tokenizers (Llama 2's, Phi-3's); the others get none.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FAR = 1 << 40  # the length of a token that is no text of its own: with it, no lengths agree
BYTE = re.compile("<0x([0-7][0-9A-F])>")  # a token that is a byte, and a character by itself
ANY_BYTE = re.compile("<0x[0-9A-F]{2}>")
FIRST = 4  # tokens of a turn among which its message begins
TRIED = 1 << 16  # seams that are remembered
LAST = 2  # tokens of a block that may become others with what follows


class Stretch(NamedTuple):
    """Text between two special tokens. `before` is the first of these, "" where the text begins;
    `after` is the second if it swallows white space before it, else ""."""

    before: str
    text: str
    after: str


class Splice(NamedTuple):
    """A stretch whose first `at` characters are those of `begin`, and which ends, behind a block of
    `size` characters, as `end` does."""

    stretch: Stretch
    begin: Stretch
    at: int
    size: int
    end: Stretch

    @property
    def parts(self) -> tuple[Stretch, Stretch]:
        """What it consists of, besides the block."""
        return self.begin, self.end


def splice_of(stretch: Stretch, begin: Stretch, shared: int, block: str) -> Splice | None:
    """How a stretch consists of `begin`, with which it has so many characters in common, of `block`
    and of the text of another; None where it does not."""
    # What follows the message in `begin` may begin as the block does.
    at = stretch.text.find(block, max(0, shared - len(block)))
    if not 0 <= at <= shared or stretch.after or begin.after or stretch.before != begin.before:
        return None
    said, shown = begin.text[:at].strip(), stretch.text[at + len(block) :]
    if not said or not shown or shown[0].isspace():
        return None
    lead = begin.text[: len(begin.text) - len(begin.text.lstrip())]
    return Splice(stretch, begin, at, len(block), Stretch(begin.before, lead + shown, ""))


class Splicer:
    """For a tokenizer whose ids are those of byte pair encoding alone, done by `model`: `texts` has
    the text of each token that is one, by id, `lengths` its bytes, and `replaced` a character and
    what is written in its place. No text has one of the `added` tokens in it."""

    def __init__(
        self,
        model: Any,
        texts: Mapping[int, str],
        lengths: Sequence[int],
        replaced: tuple[str, str],
        added: Sequence[str],
    ) -> None:
        self._model, self._texts, self._replaced = model, texts, replaced
        self._lengths_V = np.asarray(lengths)
        self._longer = len(replaced[1].encode()) - len(replaced[0].encode())
        self._added = re.compile("|".join(map(re.escape, added)) or "(?!)")
        self._are_neighbours = functools.lru_cache(TRIED)(self._try_pair)
        self._with_block = functools.lru_cache(TRIED)(self._try_block)
        self._block = functools.lru_cache(maxsize=16)(self._try_end_of_block)

    def ids(self, splice: Splice, begin_A: np.ndarray, end_B: np.ndarray) -> np.ndarray | None:
        """The ids [L] of a splice's stretch, of those of its `begin` and its `end`; None where they
        are not to be had so."""
        (_, text, _), begin, at, size, _ = splice
        if self._added.search(text):
            return None
        if tail := begin.text[at:]:
            begin_A = begin_A[: self._last(begin_A, self._bytes(tail))]
        if (first := self._first(end_B, self._bytes(text[at + size :]))) is None:
            return None
        if (joined := self._joined(text[at : at + size], end_B, *first)) is None:
            return None
        block_C, seam_D, rest = joined
        next_C = block_C if len(block_C) else seam_D
        if not len(begin_A) or not self._are_neighbours(begin_A.item(-1), next_C.item(0)):
            return None
        return np.concatenate([begin_A, block_C, seam_D, end_B[rest:]])

    def _last(self, begin_A: np.ndarray, rest: int) -> int:
        """How many ids come before the last bytes; 0 where none ends there."""
        for n in range(len(begin_A), 0, -1):
            if rest <= 0:
                return n if rest == 0 else 0
            rest -= self._lengths_V.item(begin_A.item(n - 1))
        return 0

    def _first(self, end_B: np.ndarray, size: int) -> tuple[int, int] | None:
        """The token in which the last bytes begin, and how many characters of it are before."""
        left = int(self._lengths_V[end_B].sum())
        for n, id in enumerate(end_B[:FIRST].tolist()):
            after = left - self._lengths_V.item(id)
            if after < size <= left:
                text = self._texts.get(id)
                return None if text is None else (n, len(text.encode()[: left - size].decode()))
            left = after
        return None

    def _joined(
        self, block: str, end_B: np.ndarray, first: int, before: int
    ) -> tuple[np.ndarray, np.ndarray, int] | None:
        """The ids [C] of a block but for its end, those [D] of its end and of tokens that follow
        it, from the `first` one on, of which some bytes are left out, and the token after these."""
        shown = ""
        for n, id in enumerate(end_B[first : first + FIRST].tolist(), first + 1):
            token = self._texts.get(id)
            if token is None or (joined := self._with_block(block, shown + token[before:])) is None:
                return None
            if n == len(end_B) or self._are_neighbours(joined[1].item(-1), end_B.item(n)):
                return *joined, n
            shown, before = shown + token[before:], 0
        return None

    def _try_block(self, block: str, shown: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The ids [C] of a block but for its end, and those [D] of its end and what is shown."""
        if (found := self._block(block)) is None:
            return None
        block_C, end = found
        seam_D = self._tokenise(end + shown)
        if len(block_C) and not self._are_neighbours(block_C.item(-1), seam_D.item(0)):
            return None
        return block_C, seam_D

    def _try_end_of_block(self, block: str) -> tuple[np.ndarray, str] | None:
        """The ids [C] of a block but for its end, which may become other tokens, as text."""
        ids_C = self._tokenise(block.replace(*self._replaced))
        end = [self._texts.get(id) for id in ids_C[-LAST:].tolist()]
        if None in end:
            return None
        return ids_C[:-LAST], "".join(filter(None, end))

    def _tokenise(self, text: str) -> np.ndarray:
        return np.asarray([token.id for token in self._model.tokenize(text)], np.int32)

    def _try_pair(self, a: int, b: int) -> bool:
        """Whether two tokens are the encoding of their own text."""
        texts = self._texts.get(a), self._texts.get(b)
        return None not in texts and self._tokenise("".join(filter(None, texts))).tolist() == [a, b]

    def _bytes(self, text: str) -> int:
        return len(text.encode()) + self._longer * text.count(self._replaced[0])


def splicer(tokenizer: Any) -> Splicer | None:
    """For a fast tokenizer; None where byte pair encoding is not all."""
    backend, added = tokenizer.backend_tokenizer, tokenizer.added_tokens_decoder.values()
    model = backend.model
    if type(model).__name__ != "BPE" or model.ignore_merges or model.dropout:
        return None
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    steps = [*_steps(backend.normalizer), *_steps(backend.pre_tokenizer)]
    # Normalised tokens are looked for in other text than that of the stretches.
    if (replaced := _replaced(steps)) is None or any(token.normalized for token in added):
        return None
    names = [token.content for token in added]
    vocabulary = backend.get_vocab(with_added_tokens=False)
    lengths = [FAR] * (1 + max(backend.get_vocab().values(), default=-1))
    texts = dict[int, str]()
    for token, id in vocabulary.items():
        if token in {*names, model.unk_token}:
            continue
        if model.byte_fallback and ANY_BYTE.fullmatch(token):
            lengths[id] = 1
            if byte := BYTE.fullmatch(token):
                texts[id] = chr(int(byte[1], 16))
        else:
            texts[id], lengths[id] = token, len(token.encode())
    return Splicer(model, texts, lengths, replaced, names)


def _steps(made: Any) -> list[dict[str, Any]]:
    """What a normalizer or a pre-tokenizer does, step by step."""
    if made is None:
        return []
    state = json.loads(made.__getstate__())
    return state.get("normalizers", [state])


def _replaced(steps: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The character that is replaced, and by what; None where more is done than that and putting
    something before the text."""
    found = list[tuple[str, str]]()
    for step in steps:
        match step:
            case {"type": "Prepend"}:
                pass
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                found.append((old, new))
            case {"type": "Metaspace", "replacement": str(new), "split": False}:
                found.append((" ", new))
            case _:
                return None
    old, new = found[0] if found else (" ", " ")
    return (old, new) if len(found) <= 1 and len(old) == 1 else None
