"""Conversations to token trees, in this process or in worker processes."""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from interact_jax.data.chat import ChatFormat
from interact_jax.data.encode import Counts, EncodeSettings, encode
from interact_jax.data.recipes import RECIPES
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

    def __call__(self, conversation: Conversation) -> Tokenised:
        counts: Counts = collections.Counter()
        recipe = RECIPES[self.recipe]
        windows = encode(conversation, self.chat, self.settings, counts, recipe)
        trees = [tree for window in windows for tree in GROW[self.sharing](window, recipe.frozen)]
        return Tokenised(trees, sum(len(window) for window in windows), counts)


def tokenise(
    conversations: Sequence[Conversation], tokeniser: Tokeniser, workers: int = 0
) -> Iterator[Tokenised]:
    """Every conversation as trees, in order, whatever the number of worker processes (0 = none).

    Raises the InputError of the first conversation that has one, and RunStopped where a worker
    dies.
    """
    if not workers:
        yield from map(tokeniser, conversations)
        return
    # Spawned, not forked, since jax has started threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (tokeniser,))
    try:
        yield from pool.map(_tokenise, conversations, chunksize=PORTION)
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


def _tokenise(conversation: Conversation) -> Tokenised:
    return _worker_tokeniser(conversation)
