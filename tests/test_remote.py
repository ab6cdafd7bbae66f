"""Data elsewhere are read as files here; what cannot be reached is told soon."""

import fsspec
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem

from interact_jax import remote
from interact_jax.data.conversations import read_conversations
from interact_jax.data.records import find_files, read_records
from interact_jax.online.prompt_files import read_prompt_files
from interact_jax.schema import InputError
from tests.data.test_parquet import packed
from tests.logs import native

LINE = native(("user", "Q"), ("assistant", "A"), ("user", "Thanks"))


@pytest.fixture
def elsewhere(monkeypatch):
    """A system of files in memory, in place of the hub and of buckets."""
    system = MemoryFileSystem()
    system.store.clear()
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme: system)
    yield system
    system.store.clear()


@pytest.mark.parametrize("place", ["hf://datasets/ann/talks", "gs://bucket", "s3://bucket/logs"])
def test_directories_globs_and_files(elsewhere, place):
    """Of all kinds; what is hidden, and what stands beside data on the hub, is left out."""
    inner = "/" + place.partition("://")[2]
    elsewhere.pipe(f"{inner}/data/a.jsonl.zst", zstandard.compress(LINE))
    elsewhere.pipe(f"{inner}/data/b.parquet", packed(3, 2))
    for name in ("README.md", ".cache/x.jsonl", "dataset_infos.json"):
        elsewhere.pipe(f"{inner}/{name}", b"{}")
    both = [f"{place}/data/a.jsonl.zst", f"{place}/data/b.parquet"]
    assert list(find_files(place)) == list(find_files(f"{place}/")) == both
    assert list(find_files(f"{place}/data/*.parquet")) == both[1:]
    assert list(find_files(both[0]).values()) == ["a"]
    conversations, report = read_conversations(place)
    assert [c.id for c in conversations] == ["bad", "g0", "g1", "g2"] and report.files == 2
    assert conversations[0].source == f"{both[0]}:1"
    assert conversations[3].source == f"{both[1]}:row 3"


def test_prompts_too(elsewhere):
    elsewhere.pipe("/datasets/ann/asked/p.jsonl", b'{"prompt": "Why?"}\n')
    found, _ = read_prompt_files("hf://datasets/ann/asked")
    assert [asked.messages[0].content for asked in found] == ["Why?"]


def test_what_is_not_there(elsewhere):
    for path in ("hf://datasets/ann/none", "gs://bucket/*.csv", "s3://bucket/a.csv"):
        with pytest.raises(InputError, match=r"no such file, or no access to it\. Check"):
            find_files(path)


def test_the_hub_out_of_reach_is_told():
    """Tests have no network: HF_HUB_OFFLINE says so."""
    with pytest.raises(InputError, match=r"hf://datasets/a/b: cannot be reached .*hf download"):
        read_conversations("hf://datasets/a/b")
    with pytest.raises(InputError, match=r"hf://datasets/a/b/\*\.csv: cannot be reached"):
        find_files("hf://datasets/a/b/*.csv")
    with pytest.raises(InputError, match=r"hf://x: cannot be reached"):
        find_files("hf://x")


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("s3", "s3fs")])
def test_a_package_that_is_missing_is_named(monkeypatch, scheme, package):
    def missing(name):
        raise ImportError(f"Please install {package}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(InputError, match=f"`pip install {package}`"):
        find_files(f"{scheme}://bucket/logs")


def test_a_connection_that_breaks_is_a_loss(elsewhere, monkeypatch):
    """Whatever the library raises; what came before it is read."""
    elsewhere.pipe("/b/a.jsonl", LINE + b"\n" + LINE * 9999)
    open_file = elsewhere.open

    def breaking(*args, **options):
        file = open_file(*args, **options)
        read = file.read

        def once(size):
            if file.tell():
                raise RuntimeError("the line is dead")
            return read(min(size, len(LINE) + 1))

        file.read = once
        return file

    monkeypatch.setattr(elsewhere, "open", breaking)
    found = list(read_records("gs://b/a.jsonl", "a"))
    assert found[-1].reason == "unreadable file" and "the line is dead" in found[-1].detail


def test_a_changed_file_has_another_state(elsewhere):
    elsewhere.pipe("/b/a.jsonl", b"1")
    before = remote.state("gs://b/a.jsonl")
    assert remote.state("gs://b/a.jsonl") == before
    elsewhere.pipe("/b/a.jsonl", b"12")
    assert remote.state("gs://b/a.jsonl") != before


def test_names_that_only_look_so():
    assert not remote.is_remote("http://x/y") and not remote.is_remote("logs/hf://x")
    assert not remote.is_remote("-") and remote.is_remote("s3://b")
