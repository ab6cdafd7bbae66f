"""The first pass over a part: conversations are read, filtered one by one, and kept beside their
notes until it is decided which of them stay.

An id that occurs again, anywhere in the input, gets "~2", "~3", ... in the order of the input. An
id that ends so already first gets "~1", so that no two become the same.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from interact_jax import places
from interact_jax.data.array_records import IN_ORDER, Writer, encode
from interact_jax.data.conversations import ReadReport, count_interactions, read_outcomes
from interact_jax.data.records import Loss, Note
from interact_jax.prepare.filtering import Changed, Dropped, Filter
from interact_jax.prepare.job import (
    Job,
    digest_of_file,
    is_survey,
    plain,
    write_json,
)
from interact_jax.prepare.parts import Part
from interact_jax.prepare.splits import split_of
from interact_jax.schema import Conversation, InputError

SHOWN = 160  # characters of a text in a sample
NUMBERED = re.compile(r".*~\d+", re.DOTALL)
ID_BYTES = 8


class Facts(NamedTuple):
    """What is counted of a conversation; stands before it in the file of those that are kept."""

    split: int
    interactions: int
    messages: int
    characters: int
    tokens: int  # 0 without a tokenizer
    reply_tokens: int
    user: int  # 0 where nobody is named


FACTS = struct.Struct("<6IQ")


class Survivor(NamedTuple):
    """A conversation that no filter has dropped so far, and the notes of the surveys on it."""

    conversation: Conversation
    facts: Facts
    identity: bytes
    notes: list[bytes]


@dataclasses.dataclass
class FilterCounts:
    """What one filter did, by reason; a few samples of each."""

    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    changed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    samples: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)

    def add_sample(self, reason: str, sample: dict[str, str], most: int) -> None:
        samples = self.samples.setdefault(reason, [])
        if len(samples) < most:
            samples.append(sample)


@dataclasses.dataclass
class Counts:
    """What was read of a part: `items` is conversations and what could not be read, which `lost`
    and `ignored` count by reason. `ignored` is no fault, such as a message marked as deleted."""

    items: int = 0
    conversations: int = 0
    kept: int = 0
    records: int = 0
    lost: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    ignored: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    mended: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    unused: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)
    filters: list[FilterCounts] = dataclasses.field(default_factory=list)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)  # of files of this pass

    def check(self, name: str) -> None:
        """That nothing was lost on the way: a fault of ours if so."""
        dropped = sum(each.dropped.total() for each in self.filters)
        lost = self.lost.total() + self.ignored.total()
        if self.items != self.kept + dropped + lost:
            raise AssertionError(
                f"{name}: {self.items} read, but {self.kept} kept, {dropped} dropped, {lost} lost"
            )


def read_part(job: Job, part: Part) -> None:
    """Read and filter a part; its record is the last thing that is written."""
    counts = Counts()
    with contextlib.ExitStack() as stack:
        writer = Writer(stack.enter_context(complete(job.file(part.number, "kept"))), IN_ORDER)
        ids = stack.enter_context(places.writing(job.file(part.number, "ids")))
        notes = note_files(job, part, stack)
        for conversation, facts, identity, own in survivors(job, part, counts):
            writer.write(FACTS.pack(*facts) + encode(conversation, facts.interactions))
            ids.write(identity)
            for file, note in zip(notes, own, strict=True):
                file.write(note)
        writer.close()
    names = ["kept", "ids", *(f"note-{number}" for number, _ in job.surveys)]
    counts.digests = {name: digest_of_file(job.file(part.number, name)) for name in names}
    write_json(job.file(part.number, "read.json"), plain(counts))


def note_files(job: Job, part: Part, stack: contextlib.ExitStack) -> list[BinaryIO]:
    """A file for the notes of each survey, complete when the stack ends."""
    files = (job.file(part.number, f"note-{number}") for number, _ in job.surveys)
    return [stack.enter_context(places.writing(file)) for file in files]


@contextlib.contextmanager
def complete(file: Path, own: Path | None = None) -> Iterator[Path]:
    """The name of a temporary file, which gets the name `file` when all of it is on disk. It is
    made beside `own`, if given, a name by which what a killed process left is found."""
    temporary = places.temporary_name(own or file)
    try:
        yield temporary
        places.sync(temporary)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    places.sync(file.parent)


def survivors(job: Job, part: Part, counts: Counts, limit: int | None = None) -> Iterator[Survivor]:
    """The conversations of a part that its filters keep, of the first `limit`; everything is
    counted."""
    counts.filters = [FilterCounts() for _ in job.filters]
    measure = Tokens(job.tokenizer)
    for conversation in _read(job, part, counts, limit):
        split = split_of(conversation, job.settings.splits)
        passed = _filter(job, conversation, counts)
        if passed is None:
            continue
        kept, notes = passed
        counts.kept += 1
        yield Survivor(
            dataclasses.replace(kept, id=f"{kept.id}~1") if NUMBERED.fullmatch(kept.id) else kept,
            Facts(
                split,
                count_interactions(kept),
                len(kept.messages),
                sum(len(message.content) for message in kept.messages),
                *measure(kept),
                int.from_bytes(_digest(kept.user), "little") if kept.user else 0,
            ),
            _digest(kept.id),
            notes,
        )
    counts.check(part.name)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest()


def _read(job: Job, part: Part, counts: Counts, limit: int | None) -> Iterator[Conversation]:
    settings, report = job.settings, ReadReport()
    outcomes = read_outcomes(
        part.file,
        part.stem,
        report,
        part.format,
        settings.repair,
        settings.max_bytes,
        part.span,
        settings.mapping,
    )
    for item in outcomes if limit is None else _until(outcomes, limit):
        if isinstance(item, Note):
            counter = counts.unused if item.unused else counts.mended
            counter[item.reason] += item.times
            counts.examples.setdefault(item.reason, f"{item.where}: {item.detail}"[:SHOWN])
        elif isinstance(item, Loss):
            if item.remedy and settings.on_error == "stop":
                raise InputError(f"{item}. {item.remedy}.")
            counts.items += item.times
            (counts.lost if item.remedy else counts.ignored)[item.reason] += item.times
            counts.examples.setdefault(item.reason, f"{item.where}: {item.detail}"[:SHOWN])
        else:
            counts.items += 1
            counts.conversations += 1
            yield item
    counts.records = report.records


def _until(outcomes: Iterable[Any], limit: int) -> Iterator[Any]:
    """Outcomes up to the conversation with the number `limit`."""
    conversations = itertools.count(1)
    for item in outcomes:
        yield item
        if isinstance(item, Conversation) and next(conversations) >= limit:
            return


def _filter(
    job: Job, conversation: Conversation, counts: Counts
) -> tuple[Conversation, list[bytes]] | None:
    """The conversation as the filters leave it, with the notes that surveys take in their place
    among the filters; None where one drops it."""
    notes, most = list[bytes](), job.settings.samples
    for each, counted in zip(job.filters, counts.filters, strict=True):
        if is_survey(each):
            note = each.note(conversation)
            if len(note) != each.width:
                raise AssertionError(f"filter {each.name}: a note of {len(note)} bytes")
            notes.append(note)
            continue
        outcome = cast(Filter, each)(conversation)
        if isinstance(outcome, Dropped):
            counted.dropped[outcome.reason] += 1
            counted.add_sample(outcome.reason, sample_of(conversation, outcome.detail), most)
            return None
        if isinstance(outcome, Changed):
            counted.changed.update(outcome.counts)
            conversation = outcome.conversation
        else:
            conversation = outcome
    return conversation, notes


def sample_of(conversation: Conversation, detail: str) -> dict[str, str]:
    """A conversation that was dropped, shortened."""
    opening = next((m.content for m in conversation.messages if m.role == "user"), "")
    return {
        "id": shorten(conversation.id),
        "source": conversation.source,
        "detail": shorten(detail),
        "opening": shorten(opening),
    }


def shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


class Tokens:
    """Counts the tokens of a conversation: of all its messages, and of the assistant's; each
    message by itself, without a chat template."""

    def __init__(self, directory: str):
        self._tokenizer: Any = None
        if directory:
            from interact_jax.data.tokenizer import load_tokenizer  # it takes seconds

            self._tokenizer = load_tokenizer(Path(directory))

    def __call__(self, conversation: Conversation) -> tuple[int, int]:
        messages = conversation.messages
        if self._tokenizer is None or not messages:
            return 0, 0
        texts = [message.content for message in messages]
        found = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        lengths = [
            len(ids if message.token_ids is None else message.token_ids)
            for message, ids in zip(messages, found, strict=True)
        ]
        of_replies = (
            length
            for message, length in zip(messages, lengths, strict=True)
            if message.role == "assistant"
        )
        return sum(lengths), sum(of_replies)
