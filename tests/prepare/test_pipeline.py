"""From logs to shards: what is kept, counted, refused, and continued."""

import dataclasses
import errno
import json
import os
import shutil

import numpy as np
import pytest

from interact_jax import places
from interact_jax.data.conversations import count_interactions, read_conversations
from interact_jax.data.prepared import PreparedData
from interact_jax.data.tokenizer import load_tokenizer
from interact_jax.models.hf.directories import POCKET
from interact_jax.prepare import buckets, deciding, pipeline, reading, writing
from interact_jax.prepare.describing import About
from interact_jax.prepare.job import Job
from interact_jax.prepare.pipeline import Left, Share
from interact_jax.prepare.trial import dry_run
from interact_jax.prepare.workers import Workers
from interact_jax.schema import InputError, RunStopped
from tests.prepare.little import (
    SPLITS,
    Once,
    content,
    parse_filter,
    prepared,
    settings_of,
    talk,
    write_logs,
)

pytestmark = pytest.mark.one_device
TOKENS = ("tokens", "reply_tokens")
ALL = ("talkative", "once", "quiet")


@pytest.fixture
def logs(tmp_path):
    return write_logs(tmp_path / "logs")


@pytest.fixture
def expected(logs):
    """How many conversations each filter of ALL drops, and how many stay."""
    whole, _ = read_conversations(str(logs), count_units=lambda c: 1)
    long = [c for c in whole if len(c.messages) >= 3]
    kept = len({c.messages[0].content for c in long})
    assert len(whole) > len(long) > kept
    return len(whole) - len(long), len(long) - kept, kept


def everything(out):
    return [c for name, _ in SPLITS for c in PreparedData(out, name)]


def test_without_filters_everything_is_there_once(logs, tmp_path):
    card = prepared(logs, tmp_path / "out")
    whole, _ = read_conversations(str(logs), count_units=lambda c: 1)
    found = {c.source: c for c in everything(tmp_path / "out")}
    assert len(found) == len(whole) == card["counts"]["kept"] == 120
    for one in whole:
        assert dataclasses.replace(found[one.source], id="") == dataclasses.replace(one, id="")
        assert found[one.source].id.partition("~")[0] == one.id.partition("~")[0]
    assert card["parts"] == 6
    for split in card["splits"].values():
        assert len(split["shards"]) == card["parts"]
        assert split["conversations"] == sum(shard["records"] for shard in split["shards"])
        for histogram in split["histograms"].values():
            assert sum(histogram.values()) == split["conversations"]
    assert not list((tmp_path / "out" / "parts").glob("*.kept"))


def test_ids_are_unique_and_the_first_keeps_its_own(tmp_path):
    """Also where ids look as if they had been numbered, and whatever the parts are."""
    ids = ["a", "b", "a", "a~2", "a", "a~2", "a~2~1", "c~", "a~1", "c"]
    expected = ["a", "b", "a~2", "a~2~1", "a~3", "a~2~1~2", "a~2~1~1", "c~", "a~1~1", "c"]
    logs = tmp_path / "log.jsonl"
    logs.write_text("".join(json.dumps({**talk(n), "id": i}) + "\n" for n, i in enumerate(ids)))
    for size in (1, 1 << 20):
        card = prepared(logs, tmp_path / str(size), part_bytes=size)
        found = {int(c.source.rpartition(":")[2]): c.id for c in everything(tmp_path / str(size))}
        assert [found[n] for n in sorted(found)] == expected
        assert card["counts"]["renamed"] == 3


def test_ids_are_compared_in_buckets(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 40, (100, 1)).astype("<u8").view(np.uint8)
    stays, seen, expected = np.arange(100) % 3 != 0, {}, []
    for one, stay in zip(map(bytes, ids), stays, strict=True):
        seen[one] = seen.get(one, 0) + stay
        expected.append(seen[one] * stay)
    assert max(expected) > 3
    for size in (1 << 16, 7):
        for name in ("BLOCK", "PORTION", "PER_BUCKET"):
            monkeypatch.setattr(buckets, name, size)
        folder = tmp_path / str(size)
        folder.mkdir()
        fates = deciding.Fates(ids, stays, folder)
        assert [int(fates[n : n + 1][0]) for n in range(100)] == expected


def test_filters_drop_change_and_are_counted(logs, tmp_path, expected):
    card = prepared(logs, tmp_path / "out", *ALL)
    talkative, once, quiet = card["filters"]
    few, seen, kept = expected
    assert talkative["dropped"] == {"few messages": few}
    assert once["dropped"] == {"seen": seen} and once["name"] == "once"
    assert set(quiet["changed"]) == {"capitals"} and not quiet["dropped"]
    counts = card["counts"]
    assert (counts["read"], counts["kept"], counts["dropped"]) == (120, kept, few + seen)
    samples = once["samples"]["seen"]
    assert len(samples) == 3 and samples[0]["opening"] == "question 2?"
    first = talkative["samples"]["few messages"][0]
    assert first["detail"] == "1, expected 3" and first["source"].endswith("log-0.jsonl:1")
    found = everything(tmp_path / "out")
    assert len({c.messages[0].content for c in found}) == len(found)
    assert all(m.content == m.content.lower() for c in found for m in c.messages)
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"dropped {few}: few messages" in text and "changed" in text


def test_no_samples_where_none_are_wanted(logs, tmp_path):
    card = prepared(logs, tmp_path / "out", *ALL, samples=0)
    assert not any(samples for each in card["filters"] for samples in each["samples"].values())
    assert "uestion" not in (tmp_path / "out" / "README.md").read_text()
    assert "uestion" not in (tmp_path / "out" / "card.json").read_text()


def test_the_earliest_of_those_that_are_alike_stays(logs, tmp_path):
    prepared(logs, tmp_path / "out", "once")
    places = {
        c.messages[0].content: (c.source.rpartition("log-")[2])
        for c in everything(tmp_path / "out")
    }
    assert places["Question 2?"] == "0.jsonl:3"


def test_the_same_bytes_from_several_processes_and_shares(logs, tmp_path):
    card = prepared(logs, tmp_path / "one", *ALL)
    again = prepared(logs, tmp_path / "two", *ALL, processes=2)
    assert card["digest"] == again["digest"]
    done = [prepared(logs, tmp_path / "three", *ALL, share=Share(n, 3)) for n in range(3)]
    assert [isinstance(each, Left) for each in done] == [True, True, False]
    assert len(done[0].read) > len(done[1].read) > 0
    first = prepared(logs, tmp_path / "four", *ALL, share=Share(1, 2))
    assert isinstance(first, Left)
    finished = prepared(logs, tmp_path / "four", *ALL, share=Share(1, 2, finish=True))
    assert finished["digest"] == card["digest"]
    for other in ("two", "three", "four"):
        theirs, ours = content(tmp_path / other), content(tmp_path / "one")
        assert theirs.keys() == ours.keys()
        for name in ours:
            same = ours[name].replace(b"--out one", f"--out {other}".encode())
            assert theirs[name] == same, f"{other}: {name}"


def test_machines_that_wait_write_their_own_share(logs, tmp_path, monkeypatch):
    """The other one reads and writes while this one waits."""
    job = Job(settings_of(logs, *ALL), tmp_path / "out", 0, tuple(map(parse_filter, ALL)))
    turns = []

    def other_works(seconds):
        parts = [p for p in pipeline.planned(job.settings, job.folder) if p.number % 2]
        whole = dataclasses.replace(job, parts=len(pipeline.planned(job.settings, job.folder)))
        turns.append(seconds)
        for part in parts:
            if len(turns) == 1:
                reading.read_part(whole, part)
            else:
                writing.write_part(whole, part.number)

    monkeypatch.setattr(pipeline.time, "sleep", other_works)
    card = prepared(logs, tmp_path / "out", *ALL, share=Share(0, 2, wait=600))
    assert len(turns) == 2 and card["counts"]["read"] == 120


@pytest.fixture
def stopped_after(monkeypatch):
    """Let the run fail after so many calls of a function of a module."""

    def install(module, name, calls):
        whole, left = getattr(module, name), [calls]

        def fail(*given):
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device", "disk")
            left[0] -= 1
            return whole(*given)

        monkeypatch.setattr(module, name, fail)

    yield install
    monkeypatch.undo()


@pytest.mark.parametrize(
    "module, name, calls",
    [
        (reading, "read_part", 0),
        (reading, "read_part", 4),
        (deciding, "write_json", 3),
        (writing, "write_part", 0),
        (writing, "write_part", 4),
        (writing, "write_json", 2),
        (pipeline.describing, "_write", 2),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_run_that_stops_goes_on(module, name, calls, logs, tmp_path, stopped_after, monkeypatch):
    prepared(logs, tmp_path / "whole", *ALL)
    out = tmp_path / "parted" / "whole"
    stopped_after(module, name, calls)
    with pytest.raises(OSError, match="No space"):
        prepared(logs, out, *ALL)
    monkeypatch.undo()
    done = {p.name.split(".")[0] for p in (out / "parts").glob("*.written.json")}
    before = {p: p.stat().st_mtime_ns for p in out.glob("*array_record-*")}
    before = {p: t for p, t in before.items() if p.name[-14:-9] in done}
    prepared(logs, out, *ALL)
    assert content(out) == content(tmp_path / "whole")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    if (name, calls) == ("write_part", 4):
        assert len(before) == 8


@pytest.mark.parametrize("module, name", [(deciding, "decide"), (writing, "write_part")])
def test_another_machine_is_through_meanwhile(module, name, logs, tmp_path, monkeypatch):
    """Both were at it, and the other one has removed what this one reads."""
    prepared(logs, tmp_path / "a" / "out", *ALL)
    out, own = tmp_path / "b" / "out", getattr(module, name)
    prepared(logs, out, *ALL, share=Share(1, 2))

    def late(*given):
        monkeypatch.undo()
        assert not isinstance(prepared(logs, out, *ALL, share=Share(1, 2)), Left)
        own(*given)

    monkeypatch.setattr(module, name, late)
    assert not isinstance(prepared(logs, out, *ALL, share=Share(0, 2)), Left)
    assert content(out) == content(tmp_path / "a" / "out")


def test_what_a_killed_share_left_is_removed(logs, tmp_path):
    """By the same share, that of others stays: they may be at work."""
    out = tmp_path / "out"
    prepared(logs, out, *ALL, share=Share(1, 2))
    left = [
        places.temporary_name(out / "parts" / name)
        for name in ("00001.kept", "00003.shard-train", "00005.note-1", "00000.kept")
    ]
    for each in left:
        each.write_bytes(b"half")
    prepared(logs, out, *ALL, share=Share(1, 2))
    assert [each.exists() for each in left] == [False, False, False, True]


@pytest.mark.parametrize(
    "what, cut, said",
    [
        ("note-1", 8, "00001.note-1: damaged. Delete"),
        ("note-1", 3, "00001.note-1: damaged. Delete"),
        ("ids", None, "00001.ids: cannot be read (No such file or directory). Delete"),
        ("fates", 4, "00001.fates: damaged. Delete"),
        ("fates", None, "00001.fates: cannot be read (No such file or directory). Delete"),
    ],
)
def test_damaged_notes_are_named(what, cut, said, logs, tmp_path, stopped_after, monkeypatch):
    """`cut` bytes are missing at the end; None: all of the file."""
    out, decided = tmp_path / "out", what == "fates"
    stopped_after(*((writing, "write_part") if decided else (deciding, "decide")), 0)
    with pytest.raises(OSError, match="No space"):
        prepared(logs, out, *ALL)
    monkeypatch.undo()
    file = out / "parts" / f"00001.{what}"
    if cut is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(InputError) as error:
        prepared(logs, out, *ALL)
    assert f"parts/{said}" in str(error.value)
    assert str(error.value).endswith(f"Delete {out} and prepare it again.")


@pytest.mark.parametrize("share", [None, Share(1, 2, finish=True)])
def test_what_a_process_killed_while_it_decided_left_is_removed(share, logs, tmp_path):
    """Its decisions are made again."""
    card = prepared(logs, tmp_path / "a" / "out", *ALL)
    out = tmp_path / "b" / "out"
    prepared(logs, out, *ALL, share=Share(0, 2))
    left = places.temporary_name(out / "parts" / "deciding") / "1" / "keys"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"half")
    (out / "parts" / "00000.fates").write_bytes(b"half")
    assert prepared(logs, out, *ALL, share=share)["digest"] == card["digest"]
    assert content(out) == content(tmp_path / "a" / "out")
    assert not list((out / "parts").glob(".*"))


def test_a_finished_one_is_left_as_it_is(logs, tmp_path):
    out = tmp_path / "out"
    card = prepared(logs, out, *ALL)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert prepared(logs, out, *ALL) == card
    assert json.loads((out / "card.json").read_text()) == json.loads(json.dumps(card))
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before
    told = prepared(logs, out, *ALL, about=About("a source", "CC0-1.0"))
    assert (told["source"], told["license"]) == ("a source", "CC0-1.0")
    shards = [p for p in before if "array_record" in p.name]
    assert all(p.stat().st_mtime_ns == before[p] for p in shards)


@pytest.mark.parametrize("finished", [False, True])
def test_other_input_and_other_settings_are_refused(finished, logs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    if finished:
        prepared(logs, out, "talkative")
    else:
        assert isinstance(prepared(logs, out, "talkative", share=Share(0, 2)), Left)
    log = logs / "log-1.jsonl"
    status, text = log.stat(), log.read_text()

    def refused(*said, filters=("talkative",), **more):
        with pytest.raises(InputError) as error:
            prepared(logs, out, *filters, **more)
        for each in ("was prepared from other input or with other settings", *said):
            assert each in str(error.value)

    refused("--filter: was talkative, is talkative once", filters=("talkative", "once"))
    refused("--filter: was talkative, is none", filters=())
    refused("--part-bytes: was 6000, is 6001", part_bytes=6001)
    refused("--on-error: was stop, is skip", on_error="skip")
    refused("--splits: was train=0.8,test=0.2, is train=1.0", splits=(("train", 1.0),))
    os.utime(log, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    refused(f"{log}: has been changed or copied")
    log.write_text(text + "\n")
    os.utime(log, ns=(status.st_atime_ns, status.st_mtime_ns))
    refused(f"{log}: had {len(text):,} bytes, has {len(text) + 1:,}")
    log.rename(logs / "log-9.jsonl")
    refused(f"{log}: is not there any more", "log-9.jsonl: is new")
    (logs / "log-9.jsonl").rename(log)
    log.write_text(text)
    os.utime(log, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepared(logs, out, "talkative")["counts"]["read"] == 120


def test_input_that_changes_meanwhile_is_refused(logs, tmp_path, monkeypatch):
    decide = deciding.decide

    def change(job):
        (logs / "log-0.jsonl").write_text(json.dumps(talk(1)))
        decide(job)

    monkeypatch.setattr(deciding, "decide", change)
    with pytest.raises(InputError, match=r"log-0\.jsonl: had"):
        prepared(logs, tmp_path / "out")
    assert not (tmp_path / "out" / "card.json").exists()


def test_a_directory_of_something_else_is_refused(logs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not empty, and nothing was prepared there"):
        prepared(logs, tmp_path / "out")


def test_bad_lines_stop_or_are_counted(logs, tmp_path):
    with (logs / "log-1.jsonl").open("a") as log:
        log.write('{"broken\n{"id": "x", "messages": 7}\n')
    with pytest.raises(InputError, match=r"log-1\.jsonl:41: broken JSON"):
        prepared(logs, tmp_path / "a")
    card = prepared(logs, tmp_path / "b", *ALL, on_error="skip")
    assert card["not_read"] == {"broken JSON": 1, "wrong type": 1}
    counts = card["counts"]
    assert counts["read"] == 122 == counts["kept"] + counts["dropped"] + counts["not_read"]
    assert "log-1.jsonl:41" in card["examples"]["broken JSON"]


def test_a_lost_conversation_is_noticed(logs, tmp_path, monkeypatch):
    """The counters of readers, filters and shards are compared."""
    whole = writing._decided
    monkeypatch.setattr(writing, "_decided", lambda *given: list(whole(*given))[1:])
    with pytest.raises(AssertionError, match="120 read, but"):
        prepared(logs, tmp_path / "out")


def test_a_process_that_dies_is_reported():
    with Workers(2) as workers, pytest.raises(RunStopped, match="one of 2 processes"):
        list(workers.each(os._exit, [(3,), (3,)], "dying"))


def test_tokens_are_counted_and_stand_beside_the_shards(logs, tmp_path):
    card = prepared(logs, tmp_path / "out", "talkative", tokenizer=str(POCKET))
    tokenizer = load_tokenizer(POCKET)
    for name, _ in SPLITS:
        split = card["splits"][name]
        parts = [np.load(tmp_path / "out" / each["file"]) for each in split["index"]]
        assert [len(part) for part in parts] == [shard["records"] for shard in split["shards"]]
        index = np.concatenate(parts)
        assert [int(index[kind].sum()) for kind in TOKENS] == [split[kind] for kind in TOKENS]
        data = PreparedData(tmp_path / "out", name)
        assert data.interactions.tolist() == [count_interactions(one) for one in data]
        names = {one.user: number for one, number in zip(data, data.users, strict=True)}
        assert [names[one.user] for one in data] == data.users.tolist()
        assert len(set(names.values())) == len(names) and names.get("", 0) == 0
        for one, (tokens, of_replies) in zip(data, index[list(TOKENS)], strict=True):
            lengths = {
                m: len(tokenizer(m.content, add_special_tokens=False)["input_ids"])
                for m in one.messages
            }
            assert tokens == sum(lengths[m] for m in one.messages)
            assert of_replies == sum(lengths[m] for m in one.messages if m.role == "assistant")


def test_a_dry_run_says_what_the_run_will_do(logs, tmp_path, expected):
    before = content(tmp_path)
    lines = dry_run(settings_of(logs, *ALL), [parse_filter(f) for f in ALL], 1, None)
    assert content(tmp_path) == before
    text = "\n".join(lines)
    few, seen, kept = expected
    assert f"  talkative: dropped {few} x few messages" in lines
    assert f"  once: dropped {seen} x seen" in lines
    assert "log-0.jsonl:1), 1, expected 3: Question 0?" in text
    at = lines.index("    seen, such as")
    assert [line.rpartition(": ")[2] for line in lines[at + 1 : at + 4]] == [
        sample["opening"]
        for sample in prepared(logs, tmp_path / "once", *ALL)["filters"][1]["samples"]["seen"]
    ]
    assert f"would keep {kept} of 120; nothing was written" in text
    card = prepared(logs, tmp_path / "out", *ALL)
    assert card["counts"]["kept"] == kept
    (limited,) = dry_run(settings_of(logs, "once"), [Once()], 1, 2)[-1:]
    assert limited.startswith(f"would keep {2 * card['parts']} of {2 * card['parts']}")


def test_empty_shards_and_empty_parts(tmp_path):
    logs = tmp_path / "log.jsonl"
    logs.write_text("".join(json.dumps(talk(n, turns=0)) + "\n" for n in range(5)))
    card = prepared(logs, tmp_path / "out", "talkative", "once", part_bytes=1)
    assert card["counts"]["kept"] == 0 and len(PreparedData(tmp_path / "out")) == 0
    shutil.rmtree(tmp_path / "out")
    card = prepared(logs, tmp_path / "out", part_bytes=1, splits=(("train", 1.0), ("none", 0.0)))
    assert (card["parts"], len(PreparedData(tmp_path / "out", "none"))) == (5, 0)


def test_tokens_of_an_empty_split_are_counted(tmp_path):
    """Small logs have nothing in a split of one per cent."""
    logs = tmp_path / "log.jsonl"
    logs.write_text(json.dumps(talk(0)) + "\n")
    splits = (("train", 1.0), ("none", 0.0))
    card = prepared(logs, tmp_path / "out", splits=splits, tokenizer=str(POCKET))
    assert card["splits"]["train"]["tokens"] > 0
    assert [card["splits"]["none"][kind] for kind in TOKENS] == [0, 0]
    assert "### reply_tokens" in (tmp_path / "out" / "README.md").read_text()
