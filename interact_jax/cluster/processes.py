"""The processes of a run: how they find one another, and what they agree on.

    processes.join(place)                       before the first use of jax
    processes.exchange("digest", "8a3f", 60)    what every process says under this name
    processes.agree("the program", "8a3f", 60)  that they say the same
    processes.of_first("begun", "yes", 60)      what process 0 says
    processes.by_first("answers", ask)          what comes of a call that process 0 alone makes
    processes.meet("restored", 60)              all are here
    processes.leave()

These go through jax's coordination service, on process 0, and not through the devices: they work
while programs are compiled, wait as long as they are told, and name whoever does not come. Where a
name is used again, all processes use it as often.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax._src import distributed  # the service's client; jax has no public name for it

from interact_jax.cluster.place import Place
from interact_jax.printable import count
from interact_jax.schema import InputError, RunStopped

log = logging.getLogger(__name__)

JOIN_SECONDS = 300  # for all processes to start, images and libraries loaded
HEARTBEAT_SECONDS = 30  # without a sign of life a process counts as dead, and jax ends the others
LEAVE_SECONDS = 60
MEET_SECONDS = 600  # for all to have done what takes all of them about as long
LONG_SECONDS = 7200  # where some have more to do: a program to compile, or files to read or write
LOST = (
    *("Gloo", "Connection reset", "Connection closed", "heartbeat", "Socket closed"),
    "remote process exited",  # as NCCL says it
    "coordination service",  # which process 0 has
)
"""Signs in a message of jax's that another process is gone."""
ASK_SECONDS = 86_400  # for what process 0 asks of others, servers say, whose patience ends before
SHOWN = 8  # processes that a message names
COMMON = "raised by all processes"  # an attribute of errors
Raised = TypeVar("Raised", bound=BaseException)
_times: collections.Counter[str] = collections.Counter()  # that a name was used


def join(place: Place, seconds: int = JOIN_SECONDS) -> None:
    """Connect this process with the others; nothing to do where it is alone.

    Raises InputError where the coordinator cannot be reached, or not all come in time.
    """
    if place.is_alone:
        return
    # It would take over SIGTERM, and tell nobody but those who ask it (`ends`, `votes`).
    jax.config.update("jax_enable_preemption_service", False)
    where = f" at {place.coordinator}" if place.coordinator else ""
    log.info("process %s of %s, by %s%s", place.process, place.processes, place.launcher, where)
    given: dict[str, Any] = {}
    if not place.found_by_jax:
        given = {
            "coordinator_address": place.coordinator,
            "num_processes": place.processes,
            "process_id": place.process,
            "local_device_ids": place.devices,
            "coordinator_bind_address": place.coordinator if place.is_on_one_machine else None,
            # What it would find out by itself, it finds out differently: see `place`.
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"process {place.process} of {place.processes} ({place.launcher}) cannot join the "
            f"others{where}: {_first_line(error)}. All processes have to be started within "
            f"{seconds:,} s, with the same address, which is that of process 0."
        ) from error
    meet("joined", seconds)


def is_first() -> bool:
    """Whether this is process 0, which writes what is written once, and speaks for all."""
    return jax.process_index() == 0


def are_several() -> bool:
    """Whether this process has joined others."""
    return _client() is not None


def leave() -> None:
    """Disconnect, when all processes are done: process 0 may have a report to write."""
    if are_several():
        meet("done", LONG_SECONDS)
        jax.distributed.shutdown()


def exchange(name: str, value: str, seconds: float = MEET_SECONDS) -> list[str]:
    """What each process says under a name, in their order. Blocks until all have.

    Raises RunStopped, which names those that have not said anything after so many seconds.
    """
    client = _client()
    if client is None:
        return [value]
    own, processes = jax.process_index(), jax.process_count()
    _times[name] += 1
    key = f"interact_jax/{name}/{_times[name]}"
    client.key_value_set(f"{key}/{own}", f"{_self()}\n{value}", allow_overwrite=True)
    until = time.monotonic() + seconds
    found = [_wait(client, f"{key}/{process}", until) for process in range(processes)]
    if missing := [process for process, text in enumerate(found) if text is None]:
        raise _absent(missing, name, seconds)
    if own == 0 and _times[name] > 1:
        # All have come this time, so all have read what was said the time before.
        client.key_value_delete(f"interact_jax/{name}/{_times[name] - 1}")
    return [str(text).partition("\n")[2] for text in found]


def of_first(name: str, value: str, seconds: float = MEET_SECONDS) -> str:
    """What process 0 says; the others' values are not looked at. Raises as `exchange` does."""
    return exchange(name, value, seconds)[0]


def common(error: Raised) -> Raised:
    """An error that all processes raise at this point, marked as that: see `is_common`."""
    setattr(error, COMMON, True)
    return error


def is_common(error: BaseException) -> bool:
    """Whether all processes raise it: each may then go on without leaving the others waiting."""
    return not are_several() or getattr(error, COMMON, False)


def by_first(name: str, call: Callable[[], Any], seconds: float = ASK_SECONDS) -> Any:
    """What comes of a call that process 0 alone makes, for all; it has to be JSON. With one process
    this is just the call.

    An InputError, RunStopped or OSError of the call is raised in all processes, as `common` to
    them. RunStopped is also raised in those that wait for one another longer than `seconds`.
    """
    client = _client()
    if client is None:
        return call()
    _times[name] += 1
    key, until = f"interact_jax/{name}/{_times[name]}", time.monotonic() + seconds
    if not is_first():
        if (text := _wait(client, f"{key}/0", until)) is None:
            raise _absent([0], name, seconds)
        client.key_value_set(f"{key}/read by {jax.process_index()}", "")
        return _value_of(json.loads(text))
    outcome, error = _outcome(call)
    client.key_value_set(f"{key}/0", json.dumps(outcome))  # tried with 512 MB
    until, others = time.monotonic() + seconds, range(1, jax.process_count())
    if missing := [n for n in others if _wait(client, f"{key}/read by {n}", until) is None]:
        raise _absent(missing, name, seconds)
    client.key_value_delete(key)
    if error is not None:
        raise common(error)
    return outcome["value"]


def meet(name: str, seconds: float = MEET_SECONDS) -> None:
    """Wait until all processes are here. Raises as `exchange` does."""
    exchange(name, "", seconds)


def lost(error: RuntimeError) -> str:
    """What to say of an error of jax's that comes from a lost connection to another process; ""
    for any other error, and where this process is alone."""
    message = _first_line(error)
    if not are_several() or not any(sign in message for sign in LOST):
        return ""
    return (
        f"a computation of all processes broke off, probably since another one is gone ({message})"
        ". See what that one wrote last, and what the supervisor says of it."
    )


def agree(what: str, value: str, seconds: float = MEET_SECONDS) -> None:
    """Check that all processes have the same value. Raises RunStopped, with those that have not
    what most have, and as `exchange` does."""
    values = exchange(what, value, seconds)
    most = max(values, key=values.count)
    if others := [process for process, found in enumerate(values) if found != most]:
        raise RunStopped(
            f"{what} of {_names(others)} differs from that of the others: {values[others[0]]} in "
            f"place of {most}. They would wait for one another without end. Start all processes "
            "with the same code, versions, settings, data and devices."
        )


def _wait(client: Any, key: str, until: float) -> str | None:
    """What stands under a key, once it does; None where that is later than `until`."""
    left = max(1, round(1000 * (until - time.monotonic())))
    try:
        return str(client.blocking_key_value_get(key, left))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        return None


def _absent(missing: list[int], name: str, seconds: float) -> RunStopped:
    others = jax.process_count() - 1 - len(missing)
    return RunStopped(
        f"{_names(missing)} did not come to {name!r} within {seconds:,.0f} s; process "
        f"{jax.process_index()} waited there with {count(others, 'other')}. See what they wrote "
        "last; if they only were slow, start the same command again."
    )


def _outcome(call: Callable[[], Any]) -> tuple[dict[str, Any], Exception | None]:
    """What comes of a call, as JSON; and the error that `_value_of` raises elsewhere."""
    try:
        return {"value": call()}, None
    except InputError as error:
        return {"error": "input", "given": [str(error)]}, error
    except RunStopped as error:
        return {"error": "stopped", "given": [str(error), error.status]}, error
    except OSError as error:
        given: list[Any] = [str(error)]
        if error.errno is not None:
            given = [error.errno, error.strerror, *map(str, filter(None, [error.filename]))]
        return {"error": "system", "given": given}, error


def _value_of(outcome: dict[str, Any]) -> Any:
    """The value of an outcome. Raises its error."""
    if "error" in outcome:
        kinds = {"input": InputError, "stopped": RunStopped, "system": OSError}
        raise common(kinds[outcome["error"]](*outcome["given"]))
    return outcome["value"]


def _self() -> str:
    return f"{socket.gethostname()}, process id {os.getpid()}"


def _names(processes: list[int]) -> str:
    shown = ", ".join(map(str, processes[:SHOWN]))
    more = f" and {len(processes) - SHOWN} more" if len(processes) > SHOWN else ""
    return f"process{'es' if len(processes) > 1 else ''} {shown}{more}"


def _client() -> Any:
    """The client of the service; None in a run of one process."""
    return distributed.global_state.client


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
