"""Rows with a message each: grouped by session, ordered by time, named by a mapping file."""

import csv
import datetime
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interact_jax.data.columns import USUAL, Columns, load_columns
from interact_jax.data.conversations import read_conversations
from interact_jax.data.message_rows import moment_of
from interact_jax.schema import InputError
from tests.logs import write

MAPPING = """
session = "chat_id"
time = "created_at"
role = "speaker"
text = "body"
user = "user_id"
rating = "stars"

[roles]
customer = "user"
Agent = "assistant"
"""
START = 1_714_550_400  # 2024-05-01T08:00:00Z
ZONES = [datetime.timezone(datetime.timedelta(hours=hours)) for hours in (-7, 0, 2)]


def clock(second: int, form: int) -> str | int | float:
    """A time, as different systems write it."""
    moment = datetime.datetime.fromtimestamp(START + second, ZONES[second % 3])
    ways = [
        moment.isoformat(),
        moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S"),
        moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        moment.strftime("%Y-%m-%d %H:%M:%S %z"),
        moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        START + second,
        (START + second) * 1000,
        (START + second) * 10**6,
        float(START + second),
    ]
    return ways[form % len(ways)]


def table(forms: bool = True) -> list[dict]:
    """Three sessions of five messages, told in turns; the ratings of session n are n and n + 1."""
    return [
        {
            "chat_id": f"c{n}",
            "created_at": clock(10 * i + n, i + n if forms else 2),
            "speaker": ("customer", "agent")[i % 2],
            "body": f"{n}, message {i}\n",
            "user_id": ("u", "agent ")[i % 2] + str(n),
            "stars": n + i // 2 if i in (1, 3) else None,
            "channel": "web",
            "row_id": 10 * n + i,
        }
        for i in range(5)
        for n in range(3)
    ]


def save(folder, name: str, rows: list[dict]) -> str:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with open(path, "w", newline="", encoding="utf-8-sig") as file:
            delimiter = "\t" if name.endswith(".tsv") else ","
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.fixture
def mapping(tmp_path) -> str:
    return write(tmp_path, "columns.toml", MAPPING)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_sessions_become_conversations(tmp_path, mapping, name, shuffled):
    """In any kind of file, in any order of rows, with times as they come."""
    rows = table(forms=not name.endswith(".parquet"))
    if shuffled:
        random.Random(1).shuffle(rows)
    conversations, report = read_conversations(save(tmp_path, name, rows), mapping=mapping)
    assert sorted(c.id for c in conversations) == ["c0", "c1", "c2"]
    for c in conversations:
        n = c.id[1]
        assert [m.content for m in c.messages] == [f"{n}, message {i}\n" for i in range(5)]
        assert [m.role for m in c.messages] == ["user", "assistant"] * 2 + ["user"]
        assert c.user == f"u{n}"
        assert c.meta == {"rating": int(n) + 0.5, "channel": "web"}
    assert not report.lost and not report.mended and report.records == 15
    assert report.unused == {"field 'row_id' not used": 15}
    if not shuffled and name == "a.csv":  # two lines a row, below the header
        assert [c.source.rpartition(":")[2] for c in conversations] == ["2", "4", "6"]


def test_times_of_parquet_are_times(tmp_path, mapping):
    """Typed ones, of any zone; and dates."""
    rows = table()
    for i, row in enumerate(rows):
        zone = ZONES[i % 3]
        row["created_at"] = datetime.datetime.fromtimestamp(START - i, zone)
    conversations, _ = read_conversations(save(tmp_path, "a.parquet", rows), mapping=mapping)
    said = [[m.content[3:].strip() for m in c.messages] for c in conversations]
    assert said == [[f"message {i}" for i in range(4, -1, -1)]] * 3


@pytest.mark.parametrize("field", USUAL)
def test_usual_names_need_no_mapping(tmp_path, field):
    for name in USUAL[field].split(", "):
        names = {"session": "session", "role": "role", "text": "text", "time": "time"}
        names |= {"user": "user", "rating": "rating", field: name.upper()}
        rows = [
            {names["session"]: "s", names["role"]: ("user", "assistant")[i % 2]}
            | {names["text"]: f"m{i}", names["time"]: 9 - i}
            | {names["user"]: "eve", names["rating"]: "4"}
            for i in range(3)
        ]
        (found,), _ = read_conversations(save(tmp_path, "a.csv", rows))
        assert [m.content for m in found.messages] == ["m2", "m1", "m0"]
        assert (found.id, found.user, found.meta["rating"]) == ("s", "eve", 4.0)


def test_equal_times_and_none_keep_the_order_of_the_file(tmp_path):
    """A row without a time stays behind the one above it, and is counted."""
    rows = [("2", "user", "c"), ("", "assistant", "d"), ("2", "user", "e"), ("1", "user", "a")]
    rows += [("1", "assistant", "b")]
    lines = "".join(f"s,{time},{role},{text}\n" for time, role, text in rows)
    path = write(tmp_path, "a.csv", "session,time,role,text\n" + lines)
    (found,), report = read_conversations(path)
    assert "".join(m.content for m in found.messages) == "abcde"
    assert report.mended == {"row without a time": 1}


def test_a_row_that_cannot_be_read_leaves_a_gap(tmp_path, mapping):
    """At its own line and column; history begins anew behind it."""
    rows = table(forms=False)
    faults = {3: ("speaker", "robot"), 7: ("created_at", "yesterday"), 8: ("chat_id", "")}
    for i, (key, value) in faults.items():
        rows[i][key] = value
    path = save(tmp_path, "a.csv", rows)
    with pytest.raises(InputError, match=r"a\.csv:18: no session: column 'chat_id' is empty"):
        read_conversations(path, mapping=mapping)
    conversations, report = read_conversations(path, mapping=mapping, on_error="skip")
    lost = {"unknown role": 1, "bad time": 1, "no session": 1, "no follow-up": 1}
    assert report.lost == lost
    assert "a.csv:8: column 'speaker' is 'robot', expected" in report.examples["unknown role"]
    assert "[roles]" in report.examples["unknown role"]
    assert "a.csv:16: column 'created_at' is 'yesterday'" in report.examples["bad time"]
    learned = {c.id: [i.id for i in c.interactions()] for c in conversations}
    assert learned == {"c0": ["c0_3"], "c2": ["c2_1"]}  # of c1, only a reply is left


def test_a_broken_system_row_costs_its_session(tmp_path):
    rows = [{"session": s, "role": r, "text": t} for s in "ab" for r, t in DIALOGUE]
    rows[0]["text"] = 12
    path = save(tmp_path, "a.jsonl", rows)
    match = r"a\.jsonl:1: wrong type: column 'text' is 12.*session 'a'"
    with pytest.raises(InputError, match=match):
        read_conversations(path, "rows")
    conversations, report = read_conversations(path, "rows", on_error="skip")
    assert [c.id for c in conversations] == ["b"] and report.lost == {"wrong type": 1}


DIALOGUE = (("system", "Be brief."), ("user", "Q"), ("assistant", "A"), ("user", "Thanks"))


def test_sessions_go_on_in_the_next_file(tmp_path, mapping):
    """With a mapping, and with the format named."""
    rows = table(forms=False)
    for n in range(3):
        save(tmp_path, f"part{n}.csv", rows[5 * n : 5 * n + 5])
    conversations, report = read_conversations(f"{tmp_path}/*.csv", mapping=mapping)
    assert [len(c.messages) for c in conversations] == [5, 5, 5] and report.files == 3


def test_a_file_may_tell_roles_alone(tmp_path):
    path = save(tmp_path, "a.csv", [{"session": "s", "role": r, "text": r} for r in "xyx"])
    with pytest.raises(InputError, match=r"a\.csv:2: unknown role: column 'role' is 'x'"):
        read_conversations(path)
    told = write(tmp_path, "m.toml", '[roles]\nX = "user"\ny = "assistant"\n')
    assert len(read_conversations(path, mapping=told)[0]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("session = ", "not TOML"),
        (b"\xff\xfe", "not TOML in UTF-8"),
        ("", "nothing in it"),
        ('sesion = "a"', "unknown key 'sesion'. Did you mean 'session'?"),
        ('columns = "a"', "unknown key 'columns'. Expected"),
        ("session = 3", "session = 3: expected the name of a column"),
        ('session = "a"\ntext = "a"', "another line names that column too"),
        ('roles = "user"', r"expected a table, \[roles\]"),
        ('[roles]\nbot = "robot"', "bot = 'robot': expected one of system, user, assistant, tool"),
        ("[roles]\nbot = [1]", r"bot = \[1\]: expected one of"),
    ],
)
def test_bad_mapping_files(tmp_path, text, message):
    path = save(tmp_path, "a.csv", table())
    with pytest.raises(InputError, match=rf"data\.mapping=.*m\.toml: .*{message}"):
        read_conversations(path, mapping=write(tmp_path, "m.toml", text))


def test_mapping_files_that_are_not_there(tmp_path):
    path = save(tmp_path, "a.csv", table())
    with pytest.raises(InputError, match=r"nowhere\.toml: cannot be read \(No such file"):
        read_conversations(path, mapping=str(tmp_path / "nowhere.toml"))
    with pytest.raises(InputError, match="cannot be read"):
        read_conversations(path, mapping=str(tmp_path))
    told = write(tmp_path, "m.toml", MAPPING)
    with pytest.raises(InputError, match=r"data\.format is 'native': set one of them only"):
        read_conversations(path, "native", mapping=told)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_columns_that_are_not_there(tmp_path, name):
    """Whatever data.on_error is, with what there is and the nearest name."""
    path = save(tmp_path, name, table(forms=False))
    told = write(tmp_path, "m.toml", MAPPING.replace('"body"', '"bodi"'))
    match = rf"text = 'bodi': .*{name} has no such column, but 'chat_id'.* Did you mean 'body'\?"
    with pytest.raises(InputError, match=match):
        read_conversations(path, mapping=told, on_error="skip")


def test_tables_without_columns_that_are_needed(tmp_path):
    path = save(tmp_path, "a.csv", [{"chat_id": "c", "who": "user", "said": "Hi"}])
    with pytest.raises(InputError, match=r"no column for the role or the text of a message, found"):
        read_conversations(path, "rows", on_error="skip")


def test_a_column_of_nothing_is_a_column(tmp_path, mapping):
    """Parquet has no value in any of its rows."""
    rows = [row | {"stars": None} for row in table(forms=False)]
    schema = pa.Table.from_pylist(table(forms=False)).schema
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "a.parquet")
    conversations, _ = read_conversations(str(tmp_path / "a.parquet"), mapping=mapping)
    assert len(conversations) == 3 and "rating" not in conversations[0].meta


def test_ratings_that_are_words_are_counted(tmp_path):
    rows = [{"session": "s", "role": r, "text": t, "rating": "good"} for r, t in DIALOGUE]
    (found,), report = read_conversations(save(tmp_path, "a.csv", rows))
    assert "rating" not in found.meta and report.unused["rating that is no number"] == 4


def test_read_up_to_the_bound(tmp_path, mapping):
    path = save(tmp_path, "a.csv", table())
    with pytest.raises(InputError, match=r"file too large.*data\.max_bytes=500"):
        read_conversations(path, mapping=mapping, max_bytes=500)


@pytest.mark.parametrize("form", range(9))
def test_times_as_they_are_written(form):
    for second in (0, 1, 2, 59, 3600):
        assert moment_of(clock(second, form)) == (START + second) * 10**9
        assert moment_of(str(clock(second, form))) == (START + second) * 10**9


NO_TIMES = ("", "yesterday", "01/02/2024", "2024-13-01", "1e400", "9" * 64, "9" * 5000, 10**400)


@pytest.mark.parametrize(
    "value", [*NO_TIMES, float("nan"), float("inf"), True, [1], {"type": "binary"}, "٣", None]
)
def test_what_is_no_time(value):
    assert moment_of(value) is None


def test_columns_are_found_whatever_their_case():
    assert Columns().among(["Chat_ID", "Speaker", "BODY", "x"]) == {
        **{"session": "Chat_ID", "role": "Speaker", "text": "BODY"}
    }
    assert load_columns("") == Columns()
