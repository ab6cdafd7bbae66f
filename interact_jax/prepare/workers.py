"""Work on parts in several processes, which end when the one that started them does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from interact_jax import progress
from interact_jax.schema import RunStopped

DEAD = (
    "one of {} processes that prepare data has died, perhaps for lack of memory. Parts that are "
    "done stay: start the same command again, with fewer --processes or smaller --part-bytes."
)


class Workers:
    """As many processes as asked for, started when there is work for two; one is this process."""

    def __init__(self, processes: int):
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def each(
        self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], what: str
    ) -> Iterator[Any]:
        """The results of a function of this package for all tasks, in any order. Raises what it
        raises first, and RunStopped where a process dies."""
        with progress.counting(what, len(tasks), "parts") as advance:
            if min(self._processes, len(tasks)) <= 1:
                for task in tasks:
                    yield function(*task)
                    advance()
                return
            try:
                # Submitted in order: the parts at the front are done first.
                for done in as_completed([self._started().submit(function, *t) for t in tasks]):
                    yield done.result()
                    advance()
            except BrokenProcessPool as error:
                raise RunStopped(DEAD.format(self._processes)) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Spawned, not forked, since jax has started threads.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._processes, context, _start)
        return self._pool


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process stops its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever, or go on with its own."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
