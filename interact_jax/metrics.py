"""What a run reports while it goes on: a progress bar, `metrics.jsonl`, and the `loggers`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, BinaryIO

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from interact_jax import files, places, progress
from interact_jax.data.pipeline import StepBatch
from interact_jax.loggers import Loggers
from interact_jax.printable import count

log = logging.getLogger(__name__)

LARGEST = 1e300  # numbers in a log are smaller, so that they can be summed
LINES = 20  # lines printed over the whole run where there is no terminal for a bar


class Journal:
    """The log of a run, a line per step. It reports a step when the next one has been started.

    A resumed run (`first` steps done) continues after line `first`; later lines, of steps that a
    crash undid, are dropped. `shown` is the metric shown with loss and gradient norm, `digest` the
    checkpoint's digest of the lines up to there. `loggers` get the same numbers, and are closed. Of
    several processes one `writes`; the others only look at the numbers.
    """

    def __init__(
        self,
        workdir: Path,
        first: int,
        total: int,
        shown: str,
        digest: str | None = None,
        loggers: Loggers | None = None,
        writes: bool = True,
    ):
        self.file = workdir / "metrics.jsonl"
        self.total, self.first = total, first
        self._shown = ("loss", shown, "grad_norm")
        self.bad_steps_in_row = 0
        self._pending: tuple[int, Any, StepBatch, dict[str, float]] | None = None
        self._writing = contextlib.ExitStack()
        self._lines: BinaryIO | None = None
        kept = b""
        if writes:
            kept = _truncate(self.file, first, {*self._shown, "step", "seconds"})
            self._lines = self._writing.enter_context(self.file.open("ab"))
            self._watched = files.WatchedPath(self.file)
            self._writing.callback(self._watched.close)
        self._digest = hashlib.blake2b(kept)
        if writes and digest is not None and self.digest() != digest:
            log.error("%s: its lines up to step %d are not what the run wrote", self.file, first)
        self._loggers = loggers
        console, wanted = Console(stderr=True), writes and progress.is_wanted()
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not wanted or not console.is_terminal,
        )
        self._plain = wanted and not console.is_terminal
        self._showing = contextlib.ExitStack()
        self._task = self._bar.add_task("", total=total, completed=first, shown="")

    def __enter__(self) -> Journal:
        self._bar.start()
        first = progress.of("the first step, and compiling it")
        self._showing.enter_context(first if self._plain else progress.bar())
        self._time = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.flush()
        finally:  # restore the terminal's cursor even if the disk is full
            self._showing.close()
            self._bar.stop()
            self._writing.close()
            if self._loggers is not None:
                self._loggers.close()

    def add(
        self,
        step: int,
        shown: dict[str, jax.Array],
        batch: StepBatch,
        measured: dict[str, float] | None = None,
    ) -> None:
        """Add a step whose numbers the device is still computing, and what was `measured` after it;
        report the previous one."""
        before, self._pending = self._pending, (step, shown, batch, measured or {})
        if before:
            self._report(*before)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time of this block does not count towards any step."""
        began = time.perf_counter()
        yield
        self._time += time.perf_counter() - began

    def flush(self) -> None:
        """Report everything, and sync it to disk."""
        if self._pending:
            self._report(*self._pending)
            self._pending = None
        if self._lines is not None:
            self._lines.flush()
            os.fsync(self._lines.fileno())

    def digest(self) -> str:
        """The digest of all lines so far."""
        return self._digest.hexdigest()

    def _report(
        self,
        step: int,
        shown: dict[str, jax.Array],
        batch: StepBatch,
        measured: dict[str, float],
    ) -> None:
        if self._plain:
            self._showing.close()
        values = {name: x.item() for name, x in jax.device_get(shown).items()}
        now = time.perf_counter()
        self.bad_steps_in_row = values.pop("bad_steps_in_row")
        if self._lines is None:
            return
        self._watched.check()
        line = {
            "step": step,
            **values,
            "interactions": batch.interactions,
            "reply_tokens": batch.reply_tokens,
            "tokens": batch.tokens,
            "padding": round(1 - batch.tokens / batch.slots, 6),
            **{name: round(value, 6) for name, value in (batch.metrics | measured).items()},
            "seconds": round(now - self._time, 6),
        }
        self._time = now
        # JSON has no NaN: numbers that are not finite become null.
        finite = {k: v if math.isfinite(v) else None for k, v in line.items()}
        encoded = json.dumps(finite).encode() + b"\n"
        self._lines.write(encoded)
        self._lines.flush()
        self._digest.update(encoded)
        if self._loggers is not None:
            self._loggers.write(step, {**values, **batch.metrics, **measured})
        texts = [f"{name} {values[name]:.4g}" for name in self._shown]
        text = "  ".join(texts)
        self._bar.update(self._task, completed=step, shown=texts[0])  # there is room for one only
        if self._plain and (step % max(1, self.total // LINES) == 0 or step == self.total):
            print(f"step {step}/{self.total}  {text}", file=sys.stderr, flush=True)


def _truncate(file: Path, step: int, names: Set[str]) -> bytes:
    """Drop the lines after `step` and an incomplete one at the end; returns the remaining lines,
    which have all these names. Unreadable lines are moved to a file beside it, and reported."""
    if not file.exists():
        return b""
    content = file.read_bytes()
    *lines, partial = content.split(b"\n")
    if _step_of(partial, names) is not None:  # only its line end is missing
        lines.append(partial)
    steps = [_step_of(line, names) for line in lines]
    kept = b"".join(
        line + b"\n" for line, n in zip(lines, steps, strict=True) if n is not None and n <= step
    )
    unreadable = [line + b"\n" for line, n in zip(lines, steps, strict=True) if n is None]
    if unreadable:
        aside = file.with_name(file.name + ".unreadable")
        before = aside.read_bytes() if aside.exists() else b""
        places.write(aside, before + b"".join(unreadable))
        log.error("%s: %s cannot be read, kept in %s", file, count(len(unreadable), "line"), aside)
    if kept != content:
        places.write(file, kept)
    return kept


def _step_of(line: bytes, names: Set[str]) -> int | None:
    """The step of a line; None where it cannot be read."""
    try:
        values = json.loads(line.decode("ascii"))  # given bytes, json would also accept UTF-16
        valid = names <= values.keys() and all(map(_is_loggable, values.values()))
    except (ValueError, AttributeError, RecursionError):
        return None
    if not valid or type(values["step"]) is not int or values["seconds"] is None:
        return None
    return values["step"]


def _is_loggable(value: Any) -> bool:
    """Whether it is a number, or null, which replaces one that is not finite."""
    return value is None or (type(value) in (int, float) and abs(value) < LARGEST)


def read_log(file: Path) -> list[dict[str, Any]]:
    """The lines of a log that a Journal has opened, so that all of them can be read."""
    return [json.loads(line) for line in file.read_bytes().split(b"\n") if line]


UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)


def interactions_until(file: Path, steps: Sequence[int]) -> list[int | None]:
    """How many interactions a run had learned from at each of these steps, by its log; None for all
    where the log does not have every step up to there, or cannot be read."""
    try:
        counts = _interactions_by_step(file)
        return [sum(counts[step] for step in range(1, last + 1)) for last in steps]
    except UNREADABLE:
        return [None] * len(steps)


def last_step(file: Path) -> int:
    """The last step that a log has; 0 where it has none, or cannot be read."""
    try:
        return max(_interactions_by_step(file), default=0)
    except UNREADABLE:
        return 0


def _interactions_by_step(file: Path) -> dict[int, int]:
    lines = [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1] if line]
    return {line["step"]: line["interactions"] for line in lines}


SUMMARY_TEXTS = {
    "limited": "limits.user and limits.conversation removed {:.1%} of a step's weight, on average",
    "skipped": "skip.signal left {:.1%} of the interactions out of the backward pass",
}


def summary_lines(file: Path) -> list[str]:
    """For the summary of a run: the average effect per step of limits and of skipping."""
    steps = read_log(file)
    shares_by_name = {
        name: [step[name] for step in steps if step.get(name) is not None] for name in SUMMARY_TEXTS
    }
    return [
        SUMMARY_TEXTS[name].format(sum(shares) / len(shares))
        for name, shares in shares_by_name.items()
        if any(shares)
    ]
