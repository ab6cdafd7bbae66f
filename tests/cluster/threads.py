"""Threads in place of processes, for what these say to one another by jax's coordination service:
that is a real one, on the loopback address, and takes no second to start."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import pytest
from jax._src import distributed

from interact_jax.cluster import processes
from tests.cluster.test_processes import free_port

SECONDS = 30


class _Own(threading.local):
    """What a thread has of its own: the number and the client of a process, and how often names
    were used."""

    def __init__(self) -> None:
        self.process, self.client = 0, None
        self.times = collections.Counter[str]()

    def __getitem__(self, name: str) -> int:
        return self.times[name]

    def __setitem__(self, name: str, times: int) -> None:
        self.times[name] = times


Together = Callable[[Callable[[int], Any]], list[Any]]


@contextlib.contextmanager
def as_processes(count: int) -> Iterator[Together]:
    """A function that calls another one in so many threads, with the number of each, and returns
    what they return. Each thread takes itself for a process of a run."""
    own, address = _Own(), f"127.0.0.1:{free_port()}"

    def run(call: Callable[[int], Any], process: int) -> Any:
        state = distributed.State()
        state.initialize(
            coordinator_address=address,
            coordinator_bind_address=address,
            num_processes=count,
            process_id=process,
            cluster_detection_method="deactivate",
            initialization_timeout=SECONDS,
            heartbeat_timeout_seconds=SECONDS,
            shutdown_timeout_seconds=SECONDS,
        )
        own.process, own.client = process, state.client
        try:
            return call(process)
        finally:
            state.shutdown()

    def together(call: Callable[[int], Any]) -> list[Any]:
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(run, call, process) for process in range(count)]
            return [future.result(timeout=SECONDS) for future in futures]

    preemption = jax.config.values["jax_enable_preemption_service"]
    jax.config.update("jax_enable_preemption_service", False)  # it would take over SIGTERM
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_client", lambda: own.client)
        patch.setattr(processes, "_times", own)
        patch.setattr(jax, "process_index", lambda: own.process)
        patch.setattr(jax, "process_count", lambda: count)
        for name in ("MEET_SECONDS", "LONG_SECONDS", "ASK_SECONDS"):
            patch.setattr(processes, name, SECONDS)
        try:
            yield together
        finally:
            jax.config.update("jax_enable_preemption_service", preemption)
