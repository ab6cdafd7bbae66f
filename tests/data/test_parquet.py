"""Parquet as data sets on the hub have it: rows come through as their JSON would."""

import datetime
import decimal
import io
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interact_jax import places
from interact_jax.data import parquet, parquet_pages
from interact_jax.data.conversations import read_conversations
from interact_jax.data.recipes import RECIPES
from interact_jax.data.records import Loss, read_records
from interact_jax.schema import InputError
from tests.logs import good

NOON = datetime.datetime(2023, 4, 9, 12, tzinfo=datetime.UTC)
TIME = pa.timestamp("us", tz="UTC")
TURN = pa.struct(
    {
        "content": pa.string(),
        "country": pa.string(),
        "hashed_ip": pa.string(),
        "header": pa.struct({"accept-language": pa.string(), "user-agent": pa.string()}),
        "language": pa.string(),
        "redacted": pa.bool_(),
        "role": pa.string(),
        "timestamp": TIME,
        "toxic": pa.bool_(),
        "turn_identifier": pa.int64(),
    }
)
MODERATION = pa.list_(
    pa.struct({"flagged": pa.bool_(), "category_scores": pa.struct({"hate": pa.float64()})})
)
WILDCHAT = pa.schema(
    {
        "conversation_hash": pa.string(),
        "model": pa.string(),
        "timestamp": TIME,
        "conversation": pa.list_(TURN),
        "turn": pa.int64(),
        "language": pa.string(),
        "openai_moderation": MODERATION,
        "toxic": pa.bool_(),
        "redacted": pa.bool_(),
        "hashed_ip": pa.string(),
    }
)
LMSYS = pa.schema(
    {
        "conversation_id": pa.string(),
        "model": pa.string(),
        "conversation": pa.list_(pa.struct({"content": pa.string(), "role": pa.string()})),
        "turn": pa.int64(),
        "language": pa.string(),
        "openai_moderation": MODERATION,
        "redacted": pa.bool_(),
    }
)
SHARE = pa.struct({"from": pa.string(), "value": pa.string()})
WILDFEEDBACK = pa.schema(
    {"conversations": pa.list_(SHARE), "chosen": SHARE, "rejected": SHARE, "thumbnail": pa.binary()}
)


def said(n: int) -> list[str]:
    return [f"Question {n}", f"Answer {n}", f"Follow-up {n}"]


def wildchat(n: int) -> dict:
    turns = [
        {
            "role": ("user", "assistant")[i % 2],
            "content": text,
            "timestamp": NOON if i % 2 else None,
        }
        | {"turn_identifier": 100 + n, "toxic": False, "hashed_ip": None if i % 2 else "ip"}
        for i, text in enumerate(said(n))
    ]
    more = {"model": "gpt-4", "timestamp": NOON, "turn": 2, "hashed_ip": f"ip{n}", "toxic": False}
    return {"conversation_hash": f"h{n}", "conversation": turns, "openai_moderation": [], **more}


def lmsys(n: int) -> dict:
    turns = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said(n))
    ]
    scores = [{"flagged": False, "category_scores": {"hate": 0.25}}]
    more = {"model": "vicuna-13b", "turn": 2, "language": "English", "openai_moderation": scores}
    return {"conversation_id": f"l{n}", "conversation": turns, "redacted": True, **more}


def wildfeedback(n: int) -> dict:
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said(n))]
    reply = {"from": "gpt", "value": "better"}
    return {"conversations": turns, "chosen": reply, "rejected": reply, "thumbnail": b"\xff\0"}


def write(path, rows, schema=None, **options) -> str:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)
    return str(path)


FORMS = {
    "wildchat": (wildchat, WILDCHAT, "h{n}.{turn}"),
    "lmsys": (lmsys, LMSYS, "l{n}"),
    "wildfeedback": (wildfeedback, WILDFEEDBACK, "chats.{row}"),
}


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
@pytest.mark.parametrize("form", FORMS)
def test_data_sets_of_the_hub(tmp_path, form, compression):
    """Recognised by their fields, row after row, over row groups and batches."""
    make, schema, name = FORMS[form]
    path = tmp_path / "chats.parquet"
    write(path, [make(n) for n in range(50)], schema, row_group_size=20, compression=compression)
    conversations, report = read_conversations(str(path))
    assert [c.id for c in conversations] == [
        name.format(n=n, turn=100 + n, row=n + 1) for n in range(50)
    ]
    assert [[m.content for m in c.messages] for c in conversations] == [said(n) for n in range(50)]
    assert [c.source for c in conversations] == [f"{path}:row {n + 1}" for n in range(50)]
    assert report.records == 50 and not report.lost and not report.mended


def test_times_nulls_and_what_is_beside(tmp_path):
    path = write(tmp_path / "a.parquet", [wildchat(3)], WILDCHAT)
    [record] = read_records(path, "a")
    assert record.value["timestamp"] == "2023-04-09T12:00:00+00:00"
    first, second, _ = record.value["conversation"]
    assert "timestamp" not in first and second["timestamp"] == "2023-04-09T12:00:00+00:00"
    assert "hashed_ip" not in second and "language" not in record.value
    assert set(record.columns) == set(WILDCHAT.names)
    [conversation], _ = read_conversations(path)
    assert conversation.user == "ip3"
    assert conversation.meta["timestamp"] == "2023-04-09T12:00:00+00:00"


def test_binary_is_counted_as_not_used(tmp_path):
    """Beside the turns, in them, and in place of a text."""
    path = write(tmp_path / "a.parquet", [wildfeedback(0)], WILDFEEDBACK)
    _, report = read_conversations(path)
    assert report.unused["field 'thumbnail' not used"] == 1
    turn = {"role": "user", "content": b"\x89PNG", "picture": b"\x89PNG"}
    rest = [{"role": r, "content": t.encode()} for r, t in (("assistant", "A"), ("user", "B"))]
    binary = write(tmp_path / "b.parquet", [{"messages": [turn, *rest]}])
    with pytest.raises(InputError, match=r"no follow-up(.|\n)*part of kind 'binary' left out"):
        read_conversations(binary)


def test_every_type_becomes_json(tmp_path):
    day = datetime.date(2024, 2, 29)
    columns = {
        "large": pa.array(["x"], pa.large_string()),
        "view": pa.array(["x"], pa.string_view()),
        "coded": pa.array(["x"]).dictionary_encode(),
        "listed": pa.array([["x", None]], pa.large_list(pa.string())),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "small": pa.array([1], pa.int8()),
        "half": pa.array([0.5], pa.float32()),
        "exact": pa.array([decimal.Decimal("1.50")]),
        "whole": pa.array([decimal.Decimal("7")]),
        "day": pa.array([day]),
        "late": pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),
        "hour": pa.array([datetime.time(1, 2)]),
        "fine": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        "far": pa.array([2**62], pa.timestamp("us")),
        "zoned": pa.array([0], pa.timestamp("ms", tz="Asia/Tokyo")),
        "nothing": pa.nulls(1),
        "flag": pa.array([True]),
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    [record] = read_records(str(path), "a")
    assert record.value == {
        **{"large": "x", "view": "x", "coded": "x", "listed": ["x", None], "map": {"k": 1}},
        **{"small": 1, "half": 0.5, "exact": 1.5, "whole": 7, "day": "2024-02-29"},
        "late": str(2**31 - 1),
        **{"hour": "01:02:00", "fine": "2023-11-14T22:13:20.123456+00:00", "flag": True},
        **{"far": f"{2**62} us after 1970", "zoned": "1970-01-01T00:00:00+00:00"},
    }


def test_text_that_is_not_utf8_costs_its_row(tmp_path):
    raw = pa.array([b"ok", b"\xff\xfe", b"ok"], pa.binary())
    table = pa.table({"prompt": pa.Array.from_buffers(pa.string(), 3, raw.buffers())})
    pq.write_table(table, tmp_path / "a.parquet")
    found = list(read_records(str(tmp_path / "a.parquet"), "a"))
    assert isinstance(found[1], Loss) and found[1].reason == "not UTF-8"
    assert found[1].where.endswith(":row 2") and [f.where[-1] for f in found] == ["1", "2", "3"]


def test_row_groups_without_rows(tmp_path):
    """One before others, and a file of nothing else."""
    table = pa.Table.from_pylist([good("a")])
    for name, tables in (("a", [table.slice(0, 0), table]), ("b", [table.slice(0, 0)] * 2)):
        with pq.ParquetWriter(tmp_path / f"{name}.parquet", table.schema) as writer:
            for each in tables:
                writer.write_table(each)
    assert [c.id for c in read_conversations(str(tmp_path / "a.parquet"))[0]] == ["a"]
    with pytest.raises(InputError, match=r"b\.parquet: empty file"):
        read_conversations(str(tmp_path / "b.parquet"))


# ------------------------------------------------------------------------------------- damage


def packed(rows: int, group: int, **options) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pylist([good(f"g{n}") for n in range(rows)])
    pq.write_table(table, out, row_group_size=group, compression="none", **options)
    return out.getvalue()


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path):
    """They are counted one by one; the groups before and behind are read."""
    data = bytearray(packed(30, 10, write_page_checksum=True))
    at = data.index(b"Thanks from g15")
    data[at] ^= 1
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet:row 11: damaged Parquet: row group 1.*CRC"):
        read_conversations(str(path))
    conversations, report = read_conversations(str(path), on_error="skip")
    assert [c.id for c in conversations] == [f"g{n}" for n in (*range(10), *range(20, 30))]
    assert report.lost == {"damaged Parquet": 10} and report.records == 20
    assert "its rows up to 20 are lost" in report.examples["damaged Parquet"]


@pytest.mark.parametrize("end", [0, 3, 4, 7, 12, 500, -1, -4, -9])
def test_what_is_cut_off_is_told(tmp_path, end):
    """What rows there are stands at the end of a file: without it there is nothing to read."""
    path = tmp_path / "a.parquet"
    path.write_bytes(packed(30, 10)[:end])
    with pytest.raises(InputError, match=r"a\.parquet: damaged Parquet: it cannot be opened"):
        read_conversations(str(path))


def test_rows_that_the_footer_forgets_are_not_lost_in_silence(tmp_path):
    """A row group with fewer rows than it has: they were passed over."""
    data = packed(30, 10)
    sound = [group.rows for group in parquet.read_groups(io.BytesIO(data))]
    path, tried = tmp_path / "a.parquet", 0
    for at in range(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data) - 8):
        damaged = data[:at] + bytes([data[at] & ~4]) + data[at + 1 :]
        try:
            rows = [group.rows for group in parquet.read_groups(io.BytesIO(damaged))]
        except parquet_pages.BadPages:
            continue
        if len(rows) == len(sound) and sum(rows) < sum(sound):
            tried += 1
            path.write_bytes(damaged)
            with pytest.raises(InputError, match="damaged Parquet"):
                read_conversations(str(path))
    assert tried


def test_a_page_that_wants_more_than_its_column_is_refused_before(tmp_path, monkeypatch):
    """By its own header, without any other change to the file."""
    out = io.BytesIO()
    table = pa.table({"prompt": ["x" * 10_000]})
    pq.write_table(table, out, compression="none", use_dictionary=False)
    data = out.getvalue()
    at = parquet.read_groups(out)[0].columns[0][9]
    header, length = parquet_pages._header(out, at)
    size = header[2] << 1  # as it stands there, in three bytes
    small = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14])
    start = data.index(small, at, at + length)
    path = tmp_path / "a.parquet"
    path.write_bytes(data[:start] + b"\xfe\xff\x7f" + data[start + 3 :])  # a megabyte
    monkeypatch.setattr(parquet.pq.ParquetFile, "iter_batches", None)  # what it must not come to
    [loss] = read_records(str(path), "a")
    assert isinstance(loss, Loss) and "a page does not begin as pages do" in loss.detail


def test_read_up_to_the_bound(tmp_path):
    """Of rows in memory, not of packed bytes; the rows before it are read."""
    rows = [good(f"g{n}") | {"more": "x" * 1000} for n in range(500)]
    path = write(tmp_path / "a.parquet", rows, compression="zstd")
    with pytest.raises(InputError, match=r"file too large.*data\.max_bytes=100,000"):
        read_conversations(path, max_bytes=100_000)
    conversations, report = read_conversations(path, max_bytes=100_000, on_error="skip")
    assert [c.id for c in conversations] == [f"g{n}" for n in range(len(conversations))]
    assert 60 < len(conversations) < 100 and report.lost == {"file too large": 1}
    assert len(read_conversations(path, max_bytes=1_000_000)[0]) == 500


def test_batches_hold_little(tmp_path, monkeypatch):
    """However long the rows are: a batch is asked for by its bytes."""
    asked = []
    batches = parquet.pq.ParquetFile.iter_batches

    def watched(self, size, *rest, **more):
        asked.append(size)
        return batches(self, size, *rest, **more)

    monkeypatch.setattr(parquet.pq.ParquetFile, "iter_batches", watched)
    rows = [{"prompt": f"{n}" * 200_000} for n in range(100, 110)]
    path = write(tmp_path / "a.parquet", rows, use_dictionary=False)
    assert len(list(read_records(path, "a"))) == 10
    assert 1 <= asked[0] <= 20


def test_it_can_come_from_standard_input(tmp_path, monkeypatch):
    places._read_all.cache_clear()
    data = packed(5, 2)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert [c.id for c in read_conversations("-")[0]] == [f"g{n}" for n in range(5)]
    places._read_all.cache_clear()


def test_pairs_are_read_as_pairs(tmp_path):
    rows = [{"prompt": f"Q{n}", "chosen": "A", "rejected": "B"} for n in range(3)]
    path = write(tmp_path / "a.parquet", rows)
    recipe = RECIPES["pairs"]
    found, _ = read_conversations(path, count_units=recipe.count_units, expected=recipe.expected)
    assert len(found) == 3
