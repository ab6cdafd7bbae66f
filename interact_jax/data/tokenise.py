"""Conversations to token trees, in this process or in worker processes."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from interact_jax.data.chat import ChatFormat
from interact_jax.data.encode import Counts, EncodeSettings, encode, prompts_of
from interact_jax.data.recipes import RECIPES
from interact_jax.data.stretches import Stretches
from interact_jax.data.texts import Rendered, SharedTexts, render_all
from interact_jax.data.tree import GROW, Tree
from interact_jax.schema import Conversation, RunStopped

PORTION = 64  # conversations that a worker gets at a time


@dataclasses.dataclass(frozen=True)
class Tokenised:
    """The trees of one conversation; none if nothing of it can be used."""

    trees: list[Tree]
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
    def stretches(self) -> Stretches:
        return Stretches(self.chat.tokenizer)

    def __call__(self, conversation: Conversation) -> Tokenised:
        (tokenised,) = self.all([conversation])
        return tokenised

    def all(self, conversations: Iterable[Conversation]) -> Iterator[Tokenised]:
        """Every conversation, in order. While a portion is tokenised, the chat template's process
        renders the next."""
        with ThreadPoolExecutor(1) as other:
            waiting: collections.deque[tuple[Sequence[Conversation], Future[Rendered]]]
            waiting = collections.deque()
            for portion in _portions(conversations):
                waiting.append((portion, other.submit(self._render, portion)))
                if len(waiting) > 1:
                    yield from self._tokenise(*waiting.popleft())
            while waiting:
                yield from self._tokenise(*waiting.popleft())

    def _render(self, portion: Sequence[Conversation]) -> Rendered:
        prompts = (prompts_of(c, self.chat, self.settings, RECIPES[self.recipe]) for c in portion)
        return render_all(self.chat, itertools.chain.from_iterable(prompts))

    def _tokenise(
        self, portion: Sequence[Conversation], rendering: Future[Rendered]
    ) -> Iterator[Tokenised]:
        rendered = rendering.result()
        self.stretches.prepare(text for text in rendered.values() if isinstance(text, str))
        recipe = RECIPES[self.recipe]
        for conversation in portion:
            counts: Counts = collections.Counter()
            texts = SharedTexts(self.chat, self.stretches, rendered)
            windows = encode(conversation, self.chat, self.settings, counts, recipe, texts)
            trees = [
                tree for window in windows for tree in GROW[self.sharing](window, recipe.frozen)
            ]
            yield Tokenised(trees, sum(len(window) for window in windows), counts)


def _portions(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    rest = iter(conversations)
    while portion := list(itertools.islice(rest, PORTION)):
        yield portion


def tokenise(
    conversations: Sequence[Conversation], tokeniser: Tokeniser, workers: int = 0
) -> Iterator[Tokenised]:
    """Every conversation as trees, in order, whatever the number of worker processes (0 = none).

    Raises the InputError of the first conversation that has one, and RunStopped where a worker
    dies.
    """
    if not workers:
        yield from tokeniser.all(conversations)
        return
    # Spawned, not forked, since jax has started threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (tokeniser,))
    try:
        for portion in pool.map(_tokenise, _portions(conversations)):
            yield from portion
    except BrokenProcessPool as error:
        raise RunStopped(
            f"one of {workers} processes that tokenise has died, perhaps for lack of memory. Set "
            "data.workers lower; 0 tokenises in the main process."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker_tokeniser: Tokeniser  # set in worker processes


def _start_worker(tokeniser: Tokeniser) -> None:
    global _worker_tokeniser
    _worker_tokeniser = tokeniser
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops its workers


def _tokenise(portion: list[Conversation]) -> list[Tokenised]:
    return list(_worker_tokeniser.all(portion))
