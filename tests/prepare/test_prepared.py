"""Prepared data are read by PreparedData, and by tensorflow_datasets, at any place."""

import json
import multiprocessing
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds

from interact_jax.data import prepared as reader
from interact_jax.data.array_records import Writer, encode
from interact_jax.data.prepared import PreparedData, is_prepared
from interact_jax.prepare.pipeline import Share
from interact_jax.prepare.writing import describe
from interact_jax.schema import InputError
from tests.prepare.little import prepared, write_logs

pytestmark = pytest.mark.one_device


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """In the layout in which `tfds.load` finds data by name."""
    folder = tmp_path_factory.mktemp("prepared")
    out = folder / "little" / "1.0.0"
    out.parent.mkdir()
    prepared(write_logs(folder / "logs"), out, "talkative", name="little")
    return out


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def test_tfds_reads_them_without_tensorflow(whole):
    source = tfds.builder_from_directory(str(whole)).as_data_source()
    assert set(source) == {"train", "test"}
    for split, found in source.items():
        ours = PreparedData(whole, split)
        assert len(found) == len(ours) > 5
        for theirs, one in zip(found, ours, strict=True):
            assert theirs["id"].decode() == one.id
            assert theirs["user"].decode() == one.user
            assert theirs["source"].decode() == one.source
            assert theirs["messages"] == len(one.messages)
            assert theirs["interactions"] == len(list(one.interactions()))
            assert json.loads(theirs["conversation"])["id"] == one.id
    by_name = tfds.data_source("little", data_dir=str(whole.parent.parent), split="train")
    assert len(by_name) == len(source["train"]) and by_name[3] == source["train"][3]
    assert "tensorflow" not in sys.modules


def test_tfds_reads_parts_of_splits(whole):
    part = tfds.data_source("little", data_dir=str(whole.parent.parent), split="train[3:7]")
    assert [one["id"].decode() for one in part] == [c.id for c in PreparedData(whole)[3:7]]


def test_any_place_in_any_order(whole):
    data = PreparedData(whole)
    listed = list(data)
    assert len(listed) == len(data)
    order = [5, 0, len(data) - 1, 5, -1, 17]
    assert data.batch(order) == [listed[n] for n in order]
    assert data[-2] == listed[-2] and data[3:30:7] == listed[3:30:7] and data.batch([]) == []
    for beyond in (len(data), -len(data) - 1):
        with pytest.raises(IndexError):
            data[beyond]


def test_few_shards_are_open_at_a_time(whole, monkeypatch):
    monkeypatch.setattr(reader, "MOST_OPEN", 2)
    data = PreparedData(whole)
    assert list(data) == list(PreparedData(whole))
    assert len(data._readers) == 2


def test_threads_and_processes(whole):
    data = PreparedData(whole)
    listed = list(data)
    again = pickle.loads(pickle.dumps(data))
    assert list(again) == listed and again.digest == data.digest
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(data.__getitem__, [*range(len(data))] * 5)) == listed * 5
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(data.__getitem__, range(len(data))) == listed


def test_splits_have_digests_of_their_own(whole):
    card = json.loads((whole / "card.json").read_text())
    digests = {PreparedData(whole, split).digest for split in ("train", "test")}
    assert digests == {split["digest"] for split in card["splits"].values()}
    assert len({*digests, card["digest"]}) == 3


@pytest.mark.parametrize("times", range(3))
def test_a_flipped_bit_is_named(times, copy):
    """Wherever it is: the record is right, or refused with file and number."""
    data = PreparedData(copy)
    expected = list(data)
    shard = data._files[1]
    sound = shard.read_bytes()
    start = 20 + times
    refused = 0
    for at in range(start, len(sound), len(sound) // 60):
        shard.write_bytes(sound[:at] + bytes([sound[at] ^ 16]) + sound[at + 1 :])
        found = PreparedData(copy)
        for n, one in enumerate(expected):
            try:
                assert found[n] == one
            except InputError as error:
                refused += 1
                assert str(shard) in str(error) and "damaged" in str(error)
                if "records, expected" not in str(error) and ", record" in str(error):
                    assert f"record {n - data._ends[0]}:" in str(error)
    assert refused


def test_a_shard_that_is_sound_but_another_is_named(copy):
    """Of the same size and with as many records, as a copy under a wrong name may be."""
    data = PreparedData(copy)
    shard, (first, second, *others) = data._files[1], list(data)[data._ends[0] : data._ends[1]]
    writer = Writer(shard)  # empties the file, which is read no more
    for one in (second, first, *others):
        writer.write(encode(one, len(list(one.interactions()))))
    writer.close()
    found = PreparedData(copy)
    assert found[data._ends[0] + 2] == others[0]
    with pytest.raises(InputError, match=f"{shard}, record 0: damaged: it is another one"):
        found[data._ends[0]]


def test_numbers_without_checksums_are_read(copy):
    """An earlier version wrote none."""
    expected, card = list(PreparedData(copy)), json.loads((copy / "card.json").read_text())
    for described in card["splits"]["train"]["index"]:
        file = copy / described["file"]
        np.save(file, np.load(file)[list(reader.EARLIER.names)].astype(reader.EARLIER))
        described |= describe(file)
    (copy / "card.json").write_text(json.dumps(card))
    assert list(PreparedData(copy)) == expected


def test_what_is_missing_or_cut_is_named(copy):
    shard = PreparedData(copy)._files[0]
    size, sound = shard.stat().st_size, shard.read_bytes()
    shard.write_bytes(sound[:-1])
    with pytest.raises(InputError, match=f"{shard}: damaged: has {size - 1:,} bytes, expected"):
        PreparedData(copy)
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard}: there is no such file"):
        PreparedData(copy)
    shard.write_bytes(bytes(size))
    with pytest.raises(InputError, match=f"{shard}: damaged"):
        PreparedData(copy)[0]


def test_no_such_split(whole, tmp_path):
    with pytest.raises(InputError, match=r"no split 'tets', expected one of train, test\. Did"):
        PreparedData(whole, "tets")
    with pytest.raises(InputError, match="no prepared data"):
        PreparedData(tmp_path)


@pytest.mark.parametrize(
    "card",
    [
        "{",
        "[]",
        "{}",
        '{"splits": 3}',
        '{"splits": {"train": 3}}',
        '{"splits": {"train": {}}}',
        '{"splits": {"train": {"digest": "x", "shards": [{"file": "../x"}]}}}',
        '{"splits": {"train": {"digest": "x", "shards": [{}]}}}',
    ],
)
def test_a_damaged_card_is_refused(card, copy):
    (copy / "card.json").write_text(card)
    with pytest.raises(InputError, match=r"card\.json"):
        PreparedData(copy)


def test_what_is_prepared_is_known(whole, tmp_path):
    assert is_prepared(whole) and is_prepared(str(whole))
    assert not is_prepared(whole.parent) and not is_prepared(tmp_path / "absent")
    prepared(write_logs(tmp_path / "logs"), tmp_path / "out", share=Share(0, 2))
    assert is_prepared(tmp_path / "out")
    with pytest.raises(InputError, match="was not prepared to the end"):
        PreparedData(tmp_path / "out")
