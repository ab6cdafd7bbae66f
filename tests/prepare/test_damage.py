"""Files of prepared data, done or begun, that are not as they were written are refused by name."""

import json
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interact_jax.data.prepared import PreparedData
from interact_jax.prepare import deciding, reading
from interact_jax.prepare.job import Job
from interact_jax.prepare.pipeline import Share, holding, planned
from interact_jax.schema import InputError
from tests.logs import good
from tests.prepare.little import Once, content, prepared, settings_of, write_logs

pytestmark = pytest.mark.one_device


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return write_logs(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def begun(logs, tmp_path_factory):
    """Everything is read and decided, nothing written."""
    out = tmp_path_factory.mktemp("begun") / "out"
    with holding(out, Share()) as folder:
        parts = planned(settings_of(logs, "once"), folder)
        job = Job(settings_of(logs, "once"), out, len(parts), (Once(),))
        for part in parts:
            reading.read_part(job, part)
        deciding.decide(job)
    return out


@pytest.fixture(scope="module")
def done(logs, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "out"
    prepared(logs, out, "once")
    return out


def test_what_was_begun_goes_on_to_the_same_end(logs, begun, done, tmp_path):
    out = shutil.copytree(begun, tmp_path / "out")
    prepared(logs, out, "once")
    same = [name for name, data in content(done).items() if content(out)[name] == data]
    assert {*content(done)} - {*same} <= {"card.json", "README.md"}  # they name the directory


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "name", ["plan.json", "00001.read.json", "00002.decided.json", "00001.ids", "00000.note-0"]
)
def test_a_changed_byte_of_what_was_begun_is_refused(name, seed, logs, begun, tmp_path):
    """It was taken as it was: other counts, other ids, other duplicates, or a KeyError."""
    is_note = name.endswith(("ids", "note-0"))
    out = shutil.copytree(begun, tmp_path / "out")
    if is_note:  # they are read to decide
        (out / "parts" / "decided.json").unlink()
    file, draw = out / "parts" / name, random.Random(seed)
    data = bytearray(file.read_bytes())
    at = draw.choice([i for i, byte in enumerate(data) if is_note or chr(byte).isalnum()])
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}: damaged.*Delete .*prepare it again"):
        prepared(logs, out, "once")


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"version": 1}'])
def test_another_plan_is_refused(text, logs, begun, tmp_path):
    out = shutil.copytree(begun, tmp_path / "out")
    (out / "parts" / "plan.json").write_text(text)
    with pytest.raises(InputError, match=r"plan\.json: damaged"):
        prepared(logs, out, "once")


def test_a_file_of_another_part_is_refused(logs, begun, tmp_path):
    out = shutil.copytree(begun, tmp_path / "out")
    for name in ("kept", "decided.json"):
        file = out / "parts" / f"00001.{name}"
        sound = file.read_bytes()
        file.write_bytes((out / "parts" / f"00002.{name}").read_bytes())
        with pytest.raises(InputError, match=rf"00001\.{name}: damaged"):
            prepared(logs, out, "once")
        file.write_bytes(sound)


def test_a_changed_number_of_an_index_is_refused(done, tmp_path):
    """It was another user, or other interactions, in silence."""
    out = shutil.copytree(done, tmp_path / "out")
    file = next(out.glob("*-train.index-*.npy"))
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=rf"{file.name}: damaged: it has another digest\. Copy"):
        PreparedData(out)
    file.write_bytes(data[:9] + b"((" + data[11:])  # numpy raised an error of a tokenizer
    with pytest.raises(InputError, match=rf"{file.name}: damaged"):
        PreparedData(out)


@pytest.mark.parametrize("what", ["shards", "index"])
def test_exchanged_files_in_a_card_are_refused(what, done, tmp_path):
    """Conversations were in another order, or had the numbers of others."""
    out = shutil.copytree(done, tmp_path / "out")
    card = json.loads((out / "card.json").read_text())
    files = card["splits"]["train"][what]
    files[0], files[1] = files[1], files[0]
    (out / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"card\.json: "):
        PreparedData(out)


def test_a_mapping_file_below_the_home_directory(tmp_path, monkeypatch):
    """It was read, and then not found."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "columns.toml").write_text('text = "body"\n')
    (tmp_path / "a.csv").write_text("chat,role,body\na,user,Hi\na,assistant,Hello\na,user,Bye\n")
    card = prepared(tmp_path / "a.csv", tmp_path / "out", mapping="~/columns.toml")
    assert card["counts"]["kept"] == 1


def test_all_rows_that_are_lost_at_once_are_counted(tmp_path):
    """A damaged row group of Parquet counted as one."""
    rows = pa.Table.from_pylist([good(f"g{n}") for n in range(30)])
    file = tmp_path / "a.parquet"
    pq.write_table(rows, file, row_group_size=10, compression="none", write_page_checksum=True)
    data = bytearray(file.read_bytes())
    data[data.index(b"Thanks from g15")] ^= 1
    file.write_bytes(data)
    card = prepared(file, tmp_path / "out", on_error="skip")
    assert card["not_read"] == {"damaged Parquet": 10}
    assert card["counts"]["read"] == 30 and card["counts"]["kept"] == 20
