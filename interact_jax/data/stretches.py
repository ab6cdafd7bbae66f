"""Token ids of texts, each stretch between two special tokens tokenised only once.

A tokenizer first cuts a text at its special tokens, and makes ids of what lies between two of them
whatever the rest of the text holds. The sequences of a conversation consist of the same stretches,
turn after turn and view after view:

    <|user|> Hi <|end|> <|assistant|> Hello. <|end|> <|user|> Thanks <|end|> <|assistant|>

What becomes of a stretch may depend on whether it begins the text, and on a neighbour that swallows
white space, so it is tokenised with what is before it, and with such a neighbour.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from interact_jax import startup
from interact_jax.data.examples import as_ids
from interact_jax.data.rendering import common_prefix
from interact_jax.data.splices import Splice, Splicer, Stretch, splice_of, splicer

with startup.without_torch("transformers"):
    from transformers import PreTrainedTokenizerFast


class Entangled(Exception):
    """A special token is no token of its own in the ids of a text."""


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
        self.longest = max(map(len, self.ids), default=0)  # characters of a token
        # A text without any is one stretch; the pattern then matches nothing.
        longest_first = sorted(self.ids, key=lambda token: (-len(token), token))
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    @functools.cached_property
    def splicer(self) -> Splicer | None:
        """What puts known ids together, for tokenizers for which that is exact."""
        return splicer(self.tokenizer) if self._is_plain else None

    def encode_all(self, texts: list[str]) -> list[np.ndarray]:
        """The ids [L] of each text, tokenised whole."""
        if not self._is_plain:
            return [*map(as_ids, self.tokenizer(texts, add_special_tokens=False)["input_ids"])]
        # As the call above does it, but without the place of each token in its text.
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = False
        found = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [as_ids(encoding.ids) for encoding in found]

    def cut(self, text: str, before: str = "") -> list[Stretch]:
        """The stretches of a text behind `before`, at least one: empty ones, too."""
        cut = self._pattern.split(text)  # stretch, token, stretch, ..., stretch
        if len(cut) == 1:
            return [Stretch(before, text, "")]
        tokens, swallows = cut[1::2], self._strip_before
        afters = [token if token in swallows else "" for token in tokens] if swallows else None
        afters = [*afters, ""] if afters else [""] * (len(tokens) + 1)
        return list(map(Stretch, [before, *tokens], cut[::2], afters))


@dataclasses.dataclass(slots=True)
class Cut:
    """Where a text is cut: as the text of `base` up to its own special token number `kept`, then
    into `own` stretches, before each of which but the first there is a special token that begins
    at the character in `begins` and ends at that in `ends`.

    Its ids [L] are put together when they are asked for; there are `counts[n]` up to the end of its
    own special token n.
    """

    base: Cut | None
    kept: int
    shared: int  # characters at the beginning that are those of `base`, at least
    own: list[Stretch]
    begins: list[int]
    ends: list[int]
    ids: np.ndarray | None = None
    counts: list[int] = dataclasses.field(default_factory=list)


class Stretches:
    """Ids of stretches; every one is remembered."""

    def __init__(self, special: SpecialTokens) -> None:
        self.special = special
        self._known: dict[Stretch, np.ndarray | None] = {}

    def ids(self, stretch: Stretch) -> np.ndarray:
        """The ids [L] of a stretch that is not empty. Raises Entangled where the tokenizer does
        not work as said above."""
        if stretch not in self._known:
            self.learn([stretch])
        ids = self._known[stretch]
        if ids is None:
            raise Entangled
        return ids

    def learn(
        self,
        stretches: Iterable[Stretch],
        splices: Sequence[Splice] = (),
        others: Sequence[str] = (),
    ) -> list[np.ndarray]:
        """Tokenise those that are new, all together, with `others`, whose ids [L] are returned.
        Splices are put together of what they consist of, where that can be done."""
        found = self._tokenise([*stretches, *(part for s in splices for part in s.parts)], others)
        whole = list[Stretch]()
        for splice in splices:
            if splice.stretch not in self._known:
                ids = self._spliced(splice)
                if ids is None:
                    whole.append(splice.stretch)
                else:
                    self._known[splice.stretch] = ids
        self._tokenise(whole)
        return found

    def _tokenise(
        self, stretches: Iterable[Stretch], others: Sequence[str] = ()
    ) -> list[np.ndarray]:
        new = list(dict.fromkeys(s for s in stretches if s.text and s not in self._known))
        if not new and not others:
            return []
        found = self.special.encode_all([*map("".join, new), *others])
        for stretch, ids in zip(new, found, strict=False):
            self._known[stretch] = self._within(stretch, ids)
        return found[len(new) :]

    def _spliced(self, splice: Splice) -> np.ndarray | None:
        begin_A, end_B = map(self._known.get, splice.parts)
        if begin_A is None or end_B is None or self.special.splicer is None:
            return None
        return self.special.splicer.ids(splice, begin_A, end_B)

    def _within(self, stretch: Stretch, ids: np.ndarray) -> np.ndarray | None:
        """The ids without those of the neighbours; None if these are not where they should be."""
        if stretch.before:
            if not len(ids) or ids[0] != self.special.ids[stretch.before]:
                return None
            ids = ids[1:]
        if stretch.after:
            if not len(ids) or ids[-1] != self.special.ids[stretch.after]:
                return None
            ids = ids[:-1]
        return ids


class Cuts:
    """Texts that begin alike, as those of a conversation do, and their ids. A text is cut where it
    leaves the one before: texts that grow do not take the longer to cut the longer they are."""

    def __init__(self, stretches: Stretches) -> None:
        self._stretches = stretches
        self.spliced = list[str]()  # texts that were prepared and have a splice of their own
        self._cuts: dict[str, Cut] = {}  # of texts that were prepared
        self._last: tuple[str, Cut | None] = "", None

    def prepare(self, texts: Iterable[str], block: str = "") -> Iterator[Stretch | Splice]:
        """Cut these texts, for which `ids` will be asked. Yields their stretches, to be learned;
        splices are those in which two messages are joined by the `block`."""
        for text in texts:
            if text not in self._cuts:
                self._cuts[text] = cut = self._cut(text)
                splice = self._splice(cut, block) if block else None
                if splice is None:
                    yield from cut.own
                else:
                    self.spliced.append(text)
                    yield splice
                    yield from cut.own[1:]

    def _splice(self, cut: Cut, block: str) -> Splice | None:
        """How the stretch in which a text leaves the one before is a splice."""
        base, own = cut.base, cut.own[0]
        if base is None:
            return None
        begin = base.own[cut.kept]
        shared = min(cut.shared - base.ends[cut.kept - 1], len(begin.text))
        return splice_of(own, begin, shared, block)

    def ids(self, text: str) -> np.ndarray:
        """The ids [L] of a text. Raises Entangled where the tokenizer does not work as said
        above."""
        cut = self._cuts.get(text)
        if cut is None:
            cut = self._cut(text)
            self._stretches.learn(cut.own)
        return self._ids_of(cut)

    def _cut(self, text: str) -> Cut:
        base, kept, shared, at = self._base(text)
        before = base.own[kept].before if base else ""
        own = self._stretches.special.cut(text[at:] if at else text, before)
        begins, ends = list[int](), list[int]()
        for stretch, after in itertools.pairwise(own):
            begins.append(at + len(stretch.text))
            at = begins[-1] + len(after.before)
            ends.append(at)
        cut = Cut(base, kept, shared, own, begins, ends)
        self._last = text, cut
        return cut

    def _base(self, text: str) -> tuple[Cut | None, int, int, int]:
        """An earlier cut, how many of its own special tokens are those of the text as well, how
        many characters are, and where the last of these tokens ends."""
        last, cut = self._last
        shared = common_prefix(last, text)
        while cut is not None:
            # Whether a token is one, or a longer one, is seen in as many characters.
            kept = bisect.bisect_right(cut.begins, shared - self._stretches.special.longest)
            if kept:
                return cut, kept, shared, cut.ends[kept - 1]
            shared, cut = min(shared, cut.shared), cut.base
        return None, 0, 0, 0

    def _ids_of(self, cut: Cut) -> np.ndarray:
        waiting = [cut]
        while (base := waiting[-1].base) is not None and base.ids is None:
            waiting.append(base)
        while len(waiting) > 1:
            self._join(waiting.pop())
        return self._join(cut)

    def _join(self, cut: Cut) -> np.ndarray:
        """Put the ids of a text together, unless they are."""
        if cut.ids is not None:
            return cut.ids
        parts, count = list[np.ndarray](), 0
        if cut.base is not None:
            assert cut.base.ids is not None
            count = cut.base.counts[cut.kept - 1]
            parts.append(cut.base.ids[:count])
        for n, stretch in enumerate(cut.own):
            if n:
                parts.append(self._stretches.special.ids[stretch.before])
                count += 1
                cut.counts.append(count)
            if stretch.text:
                parts.append(self._stretches.ids(stretch))
                count += len(parts[-1])
        cut.ids = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        return cut.ids
