"""Tree-structured conversations on disk: portion by portion, whatever ends the program.

    summary = converse(cast, people, Plan(3_000), Path("data"))

DIR/conversations.jsonl is in our own format: every assistant message that has a pair holds the
other reply as "alternative", and whether it is itself the "preferred" one; "hint" is what one of
the two was told of the persona. Until all are made the file is named conversations.partial.jsonl
and grows by whole portions; DIR/progress.json says how much of it counts. A portion that was
interrupted is played again, from the cache of its models' calls where there is one, and comes out
the same.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import places
from interact_jax.aloe.cast import Cast, Persona
from interact_jax.aloe.rounds import PAPER, Talk, Turn, play
from interact_jax.json_files import read_json
from interact_jax.judges.store import digest
from interact_jax.printable import count
from interact_jax.schema import InputError, RunStopped
from interact_jax.settings import Setting

log = logging.getLogger(__name__)

SETTINGS = {
    "rounds": Setting(10, "of a conversation", least=1),
    "portion": Setting(64, "conversations that are played together, and then written", least=1),
}
DONE, PARTIAL = "conversations.jsonl", "conversations.partial.jsonl"
PROGRESS, SUMMARY = "progress.json", "summary.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many conversations, of how many `rounds`. `pairs`: "paper" prefers the reply that had the
    hint, "judged" the one that the judge prefers. `portion` changes nothing in the data."""

    conversations: int
    rounds: int = SETTINGS["rounds"].default
    pairs: str = PAPER
    seed: int = 0
    portion: int = SETTINGS["portion"].default


@dataclasses.dataclass
class Progress:
    """How many conversations were played, how many bytes of the file they are, and what was counted
    in them. `identity` is the digest of what they depend on; `examples` has an error by reason."""

    identity: str
    conversations: int = 0
    size: int = 0
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    no_pair: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, talks: Sequence[Talk], size: int) -> None:
        self.conversations += len(talks)
        self.size += size
        for talk in talks:
            self.counts["rounds played again"] += talk.retries
            if talk.fault is not None:
                self.dropped[talk.fault.reason] += 1
                self.examples.setdefault(talk.fault.reason, talk.fault.error)
                continue
            self.counts["kept"] += 1
            self.counts["turns"] += len(talk.turns)
            for turn in talk.turns:
                if turn.hinted_is_preferred is None:
                    self.no_pair[turn.no_pair] += 1
                    continue
                self.counts["pairs"] += 1
                self.counts["pairs in which the hinted reply is preferred"] += (
                    turn.hinted_is_preferred
                )
                self.counts["pairs whose preferred reply continues"] += (
                    turn.hinted_is_preferred == turn.hinted_continues
                )

    def summary(self) -> dict[str, Any]:
        """For people and programs: what the data are."""
        return {
            "conversations": self.conversations,
            **{name: self.counts[name] for name in ("kept", "turns", "pairs")},
            "dropped": dict(self.dropped),
            "turns without a pair": dict(self.no_pair),
            **{name: number for name, number in self.counts.items() if " " in name},
            "examples": dict(self.examples),
        }


def converse(
    cast: Cast,
    people: Callable[[int], Persona],
    about: Any,
    plan: Plan,
    out: Path,
) -> dict[str, Any]:
    """Play what is missing of a plan into a directory; returns the summary, which is also there.

    `people` gives the persona of a conversation by its number, `about` is JSON that stands for all
    of them. Raises InputError where the directory has data of other settings, and RunStopped where
    nothing answers any more.
    """
    identity = digest([cast.settings, about, plan.rounds, plan.pairs, plan.seed])
    progress = _read(out, identity)
    _prepare(out, progress.size)
    while progress.conversations < plan.conversations:
        end = min(progress.conversations + plan.portion, plan.conversations)
        talks = [Talk(f"aloe-{n}", people(n)) for n in range(progress.conversations, end)]
        for _ in range(plan.rounds):
            if living := [talk for talk in talks if talk.fault is None]:
                play(cast, living, plan.pairs, plan.seed)
                _check_alive(living)
        lines = [encode(talk) for talk in talks if talk.fault is None]
        _append(out / PARTIAL, lines)
        progress.add(talks, sum(map(len, lines)))
        places.write(out / PROGRESS, _json(vars(progress)))
        log.info("%d of %d conversations played", progress.conversations, plan.conversations)
    os.replace(out / PARTIAL, out / DONE)
    places.sync(out)
    summary = progress.summary()
    places.write(out / SUMMARY, _json(summary))
    return summary


def lines_of(summary: Mapping[str, Any]) -> list[str]:
    """A summary for people."""
    played, kept = summary["conversations"], summary["kept"]
    lines = [
        f"{count(played, 'conversation')} played, {kept:,} kept: "
        f"{count(summary['turns'], 'turn')}, {count(summary['pairs'], 'pair')}"
    ]
    for reason, number in summary["dropped"].items():
        example = summary["examples"].get(reason)
        lines.append(
            f"{count(number, 'conversation')} dropped: {reason}{example and f' ({example})'}"
        )
    for reason, number in summary["turns without a pair"].items():
        lines.append(f"{count(number, 'turn')} without a pair: {reason}")
    return lines


def encode(talk: Talk) -> bytes:
    """The line of a conversation."""
    messages = itertools.chain.from_iterable(map(_messages, talk.turns))
    record = {
        "id": talk.id,
        "profile": talk.persona.profile,
        "personality": talk.persona.personality,
        "messages": list(messages),
        "preferences": [],  # those of the messages are all: replies to complaints are no pairs
    }
    return json.dumps(record, ensure_ascii=False).encode(errors="replace") + b"\n"


def _messages(turn: Turn) -> Iterator[dict[str, Any]]:
    yield {"role": "user", "content": turn.user.content}
    reply: dict[str, Any] = {"role": "assistant", "content": turn.reply.content}
    if turn.hinted_is_preferred is not None:
        reply["alternative"] = turn.alternative
        reply["preferred"] = turn.hinted_is_preferred == turn.hinted_continues
    if turn.inferred:
        reply["hint"] = turn.inferred
    yield reply


def _check_alive(talks: Sequence[Talk]) -> None:
    """Stop where an endpoint seems out of reach: a round of most conversations had no answer, or of
    several none was taken. What fails or is refused in fewer is dropped, and counted."""
    faults = [talk.fault for talk in talks if talk.fault is not None]
    lost = [fault for fault in faults if fault.lost]
    refused = [fault for fault in faults if fault.refused]
    all_refused = len(refused) == len(talks) > 1
    if 2 * len(lost) > len(talks) or all_refused:
        first = (lost or refused)[0]
        raise RunStopped(
            f"no answer in {len(lost or refused)} of {count(len(talks), 'conversation')}: "
            f"{first.reason} ({first.error}). When that is mended, the same command goes on."
        )


def _read(out: Path, identity: str) -> Progress:
    """What was made before in this directory. Raises InputError where it was something else."""
    if not (out / PROGRESS).exists():
        return Progress(identity)
    known = read_json(out / PROGRESS)
    if known.get("identity") != identity:
        raise InputError(
            f"{out}: has conversations of other models, personas or settings. Take another "
            "directory, or the command that began it."
        )
    try:
        counters = {
            name: collections.Counter(known[name]) for name in ("counts", "dropped", "no_pair")
        }
        return Progress(**{**known, **counters})
    except (KeyError, TypeError):
        raise InputError(f"{out / PROGRESS}: damaged. Delete it to begin anew.") from None


def _prepare(out: Path, size: int) -> None:
    """The file as it was after the last whole portion, under the name of an unfinished one."""
    if not (out / PARTIAL).exists() and (out / DONE).exists() and size:
        os.replace(out / DONE, out / PARTIAL)
    with open(out / PARTIAL, "ab") as file:
        there = file.tell()
        if there < size:
            raise InputError(
                f"{out / PARTIAL}: {there:,} bytes, of {size:,} that were written. Put it back, or "
                f"delete {PROGRESS} to begin anew; calls that were answered are not asked again."
            )
        file.truncate(size)


def _append(file: Path, lines: Sequence[bytes]) -> None:
    with open(file, "ab") as opened:
        opened.writelines(lines)
        opened.flush()
        os.fsync(opened.fileno())


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False).encode(errors="replace").decode() + "\n"
