"""The input is cut into parts that together hold what the files hold."""

import gzip
import itertools
import json

import pytest

from interact_jax.data.conversations import ReadReport, read_conversations, read_outcomes
from interact_jax.data.records import Loss
from interact_jax.prepare.parts import Part, find_inputs, plan_parts
from interact_jax.schema import Conversation, InputError
from tests.prepare.little import prepared, talk, write_logs

pytestmark = pytest.mark.one_device


def read(parts):
    report = ReadReport()
    return [
        item
        for part in parts
        for item in read_outcomes(part.file, part.stem, report, part.format, span=part.span)
        if isinstance(item, Conversation | Loss)
    ]


@pytest.mark.parametrize("size", [1, 200, 1000, 5000, 1 << 20])
@pytest.mark.parametrize("end", ["", "\n", "\n\n \n"])
def test_a_cut_file_is_read_as_the_whole_one(size, end, tmp_path):
    """Ids, places in messages, and losses are the same, wherever it is cut."""
    lines = [json.dumps(talk(n)) for n in range(40)]
    lines[7] = lines[7].replace('"id": "t7", ', "")  # named after its line
    lines[21], lines[33] = "{broken", ""
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + end)
    parts = plan_parts(str(tmp_path), part_bytes=size)
    assert [part.number for part in parts] == list(range(len(parts)))
    assert (len(parts) > 3) == (size < 5000)
    whole = read([Part(0, str(tmp_path / "log.jsonl"), "log", "native")])
    assert read(parts) == whole and len(whole) == 39
    assert any(item.id == "log.8" for item in whole if isinstance(item, Conversation))
    spans = [part.span for part in parts if part.span]
    assert all(a.end == b.start for a, b in itertools.pairwise(spans))


def test_parts_of_many_files_have_what_read_conversations_has(tmp_path):
    logs = write_logs(tmp_path / "logs", copies=False)
    whole, _ = read_conversations(str(logs))
    kept = [c for c in read(plan_parts(str(logs), part_bytes=3000)) if any(c.replies())]
    assert kept == whole


def test_the_plan_comes_back_from_json(tmp_path):
    logs = write_logs(tmp_path / "logs")
    parts = plan_parts(str(logs), part_bytes=3000)
    again = [Part.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]
    assert again == parts and parts[1].span.line > 1
    assert parts[1].name == f"{parts[1].file}:{parts[1].span.line}"


def test_what_cannot_be_cut_is_one_part(tmp_path):
    records = [talk(n) for n in range(50)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    flat = [
        {"message_id": str(n), "parent_id": str(n - 1) if n else None, "role": role, "text": "Hi"}
        for n in range(50)
        for role in [("prompter", "assistant")[n % 2]]
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(m) + "\n" for m in flat))
    (tmp_path / "d.jsonl").write_text('{"what": "is this"}\n' * 50)
    (tmp_path / "e.jsonl").write_text(lines)
    parts = plan_parts(str(tmp_path), part_bytes=1000)
    assert [part.span for part in parts[:4]] == [None] * 4
    assert all(part.span for part in parts[4:]) and len(parts) > 6
    assert {part.format for part in parts[4:]} == {"native"}


def test_prepared_data_are_no_logs(tmp_path):
    """Their descriptions would be read as such."""
    prepared(write_logs(tmp_path / "logs"), tmp_path / "data")
    with pytest.raises(InputError, match="data: prepared data, not logs"):
        plan_parts(str(tmp_path / "data"))


def test_what_cannot_be_read_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="standard input cannot be read again"):
        find_inputs("-")
    with pytest.raises(InputError, match="not a regular file"):
        find_inputs("/dev/null")
    with pytest.raises(InputError, match="no such file"):
        find_inputs(str(tmp_path / "nothing"))
