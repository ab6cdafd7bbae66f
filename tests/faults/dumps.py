"""Logs as they are dumped, damaged: Parquet as the hub has it, and tables with a row a message.

Every text of a dialogue ends in its number, so that it is known again wherever it comes out.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import difflib
import functools
import io
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interact_jax.data.parquet_pages import read_groups
from interact_jax.schema import Conversation
from tests.faults import mutations, talks
from tests.faults.talks import OFTEN
from tests.runs import TALKS

COUNT = 12
DIALOGUES = [[f"{text} ({n})" for text in TALKS[n % len(TALKS)]] for n in range(COUNT)]
NUMBER = re.compile(r"\((\d+)\)")
NOON = datetime.datetime(2023, 4, 9, 12, tzinfo=datetime.UTC)
MAPPING = """session = "chat"
role = "speaker"
text = "body"
time = "at"

[roles]
customer = "user"
agent = "assistant"
"""
MAPPED = {"session": "chat", "role": "speaker", "text": "body", "time": "at"}
Rows = list[dict[str, Any]]


@dataclasses.dataclass
class Dump:
    """A file, sound and damaged. `spared` are the dialogues in which nothing was damaged, and
    which therefore come through; without them, what does not is counted. Where all that a record
    holds has a checksum, `exact`, nothing comes through that was not there."""

    name: str
    what: str
    sound: bytes
    damaged: bytes
    spared: frozenset[int] | None
    exact: bool = False
    mapping: str = ""
    gone: frozenset[int] = frozenset()  # dialogues whose rows were taken away, all or some

    def write(self, folder: Path, which: str = "damaged") -> Path:
        file = folder / self.name
        file.write_bytes(getattr(self, which))
        return file

    def write_mapping(self, folder: Path) -> str:
        """The path of the mapping file, "" where there is none."""
        if not self.mapping:
            return ""
        (folder / "columns.toml").write_text(self.mapping)
        return str(folder / "columns.toml")


# ----------------------------------------------------------------------------------- Parquet


def wildchat(n: int) -> dict[str, Any]:
    (row,) = talks.wildchat(n, DIALOGUES[n])
    said = [turn | {"toxic": False, "timestamp": NOON} for turn in row["conversation"]]
    beside = {"model": "gpt-4", "timestamp": NOON, "turn": len(said) // 2, "hashed_ip": f"ip{n}"}
    scores = [{"toxicity": 0.5 / (n + 1), "insult": 0.0} for _ in said]
    return row | {"conversation": said, "detoxify_moderation": scores} | beside


def lmsys(n: int) -> dict[str, Any]:
    (row,) = talks.lmsys(n, DIALOGUES[n])
    return row


def wildfeedback(n: int) -> dict[str, Any]:
    (row,) = talks.wildfeedback(n, DIALOGUES[n])
    return row | {"thumbnail": b"\xff\0"}


def tools(n: int) -> dict[str, Any]:
    (row,) = talks.tools(n, DIALOGUES[n])
    return row | {"id": f"t{n}"}


RECORDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "wildchat": wildchat,
    "lmsys": lmsys,
    "wildfeedback": wildfeedback,
    "tools": tools,
}


def parquet(rng: random.Random) -> Dump:
    """Records of the hub in Parquet, or rows with a message each."""
    form = rng.choice([*RECORDS, "rows"])
    rows, mapping = (
        ([RECORDS[form](n) for n in range(COUNT)], "") if form != "rows" else mapped(rng)
    )
    table, options, gone = pa.Table.from_pylist(rows), _options(rng), frozenset[int]()
    sound = _packed(table, options)
    if rng.random() < 0.5:
        damaged, what, spared = _broken(sound, rng, _dialogues_of(rows))
        exact = options["write_page_checksum"] and spared is not None
    else:
        changed, what, touched = _other_table(table, rng, _dialogues_of(rows))
        try:
            damaged, exact = _packed(changed, options), False
        except CANNOT:
            changed, damaged, exact = table, sound, False
        spared = None if touched is None else frozenset(range(COUNT)) - touched
        gone = frozenset(_dialogues_of(rows)[changed.num_rows :])
    said = ", ".join(f"{key}={value}" for key, value in options.items())
    told = f"{form} in Parquet ({said}): {what}"
    return Dump("chats.parquet", told, sound, damaged, spared, exact, mapping, gone)


def _options(rng: random.Random) -> dict[str, Any]:
    return {
        "row_group_size": rng.choice([3, 5, 100]),
        "compression": rng.choice(["none", "snappy", "zstd", "gzip", "brotli", "lz4"]),
        "use_dictionary": rng.random() < 0.6,
        "data_page_version": rng.choice(["1.0", "2.0"]),
        "data_page_size": rng.choice([64, 1 << 20]),
        "write_page_checksum": rng.random() < 0.5,
        "write_statistics": rng.random() < 0.7,
        "write_page_index": rng.random() < 0.3,
        "store_schema": rng.random() < 0.7,
    }


def _packed(table: pa.Table, options: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def _dialogues_of(rows: Rows) -> list[int]:
    """The dialogue of every row."""
    return [int(NUMBER.findall(json.dumps(row, default=str))[-1]) for row in rows]


def _broken(
    data: bytes, rng: random.Random, dialogues: Sequence[int]
) -> tuple[bytes, str, frozenset[int] | None]:
    """Bytes of the pages or of the footer changed, and which dialogues that spared."""
    length = int.from_bytes(data[-8:-4], "little")
    start = len(data) - 8 - length
    pages, footer, end = data[:start], data[start:-8], data[-8:]
    place = rng.choice(["pages", "footer", "footer", "anywhere"])
    times = rng.choice(OFTEN)
    if place == "footer":
        footer, what = mutations.of_bytes(footer, rng, times)
        end = len(footer).to_bytes(4, "little") + end[4:]
        return pages + footer + end, f"footer: {what}", None
    if place == "anywhere":
        damaged, what = mutations.of_bytes(data, rng, times)
        return damaged, what, None
    changed, hit = bytearray(pages), set[int]()
    for _ in range(times):
        at = rng.randrange(4, len(pages))
        piece = rng.choice([bytes([pages[at] ^ 1 << rng.randrange(8)]), rng.randbytes(9), bytes(9)])
        piece = piece[: len(pages) - at]
        changed[at : at + len(piece)] = piece
        hit |= {at, at + len(piece) - 1}
    groups = read_groups(io.BytesIO(data))
    starts = [min(column.get(11) or column[9] for column in group.columns) for group in groups]
    broken = {sum(start <= at for start in starts) - 1 for at in hit}
    of_group = [group for group, about in enumerate(groups) for _ in range(about.rows)]
    lost = {
        dialogue for dialogue, group in zip(dialogues, of_group, strict=True) if group in broken
    }
    return bytes(changed) + footer + end, f"pages at {sorted(hit)}", frozenset(range(COUNT)) - lost


# ------------------------------------------------------------------- Parquet of another structure


def _other_table(
    table: pa.Table, rng: random.Random, dialogues: Sequence[int]
) -> tuple[pa.Table, str, set[int] | None]:
    """A table with other columns or rows; which dialogues that touches, None for any."""
    touched: set[int] | None = set()
    told = []
    for _ in range(rng.choice(OFTEN)):
        if not table.num_columns or not table.num_rows:
            break
        name = rng.choice(table.column_names)
        names = table.column_names
        if "no_utf8" in " ".join(told) or len(set(names)) < len(names):
            break  # what cannot be read any more, or told apart, is not changed again
        if len(dialogues) == table.num_rows and rng.random() < 0.4:
            rows = rng.sample(range(table.num_rows), min(rng.choice(OFTEN), table.num_rows))
            column = [None if i in rows else v for i, v in enumerate(_values(table, name))]
            try:
                table = _with(table, name, pa.array(column, table[name].type))
            except CANNOT:
                continue
            told.append(f"no {name} in rows {sorted(rows)}")
            touched = touched if touched is None else touched | {dialogues[i] for i in rows}
            continue
        change = rng.choice(COLUMN_CHANGES)
        try:
            table = change(table, name, rng)
        except CANNOT:
            continue
        told.append(f"{change.__name__} {name}")
        touched = None
    return table, "; ".join(told), touched


CANNOT = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What is raised where Arrow has no way to write these values."""


def _values(table: pa.Table, name: str) -> list[Any]:
    return table.column(table.column_names.index(name)).to_pylist()


def _with(table: pa.Table, name: str, column: Any) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, name, column)


def drop(table: pa.Table, name: str, rng: random.Random) -> pa.Table:
    return table.remove_column(table.column_names.index(name))


def rename(table: pa.Table, name: str, rng: random.Random) -> pa.Table:
    other = rng.choice(
        [name + "s", name.upper(), "", "\x1b[2J", "a.b", rng.choice(table.column_names)]
    )
    return table.rename_columns([other if each == name else each for each in table.column_names])


def double(table: pa.Table, name: str, rng: random.Random) -> pa.Table:
    """Two columns of one name."""
    return table.append_column(name, table.column(table.column_names.index(name)))


def as_another(table: pa.Table, name: str, rng: random.Random) -> pa.Table:
    """The same values in a column of another type, if there is a way."""
    column = table.column(table.column_names.index(name))
    kinds = [pa.large_string(), pa.binary(), pa.int64(), pa.float32(), pa.bool_(), pa.null()]
    kinds += [pa.date32(), pa.timestamp("ns"), pa.dictionary(pa.int8(), pa.string())]
    kinds += [pa.large_list(pa.large_string()), pa.string_view(), pa.decimal128(20, 3)]
    return _with(table, name, column.cast(rng.choice(kinds)))


def as_json(table: pa.Table, name: str, rng: random.Random) -> pa.Table:
    """Texts for what was nested, as some tools write it."""
    texts = [json.dumps(value, default=str) for value in _values(table, name)]
    return _with(table, name, pa.array(texts, rng.choice([pa.string(), pa.binary()])))


def other_values(table: pa.Table, name: str, rng: random.Random) -> pa.Table:
    count = table.num_rows
    strange = [None, 2**63 - 1, float("nan"), b"\xff\xfe", "\0", "x" * 10_000, [], [[None]], {}]
    strange += [{"a": {"b": [1]}}, datetime.date.max, datetime.timedelta.max, True, ""]
    return _with(table, name, pa.array([rng.choice(strange)] * count))


def no_utf8(table: pa.Table, name: str, rng: random.Random) -> pa.Table:
    raw = pa.array(
        [rng.choice([b"ok", b"\xff\xfe", b"\xed\xa0\x80"])] * table.num_rows, pa.binary()
    )
    return _with(table, name, pa.Array.from_buffers(pa.string(), len(raw), raw.buffers()))


def without_rows(table: pa.Table, name: str, rng: random.Random) -> pa.Table:
    return table.slice(0, rng.choice([0, 0, 1, table.num_rows // 2]))


def without_nested(table: pa.Table, name: str, rng: random.Random) -> pa.Table:
    """Objects that lack a field, or have it under another name."""
    fields = sorted(
        {key for value in _values(table, name) for one in _objects(value) for key in one}
    )
    if not fields:
        return table
    field, other = rng.choice(fields), rng.choice([None, "x", *fields])

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(each) for each in value]
        if not isinstance(value, dict):
            return value
        kept = {key: changed(each) for key, each in value.items() if key != field}
        return kept if other is None or field not in value else {**kept, other: value[field]}

    return _with(table, name, pa.array([changed(value) for value in _values(table, name)]))


def _objects(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [found for each in value for found in _objects(each)]
    return (
        [value, *(f for v in value.values() for f in _objects(v))]
        if isinstance(value, dict)
        else []
    )


COLUMN_CHANGES = (
    drop,
    rename,
    double,
    as_another,
    as_another,
    as_json,
    other_values,
    no_utf8,
    without_rows,
    without_nested,
    without_nested,
)


# ------------------------------------------------------------------------- a row for every message


def message_rows() -> Rows:
    """The rows of all dialogues, told side by side: in the order of time."""
    longest = max(map(len, DIALOGUES))
    return [
        {
            "session": f"s{n}",
            "role": ("user", "assistant")[i % 2],
            "text": talk[i],
            "time": 1_714_550_400 + 100 * i + n,
            "channel": "web",
        }
        for i in range(longest)
        for n, talk in enumerate(DIALOGUES)
        if i < len(talk)
    ]


def mapped_rows(rows: Rows) -> Rows:
    """The same under the names that MAPPING tells."""
    names = {"user": "customer", "assistant": "agent"}
    told = [{**row, "role": names[row["role"]]} for row in rows]
    return [{MAPPED.get(key, key): value for key, value in row.items()} for row in told]


def mapped(rng: random.Random) -> tuple[Rows, str]:
    """Rows, and the mapping file that names their columns; "" where the usual names do."""
    rows = message_rows()
    return (rows, "") if rng.random() < 0.5 else (mapped_rows(rows), MAPPING)


def cells_of(rows: Rows) -> list[list[str]]:
    return [[*rows[0]], *([str(value) for value in row.values()] for row in rows)]


def as_csv(name: str, rows: Rows) -> bytes:
    return _csv(name, cells_of(rows))


LAYOUTS = (
    "chats.csv",
    "chats.tsv",
    "chats.csv.gz",
    "chats.tsv.zst",
    "chats.jsonl",
    "chats.jsonl.zst",
)


def rows(rng: random.Random) -> Dump:
    """A table of text, or JSON lines, with a row for every message."""
    name = rng.choice(LAYOUTS)
    table, mapping = mapped(rng)
    cells = cells_of(table)
    lines = [json.dumps(row, ensure_ascii=False) for row in table]
    as_text = functools.partial(_lines if "jsonl" in name else _csv, name)
    sound = as_text(lines if "jsonl" in name else cells)
    if rng.random() < 0.5:
        for _ in range(rng.choice(OFTEN)):
            if "jsonl" in name:
                at = rng.randrange(len(table))
                lines[at], what = mutations.of_value(table[at], rng)
                what = f"row {at}: {what}"
            else:
                what = rng.choice(CELL_CHANGES)(cells, rng)
        damaged = as_text(lines if "jsonl" in name else cells)
    else:
        damaged, what = mutations.of_bytes(sound, rng, rng.choice(OFTEN))
    spared = _spared(sound, damaged, header="jsonl" not in name)
    before, after = talks.pack(name, sound), talks.pack(name, damaged)
    if before != sound and rng.random() < 0.3:
        after, what = mutations.of_bytes(before, rng, rng.choice(OFTEN))
        return Dump(name, f"packed: {what}", before, after, None, True, mapping)
    readable = damaged.replace(b"\0", b"")  # also of UTF-16
    gone = frozenset(n for n in range(COUNT) if f"({n})".encode() not in readable)
    told = f"{bool(mapping)} mapped: {what}"
    return Dump(name, told, before, after, spared, False, mapping, gone)


def _lines(name: str, lines: Sequence[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")


def _csv(name: str, cells: Sequence[Sequence[str]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t" if ".tsv" in name else ",", lineterminator="\n")
    writer.writerows(cells)
    return out.getvalue().encode("utf-8", "surrogatepass")


def _spared(sound: bytes, damaged: bytes, header: bool) -> frozenset[int] | None:
    """The dialogues all of whose lines are still there; None where that of names is not."""
    before, after = sound.split(b"\n"), damaged.split(b"\n")
    same = difflib.SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    kept = {block.a + i for block in same for i in range(block.size)}
    if header and 0 not in kept:
        return None
    touched = {
        int(NUMBER.findall(line.decode())[-1])
        for i, line in enumerate(before)
        if i not in kept and NUMBER.search(line.decode())
    }
    return frozenset(range(COUNT)) - touched


def cell(cells: list[list[str]], rng: random.Random) -> str:
    row = rng.choice(cells)
    at = rng.randrange(len(row)) if row else 0
    texts = ["", " ", "\0", '"', 'a"b', "\r", "\n", "\ud800", "\ufeff", "7" * 5000, "NULL", "1e999"]
    row[at : at + 1] = [rng.choice(texts)]
    return f"cell {at} {row[at][:20]!r}"


def cell_gone(cells: list[list[str]], rng: random.Random) -> str:
    row = rng.choice(cells)
    if row:
        del row[rng.randrange(len(row))]
    return "a cell less"


def cell_more(cells: list[list[str]], rng: random.Random) -> str:
    rng.choice(cells).append("more")
    return "a cell more"


def column_gone(cells: list[list[str]], rng: random.Random) -> str:
    at = rng.randrange(len(cells[0]) or 1)
    for row in cells:
        del row[at : at + 1]
    return f"column {at} gone"


def column_twice(cells: list[list[str]], rng: random.Random) -> str:
    at = rng.randrange(len(cells[0]) or 1)
    for row in cells:
        row += row[at : at + 1]
    return f"column {at} twice"


def header(cells: list[list[str]], rng: random.Random) -> str:
    names, at = cells[0], rng.randrange(len(cells[0]) or 1)
    names[at : at + 1] = [rng.choice(["", "x", "Text", "\x1b[31m", *names])]
    return f"names {names}"


def row_gone(cells: list[list[str]], rng: random.Random) -> str:
    at = rng.randrange(len(cells))
    del cells[at]
    cells.append([""])
    return f"row {at} gone"


CELL_CHANGES = (cell, cell, cell, cell_gone, cell_more, column_gone, column_twice, header, row_gone)


# ------------------------------------------------------------------------------- what came through


def number_of(conversation: Conversation) -> int | None:
    """Of its dialogue, by the first text that tells it."""
    texts = " ".join(message.content for message in conversation.messages)
    return int(found[1]) if (found := NUMBER.search(texts)) else None


def content(conversation: Conversation) -> Any:
    """What must not change in silence: ids that are made of a row's number move with it."""
    name = re.sub(r"^chats\.\d+|~\d+$", "", conversation.id)
    said = tuple((m.role, m.content, m.fields) for m in conversation.messages)
    return repr((name, said, conversation.user, conversation.meta))


def silent(
    dump: Dump, before: Sequence[Conversation], after: Sequence[Conversation], told: int
) -> str:
    """What is not the same and was not told; "" where there is nothing of the kind. `told` counts
    what was lost or mended."""
    whole, came = {number_of(c): c for c in before}, list(map(content, after))
    here = set(came)
    if dump.exact and (odd := here - set(map(content, before))) and not told:
        return f"{len(odd)} were not there before: {min(odd)[:300]}"
    missing = [n for n, c in whole.items() if content(c) not in here and n not in dump.gone]
    if dump.spared is not None:
        joined = [" ".join(m.content for m in c.messages) for c in after]
        for n in missing:
            if n in dump.spared and not any(
                all(m.content in text for m in whole[n].messages) for text in joined
            ):
                return f"dialogue {n} was not touched and did not come through: {whole[n].id}"
    changed = len(here - set(map(content, before)))
    if len(missing) > told + changed:
        return f"{len(missing)} did not come through, {told} are told, {changed} are others"
    return ""
