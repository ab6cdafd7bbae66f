"""CSV and TSV: what is amiss in one row costs that row, and is told."""

import csv
import gzip
import io

import pytest
import zstandard

from interact_jax.data import sources, tables
from interact_jax.data.conversations import read_conversations
from interact_jax.data.records import Record, find_files, read_records
from interact_jax.schema import InputError
from tests.logs import write

HEAD = "session,role,text\n"


def cells(path: str, **options) -> list[list[str] | str]:
    """The cells of every row, in order, or why it is lost."""
    found = read_records(path, "a", **options)
    return [list(f.value.values()) if isinstance(f, Record) else f.reason for f in found]


def test_as_spreadsheets_write_them(tmp_path):
    """With a byte order mark, quotes, line breaks in cells, and either end of a line."""
    text = "\ufeff" + HEAD + 'a,user,"Two\nlines, ""quoted"""\na,assistant,\x00ñ\u2028🙂\n'
    expected = [["a", "user", 'Two\nlines, "quoted"'], ["a", "assistant", "\x00ñ\u2028🙂"]]
    assert cells(write(tmp_path, "a.csv", text)) == expected
    crlf = [[cell.replace("\n", "\r\n") for cell in row] for row in expected]
    assert cells(write(tmp_path, "b.CSV", text.replace("\n", "\r\n"))) == crlf
    returns = [[cell.replace("\n", "\r") for cell in row] for row in expected]
    assert cells(write(tmp_path, "c.csv", text.replace("\n", "\r"))) == returns
    tabs = "\ufeff" + HEAD.replace(",", "\t") + "a\tuser\tHi, you\n"
    assert cells(write(tmp_path, "d.tsv", tabs)) == [["a", "user", "Hi, you"]]
    for name in ("e.csv.gz", "e.csv.zst"):
        assert cells(write(tmp_path, name, text)) == expected


def test_places_are_the_lines_of_the_file(tmp_path):
    path = write(tmp_path, "a.csv", HEAD + 'a,user,"x\ny\nz"\n\n,,\na,user,q\n')
    found = list(read_records(path, "a"))
    assert [(f.where, f.name) for f in found] == [(f"{path}:2", "a.2"), (f"{path}:7", "a.7")]
    assert found[0].columns == ("session", "role", "text")


@pytest.mark.parametrize(
    ("bad", "reason", "words"),
    [
        ("b,user", "ragged row", "2 cells, but the first row names 3 columns"),
        ("b,user,Hi, you", "ragged row", "4 cells"),
        ('b,user,"Hi', "broken row", "a quote is not closed"),
        ('b,user,"Hi" you', "broken row", "not doubled"),
        (b"b,user,\xe9t\xe9", "not UTF-8", "byte 0xe9.*iconv"),
    ],
)
def test_a_bad_row_costs_itself(tmp_path, bad, reason, words):
    """Also where a quote that is not closed has swallowed the rows below, to the end or to the
    next quote."""
    rows = [f"{n},user,plain {n}" for n in range(9)]
    for after in (rows, [*rows, 'x,user,"quoted, twice"', "y,user,end"]):
        lines = [HEAD.strip(), "a,user,first", bad, *after]
        data = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
        path = write(tmp_path, "a.csv", data)
        found = cells(path)
        assert found[0][2] == "first" and found[1] == reason
        assert [f[0] for f in found[2:]] == [line.partition(",")[0] for line in after]
        with pytest.raises(InputError, match=rf"a\.csv:3: {reason}: .*{words}.*on_error=skip"):
            read_conversations(path)


@pytest.mark.parametrize("bad", ['"never ""ended""', '"x', 'x,"', '"""x', '""x'])
def test_lines_are_read_twice_at_most(tmp_path, monkeypatch, bad):
    """However many quotes are not closed: what the last of them swallows is all the rest."""
    fed = []
    following = tables._Lines.__next__
    monkeypatch.setattr(
        tables._Lines, "__next__", lambda self: fed.append(len(line := following(self))) or line
    )
    text = HEAD + "".join(f"{n},user,{bad}\n{n},user,fine\n" for n in range(1000))
    losses = [found for found in cells(write(tmp_path, "a.csv", text)) if isinstance(found, str)]
    assert len(losses) >= 999 and sum(fed) <= 2.1 * len(text)


def test_files_put_together(tmp_path):
    """Each with its mark and its header."""
    one = "\ufeff" + HEAD + "a,user,Hi\n"
    assert cells(write(tmp_path, "a.csv", one * 2)) == [["a", "user", "Hi"]] * 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "empty file"),
        (HEAD, "empty file"),
        ("session;role;text\na;user;Hi\n", r"a\.csv:1: bad header: one column.*separated by ','"),
        ("session,role,text,text\n", "bad header: two columns have the name 'text'"),
        ('"session,role\na,b\n', r"a\.csv:1: broken row"),
        ("session,role,text".encode("utf-16"), "not UTF-8.*iconv"),
    ],
)
def test_what_is_no_table(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        read_conversations(write(tmp_path, "a.csv", data))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_the_row_in_which_a_file_was_cut_is_not_half_read(tmp_path, pack):
    """It has the right number of cells, and less text than it had."""
    text = HEAD + "a,user,first\n" + "b,user,a long text that goes on\n"
    path = write(tmp_path, "a.csv", pack((HEAD + "a,user,first\nb,user,half").encode()) + b"\x28")
    assert cells(path)[:1] == [["a", "user", "first"]] and "damaged" in cells(path)[-1]
    assert len(cells(path)) == 2
    path = write(tmp_path, "b.csv", text)
    assert cells(path, max_bytes=len(text) - 9) == [["a", "user", "first"], "file too large"]
    assert cells(path, max_bytes=len(text))[1][2] == "a long text that goes on"


def test_long_cells_and_longer_lines(tmp_path, monkeypatch):
    """What Python's reader would refuse is read, and a line beyond all measure passed over."""
    monkeypatch.setattr(tables, "LONGEST", 400_000)
    monkeypatch.setattr(sources, "LONGEST", 400_000)
    rows = ["a,user," + "x" * 300_000, "b,user," + "x" * 500_000, "c,user,y"]
    found = cells(write(tmp_path, "a.csv", HEAD + "\n".join(rows)))
    assert [f if isinstance(f, str) else f[0] for f in found] == ["a", "line too long", "c"]
    assert len(found[0][2]) == 300_000


def test_a_row_may_be_a_conversation(tmp_path):
    """Tables are read in any format whose records are texts."""
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("prompt", "chosen", "rejected"), ("Q", "A, yes", "B\nno")])
    path = write(tmp_path, "a.csv", out.getvalue())
    (found,), _ = read_conversations(
        path, count_units=lambda c: len(c.preferences or ()), expected="pairs"
    )
    assert found.preferences is not None and found.id == "a.2"


def test_files_of_all_kinds_are_found(tmp_path):
    names = ["a.csv", "b.TSV", "c.parquet", "d.jsonl.zst", "e.json", "f.csv.gz", "g.zst"]
    for name in [*names, "notes.txt", ".hidden.csv"]:
        write(tmp_path, name, "x")
    found = find_files(str(tmp_path))
    assert [file.rpartition("/")[2] for file in found] == names
    assert list(found.values()) == list("abcdefg")
