"""All conversations of a run as trees, by this process or by others."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

from interact_jax.cluster import processes
from interact_jax.data.tokenise import Tokenised, Tokeniser, portions, text_size
from interact_jax.data.tree_records import from_bytes, to_bytes
from interact_jax.data.workers import Died, Workers, cores
from interact_jax.schema import Conversation, RunStopped

EACH = 1 << 23  # characters of messages for which it pays to start a process
MOST = 16  # processes that are started unasked
AS_MANY_AS_PAY = -1  # the setting data.workers
AHEAD = 3  # portions that each process has before it


def workers_for(conversations: Iterable[Conversation], most: int | None = None) -> int:
    """How many processes should tokenise these; 0 where it is done before they have started, and
    beside other processes of the run, which may be on this machine and do the same."""
    if processes.are_several():
        return 0
    number = min(
        cores() if most is None else most, MOST, sum(map(text_size, conversations)) // EACH
    )
    return number if number > 1 else 0


def tokenise(
    conversations: Iterable[Conversation], tokeniser: Tokeniser, workers: int = 0
) -> Iterator[Tokenised]:
    """Every conversation as trees, in order, whatever the number of worker processes (0 = none).
    Until these have started, this process does their work.

    Raises the InputError of the first conversation that has one, and RunStopped where a worker
    dies.
    """
    if not workers:
        yield from tokeniser.all(conversations)
        return
    left, pool = iter(conversations), Workers(workers, _begin, tokeniser)
    waiting = collections.deque[Future[list[bytes]]]()
    try:
        yield from tokeniser.all(_until_ready(pool, left))
        for portion in portions(left):
            waiting.append(pool.submit(_tokenise, portion))
            if len(waiting) > AHEAD * workers:
                yield from map(from_bytes, waiting.popleft().result())
        while waiting:
            yield from map(from_bytes, waiting.popleft().result())
    except Died as error:
        raise worker_died(workers) from error
    finally:
        pool.close()


def _until_ready(pool: Workers, left: Iterator[Conversation]) -> Iterator[Conversation]:
    while not pool.is_ready() and (conversation := next(left, None)) is not None:
        yield conversation


def worker_died(workers: int) -> RunStopped:
    """What to raise where one of so many worker processes has died."""
    return RunStopped(
        f"one of {workers} processes that tokenise has died, perhaps for lack of memory. Set "
        "data.workers lower; 0 tokenises in the main process."
    )


_tokeniser: Tokeniser  # set in worker processes


def _begin(tokeniser: Tokeniser) -> None:
    global _tokeniser
    _tokeniser = tokeniser


def _tokenise(portion: list[Conversation]) -> list[bytes]:
    return [to_bytes(tokenised) for tokenised in _tokeniser.all(portion)]
