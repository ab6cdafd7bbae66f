"""From files to records: what an editor, a disk or a bad item does costs nothing but itself."""

import gzip
import json
import random

import pytest

from interact_jax.data import records, sources
from interact_jax.data.conversations import read_conversations
from interact_jax.data.records import read_records
from interact_jax.schema import InputError
from tests.logs import chat, good, ids, native, write

# ------------------------------------------------------------------------------- lines and lists


def test_lines_as_editors_leave_them(tmp_path):
    """A byte order mark, CRLF, blank lines and a last line without an end change nothing."""
    lines = [json.dumps(good(i)) for i in "abc"]
    path = write(tmp_path, "a.jsonl", "\ufeff" + "\r\n\r\n".join(lines))
    conversations, _ = read_conversations(path)
    assert [c.id for c in conversations] == ["a", "b", "c"]
    assert [c.source for c in conversations] == [f"{path}:1", f"{path}:3", f"{path}:5"]


def test_a_first_line_in_utf16_costs_itself_alone(tmp_path):
    """As where files were put together: the whole file was taken for UTF-16."""
    lines = [json.dumps(good(i)).encode() + b"\n" for i in "abc"]
    lines[0] = lines[0].decode().encode("utf-16")
    path = write(tmp_path, "a.jsonl", b"".join(lines))
    with pytest.raises(InputError, match=r"a\.jsonl:1: not UTF-8"):
        read_conversations(path)
    conversations, report = read_conversations(path, on_error="skip")
    assert "c" in [c.id for c in conversations] and report.lost["not UTF-8"] >= 1


BAD_ITEMS = {
    "unknown role": native(("narrator", "Hi")),
    "not UTF-8": native(("user", "Hi")).replace(b"Hi", b"\xe9t\xe9"),
    "not an object": b"12",
    "broken JSON": json.dumps(good("b"), indent=2).replace("{", "{,", 1).encode(),
}


@pytest.mark.parametrize("reason", BAD_ITEMS)
@pytest.mark.parametrize("indent", [None, 2])
def test_bad_item(tmp_path, reason, indent):
    """In a JSON list, too: the line and the number of the item, and its neighbours survive."""
    first, last = (json.dumps(good(i), indent=indent).encode() for i in "ac")
    text = b"[\n" + b",\n".join([first, BAD_ITEMS[reason], last]) + b"\n]\n"
    path = write(tmp_path, "chats.json", text.replace(b"\n", b"\n ") if indent else text)
    line = 2 + first.count(b"\n") + 1
    with pytest.raises(InputError, match="on_error=skip") as caught:
        read_conversations(path)
    assert str(caught.value).startswith(f"{path}:{line} (item 2): {reason}: ")
    conversations, report = read_conversations(path, on_error="skip")
    assert [c.id for c in conversations] == ["a", "c"]
    assert report.lost == {reason: 1} and report.records == 3


REST = "the rest of the list cannot be read"


@pytest.mark.parametrize(
    ("tail", "line", "words"),
    [
        (b',\n{"id": }\n]', 3, ["Expecting value", REST]),
        (b",", 2, ["no end"]),
        (b" 5]", 2, ["Expecting ','", REST]),
        (b"]\n]", 3, ["Expecting value", REST]),
    ],
)
def test_broken_list(tmp_path, tail, line, words):
    """What stands before the break comes through; that what follows does not is said."""
    path = write(tmp_path, "a.json", b"[\n" + json.dumps(good("a")).encode() + tail)
    with pytest.raises(InputError) as caught:
        read_conversations(path)
    assert str(caught.value).startswith(f"{path}:{line}")
    for word in ("broken JSON", *words):
        assert word in str(caught.value)
    conversations, report = read_conversations(path, on_error="skip")
    assert [c.id for c in conversations] == ["a"] and report.lost == {"broken JSON": 1}


@pytest.mark.parametrize("first", [b"[broken", b'["a"', b'[{"id": "x", "messages"'])
def test_first_line_like_a_list(tmp_path, first):
    """Lines whose first is bad come through even where it opens as a list does."""
    lines = [first, *(json.dumps(good(i)).encode() for i in "bcd")]
    path = write(tmp_path, "a.jsonl", b"\n".join(lines))
    conversations, report = read_conversations(path, on_error="skip")
    assert [c.id for c in conversations] == ["b", "c", "d"]
    assert report.lost["broken JSON"] == 1


# --------------------------------------------------------------------------------- damaged gzip


def packed(count: int, layout: str) -> bytes:
    """gzip of dialogues whose words do not compress, so that bytes and dialogues go in step."""
    draw = random.Random(0)
    records = [chat(f"c{i}", f"{draw.getrandbits(800):x}", "Yes", "Ok") for i in range(count)]
    lines = [json.dumps(record) for record in records]
    return gzip.compress(
        ("\n".join(lines) if layout == "lines" else f"[{','.join(lines)}]").encode()
    )


@pytest.mark.parametrize("damage", ["cut", "flipped"])
@pytest.mark.parametrize("layout", ["lines", "list"])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_damaged_gzip(tmp_path, layout, damage, share):
    """What stands before the damage comes through, nearly to the byte; nothing is made up."""
    data = packed(300, layout)
    at = int(share * len(data))
    broken = data[:at] if damage == "cut" else data[:at] + bytes(99) + data[at + 99 :]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(broken)
    with pytest.raises(InputError, match=r"on_error=skip") as caught:
        read_conversations(str(path))
    if damage == "cut":
        assert "damaged gzip" in str(caught.value) and f"{path}:" in str(caught.value)
    conversations, report = read_conversations(str(path), on_error="skip")
    assert report.lost["damaged gzip"] + report.lost["broken JSON"] >= 1
    count = sum(c.id == f"c{i}" for i, c in enumerate(conversations))
    assert int(share * 300) - 3 <= count <= int(share * 300) + 3
    if damage == "cut":
        assert count == len(conversations) and report.lost == {"damaged gzip": 1}


@pytest.mark.parametrize("layout", ["lines", "list"])
def test_gzip_without_its_end(tmp_path, layout):
    """Only the checksum is missing: every dialogue comes through, the last without a line end."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(packed(20, layout)[:-8])
    conversations, report = read_conversations(str(path), on_error="skip")
    assert len(conversations) == 20 and report.lost == {"damaged gzip": 1}
    path.write_bytes(packed(0, layout)[:-8])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz.*damaged gzip: it ends too early"):
        read_conversations(str(path))


@pytest.mark.parametrize("zeros", [0, 2, 2 * sources.CHUNK])
def test_gzip_by_bytes_and_in_members(tmp_path, zeros):
    """gzip is known by its bytes, whatever its name; members stand one behind the other, with
    zeros between them, as tapes have them, or without."""
    members = [gzip.compress(json.dumps(good(i)).encode() + b"\n") for i in "abc"]
    path = write(tmp_path, "chats.jsonl", b"".join(member + bytes(zeros) for member in members))
    assert ids(path) == ["a", "b", "c"]


def test_gzip_in_name_only(tmp_path):
    (tmp_path / "a.jsonl.gz").write_text(json.dumps(good("a")))
    with pytest.raises(InputError, match=r"a\.jsonl\.gz.*damaged gzip.*on_error=skip"):
        read_conversations(str(tmp_path / "a.jsonl.gz"))


# ------------------------------------------------------------------------- files put together


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("indent", [None, 1])
def test_files_put_together_lose_nothing(tmp_path, end, indent):
    """Each with its byte order mark, with a last line end or without; lists too."""
    mark = "\ufeff".encode()
    lines = [json.dumps(good(i)).encode() for i in "abc"]
    path = write(tmp_path, "a.jsonl", b"".join(mark + line + end for line in lines))
    assert ids(path) == ["a", "b", "c"]
    lists = [json.dumps([good(i), good(i + i)], indent=indent).encode() for i in "abc"]
    path = write(tmp_path, "a.json", b"".join(mark + each + end for each in lists))
    assert ids(path) == ["a", "aa", "b", "bb", "c", "cc"]
    mixed = write(tmp_path, "b.json", lists[0] + b"\n" + b"\n".join(lines[1:]))
    assert ids(mixed) == ["a", "aa", "b", "c"]


def test_a_mark_in_a_message_stays(tmp_path):
    path = write(tmp_path, "a.jsonl", [chat("a", "Q\ufeff{}", "\ufeff", "P")])
    [conversation], _ = read_conversations(path)
    assert [m.content for m in conversation.messages] == ["Q\ufeff{}", "\ufeff", "P"]


# --------------------------------------------------------------------------------- large and long


def test_a_file_is_read_up_to_a_bound(tmp_path):
    """Of what comes unpacked. The line in which it ends is not half read; other files are."""
    lines = [json.dumps(good(i)) + "\n" for i in "abc"]
    bound = len(lines[0]) + len(lines[1]) + 9
    for name in ("a.jsonl", "a.jsonl.gz", "a.json"):
        text = "".join(lines) if name != "a.json" else f"[{','.join(lines)}]"
        path = write(tmp_path, name, text)
        with pytest.raises(InputError) as caught:
            read_conversations(path, max_bytes=bound)
        assert str(caught.value).startswith(f"{path}:")
        assert f"file too large: it has more than data.max_bytes={bound:,}" in str(caught.value)
        conversations, report = read_conversations(path, max_bytes=bound, on_error="skip")
        assert [c.id for c in conversations] == ["a", "b"]
        assert report.lost == {"file too large": 1}
        assert len(read_conversations(path, max_bytes=len(text))[0]) == 3


@pytest.mark.parametrize("opening", [b"", b"[", b'{"id": "'])
def test_gzip_that_swells_is_read_up_to_the_bound(tmp_path, opening):
    """Of bytes that are next to nothing packed, no more is unpacked than asked for."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(opening + bytes(10_000_000).replace(b"\0", b" ")))
    with pytest.raises(InputError, match=r"file too large.*data\.max_bytes=1,000,000"):
        read_conversations(str(path), max_bytes=1_000_000)


def test_a_file_without_an_end_is_read_up_to_the_bound():
    with pytest.raises(InputError, match=r"/dev/zero:1: file too large.*data\.max_bytes=5,000"):
        read_conversations("/dev/zero", max_bytes=5_000)


def test_a_line_too_long_to_look_at(tmp_path, monkeypatch):
    """It is passed over; its neighbours are not."""
    for module in (sources, records):
        monkeypatch.setattr(module, "LONGEST", 100_000)
    lines = [good("a"), chat("b", "Q", "A" * 200_000, "P"), good("c")]
    path = write(tmp_path, "a.jsonl", lines)
    with pytest.raises(InputError, match=r"a\.jsonl:2: line too long: .*100,000 bytes"):
        read_conversations(path)
    assert ids(path, on_error="skip") == ["a", "c"]


@pytest.mark.parametrize("length", [*range(records.PIECE - 99, records.PIECE + 9), 10**6])
def test_items_of_any_length(tmp_path, length):
    """Wherever the piece that is decoded ends: in a text, an escape, a number, a literal."""
    item = '{"m": "%s\\ud83d\\ude00\\n", "n": [-12345.5e10, true, null]}' % ("y" * length)
    text = f"[{item}, -1234567890.5, {item}]"
    found = [record.value for record in read_records(write(tmp_path, "a.json", text), "a")]
    assert found == json.loads(text)


@pytest.mark.parametrize("broken", ['{"id": }', '{"id": "a', "{,", '{"id": 1 2}'])
def test_broken_items_take_no_look_at_the_others(tmp_path, monkeypatch, broken):
    """What is handed to the decoder for one does not grow with their number."""
    seen = []

    class Decoder(json.JSONDecoder):
        def raw_decode(self, text, position=0):
            seen.append(len(text) - position)
            return super().raw_decode(text, position)

    monkeypatch.setattr(json, "JSONDecoder", Decoder)
    lines = ",\n".join([broken] * 5_000 + [json.dumps(good("a"))])
    path = write(tmp_path, "a.json", f"[\n{lines}\n]")
    conversations, report = read_conversations(path, on_error="skip")
    assert [c.id for c in conversations] == ["a"] and report.lost == {"broken JSON": 5_000}
    assert report.examples["broken JSON"].startswith(f"{path}:2 (item 1): ")
    assert len(seen) > 5_000 and sum(seen) < 5_001 * 2 * records.PIECE


def test_the_beginning_of_a_long_line_is_not_copied_for_each_piece():
    """It is put together once."""
    copied = []

    class Piece(bytes):
        def __radd__(self, before):
            copied.append(len(before))
            return bytes(before) + bytes(self)

    pieces = [Piece(b"x" * 1000) for _ in range(100)]
    lines = list(sources.lines_of([*pieces, b"\n\na\nb"]))
    assert lines == [b"x" * 100_000, b"", b"a", b"b"]
    assert sum(copied) <= 100_000


# ------------------------------------------------------------------------------------- file sets


def test_files(tmp_path):
    """A directory, a glob and a file mean their files, sorted; ids that we make up differ."""
    record = {"messages": good("")["messages"]}
    for name in ("b/train.jsonl.gz", "a/train.jsonl", "a/x.json", "a/x.jsonl", "notes.txt"):
        write(tmp_path, name, [record, record])
    train = ["a/train.1", "a/train.2", "b/train.1", "b/train.2"]
    assert ids(f"{tmp_path}/*/train*") == train
    both = [f"a/{name}.{i}" for name in ("x.json", "x.jsonl") for i in (1, 2)]
    assert ids(str(tmp_path)) == train[:2] + both + train[2:]
    assert ids(f"{tmp_path}/b/train.jsonl.gz") == ["train.1", "train.2"]


@pytest.mark.parametrize("content", ["", " \n\n", "[]", "\ufeff"])
def test_empty_file(tmp_path, content):
    """An empty file is an error; skipped, the others count."""
    empty = write(tmp_path, "a.jsonl", content)
    write(tmp_path, "b.jsonl", [good("x")])
    with pytest.raises(InputError, match=r"a\.jsonl: empty file.*on_error=skip"):
        read_conversations(str(tmp_path))
    assert ids(str(tmp_path), on_error="skip") == ["x"]
    with pytest.raises(InputError, match=r"no interaction(.|\n)*1 x empty file"):
        read_conversations(empty, on_error="skip")


@pytest.mark.parametrize("path", ["nowhere.jsonl", "nowhere/*.jsonl", "", "void"])
def test_no_such_path(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match="no such file"):
        read_conversations(path, on_error="skip")


def test_unreadable_file(tmp_path):
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match=r"a\.jsonl: unreadable file: No such file"):
        read_conversations(str(tmp_path / "a.jsonl"))


# -------------------------------------------------------------------------------- what is no JSON


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.parquet", b"PAR1\x15\x04\x15", r"damaged Parquet: it cannot be opened"),
        ("a.jsonl", b"PAR1\x15\x04\x15", r"damaged Parquet"),  # by what it is, not by its name
        ("a.parquet.gz", b"PAR1\x15\x04\x15", r"Parquet file.*Unpack.*Parquet as it is"),
        ("a.csv", b"id,prompt\n1,hello\n", r"unknown format: found the keys 'id', 'prompt'"),
        ("a.TSV", b"id\tprompt\n1\thello\n", r"unknown format: found the keys 'id', 'prompt'"),
        ("a.csv", b"id,role,content\n1,user,hello\n", r"single message.*docs/data.md"),
        (
            "a.jsonl",
            '{"id": 1}'.encode("utf-16"),
            r"as UTF-16 does\. Convert it, `iconv .*a.jsonl >",
        ),
        ("b.jsonl", b"\x28\xb5\x2f\xfd\x00", r"damaged zstd: it ends too early"),
        ("a.zip", b"PK\x03\x04\x00", r"zip file.*plain, .gz or .zst"),
    ],
)
def test_files_of_other_kinds_are_told_what_reads_them(tmp_path, name, data, message):
    path = write(tmp_path, name, data)
    with pytest.raises(InputError, match=message):
        read_conversations(path)
    write(tmp_path, "c.jsonl", native(("user", "q"), ("assistant", "a"), ("user", "o")))
    found, report = read_conversations(f"{tmp_path}/*", on_error="skip")
    assert len(found) == 1 and sum(report.lost.values()) == 1


def test_json_in_a_file_that_is_called_a_table_is_read(tmp_path):
    path = write(tmp_path, "a.csv", native(("user", "q"), ("assistant", "a"), ("user", "o")))
    assert len(read_conversations(path)[0]) == 1
