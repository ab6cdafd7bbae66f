"""Data that do not fit into memory: conversations in shards, their trees in a store on disk.

    dataset = StoredDataset(shards, tokeniser, folder, workers=2)
    read = dataset.follow(order)         a thread, or processes, make trees in this order, ahead
    read([7, 3])                         the trees of the next two of them

A conversation is read from its shard and tokenised when its turn comes near, and its trees are kept
(`TreeStore`): a later epoch, or a later run with the same data, tokenizer and settings, reads them
from there. In memory are numbers of the conversations (`shards.interactions`, `shards.users`), and
the trees of the next AHEAD of them.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import queue
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from interact_jax.data.conversations import ReadReport
from interact_jax.data.dataset import Counted, fit_one
from interact_jax.data.forest import Forest
from interact_jax.data.limits import Member
from interact_jax.data.reading import Read
from interact_jax.data.stored_trees import StoredTrees
from interact_jax.data.tokenise import Tokenised, Tokeniser
from interact_jax.data.tokenise_all import worker_died
from interact_jax.data.tree import Tree
from interact_jax.data.tree_index import Sizes
from interact_jax.data.tree_store import TreeStore, is_store
from interact_jax.data.workers import Died, Workers
from interact_jax.foreign import cache_directory
from interact_jax.printable import count
from interact_jax.schema import Conversation, InputError

log = logging.getLogger(__name__)

TREES = "trees"  # folder in prepared data of what was made beforehand
AHEAD = 512  # conversations whose trees wait for their turn
PORTION = 64  # that are made at a time


class Shards(Protocol):
    """Conversations by number; picklable. `digest` is of all of them; `interactions` and `users`
    [N] are known without reading any: users are numbers, 0 where nobody is named."""

    digest: str
    interactions: np.ndarray
    users: np.ndarray

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> list[Conversation]:
        """These conversations."""
        ...


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes trees of conversations in shards. Pickled once for each worker."""

    shards: Shards
    tokeniser: Tokeniser

    def make(self, indices: Sequence[int]) -> Iterator[tuple[int, Tokenised]]:
        """The trees of these conversations, in order."""
        settings, chat = self.tokeniser.settings, self.tokeniser.chat
        counts = [collections.Counter[str]() for _ in indices]
        fitted = [
            fit_one(conversation, chat, settings, of_one)
            for conversation, of_one in zip(self.shards.batch(indices), counts, strict=True)
        ]
        made = self.tokeniser.all(conversation for conversation in fitted if conversation)
        for index, conversation, of_one in zip(indices, fitted, counts, strict=True):
            result = Tokenised([], 0, collections.Counter()) if conversation is None else next(made)
            yield index, dataclasses.replace(result, counts=of_one + result.counts)

    def key(self) -> dict[str, Any]:
        """All that trees depend on, as JSON."""
        chat = self.tokeniser.chat
        settings = dataclasses.asdict(self.tokeniser.settings)
        weigh, _, function = settings["weigh"].rpartition(":")
        return {
            "conversations": self.shards.digest,
            "tokenizer": _digest_of_tokenizer(chat.tokenizer),
            "template": chat.template.key,
            "chat": [chat.hindsight, chat.reply_tokens, chat.thinking, chat.end, chat.eos_id],
            "settings": settings,
            "weigh": [function, hashlib.blake2b(Path(weigh).read_bytes()).hexdigest()]
            if weigh
            else [],
            "sharing": self.tokeniser.sharing,
            "recipe": self.tokeniser.recipe,
            "code": _digest_of_code(),
        }


def cache_folder(given: str) -> Path:
    """The folder that is given, or this user's. Raises InputError where there is none."""
    try:
        return Path(given).expanduser() if given else cache_directory() / "trees"
    except OSError as error:
        raise InputError(f"data.cache is not set, and {error}.") from error


def _digest_of_tokenizer(tokenizer: Any) -> str:
    if tokenizer.is_fast:
        text = tokenizer.backend_tokenizer.to_str()
    else:
        text = json.dumps([type(tokenizer).__name__, tokenizer.get_vocab()], sort_keys=True)
    special = sorted(map(str, tokenizer.added_tokens_decoder.items()))
    return hashlib.blake2b("\n".join([text, *special]).encode(), digest_size=16).hexdigest()


@functools.cache
def _digest_of_code() -> str:
    """Of the modules that make trees: what another version made of the same text is not taken."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


class StoredDataset(Counted):
    """All conversations of a run, of which few are in memory."""

    def __init__(
        self,
        shards: Shards,
        tokeniser: Tokeniser,
        folder: Path,
        workers: int = 0,
        beside: Path | None = None,
    ):
        """Trees are kept in `folder`, or in the one `beside` the shards if they were made there. No
        processes are started where the number of `workers` was left open (-1)."""
        super().__init__(collections.Counter(), ReadReport(conversations=len(shards)))
        self.shards, self.workers = shards, max(workers, 0)
        self.maker = Maker(shards, tokeniser)
        self.key = self.maker.key()
        is_made = beside is not None and is_store(beside, self.key, len(shards))
        self.folder = beside if beside is not None and is_made else folder
        self.store = TreeStore.open(self.folder, self.key, len(shards))
        self._counted_N = np.zeros(len(shards), bool)
        self._following: _Follower | None = None

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def interactions(self) -> np.ndarray:
        """Of each conversation, as they were counted when it was prepared."""
        return self.shards.interactions

    @property
    def weights(self) -> np.ndarray:
        """Its interactions: other weights are not known before it is read."""
        return self.shards.interactions.astype(np.float64)

    @property
    def users(self) -> np.ndarray:
        """The user of each conversation, as a number; 0 where nobody is named."""
        return self.shards.users

    @functools.cached_property
    def prints(self) -> dict[str, str]:
        """As `fingerprint`, of what the data are made of, not of the trees."""

        def digest(*names: str) -> str:
            text = json.dumps({name: self.key[name] for name in names}, sort_keys=True)
            return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

        return {
            "conversations": digest("conversations"),
            "contexts": digest("tokenizer", "template", "chat", "settings", "sharing", "recipe"),
            "replies": digest("conversations", "tokenizer"),
            "weights": digest("conversations", "weigh"),
        }

    def trees_of(self, indices: Sequence[int]) -> Sequence[Tree]:
        """The trees of these conversations, in any order; made now where they are not stored.

        Of those that are stored, only the sizes are read, until somebody looks at a tree."""
        missing = np.asarray(indices)[~self.store.has(indices)]
        made = dict(self._made(missing.tolist()))
        sizes = self.store.sizes(indices)
        if sizes is not None:
            return StoredTrees(self._forest_of, indices, sizes)
        made |= dict(self._made([i for i in indices if i not in made]))
        return [tree for i in indices for tree in made[i].trees]

    def sizes(self, indices: Sequence[int]) -> Sizes | None:
        """The sizes of the trees of these conversations; None where some are not stored."""
        return self.store.sizes(indices)

    def forests_of(self, indices: Sequence[int], counted: Collection[int]) -> list[Forest]:
        """The trees of each of these conversations, in any order. What is lost of those `counted`
        is counted."""
        return [
            Forest.of((self._count(i, made) if i in counted else made).trees)
            for i, made in self._made(indices)
        ]

    def count_elsewhere(self, indices: Sequence[int]) -> None:
        """From here on do not count what is lost of these conversations: others have."""
        self._counted_N[indices] = True

    def count_anew(self) -> None:
        """Forget what has been counted."""
        self.counts.clear()
        self.examples.clear()
        self._counted_N[:] = False

    def members(self, indices: Sequence[int], trees: Sequence[Sequence[Tree]]) -> list[Member]:
        """These conversations, whose trees are at hand, as `Limits` sees them."""
        facts_of_each = [Forest.of(of_one).facts for of_one in trees]
        return [
            (facts.conversation or f"\0{i}", str(user or ""), facts.weight)
            for i, user, facts in zip(
                indices, self.users[indices].tolist(), facts_of_each, strict=True
            )
        ]

    def follow(self, *orders: Iterator[int]) -> Read:
        """A function that returns the trees of the next conversations of the one order, as it is
        called; they are made ahead. Whoever was followed before is left."""
        (order,) = orders
        if self._following is not None:
            self._following.close()
        self._following = follower = _Follower(self, order)

        def read(indices: Sequence[int]) -> list[Sequence[Tree]]:
            taken = [follower.take(i) for i in indices]
            # What is stored is read here: the thread that makes trees would hold up this one.
            missing = [i for i, made in zip(indices, taken, strict=True) if made is None]
            stored = dict(self._made(missing))
            return [
                self._count(i, made or stored[i]).trees
                for i, made in zip(indices, taken, strict=True)
            ]

        return read

    def close(self) -> None:
        """Stop making trees, and close the store."""
        if self._following is not None:
            self._following.close()
        self.store.close()

    def lines(self) -> list[str]:
        """What there is, for people: how much of it can be used shows as it is read."""
        total = count(int(self.interactions.sum()), "interaction")
        held = self.store.held()
        return [
            f"{count(len(self), 'conversation')} with {total}, prepared",
            f"  token trees of {held:,} are in {self.store.folder}",
        ]

    def _made(self, indices: Sequence[int]) -> Iterator[tuple[int, Tokenised]]:
        """The trees of these conversations, from the store or made now, in order."""
        stored = dict(zip(indices, self.store.get_all(indices), strict=True))
        made = self.maker.make([i for i in dict.fromkeys(indices) if stored[i] is None])
        for i in indices:
            found = stored[i]
            if found is None:
                _, found = next(made)
                stored[i] = found
                self.store.put(i, found)
            yield i, found

    def _forest_of(self, index: int) -> Forest:
        ((_, made),) = self._made([index])
        return Forest.of(made.trees)

    def _count(self, index: int, tokenised: Tokenised) -> Tokenised:
        """Count what a conversation lost, once in a run."""
        if not self._counted_N[index]:
            self._counted_N[index] = True
            if tokenised.counts:
                name = Forest.of(tokenised.trees).facts.conversation
                self.note(tokenised.counts, name or f"conversation {index:,}")
        return tokenised


_Made = list[tuple[int, Tokenised | None]]
"""Conversations and their trees; None where they are stored."""


class _Follower:
    """Trees in a given order, made ahead by a thread or, with workers, by processes."""

    def __init__(self, dataset: StoredDataset, order: Iterator[int]):
        self._dataset, self._order = dataset, order
        self._waiting: queue.Queue[_Made | BaseException] = queue.Queue(AHEAD // PORTION)
        self._portion: Iterator[tuple[int, Tokenised | None]] = iter(())  # what is being taken
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="make trees", daemon=True)
        self._thread.start()

    def take(self, index: int) -> Tokenised | None:
        """The trees of the next conversation, which has to be this one; None where they are stored.
        Raises what stopped the thread, when its turn has come."""
        item = next(self._portion, None)
        if item is None:
            self._portion = iter(self._next())
            item = next(self._portion)
        assert item[0] == index, "conversations are read in the order that was announced"
        return item[1]

    def _next(self) -> _Made:
        item: _Made | BaseException | None = None
        while item is None:
            if self._stop.is_set():  # whoever still reads has been left
                raise RuntimeError("the data are read from another place now")
            with contextlib.suppress(queue.Empty):
                item = self._waiting.get(timeout=1)
        if isinstance(item, BaseException):
            self._waiting.put(item)
            raise item
        return item

    def close(self) -> None:
        """Leave what is not made yet."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._made():
                if not self._put(item):
                    return
        except BaseException as error:  # whoever takes the next one raises it
            self._put(error)

    def _put(self, item: _Made | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                self._waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _made(self) -> Iterator[_Made]:
        dataset = self._dataset
        portions = iter(lambda: list(itertools.islice(self._order, PORTION)), [])
        if not dataset.workers:
            for portion in portions:
                made = dict(dataset._made(self._missing(portion)))
                yield [(i, made.get(i)) for i in portion]
            return
        with contextlib.closing(_pool(dataset)) as pool:
            begun = collections.deque[tuple[list[int], Future[dict[int, Tokenised]] | None]]()
            for portion in portions:
                missing = self._missing(portion)
                begun.append((portion, pool.submit(_put_all, missing) if missing else None))
                if len(begun) > 2 * dataset.workers:
                    yield self._finish(*begun.popleft())
                if self._stop.is_set():
                    return
            while begun:
                yield self._finish(*begun.popleft())

    def _missing(self, portion: list[int]) -> list[int]:
        once = list(dict.fromkeys(portion))
        return np.array(once)[~self._dataset.store.has(once)].tolist()

    def _finish(self, portion: list[int], future: Future[dict[int, Tokenised]] | None) -> _Made:
        try:
            unkept = future.result() if future else {}
        except Died as error:
            raise worker_died(self._dataset.workers) from error
        return [(i, unkept.get(i)) for i in portion]


def _pool(dataset: StoredDataset) -> Workers:
    """Processes that put trees into the store."""
    return Workers(dataset.workers, _begin, dataset.maker, dataset.folder, dataset.key)


_worker: tuple[Maker, TreeStore]  # set in worker processes


def _begin(maker: Maker, folder: Path, key: dict[str, Any]) -> None:
    global _worker
    _worker = maker, TreeStore.open(folder, key, len(maker.shards))


def _put_all(indices: list[int]) -> dict[int, Tokenised]:
    """Make and store the trees of these conversations; those that could not be kept."""
    maker, store = _worker
    unkept = {}
    for index, tokenised in maker.make(indices):
        store.put(index, tokenised)
        if store.full:
            unkept[index] = tokenised
    return unkept
