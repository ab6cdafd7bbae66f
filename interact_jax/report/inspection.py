"""What a data set holds, for people to look at: a sample of it, and what was lost on the way.

    inspection = inspect_data("logs.jsonl", Reading(), sample=200, seed=0, tokeniser=None)
    inspection.entries[0].conversation, inspection.entries[0].remarks, inspection.findings

Files are streamed: nothing but the sample, and a digest of each conversation, is in memory. Unlike
a run, this reads on after every fault, and shows conversations without an interaction as well.
"""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from interact_jax.data.conversations import ReadReport, count_interactions, read_outcomes
from interact_jax.data.copies import digest_of
from interact_jax.data.dataset import POCKET_LOGS, fit_one
from interact_jax.data.dialogues import Outcome
from interact_jax.data.encode import Counts
from interact_jax.data.mending import LEFT_OUT
from interact_jax.data.prepared import CARD, PreparedData, is_prepared
from interact_jax.data.records import Loss, Note, find_files
from interact_jax.data.sources import MOST_BYTES
from interact_jax.data.tokenise import Tokenised, Tokeniser
from interact_jax.data.tree import Tree
from interact_jax.json_files import read_json
from interact_jax.places import input_name
from interact_jax.schema import Conversation, InputError

EXAMPLES = 5  # of each reason
LOST, MENDED, COPIES, UNUSED = "lost", "mended", "occurs again", "not used"
KINDS = (LOST, MENDED, COPIES, UNUSED)
DUPLICATES = {"join": (MENDED, ""), "drop": (MENDED, LEFT_OUT), "stop": (LOST, "")}
"""As what a conversation whose id is taken is counted, and with which beginning of the reason."""
IGNORED = "left out by the format"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How files are read; the fields are the settings `data.*` of the same names."""

    format: str = "auto"
    repair: str = "join"
    max_bytes: int = MOST_BYTES
    mapping: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that was lost or mended, how often, and the first cases with their places."""

    kind: str
    reason: str
    times: int
    examples: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Remark:
    """What was lost, cut or mended of one conversation: a reason, as it is counted, and details."""

    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """A conversation of the sample, what was lost or cut of it, and its trees (None without a
    tokenizer)."""

    conversation: Conversation
    remarks: tuple[Remark, ...] = ()
    trees: tuple[Tree, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Filtered:
    """What a filter did, by reason, with samples: id, source, detail and opening of each."""

    spec: str
    dropped: Mapping[str, int]
    changed: Mapping[str, int]
    samples: Mapping[str, tuple[Mapping[str, str], ...]]


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of prepared data; histograms count conversations by the largest power of two that
    is not above a number."""

    name: str
    share: float
    totals: Mapping[str, int]
    histograms: Mapping[str, Mapping[int, int]]


@dataclasses.dataclass(frozen=True)
class Card:
    """What the card of prepared data says, for the page."""

    facts: Mapping[str, str]
    counts: Mapping[str, int]
    findings: tuple[Finding, ...]
    filters: tuple[Filtered, ...]
    splits: tuple[Split, ...]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A sample of the `total` conversations of `source`, in their order, and what was found."""

    source: str
    total: int
    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]
    read: Mapping[str, int]
    split: str = ""
    card: Card | None = None


def inspect_data(
    path: str,
    reading: Reading,
    *,
    sample: int,
    seed: int,
    tokeniser: Tokeniser | None,
    split: str = "",
) -> Inspection:
    """A sample of a file, a glob, a directory, prepared data (of a `split`, "train" if none is
    named), or the logs that "pocket" stands for. Raises InputError where there is nothing."""
    path = str(POCKET_LOGS) if path == "pocket" else path
    if is_prepared(path):
        found = _inspect_prepared(path, sample, seed, split or "train")
    elif split:
        raise InputError(
            f"{input_name(path)}: not prepared data, so it has no split {split!r}. Leave --split "
            "out, or prepare it with `interact prepare-data`."
        )
    else:
        found = _inspect_files(path, reading, sample, seed)
    if tokeniser is None:
        return found
    return dataclasses.replace(found, entries=tuple(_with_trees(found.entries, tokeniser)))


# ------------------------------------------------------------------------------------- files


@dataclasses.dataclass
class _Reader:
    """Counts what passes, and keeps a sample: each conversation with the same probability."""

    sample: int
    random: random.Random
    repair: str
    total: int = 0
    interactions: int = 0
    kept: list[tuple[int, Conversation, list[Remark], list[Remark]]] = dataclasses.field(
        default_factory=list
    )
    times: collections.Counter[tuple[str, str]] = dataclasses.field(
        default_factory=collections.Counter
    )
    examples: dict[tuple[str, str], list[str]] = dataclasses.field(default_factory=dict)
    firsts: dict[bytes, str] = dataclasses.field(default_factory=dict)  # where each was read first
    ids: dict[str, str] = dataclasses.field(default_factory=dict)  # and each id
    where: str = ""
    remarks: list[Remark] = dataclasses.field(default_factory=list)  # on the record at `where`
    own: list[Remark] = dataclasses.field(default_factory=list)  # on one conversation of it
    last_loss: str = ""  # where something was lost last

    def take(self, item: Outcome) -> None:
        if isinstance(item, Loss):
            self._note(LOST, item.reason, item.where, item.detail)
            self.last_loss = item.where if item.remedy else self.last_loss
        elif isinstance(item, Note):
            kind = UNUSED if item.unused else MENDED
            self._note(kind, item.reason, item.where, item.detail, item.times)
        else:
            self._take_conversation(item)

    def _note(self, kind: str, reason: str, where: str, detail: str, times: int = 1) -> None:
        """Count it, and remark on the record."""
        self._count(kind, reason, where, detail, times)
        if kind != UNUSED:
            self._remarks_at(where).append(Remark(f"{kind}: {reason}", detail))

    def _note_own(self, kind: str, reason: str, where: str, detail: str) -> None:
        """The same, of one conversation: a record may hold several paths of a tree."""
        self._count(kind, reason, where, detail, 1)
        self.own.append(Remark(f"{kind}: {reason}", detail))

    def _count(self, kind: str, reason: str, where: str, detail: str, times: int) -> None:
        self.times[kind, reason] += times
        examples = self.examples.setdefault((kind, reason), [])
        if len(examples) < EXAMPLES:
            examples.append(f"{where}: {detail}")

    def _remarks_at(self, where: str) -> list[Remark]:
        """The remarks on a record, to which all that is read of it adds."""
        if where != self.where:
            self.where, self.remarks = where, []
        return self.remarks

    def _take_conversation(self, conversation: Conversation) -> None:
        source, interactions = conversation.source, count_interactions(conversation)
        remarks, self.own = self._remarks_at(source), []
        if not self._may_have_id(conversation):
            return
        if interactions:
            self._compare_messages(conversation)
        elif source != self.last_loss or conversation.owned is not None:
            # Otherwise the reason has been told already.
            self._note_own(LOST, *_why_unused(conversation))
        self.interactions += interactions
        place = self.total if self.total < self.sample else self.random.randint(0, self.total)
        if place < self.sample:
            if place < len(self.kept):
                self.kept[place] = (self.total, conversation, remarks, self.own)
            else:
                self.kept.append((self.total, conversation, remarks, self.own))
        self.total += 1

    def _may_have_id(self, conversation: Conversation) -> bool:
        """Whether a run reads it: one whose id is taken gets another, or is left out."""
        name, source = conversation.id, conversation.source
        first = self.ids.setdefault(name, source)
        if first == source:
            return True
        kind, before = DUPLICATES[self.repair]
        detail = f"conversation {name!r} is also at {first}"
        self._note_own(kind, f"{before}duplicate id", source, detail)
        return self.repair == "join"

    def _compare_messages(self, conversation: Conversation) -> None:
        name, source = conversation.id, conversation.source
        first = self.firsts.setdefault(digest_of(conversation), source)
        if first != source:
            detail = f"conversation {name!r} has the messages of that at {first}"
            self._note_own(COPIES, "copy of an earlier conversation", source, detail)

    def findings(self) -> Iterator[Finding]:
        """The worst kind first, and of each kind the most frequent."""
        for (kind, reason), times in sorted(
            self.times.items(), key=lambda item: (KINDS.index(item[0][0]), -item[1])
        ):
            yield Finding(kind, reason, times, tuple(self.examples[kind, reason]))


def _why_unused(conversation: Conversation) -> tuple[str, str, str]:
    """Reason, place and detail of a conversation without an interaction of its own."""
    name = f"conversation {conversation.id!r}"
    if count_interactions(dataclasses.replace(conversation, owned=None)):
        detail = f"{name}: every interaction of this path is in an earlier one"
        return "only repeats", conversation.source, detail
    detail = f"{name}: no reply that stands between two user messages"
    if conversation.preferences:
        detail += "; but a pair of replies, of which objective.name=dpo learns"
    return "no follow-up", conversation.source, detail


def _inspect_files(path: str, reading: Reading, sample: int, seed: int) -> Inspection:
    report, files = ReadReport(), find_files(path)
    reader = _Reader(sample, random.Random(seed), reading.repair)
    for file, stem in files.items():
        for item in read_outcomes(
            file,
            stem,
            report,
            reading.format,
            reading.repair,
            reading.max_bytes,
            mapping=reading.mapping,
        ):
            reader.take(item)
    if not reader.total:
        raise InputError("\n".join(_nothing_read(path, reader.findings())))
    kept = sorted(reader.kept, key=lambda item: item[0])
    return Inspection(
        input_name(path),
        reader.total,
        tuple(Entry(c, (*remarks, *own)) for _, c, remarks, own in kept),
        tuple(reader.findings()),
        {
            "files": len(files),
            "records": report.records,
            "conversations": reader.total,
            "interactions": reader.interactions,
        },
    )


def _nothing_read(path: str, findings: Iterable[Finding]) -> Iterator[str]:
    yield f"{input_name(path)}: no conversation could be read, so there is nothing to show."
    for each in findings:
        yield f"  {each.times:,} x {each.reason}, such as {each.examples[0]}"


# ------------------------------------------------------------------------------------- prepared


def _inspect_prepared(path: str, sample: int, seed: int, split: str) -> Inspection:
    data, card = PreparedData(path, split), read_card(Path(path))
    chosen = sorted(random.Random(seed).sample(range(len(data)), min(sample, len(data))))
    entries = (_entry_of(conversation) for conversation in data.batch(chosen))
    read = {"conversations": len(data), "interactions": int(data.interactions.sum())}
    return Inspection(path, len(data), tuple(entries), card.findings, read, split, card)


def _entry_of(conversation: Conversation) -> Entry:
    if count_interactions(conversation):
        return Entry(conversation)
    reason, _, detail = _why_unused(conversation)
    return Entry(conversation, (Remark(f"{LOST}: {reason}", detail),))


def read_card(directory: Path) -> Card:
    """The card of prepared data. Raises InputError where something of it is missing."""
    file = directory / CARD
    try:
        return _card_of(read_json(file))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file}: not a card as `interact prepare-data` writes it ({error!r}). Prepare the "
            "data again."
        ) from None


def _card_of(card: Mapping[str, Any]) -> Card:
    facts = {
        "name": card["name"],
        "from": card["source"],
        "licence": card["license"] or "not stated",
        "command": card["command"],
        "digest": card["digest"],
    }
    return Card(
        {name: str(fact) for name, fact in facts.items()},
        _numbers(card["counts"]),
        tuple(_findings_of(card)),
        tuple(map(_filter_of, card["filters"])),
        tuple(_split_of(name, split) for name, split in card["splits"].items()),
    )


def _findings_of(card: Mapping[str, Any]) -> Iterator[Finding]:
    kinds = {"not_read": LOST, "ignored": IGNORED, "mended": MENDED, "unused": UNUSED}
    for key, kind in kinds.items():
        for reason, times in _numbers(card[key]).items():
            example = card["examples"].get(reason)
            yield Finding(kind, reason, times, () if example is None else (str(example),))


def _filter_of(card: Mapping[str, Any]) -> Filtered:
    samples = {
        str(reason): tuple({str(k): str(v) for k, v in sample.items()} for sample in some)
        for reason, some in card["samples"].items()
    }
    return Filtered(
        str(card["filter"]), _numbers(card["dropped"]), _numbers(card["changed"]), samples
    )


def _split_of(name: str, card: Mapping[str, Any]) -> Split:
    histograms = {
        kind: {int(least): int(times) for least, times in counts.items()}
        for kind, counts in card["histograms"].items()
    }
    totals = {kind: int(card[kind]) for kind in ("conversations", *histograms)}
    return Split(name, float(card["share"]), totals, histograms)


def _numbers(counts: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(number) for name, number in counts.items()}


# ---------------------------------------------------------------------------------------- trees


def _with_trees(entries: Iterable[Entry], tokeniser: Tokeniser) -> Iterator[Entry]:
    """The same with trees, and with what was lost or cut while they grew."""
    entries = list(entries)
    counts: list[Counts] = [collections.Counter() for _ in entries]
    fitted = [
        fit_one(entry.conversation, tokeniser.chat, tokeniser.settings, counted)
        for entry, counted in zip(entries, counts, strict=True)
    ]
    grown = tokeniser.all(conversation for conversation in fitted if conversation is not None)
    nothing = Tokenised([], 0, collections.Counter())
    for entry, conversation, counted in zip(entries, fitted, counts, strict=True):
        tokenised = nothing if conversation is None else next(grown)
        told = (Remark(reason, times(n)) for reason, n in (counted + tokenised.counts).items())
        yield dataclasses.replace(
            entry, remarks=(*entry.remarks, *told), trees=tuple(tokenised.trees)
        )


def times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"
