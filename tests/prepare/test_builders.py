"""Builders of TFDS, known by name once they are imported."""

import sys

import pytest
import tensorflow_datasets as tfds

from interact_jax.data.prepared import PreparedData
from interact_jax.prepare import builders
from interact_jax.prepare.builders import LogsConfig
from interact_jax.schema import InputError
from tests.prepare.little import write_logs

pytestmark = pytest.mark.one_device
NAMES = ("wildchat", "wildfeedback", "lmsys", "logs")


def manual(folder):
    return tfds.download.DownloadConfig(manual_dir=str(folder))


@pytest.mark.parametrize("name", NAMES)
def test_they_are_registered(name, tmp_path):
    builder = tfds.builder(f"interact_{name}", data_dir=str(tmp_path))
    assert set(builder.info.features) == set(builders.FEATURES)
    assert not builder.is_prepared()


def test_logs_are_prepared_and_read_by_name(tmp_path):
    logs, data = write_logs(tmp_path / "logs"), str(tmp_path / "data")
    tfds.builder("interact_logs", data_dir=data).download_and_prepare(download_config=manual(logs))
    found = tfds.data_source("interact_logs", data_dir=data, split="train")
    ours = PreparedData(tmp_path / "data" / "interact_logs" / "1.0.0")
    assert [one["id"].decode() for one in found] == [one.id for one in ours]
    assert len(ours) > 100 and "tensorflow" not in sys.modules
    again = tfds.builder_from_directory(str(ours.directory)).as_data_source(split="train")
    assert again[7] == found[7]


def test_a_config_names_logs_and_splits(tmp_path):
    logs = write_logs(tmp_path / "logs")
    config = LogsConfig(name="shop", path=str(logs), splits="train=0.5,rest=0.5")
    builder = tfds.builder("interact_logs", data_dir=str(tmp_path / "data"), config=config)
    builder.download_and_prepare()
    sizes = {name: len(found) for name, found in builder.as_data_source().items()}
    assert set(sizes) == {"train", "rest"} and sum(sizes.values()) == 120
    assert not list((tmp_path / "data").rglob(".preparing"))


def test_one_that_stopped_goes_on(tmp_path, monkeypatch):
    logs = write_logs(tmp_path / "logs")
    with (logs / "log-2.jsonl").open("a") as log:
        log.write("{broken\n")
    builder = tfds.builder("interact_logs", data_dir=str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"log-2\.jsonl:41: broken JSON"):
        builder.download_and_prepare(download_config=manual(logs))
    (begun,) = (tmp_path / "data").rglob(".preparing")
    assert len(list(begun.rglob("*.read.json"))) == 2
