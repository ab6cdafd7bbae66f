"""Cases of damaged files of ours: prepared data, done or begun, stores of trees, mapping files."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax.data.fingerprint import digest_trees
from interact_jax.data.prepared import CARD, PreparedData, splits_of
from interact_jax.data.stored import StoredDataset
from interact_jax.data.tokenise import Tokeniser
from interact_jax.prepare import deciding, pipeline, reading, writing
from interact_jax.prepare.filters import parse_filter
from interact_jax.prepare.job import Job, Settings
from interact_jax.prepare.splits import parse_splits
from interact_jax.schema import InputError
from tests.faults import dumps, mutations
from tests.faults.dumps import MAPPING
from tests.faults.large_logs import FILTERS, read, unnamed
from tests.faults.stand import ENCODING, Case, Stand

BEGUN = ("planned", "read", "decided", "writing")
"""How far the directories are that were left."""


# ------------------------------------------------------------------------------ the sound ones


def settings(stand: Stand) -> Settings:
    splits = parse_splits("train=0.7,test=0.3")
    more = {"on_error": "skip", "filters": FILTERS, "splits": splits, "part_bytes": 1500}
    return Settings(str(stand.folder / "logs"), **more)


def sound(stand: Stand) -> Path:
    """A folder with prepared data, `done` and as far as BEGUN, and with the trees of those that are
    done; made once, by whichever process comes first."""
    place = stand.folder / "prepared"
    with open(stand.folder / "prepared.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            make(stand, place)
    return place


def make(stand: Stand, place: Path) -> None:
    logs = stand.folder / "logs"
    logs.mkdir(exist_ok=True)
    rows = [dumps.wildchat(n) | {"timestamp": f"2024-01-{n + 1:02d}"} for n in range(dumps.COUNT)]
    lines = [json.dumps(row, default=str) + "\n" for row in rows] + ["{broken\n"]
    (logs / "chats.jsonl").write_text("".join(lines))
    finish(stand, place / "done")
    for state in BEGUN:
        begin(stand, place / state, state)
    (place / "trees").mkdir()
    dataset = stored(stand, place / "done", place / "trees")
    dataset.trees_of(range(len(dataset)))
    dataset.close()
    (place / "complete").touch()


def finish(stand: Stand, out: Path) -> dict[str, Any]:
    """The card of what is prepared from the beginning, or from where it was left."""
    card = pipeline.prepare(settings(stand), [*map(parse_filter, FILTERS)], out)
    assert isinstance(card, dict)
    return card


def begin(stand: Stand, out: Path, state: str) -> None:
    """Prepare the data up to a state, as where the program was killed there."""
    with pipeline.holding(out, pipeline.Share()) as folder:
        parts = pipeline.planned(settings(stand), folder)
        assert len(parts) > 3
        job = Job(settings(stand), out, len(parts), tuple(map(parse_filter, FILTERS)))
        for part in parts if state != "planned" else parts[:1]:
            reading.read_part(job, part)
        if state in ("decided", "writing"):
            deciding.decide(job)
        if state == "writing":
            writing.write_part(job, 0)


def stored(stand: Stand, data: Path, folder: Path) -> StoredDataset:
    return StoredDataset(PreparedData(data), Tokeniser(stand.chat, ENCODING, "tree"), folder)


# --------------------------------------------------------------------------------- the damage


def damage(files: Sequence[Path], rng: random.Random) -> str:
    """Put something else in the place of a file, or of several; what was done."""
    told = []
    for file in rng.sample(list(files), min(rng.choice(dumps.OFTEN), len(files))):
        data, chosen = file.read_bytes(), rng.random()
        file.unlink()  # it may have another name where it stays as it was
        if chosen < 0.1:
            told.append(f"{file.name} gone")
            continue
        if chosen < 0.2:
            other = rng.choice(files)
            data, what = other.read_bytes() if other.is_file() else b"", f"as {other.name}"
        elif chosen < 0.7 and file.suffix == ".json":
            text, what = mutations.of_value(json.loads(data), rng)
            data = text.encode("utf-8", "surrogatepass")
        else:
            data, what = mutations.of_bytes(data, rng, rng.choice(dumps.OFTEN))
        file.write_bytes(data)
        told.append(f"{file.name}: {what}")
    return "; ".join(told)


def files_of(place: Path, rng: random.Random, *but: str) -> list[Path]:
    """The files below a folder, or of one kind of them, which makes all kinds as likely."""
    files = sorted(p for p in place.rglob("*") if p.is_file() and p.name not in but)
    kinds = sorted({_kind_of(file) for file in files})
    kind = rng.choice(kinds)
    return files if rng.random() < 0.2 else [file for file in files if _kind_of(file) == kind]


def _kind_of(file: Path) -> str:
    return re.sub(r"\d+", "", file.name)


# ----------------------------------------------------------------------------------- the cases


def prepared(rng: random.Random, stand: Stand) -> Case:
    """Prepared data are read as they were written, or refused, record by record."""
    done = sound(stand) / "done"
    place = shutil.copytree(done, stand.scratch / "data", copy_function=os.link)
    what = damage(files_of(place, rng, "lock"), rng)

    def opened() -> str:
        first: InputError | None = None
        for split in splits_of(done):
            expected = PreparedData(done, split)
            try:
                found = PreparedData(place, split)
            except InputError as error:
                first = first or error
                continue
            if len(found) != len(expected) or found.digest != expected.digest:
                return f"{split} is other data, with {len(found)} instead of {len(expected)}"
            if not all(np.array_equal(getattr(found, n), getattr(expected, n)) for n in NUMBERS):
                return f"{split}: other numbers of users or interactions"
            for index in range(len(expected)):
                try:
                    if found[index] != expected[index]:
                        return f"{split}: conversation {index} is another"
                except InputError as error:
                    first = first or error
        if first is not None:
            if said := _unnamed(first, place):
                return said
            raise first
        return ""

    return Case(f"prepared data: {what}", opened)


NUMBERS = ("users", "interactions")


def _unnamed(error: InputError, place: Path) -> str:
    if str(place) not in str(error):
        return f"nothing is named: {error}"
    return unnamed(str(error), place, "")


def unfinished(rng: random.Random, stand: Stand) -> Case:
    """Where preparing was left and goes on, it ends as ever, or is refused."""
    base = sound(stand)
    state = rng.choice([*BEGUN, "done"])
    place = shutil.copytree(base / state, stand.scratch / "data", copy_function=os.link)
    what = damage(files_of(place / "parts", rng, "lock"), rng)

    def opened() -> str:
        expected = json.loads((base / "done" / CARD).read_bytes())
        try:
            finish(stand, place)
        except InputError as error:
            if said := _unnamed(error, place):
                return said
            raise
        card = json.loads((place / CARD).read_bytes())
        differing = [k for k in expected if k != "command" and card.get(k) != expected[k]]
        if differing:
            return f"{', '.join(differing)}: {card.get(differing[0])}, not {expected[differing[0]]}"
        for split in card["splits"]:
            if list(PreparedData(place, split)) != list(PreparedData(base / "done", split)):
                return f"other conversations in {split}"
        return ""

    return Case(f"prepared data, {state}: {what}", opened)


def trees(rng: random.Random, stand: Stand) -> Case:
    """What a store has not, or has damaged, is made anew; nobody is bothered with it."""
    base = sound(stand)
    place = shutil.copytree(base / "trees", stand.scratch / "trees")
    what = damage(files_of(place, rng), rng)

    def opened() -> str:
        expected = _digests(stand, base / "done", base / "trees")
        for _ in range(2):
            try:
                found = _digests(stand, base / "done", place)
            except InputError as error:
                return f"refused: {error}"
            if found != expected:
                return "other trees"
        return ""

    return Case(f"trees: {what}", opened)


def _digests(stand: Stand, data: Path, folder: Path) -> list[str]:
    dataset = stored(stand, data, folder)
    try:
        return [digest_trees(dataset.trees_of([n])) for n in range(len(dataset))]
    finally:
        dataset.close()


def mapping(rng: random.Random, stand: Stand) -> Case:
    """A mapping file names columns as it says, or is refused."""
    rows = dumps.mapped_rows(dumps.message_rows())
    text = MAPPING.encode()
    if rng.random() < 0.5:
        text, what = mutations.of_bytes(text, rng, rng.choice(dumps.OFTEN))
    else:
        written, what = mutations.of_value(tomllib.loads(MAPPING), rng)
        text = _as_toml(written).encode("utf-8", "surrogatepass")
    file, names = stand.scratch / "chats.csv", stand.scratch / "columns.toml"
    file.write_bytes(dumps.as_csv(file.name, rows))
    names.write_bytes(text)

    def opened() -> str:
        expected, _ = read(file, str(_sound_mapping(stand)), "stop")
        try:
            found, _ = read(file, str(names), "stop")
        except InputError as error:
            if said := unnamed(str(error), file, str(names)):
                return said
            raise
        same = tomllib.loads(names.read_text("utf-8-sig")) == tomllib.loads(MAPPING)
        return "" if not same or found == expected else "the same names, but other conversations"

    return Case(f"mapping file: {what}", opened)


def _sound_mapping(stand: Stand) -> Path:
    file = stand.scratch / "sound.toml"
    file.write_text(MAPPING)
    return file


def _as_toml(text: str) -> str:
    """JSON of objects in an object as TOML has it: inline tables do."""
    try:
        value = json.loads(text)
        if isinstance(value, dict):
            return "".join(f"{json.dumps(k)} = {_inline(v)}\n" for k, v in value.items())
    except (ValueError, RecursionError):
        pass
    return text


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)
