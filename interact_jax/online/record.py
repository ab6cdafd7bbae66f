"""What an online run has played, on disk before it is learned from.

    WORKDIR/conversations.jsonl   the conversations, in the native format: data of any other run
    WORKDIR/rollouts.jsonl        a line per step: which of them, drawn by which weights, digests

A step is in the record, or it is not: its line is written once its conversations are on disk. What
a killed process left of a step is cut off. A resumed run learns from recorded steps as they are and
plays only what comes after them: nobody is asked twice about a step that was played to its end.

Of several processes the first reads and writes it, and the others have all steps from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax.cluster import processes
from interact_jax.data.native import from_record, to_record
from interact_jax.online.rollout import Played
from interact_jax.places import sync
from interact_jax.schema import InputError

log = logging.getLogger(__name__)

CONVERSATIONS, STEPS = "conversations.jsonl", "rollouts.jsonl"
KINDS = {
    **{"step": int, "end": int, "digest": str, "drawn": int},
    **{"versions": list, "kinds": list, "counts": dict, "prompts": None, "shapes": None},
}
"""What the line of a step has; None: the first one alone."""
OWN = "own_digest"  # of the line itself; earlier versions wrote none
REMEDY = (
    "Put back the file as the run wrote it, or use another --workdir (with --config.start_from to "
    "continue from the parameters)."
)


@dataclasses.dataclass(frozen=True)
class Step:
    """The conversations of a step, and how many prompts the run had drawn after it."""

    number: int
    played: Sequence[Played]
    drawn: int
    counts: Mapping[str, int]  # of what happened meanwhile


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What a run began with, as JSON: the fingerprint of its prompts, the shapes of its rows."""

    prompts: Any
    shapes: Any


def record_files(folder: Path) -> tuple[Path, Path]:
    """Where the record of the run in `folder` is: the conversations, the steps."""
    return folder / CONVERSATIONS, folder / STEPS


class Record:
    """The record of the run in `folder`; nothing is changed before `append`. All processes of a run
    call the same methods in the same order."""

    def __init__(self, folder: Path):
        """Raises InputError where it is damaged before its end, or not a run's."""
        self._conversations, self._steps = record_files(folder)
        self._lines: list[dict[str, Any]] = processes.by_first("record", self._read_steps)
        self._begun = False

    def __len__(self) -> int:
        """How many steps are recorded."""
        return len(self._lines)

    def step(self, number: int) -> Step | None:
        """Step `number` (from 1 on); None if it is not recorded yet.

        Raises InputError where its conversations are not what was written.
        """
        if number > len(self._lines):
            return None
        line = self._lines[number - 1]
        records = processes.by_first("recorded step", lambda: self._records(number))
        where = f"{self._conversations}, step {number}"
        played = [
            Played(from_record(record, where), tuple(kinds), version)
            for record, kinds, version in zip(records, line["kinds"], line["versions"], strict=True)
        ]
        return Step(number, played, line["drawn"], line["counts"])

    def _records(self, number: int) -> list[Any]:
        """The conversations of a step, as they stand in the file. Raises as `step`."""
        line = self._lines[number - 1]
        begin = self._lines[number - 2]["end"] if number > 1 else 0
        with self._conversations.open("rb") as file:
            file.seek(begin)
            text = file.read(line["end"] - begin)
        if _digest(text) != line["digest"]:
            raise InputError(
                f"{self._conversations}: the conversations of step {number} are not what the run "
                f"wrote (bytes {begin:,} to {line['end']:,}). {REMEDY}"
            )
        return [json.loads(item) for item in text.splitlines()]

    @property
    def beginning(self) -> Beginning | None:
        """What the run began with; None if no step is recorded."""
        if not self._lines:
            return None
        return Beginning(self._lines[0].get("prompts"), self._lines[0].get("shapes"))

    def append(self, step: Step, beginning: Beginning) -> None:
        """Write the next step, with the first one the `beginning`; when this returns, it is on
        disk. Raises OSError."""
        assert step.number == len(self._lines) + 1, "steps are recorded in order"
        self._lines.append(processes.by_first("recording", lambda: self._write(step, beginning)))

    def _write(self, step: Step, beginning: Beginning) -> dict[str, Any]:
        """Write a step; its line. Raises OSError."""
        text = b"".join(_encode(step.number, played) for played in step.played)
        begin = self._lines[-1]["end"] if self._lines else 0
        line = {
            "step": step.number,
            "end": begin + len(text),
            "digest": _digest(text),
            "drawn": step.drawn,
            "versions": [played.version for played in step.played],
            "kinds": [played.kinds for played in step.played],
            "counts": dict(step.counts),
        }
        if not self._lines:
            line |= {"prompts": beginning.prompts, "shapes": beginning.shapes}
        try:
            if not self._begun:
                self._begin()
            _append(self._conversations, text)
            _append(self._steps, json.dumps({**line, OWN: _digest_of_line(line)}).encode() + b"\n")
        except OSError:
            self._begun = False  # what is there of it is cut off before it is written again
            raise
        return line

    def _read_steps(self) -> list[dict[str, Any]]:
        if not self._steps.is_file():
            if self._conversations.exists():
                raise InputError(
                    f"{self._conversations}: the run would write its conversations there, but "
                    f"there is no {STEPS} beside it: it is not this run's. Move it away, or use "
                    "another --workdir."
                )
            return []
        size = self._conversations.stat().st_size if self._conversations.is_file() else 0
        lines: list[dict[str, Any]] = []
        *whole, _ = self._steps.read_bytes().split(b"\n")  # a line that has no end is incomplete
        for number, text in enumerate(whole, 1):
            line = _step_line(text, number)
            if line is None:
                raise InputError(f"{self._steps}:{number}: not what the run wrote. {REMEDY}")
            if line["end"] > size:
                raise InputError(
                    f"{self._conversations}: {size:,} bytes, but step {number} ended at "
                    f"{line['end']:,}. {REMEDY}"
                )
            lines.append(line)
        return lines

    def _begin(self) -> None:
        """Make the files, and cut off what a killed process left after the last complete step."""
        self._begun = True
        _append(self._steps, b"")  # first, so that it tells whose the other file is
        end = self._lines[-1]["end"] if self._lines else 0
        for place, size in ((self._conversations, end), (self._steps, self._size_of_steps())):
            if place.is_file() and place.stat().st_size > size:
                log.warning("%s: the step that was being written is cut off", place)
                os.truncate(place, size)

    def _size_of_steps(self) -> int:
        if not self._steps.is_file():
            return 0
        return self._steps.read_bytes().rfind(b"\n") + 1


def _step_line(text: bytes, number: int) -> dict[str, Any] | None:
    """The line of a step; None where it is not what was written."""
    try:
        line = json.loads(text)
        own = line.pop(OWN, None)
        good = line.keys() <= KINDS.keys() if own is None else own == _digest_of_line(line)
        good &= all(isinstance(line[name], kind) for name, kind in KINDS.items() if kind)
        return line if good and line["step"] == number else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest_of_line(line: Mapping[str, Any]) -> str:
    return _digest(json.dumps(line).encode())


def _encode(step: int, played: Played) -> bytes:
    record = to_record(played.conversation) | {"step": step, "version": played.version}
    return json.dumps(record, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"


def _append(file: Path, text: bytes) -> None:
    new = not file.exists()
    with file.open("ab") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    if new:
        sync(file.parent)


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()
