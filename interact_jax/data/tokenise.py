"""Conversations to token trees."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from interact_jax.data.chat import ChatFormat
from interact_jax.data.collecting import collecting_rarely
from interact_jax.data.encode import Counts, EncodeSettings, encode, prompts_of
from interact_jax.data.recipes import RECIPES
from interact_jax.data.splices import Splice, Stretch
from interact_jax.data.stretches import Cuts, SpecialTokens, Stretches
from interact_jax.data.texts import Prompt, Rendered, Sample, SharedTexts, render_ahead
from interact_jax.data.tree import GROW, Tree
from interact_jax.schema import Conversation

PORTION, CHARACTERS = 64, 1 << 18  # conversations that are worked on at a time, and their text


@dataclasses.dataclass(frozen=True)
class Tokenised:
    """The trees of one conversation; none if nothing of it can be used."""

    trees: Sequence[Tree]
    units: int  # interactions, or pairs of replies
    counts: Counts  # what was lost or cut, by reason


@dataclasses.dataclass(frozen=True)
class Tokeniser:
    """How a conversation becomes trees. Pickled once for each worker."""

    chat: ChatFormat
    settings: EncodeSettings
    sharing: str
    recipe: str = "hindsight"

    @functools.cached_property
    def special(self) -> SpecialTokens:
        return SpecialTokens(self.chat.tokenizer)

    def all(self, conversations: Iterable[Conversation]) -> Iterator[Tokenised]:
        """Every conversation, in order. While one portion becomes trees, the next is tokenised, and
        the texts of the one after that are rendered."""
        stop, waiting = threading.Event(), collections.deque[Future[_Prepared]]()
        executor = ThreadPoolExecutor
        with collecting_rarely(), executor(1) as renders, executor(1) as tokenises:
            try:
                for portion in portions(conversations):
                    rendered = renders.submit(self._render, portion, stop)
                    waiting.append(tokenises.submit(self._prepare, portion, rendered))
                    if len(waiting) > 2:
                        yield from self._tokenise(*waiting.popleft().result())
                while waiting:
                    yield from self._tokenise(*waiting.popleft().result())
            finally:
                stop.set()

    def _render(
        self, portion: list[Conversation], stop: threading.Event
    ) -> tuple[list[_Asked], Rendered]:
        asked = [self._prompts(conversation) for conversation in portion]
        prompts = (prompt for of_one in asked for prompt, _ in of_one)
        return asked, render_ahead(self.chat, prompts, stop)

    def _prepare(
        self, portion: list[Conversation], rendering: Future[tuple[list[_Asked], Rendered]]
    ) -> _Prepared:
        asked, rendered = rendering.result()
        stretches, cuts = Stretches(self.special), list[Cuts]()
        block = self.chat.hindsight.partition("{o}")[0] if self.special.splicer else ""
        new, samples = list[Stretch | Splice](), list[tuple[str, str]]()
        for of_one in asked:
            found = [(rendered.get(prompt.key), y) for prompt, y in of_one]
            pairs = [(text, text + y) for text, y in found if isinstance(text, str)]
            cuts.append(Cuts(stretches))
            new += cuts[-1].prepare(itertools.chain.from_iterable(pairs), block)
            samples.append(_sample(pairs, cuts[-1].spliced))
        plain = (s for s in new if isinstance(s, Stretch))
        splices = [s for s in new if isinstance(s, Splice)]
        ids = stretches.learn(plain, splices, [text for _, text in samples])
        whole = [Sample(*sample, ids_L) for sample, ids_L in zip(samples, ids, strict=True)]
        return portion, rendered, cuts, whole

    def _prompts(self, conversation: Conversation) -> _Asked:
        recipe = RECIPES[self.recipe]
        try:
            return list(prompts_of(conversation, self.chat, self.settings, recipe))
        except Exception:  # `encode` meets it as well, and says where
            return []

    def _tokenise(
        self,
        portion: list[Conversation],
        rendered: Rendered,
        cuts: list[Cuts],
        samples: list[Sample],
    ) -> Iterator[Tokenised]:
        recipe = RECIPES[self.recipe]
        for conversation, of_one, sample in zip(portion, cuts, samples, strict=True):
            counts: Counts = collections.Counter()
            texts = SharedTexts(self.chat, of_one, rendered, sample)
            windows = encode(conversation, self.chat, self.settings, counts, recipe, texts)
            trees = [
                tree for window in windows for tree in GROW[self.sharing](window, recipe.frozen)
            ]
            yield Tokenised(trees, sum(len(window) for window in windows), counts)


_Asked = list[tuple[Prompt, str]]
"""Prompts of a conversation, and the text of y that is tokenised behind each."""
_Prepared = tuple[list[Conversation], Rendered, list[Cuts], list[Sample]]
"""A portion, its prompts as text, where these are cut, and a text of each tokenised whole."""


def _sample(pairs: Sequence[tuple[str, str]], spliced: Sequence[str]) -> tuple[str, str]:
    """Of the texts of a conversation, prompts with and without y, the one that is tokenised whole:
    one that will be asked for, and the same or a longer one."""
    known = set(spliced)
    found = [n for n, (prompt, _) in enumerate(pairs) if prompt in known]
    if not found:
        shortest = min((whole for _, whole in pairs), key=len, default="")
        return shortest, shortest
    n = min(found, key=lambda n: len(pairs[n][0]))
    prompt, whole = pairs[n - 1]  # the same one without hindsight
    return pairs[n][0], pairs[n][0] + whole[len(prompt) :]


def portions(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    """PORTION at a time, fewer where they have more than CHARACTERS."""
    portion, size = list[Conversation](), 0
    for conversation in conversations:
        portion.append(conversation)
        size += text_size(conversation)
        if len(portion) == PORTION or size > CHARACTERS:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def text_size(conversation: Conversation) -> int:
    """The characters of its messages."""
    return sum([len(message.content) for message in conversation.messages])
