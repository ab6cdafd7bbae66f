"""Cases of damaged logs as they are dumped: read both ways, encoded, and prepared."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from pathlib import Path

from interact_jax.data import dataset
from interact_jax.data.conversations import ReadReport, read_conversations
from interact_jax.data.prepared import PreparedData
from interact_jax.prepare.filters import parse_filter
from interact_jax.prepare.job import Settings
from interact_jax.prepare.pipeline import prepare
from interact_jax.schema import Conversation, InputError
from tests.faults import dumps
from tests.faults.dumps import Dump
from tests.faults.stand import ENCODED, ENCODING, Case, Stand
from tests.faults.talks import Silent

WHOLE = re.compile("damaged (gzip|zstd)|bad header")
"""Losses of all that stands behind their place, which are counted once."""
PREPARED = 0.15  # how often what was read is prepared, too
FILTERS = ("length:most=4000", "duplicates")


def parquet(rng: random.Random, stand: Stand) -> Case:
    return _case(dumps.parquet(rng), rng, stand)


def tables(rng: random.Random, stand: Stand) -> Case:
    return _case(dumps.rows(rng), rng, stand)


def _case(dump: Dump, rng: random.Random, stand: Stand) -> Case:
    file, mapping = dump.write(stand.scratch), dump.write_mapping(stand.scratch)
    encoded, prepared = rng.random() < ENCODED, rng.random() < PREPARED
    stopping = rng.random() < 0.5

    def opened() -> str:
        (stand.scratch / "sound").mkdir()
        sound, _ = read(dump.write(stand.scratch / "sound", "sound"), mapping, "skip")
        assert len(sound) == dumps.COUNT, f"{dump.what}: the sound file does not come through"
        if said := stops_at(file, mapping):
            return said
        try:
            after, report = read(file, mapping, "skip")
        except InputError as error:
            if said := unnamed(str(error), file, mapping):
                return said
            raise
        if said := dumps.silent(dump, sound, after, told(report)):
            raise Silent(said)
        if encoded:
            settings = dataclasses.replace(ENCODING, mapping=mapping)
            dataset.load_dataset(str(file), "auto", stand.chat, settings, "tree")
        return prepares(file, mapping, after, report, stopping, stand) if prepared else ""

    return Case(dump.what, opened)


def read(file: Path, mapping: str, on_error: str) -> tuple[list[Conversation], ReadReport]:
    return read_conversations(str(file), on_error=on_error, mapping=mapping)


def told(report: ReadReport) -> float:
    """How much is said to be lost or mended."""
    if any(map(WHOLE.match, report.lost)):
        return math.inf
    return report.lost.total() + report.mended.total()


def stops_at(file: Path, mapping: str) -> str:
    """What is wrong with how reading stops at the first fault: nothing is lost on the way to it,
    and it names the file."""
    try:
        kept, _ = read(file, mapping, "stop")
    except InputError as error:
        return unnamed(str(error), file, mapping)
    also, _ = read(file, mapping, "skip")
    return (
        "" if repr(kept) == repr(also) else f"{len(kept)} are read with stop, {len(also)} with skip"
    )


def unnamed(said: str, file: Path, mapping: str) -> str:
    """What an error does not say, though it is what is needed to mend the file."""
    if file.name not in said and not (mapping and mapping in said):
        return f"the file is not named: {said}"
    return "" if REMEDY.search(said) else f"nothing says what to do: {said}"


REMEDY = re.compile(
    r"\b(expected|set|fix|replace|convert|(un)?pack|name|mean|copy|prepare|delete|start)\b",
    re.IGNORECASE,
)


def prepares(
    file: Path,
    mapping: str,
    read: list[Conversation],
    report: ReadReport,
    stopping: bool,
    stand: Stand,
) -> str:
    """What is wrong with what is prepared of the file: the same conversations as were read, and
    numbers that add up."""
    on_error = "stop" if stopping else "skip"
    settings = Settings(str(file), on_error=on_error, mapping=mapping, filters=FILTERS)
    out = stand.scratch / "prepared"
    try:
        card = prepare(settings, [*map(parse_filter, FILTERS)], out)
    except InputError as error:
        if not stopping:
            raise
        return unnamed(str(error), file, mapping)
    assert isinstance(card, dict)
    counts = card["counts"]
    if counts["read"] != sum(counts[n] for n in ("kept", "dropped", "not_read", "ignored")):
        return f"the counts do not add up: {counts}"
    kept = [c for name in card["splits"] for c in PreparedData(out, name)]
    if len(kept) != counts["kept"]:
        return f"{len(kept)} of {counts['kept']} are there"
    here = {repr(c.messages) for c in kept}
    lost = [c for c in read if repr(c.messages) not in here]
    if len(lost) > counts["dropped"]:
        raise Silent(f"read, but not prepared: {lost[0].id}; {counts}")
    if stopping and counts["not_read"]:
        return f"it does not stop, but {counts['not_read']} are not read"
    for reason, times in card["not_read"].items():
        if report.lost[reason] != times:
            return f"{reason}: {times} when prepared, {report.lost[reason]} when read"
    return ""
