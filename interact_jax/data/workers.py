"""Processes that work for this one, and start sooner than those of `multiprocessing`.

    workers = Workers(2, begin, state)        begin(state) is called in each, before any task
    workers.submit(function, argument)        a Future of function(argument)
    workers.close()

They import neither the main program nor PyTorch, which takes as long to import as all the rest. A
process reads tasks from its input and writes results to its output, each pickled, behind its
length. It ends when its input does, once a task is done, so none goes on without the process that
started it.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

import interact_jax
from interact_jax import startup

T = TypeVar("T")
ROOT = str(Path(interact_jax.__file__).parents[1])
START = "import sys; sys.path.insert(0, sys.argv[1]); from interact_jax.data import workers; "
COMMAND = (sys.executable, "-P", "-c", START + "workers.main()", ROOT)
_LENGTH = struct.Struct("<Q")


class Died(Exception):
    """A process has ended before its work was done."""


class Workers:
    """So many processes, each of which calls `begin` first, with a state that is pickled once."""

    def __init__(self, number: int, begin: Callable[..., object], *state: Any) -> None:
        self._threads = ThreadPoolExecutor(number)  # each waits for a process
        self._idle = queue.SimpleQueue[_Worker]()
        task = _packed((begin, state))
        self._workers = [_Worker(number) for _ in range(number)]
        self._begun = [self._threads.submit(self._begin, w, task) for w in self._workers]

    def is_ready(self) -> bool:
        """Whether all of them have begun."""
        return all(future.done() for future in self._begun)

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """What a function of some module returns, or raises, in one of the processes. Its Future
        raises what `begin` did there, and Died where the process has ended."""
        return self._threads.submit(self._ask, function, *arguments)

    def close(self) -> None:
        """End the processes, whatever they do, and leave what is not done."""
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(cancel_futures=True)

    def _begin(self, worker: _Worker, task: bytes) -> None:
        try:
            worker.ask(task)
        except BaseException as error:
            worker.failure = error
        self._idle.put(worker)

    def _ask(self, function: Callable[..., T], *arguments: Any) -> T:
        worker = self._idle.get()  # there are as many as threads
        try:
            if worker.failure is not None:
                raise worker.failure
            return worker.ask(_packed((function, arguments)))
        finally:
            self._idle.put(worker)


def cores() -> int:
    """How many this process may use; where the system does not say (macOS), how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Worker:
    """One of so many processes."""

    def __init__(self, number: int) -> None:
        self.failure: BaseException | None = None  # why it could not begin
        threads = max(1, cores() // number)
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # The cores are for the processes: a tokenizer would use all of them in each.
            env={"RAYON_NUM_THREADS": str(threads), **os.environ},
            process_group=0,  # a terminal's Ctrl-C is for the main process, which ends them
        )
        self.end = weakref.finalize(self, self._process.kill)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        _write(self._input, pickle.dumps(sys.path))

    def ask(self, task: bytes) -> Any:
        """The result of a task; raises what it raised, and Died where the process has ended."""
        try:
            _write(self._input, task)
            answer = _read(self._output)
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise Died(f"a worker process has ended with status {self._process.wait()}")
        result, error = pickle.loads(answer)
        if error is not None:
            raise error
        return result


def _packed(value: Any) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _write(stream: IO[bytes], data: bytes) -> None:
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    """What was written; None where the other side has ended."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    return data if len(data) == length else None


# ------------------------------------------------------------------------------- in the processes


def main() -> None:
    """Work until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed
    startup.begin_worker()
    sys.path[:] = pickle.loads(_read(tasks) or _packed(sys.path))
    while (task := _read(tasks)) is not None:
        _write(results, _done(task))


def _done(task: bytes) -> bytes:
    """The result of a task and None, or None and what it raised."""
    try:
        function, arguments = pickle.loads(task)
        return _packed((function(*arguments), None))
    except BaseException as error:
        try:
            answer = _packed((None, error))
            pickle.loads(answer)
            return answer
        except Exception:  # it cannot be pickled, or not be made again
            return _packed((None, RuntimeError("".join(traceback.format_exception(error)))))
