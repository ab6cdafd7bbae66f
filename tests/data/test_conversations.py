"""Reading conversations: no bad input passes, no good one is lost, and all of it is counted."""

import json
import random

import pytest

from interact_jax.data.conversations import ReadReport, read_conversations
from interact_jax.data.recipes import RECIPES
from interact_jax.schema import InputError
from tests.logs import chat, good, native, write


def reply(**tokens: object) -> bytes:
    return native(("user", "Hi"), ("assistant", "Yo", tokens), ("user", "Bye"))


# case -> a bad line of a native file, the reason it is counted under, words of the message
BAD = {
    "role": (native(("narrator", "Hi")), "unknown role", ["narrator", "user (user, human,"]),
    "no messages": (b'{"id": "bad"}', "missing key", ["'messages'", "'id'"]),
    "no content": (
        b'{"id": "bad", "messages": [{"role": "user"}]}',
        "missing key",
        ["messages[0]", "'content'"],
    ),
    "no role": (b'{"id": "bad", "messages": [{"content": "Hi"}]}', "missing key", ["'role'"]),
    "number": (native(("user", 4)), "wrong type", ["4", "a string or parts"]),
    "calls": (
        native(("assistant", None, {"tool_calls": "f()"})),
        "wrong type",
        ["messages[0]", "'tool_calls'"],
    ),
    "role number": (native((1, "Hi")), "wrong type", ["'role'"]),
    "message text": (b'{"id": "bad", "messages": ["Hi"]}', "not an object", ["messages[0]"]),
    "messages object": (b'{"id": "bad", "messages": {}}', "wrong type", ["a list"]),
    "id list": (b'{"id": [1], "messages": []}', "wrong type", ["'id'"]),
    "half an id": (b'{"id": "\\ud83d", "messages": []}', "broken character", ["'id'"]),
    "user object": (native(("user", "Hi"), user={}), "wrong type", ["'user'"]),
    "list": (b'[1, {"id": "bad"}]', "not an object", ["[1"]),
    "string": (b'"bad"', "not an object", ["bad"]),
    "null": (b"null", "not an object", ["None"]),
    "cut": (b'{"id": "bad", "messages": [{"role"', "broken JSON", ["column"]),
    "word": (b"hello", "broken JSON", ["column 1"]),
    "bracket": (b"[broken", "broken JSON", ["column 2"]),
    "two": (b'{"id": "a"} {"id": "b"}', "broken JSON", ["Extra data"]),
    "deep": (b'{"a":' * 100_000, "broken JSON", ["recursion"]),
    "digits": (b'{"id": ' + b"9" * 5000 + b"}", "broken JSON", ["digits"]),
    "latin-1": (native(("user", "Hi"))[:-5] + b"\xe9t\xe9", "not UTF-8", ["0xe9", "column"]),
    "utf-16": ("{}".encode("utf-16"), "not UTF-8", ["0xff"]),
    "surrogate": (native(("user", "\ud83d")), "broken character", ["surrogate", "ud83d"]),
    "lengths": (reply(token_ids=[1, 2], logps=[-1]), "bad token_ids or logps", ["2", "1"]),
    "logps alone": (reply(logps=[-1]), "bad token_ids or logps", ["token_ids"]),
    "ids text": (reply(token_ids=["a"]), "bad token_ids or logps", ["token_ids"]),
    "ids none": (reply(token_ids=[], logps=[]), "bad token_ids or logps", ["token_ids"]),
    "logp nan": (reply(token_ids=[1], logps=[float("nan")]), "bad token_ids or logps", ["nan"]),
    "user's ids": (
        native(("user", "Hi", {"token_ids": [1]})),
        "bad token_ids or logps",
        ["messages[0]", "assistant"],
    ),
    "large logp": (reply(token_ids=[1], logps=[-(10**400)]), "bad token_ids or logps", ["logps"]),
    "large weight": (reply(weight=10**400), "bad weight", ["weight"]),
    "logp of 64 bits": (reply(token_ids=[1], logps=[-1e39]), "bad token_ids or logps", ["1e+39"]),
    "weight of 64 bits": (reply(weight=1e39), "bad weight", ["1e+39"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_line(tmp_path, case):
    """Stopping names file, line, reason and remedy; skipping counts, and keeps the neighbours."""
    bad, reason, words = BAD[case]
    lines = [json.dumps(good("a")).encode(), bad, json.dumps(good("c")).encode()]
    path = write(tmp_path, "chats.jsonl", b"\n".join(lines))
    with pytest.raises(InputError) as caught:
        read_conversations(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: {reason}: ")
    assert "Fix the line, or set --config.data.on_error=skip" in message
    for word in words:
        assert word in message

    conversations, report = read_conversations(path, on_error="skip")
    assert [c.id for c in conversations] == ["a", "c"]
    assert report.lost == {reason: 1}
    assert report.examples[reason].startswith(f"{path}:2: ")
    assert report.records == 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["chats.jsonl", "chats.jsonl.gz"])
def test_skip_keeps_exactly_the_good(tmp_path, name, seed):
    """However good and bad lines are mixed, the good ones come through, all and in order."""
    draw = random.Random(seed)
    bad = [line for line, *_ in BAD.values()]
    lines = [(json.dumps(good(f"c{i}")).encode(), f"c{i}") for i in range(20)]
    lines += [(line, None) for line in draw.choices(bad, k=30)]
    draw.shuffle(lines)
    path = write(tmp_path, name, b"\n".join(line for line, _ in lines))
    conversations, report = read_conversations(path, on_error="skip")
    assert [c.id for c in conversations] == [identity for _, identity in lines if identity]
    assert sum(report.lost.values()) == 30
    assert report.records == 50


def test_ids_that_collide(tmp_path):
    """Both conversations are kept, the second under a name of its own; and that is counted."""
    first = write(tmp_path, "a.jsonl", [good("x"), good("x~2")])
    second = write(tmp_path, "b.jsonl", [good("x"), good("x")])
    conversations, report = read_conversations(str(tmp_path))
    assert [c.id for c in conversations] == ["x", "x~2", "x~3", "x~4"]
    assert report.mended == {"duplicate id": 2} and not report.lost
    assert report.examples["duplicate id"] == f"{second}:1: conversation 'x' is also at {first}:1"
    conversations, report = read_conversations(str(tmp_path), repair="drop")
    assert [c.id for c in conversations] == ["x", "x~2"]
    assert report.mended == {"left out: duplicate id": 2}
    with pytest.raises(InputError) as caught:
        read_conversations(str(tmp_path), repair="stop")
    assert str(caught.value).startswith(f"{second}:1: duplicate id") and first in str(caught.value)


def test_copies_are_counted_and_learned_again_only_where_asked(tmp_path):
    """The same messages, whatever id and user; not the same up to one message."""
    record, other = chat("a", "Hi", "y", "o"), chat("b", "Hi", "y", "p")
    del record["id"]
    lines = [record, other, {**record, "user": "u"}, {**record, "id": "x"}]
    path = write(tmp_path, "a.jsonl", lines)
    kept, report = read_conversations(path)
    assert len(kept) == 4 and report.interactions == 4
    assert report.copies == {"copy of an earlier conversation": 2} and not report.mended
    said = f"  2 x copy of an earlier conversation, such as {path}:3: conversation 'a.3' has the"
    assert any(line.startswith(f"{said} messages of that at {path}:1") for line in report.lines())
    kept, report = read_conversations(path, copies="drop")
    assert [c.source for c in kept] == [f"{path}:1", f"{path}:2"]
    assert report.copies == {"left out: copy of an earlier conversation": 2}
    with pytest.raises(InputError, match=r"data.copies is 'once', expected one of keep, drop"):
        read_conversations(path, copies="once")


def test_pairs_make_conversations_differ(tmp_path):
    """Several judgements on the replies to one prompt are no copies."""
    lines = [
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": text}],
        }
        for text in ("b", "c", "b")
    ]
    path = write(tmp_path, "a.jsonl", lines)
    kept, report = read_conversations(path, count_units=RECIPES["pairs"].count_units)
    assert len(kept) == 3 and report.copies.total() == 1


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_no_interaction(tmp_path, on_error):
    """Dialogues that nobody followed up are no fault, but to have nothing else is one."""
    path = write(tmp_path, "a.jsonl", [chat("a", "Hi", "Hello"), chat("b", "Hi"), chat("c")])
    with pytest.raises(InputError) as caught:
        read_conversations(path, on_error=on_error)
    for words in (path, "no interaction", "3 x no follow-up", f"{path}:1"):
        assert words in str(caught.value)


def test_no_follow_up_is_counted(tmp_path):
    path = write(tmp_path, "a.jsonl", [chat("a", "Hi", "Hello"), good("b")])
    conversations, report = read_conversations(path)
    assert [c.id for c in conversations] == ["b"] and report.lost == {"no follow-up": 1}


def test_wrong_choices(tmp_path):
    path = write(tmp_path, "a.jsonl", [good("a")])
    with pytest.raises(InputError, match=r"data\.format.*'shargpt'.*oasst_flat.*'sharegpt'\?"):
        read_conversations(path, "shargpt")
    with pytest.raises(InputError, match=r"data\.on_error.*'skp'.*stop, skip.*'skip'\?"):
        read_conversations(path, on_error="skp")
    with pytest.raises(InputError, match=r"data\.repair.*'joint'.*join, drop, stop.*'join'\?"):
        read_conversations(path, repair="joint")


# -------------------------------------------------------------------------------------- the report


def test_report_names_counts_and_causes(tmp_path):
    bad = [native(("me", "")).decode(), native(("you", " ")).decode(), "{"]
    lines = [json.dumps(good("a")), *bad, json.dumps(chat("b", "Hi"))]
    path = write(tmp_path, "a.jsonl", "\n".join(lines))
    _, report = read_conversations(path, on_error="skip")
    assert isinstance(report, ReadReport)
    first, *rest = report.lines()
    assert "1 file, 5 records: 1 conversation, 1 interaction" in first
    assert rest[0].startswith(f"  2 x unknown role, such as {path}:2: ")
    assert rest[1].startswith(f"  1 x broken JSON, such as {path}:4: ")
    assert rest[2].startswith(f"  1 x no follow-up, such as {path}:5: ")


# --------------------------------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("name", "records", "interactions"),
    [
        ("oasst_en_100_tree.jsonl", 100, 380),
        ("oasst_realistic_seed_data.json", 444, 105),
        ("sharegpt_format.json", 500, 500),
    ],
)
def test_real_files(shared, name, records, interactions):
    """Every record is read, and every interaction once."""
    conversations, report = read_conversations(str(shared / "real" / "conversations" / name))
    every = [i for c in conversations for i in c.interactions()]
    assert len({i.id for i in every}) == len(every) == report.interactions == interactions
    assert report.records == records


def test_a_report_of_prepared_data_says_so():
    """No file of logs was read."""
    report = ReadReport(conversations=3, interactions=5)
    assert report.lines() == ["prepared: 3 conversations, 5 interactions"]
