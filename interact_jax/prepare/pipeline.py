"""From raw logs to prepared data, part by part: read, decide, write, describe.

    prepare(Settings("logs/*.jsonl", filters=("length:most=100",)), filters, Path("data"))

1. Each part of the input is read, filtered, and kept beside its notes (`reading`).
2. When all are, one process decides what depends on all of them (`deciding`).
3. The shards of each part are written (`writing`).
4. When all are, they are described, for TFDS and for people (`describing`).

Every file appears under its name when it is complete, and the record of a part after its files. So
a part whose record is there is done, and a run that was killed goes on where it stopped, to the
same bytes. Machines that share a file system may share the parts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from interact_jax import __version__, lock, places, progress, remote
from interact_jax.prepare import deciding, describing, reading, writing
from interact_jax.prepare.describing import About
from interact_jax.prepare.filtering import Filter, Survey
from interact_jax.prepare.job import VERSION, Job, Settings, read_json, write_json
from interact_jax.prepare.parts import Input, Part, find_inputs, plan_parts
from interact_jax.prepare.workers import Workers
from interact_jax.schema import InputError

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between looks at what other machines have done
PLAN = "plan.json"


@dataclasses.dataclass(frozen=True)
class Share:
    """The parts of one of several machines: every `count`-th from `index` on. `wait` is for how
    many seconds it waits for the others; without, whoever comes last does what is left. `finish`
    does all that is left."""

    index: int = 0
    count: int = 1
    wait: float = 0.0
    finish: bool = False

    def own(self, parts: Sequence[int]) -> list[int]:
        return [n for n in parts if self.finish or n % self.count == self.index]


@dataclasses.dataclass(frozen=True)
class Left:
    """What is still to be done, by others: the numbers of parts to be read, and to be written."""

    read: list[int]
    written: list[int]


def prepare(
    settings: Settings,
    filters: Sequence[Filter | Survey],
    out: Path,
    *,
    about: About | None = None,
    tokenizer: str = "",
    processes: int = 1,
    share: Share | None = None,
) -> dict[str, Any] | Left:
    """Prepare the data, or go on with it; the card, or what is left for other machines.

    `filters` are those that the settings name, `tokenizer` is the directory of theirs. Raises
    InputError for bad input, and where the directory is about other input or other settings.
    """
    about, share = about or About(), share or Share()
    with holding(out, share) as folder, Workers(processes) as workers:
        parts = planned(settings, folder)
        job = Job(settings, out, len(parts), tuple(filters), tokenizer)
        numbers = range(len(parts))
        if describing.is_described(out):
            return _finished(job, parts, about)
        _remove_partial(job, share)

        unread = [n for n in share.own(numbers) if not job.was_read(n) and not job.is_written(n)]
        tasks = [(job, parts[n]) for n in unread]
        for _ in workers.each(reading.read_part, tasks, "reading"):
            pass
        if missing := _wait(job, share, lambda n: job.was_read(n), "to be read"):
            return Left(missing, list(numbers))
        unwritten = [n for n in numbers if not job.is_written(n)]
        if unwritten and not (job.folder / "decided.json").exists():
            with progress.of("deciding what stays"):
                _decide(job)

        own = share.own(unwritten) if share.wait else unwritten
        own.sort(key=lambda n: n % share.count != share.index)  # the others' later
        for _ in workers.each(writing.write_once, [(job, n) for n in own], "writing"):
            pass
        if missing := _wait(job, share, lambda n: job.is_written(n), "to be written"):
            return Left([], missing)
        return _finish(job, parts, about)


@contextlib.contextmanager
def holding(out: Path, share: Share) -> Iterator[Path]:
    """Hold the lock of the directory, or of a share of it; its folder of parts."""
    folder = out / "parts"
    if out.is_dir() and not folder.is_dir() and any(p.name != "lock" for p in out.iterdir()):
        raise InputError(
            f"{out}: is not empty, and nothing was prepared there. Name a new directory."
        )
    alone = share.count == 1
    held = out if alone else folder / f"share-{share.index}-of-{share.count}"
    with lock.hold(held):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    if not alone:
        with contextlib.suppress(OSError):
            held.rmdir()


def _remove_partial(job: Job, share: Share) -> None:
    """Remove what killed processes left: of the parts of this share, where there are others."""
    if share.count == 1:
        deciding.remove_scratch(job.folder)
        places.remove_partial(job.folder)
        places.remove_partial(job.out)
        return
    splits = [name for name, _ in job.settings.splits]
    kinds = ["kept", "ids", "read.json", "written.json", *(f"note-{n}" for n, _ in job.surveys)]
    kinds += [f"{kind}-{name}" for kind in ("shard", "index") for name in splits]
    own = share.own(range(job.parts))
    if names := [job.file(part, kind).name for part in own for kind in kinds]:
        places.remove_partial(job.folder, *names)


# ------------------------------------------------------------------------------------- the plan


def planned(settings: Settings, folder: Path) -> list[Part]:
    """The parts as they were first planned here. Raises InputError where input or settings differ
    from those of the plan."""
    inputs, file = find_inputs(settings.data), folder / PLAN
    if not file.exists():
        with progress.of("cutting the input into parts"):
            parts = plan_parts(
                settings.data, settings.format, settings.part_bytes, settings.mapping
            )
        made: dict[str, Any] = {
            "version": VERSION,
            "interact_jax": __version__,
            "settings": settings.to_json(),
            "inputs": [dataclasses.asdict(each) for each in inputs],
            "parts": [part.to_json() for part in parts],
        }
        write_json(file, made)
    plan = read_json(file)  # where two machines begin together, that of the later one
    if plan.get("version") != VERSION:
        raise InputError(
            f"{folder.parent}: was prepared by another version of this program "
            f"(format {plan.get('version')}, expected {VERSION}). Use another directory."
        )
    if differences := [
        *_differing_settings(plan["settings"], settings.to_json()),
        *_differing_inputs([Input(**each) for each in plan["inputs"]], inputs),
    ]:
        shown = "\n".join(f"  {line}" for line in differences[:5])
        more = f"\n  and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise InputError(
            f"{folder.parent}: was prepared from other input or with other settings:\n"
            f"{shown}{more}\nUse another directory, or delete this one."
        )
    return [Part.from_json(each) for each in plan["parts"]]


def _differing_settings(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name, value in now.items():
        if then.get(name) != value:
            flag = {"filters": "filter", "data": "data"}.get(name, name).replace("_", "-")
            yield f"--{flag}: was {_shown(then.get(name))}, is {_shown(value)}"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value) or "none"


def _differing_inputs(then: list[Input], now: list[Input]) -> Iterator[str]:
    before, after = ({each.file: each for each in inputs} for inputs in (then, now))
    for file in sorted(before.keys() | after.keys()):
        if file not in after:
            yield f"{file}: is not there any more"
        elif file not in before:
            yield f"{file}: is new"
        elif before[file].size != after[file].size:
            yield f"{file}: had {before[file].size:,} bytes, has {after[file].size:,}"
        elif before[file].changed != after[file].changed:
            what = "content" if remote.is_remote(file) else "time of modification"
            yield f"{file}: has been changed or copied since (its {what} differs)"


# ------------------------------------------------------------------------------------ the others


def _decide(job: Job) -> None:
    """Decide, as other machines may do at the same time. Whoever is first goes on to write, and
    removes what the later ones still read: they find that all is decided."""
    try:
        deciding.decide(job)
    except (InputError, OSError):
        is_decided = (job.folder / "decided.json").exists()
        if not is_decided and not all(map(job.is_written, range(job.parts))):
            raise


def _wait(job: Job, share: Share, is_done: Any, what: str) -> list[int]:
    """The parts that are not done, after waiting for the machines that may be at work on them."""
    until, told = time.monotonic() + share.wait, False
    while missing := [n for n in range(job.parts) if not (is_done(n) or job.is_written(n))]:
        if time.monotonic() >= until:
            return missing
        if not told:
            log.info("waiting for other machines: %d parts %s", len(missing), what)
            told = True
        time.sleep(POLL)
    return []


# --------------------------------------------------------------------------------------- the end


def _finish(job: Job, parts: list[Part], about: About) -> dict[str, Any]:
    """Describe what was written, if the input is still what was planned."""
    planned(job.settings, job.folder)
    for part in parts:
        writing.remove_kept(job, part.number)
    (job.folder / "decided.json").unlink(missing_ok=True)
    deciding.remove_scratch(job.folder)
    for left in job.folder.glob("share-*-of-*"):
        with contextlib.suppress(OSError):
            os.rmdir(left)
    return describing.describe(job, parts, about)


def _finished(job: Job, parts: list[Part], about: About) -> dict[str, Any]:
    """The card of what is complete, after a look at sizes; what is said about the source may be
    another than before."""
    for part in parts:
        record = read_json(job.file(part.number, "written.json"))
        writing.check_shards(job, part, record)
    return describing.describe(job, parts, about)
