"""Requests to other machines: each is tried until it ends, once, as a result or as a failure.

    reply = insist(lambda: server.post("/generate", body), Patience(tries=8))
    for index, answer in in_parallel(ask, len(questions), workers=16): ...

What may help when tried again: no connection, silence, half an answer, "too many requests", a fault
of the server. What does not: a request that the server refuses.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from interact_jax.printable import count

T = TypeVar("T")
Pause = Callable[[float], Any]
"""Waits so many seconds; true if everything is to end instead."""

REFUSALS_THAT_PASS = (408, 409, 425, 429)  # timeout, conflict, too early, too many requests
NEVER = (501, 505)  # server faults that stay: not implemented, HTTP version not supported


class Failed(Exception):
    """A request without a usable answer.

    `again`: another try may help. `after`: the seconds that the server asks to wait. `status` is
    HTTP's, 0 where there was no answer.
    """

    def __init__(self, reason: str, *, again: bool, after: float | None = None, status: int = 0):
        super().__init__(reason)
        self.again, self.after, self.status = again, after, status


class Abandoned(Exception):
    """The work that a request belonged to ended before the request did."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How often to try, and how long to wait in between.

    The n-th wait is `first` * 2^(n-1) seconds, at most `longest`, less a random part of up to one
    half: clients that failed together should not return together. A server that asks for a longer
    wait gets it, up to `most_asked` seconds; beyond that its answer is final.
    """

    tries: int = 8
    first: float = 0.75
    longest: float = 60.0
    most_asked: float = 300.0

    def wait(self, failures: int, asked: float | None, share: float) -> float:
        """Seconds to wait after so many failures in a row; `share` in [0, 1) is the random part."""
        usual = min(self.first * 2.0 ** min(failures - 1, 60), self.longest) * (1 - share / 2)
        return max(usual, asked or 0.0)


def insist(
    attempt: Callable[[], T],
    patience: Patience,
    pause: Pause = time.sleep,
    on_retry: Callable[[Failed], None] = lambda failure: None,
) -> T:
    """The result of `attempt`, tried again while its failure says that this may help.

    Raises the last Failed, with the number of tries; Abandoned if `pause` says so.
    """
    failures = 0
    while True:
        try:
            return attempt()
        except Failed as failure:
            failures += 1
            too_long = (failure.after or 0.0) > patience.most_asked
            if not failure.again or too_long or failures >= patience.tries:
                raise _final(failure, failures, too_long) from failure
            on_retry(failure)
            if pause(patience.wait(failures, failure.after, random.random())):
                raise Abandoned from failure


def _final(failure: Failed, failures: int, too_long: bool) -> Failed:
    reason = str(failure)
    if too_long:
        reason += f"; it asks to wait {failure.after:,.0f} s"
    if failures > 1:
        reason += f" ({count(failures, 'try', 'tries')})"
    return Failed(reason, again=failure.again, after=failure.after, status=failure.status)


# -------------------------------------------------------------------------- what an answer means


def refusal(status: int, headers: Mapping[str, str], reason: str) -> Failed:
    """The failure that an HTTP status other than 2xx stands for."""
    fault = status >= 500 and status not in NEVER
    after = asked_wait(headers, time.time())
    return Failed(reason, again=fault or status in REFUSALS_THAT_PASS, after=after, status=status)


def asked_wait(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that a server asks to wait, from `retry-after-ms` or `retry-after` (seconds, or
    a date: RFC 9110, 10.2.3); None where it does not, or not in a way that can be read.

    `now` is in seconds since 1970.
    """
    given = {name.lower(): value.strip() for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(given[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        moment = email.utils.parsedate_to_datetime(given.get("retry-after", ""))
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return max(0.0, moment.timestamp() - now)


# ----------------------------------------------------------------------------- many at a time


def in_parallel(
    work: Callable[[int, Pause], T], number: int, workers: int
) -> Iterator[tuple[int, T]]:
    """(index, work(index, pause)) for every index below `number` as they end, on some threads.

    `work` waits with its `pause`. An exception in it is raised here and ends the rest: work not
    begun is left, waits are cut short, and what is on its way is not waited for.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[int, T | None, BaseException | None]] = queue.SimpleQueue()
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                index = todo.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((index, work(index, stop.wait), None))
            except BaseException as error:  # for the thread that waits
                ended.put((index, None, error))
                return

    for index in range(number):
        todo.put(index)
    for _ in range(min(workers, number)):
        threading.Thread(target=serve, daemon=True).start()  # an interrupt must not wait for them
    try:
        for _ in range(number):
            index, result, error = ended.get()
            if error is not None:
                raise error
            yield index, result  # type: ignore[misc]  # T itself may be None
    finally:
        stop.set()
