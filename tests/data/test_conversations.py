"""Reading conversations: no bad input passes, no good one is lost, and all of it is counted."""

import json
import random

import pytest

from interact_jax.data.conversations import ReadReport, read_conversations
from interact_jax.schema import InputError
from tests.logs import chat, good, native, write


def reply(**tokens: object) -> bytes:
    return native(("user", "Hi"), ("assistant", "Yo", tokens), ("user", "Bye"))


# case -> a bad line of a native file, the reason it is counted under, words of the message
BAD = {
    "user twice": (
        native(("user", "Hi"), ("user", "Hello?"), ("assistant", "Yes"), ("user", "Ok")),
        "two messages of one role in a row",
        ["messages[1]", "user"],
    ),
    "assistant twice": (
        native(("user", "Hi"), ("assistant", "A"), ("assistant", "B"), ("user", "Ok")),
        "two messages of one role in a row",
        ["messages[2]", "assistant"],
    ),
    "empty": (native(("user", ""), ("assistant", "A")), "empty message", ["messages[0]"]),
    "blank": (native(("user", "Q"), ("assistant", " \n")), "empty message", ["messages[1]"]),
    "role": (native(("human", "Hi")), "unknown role", ["human", "system, user, assistant"]),
    "tool": (native(("user", "Hi"), ("tool", "4")), "unknown role", ["messages[1]", "tool"]),
    "late system": (
        native(("user", "Hi"), ("system", "Be brief"), ("assistant", "A"), ("user", "B")),
        "misplaced system message",
        ["messages[1]"],
    ),
    "no id": (b'{"messages": []}', "missing key", ["'id'", "'messages'", "openai"]),
    "no messages": (b'{"id": "bad"}', "missing key", ["'messages'", "'id'"]),
    "no content": (
        b'{"id": "bad", "messages": [{"role": "user"}]}',
        "missing key",
        ["messages[0]", "'content'"],
    ),
    "no role": (b'{"id": "bad", "messages": [{"content": "Hi"}]}', "missing key", ["'role'"]),
    "null content": (native(("user", None)), "wrong type", ["None", "a string"]),
    "parts": (native(("user", [{"type": "text", "text": "Hi"}])), "wrong type", ["a string"]),
    "role number": (native((1, "Hi")), "wrong type", ["'role'"]),
    "message text": (b'{"id": "bad", "messages": ["Hi"]}', "not an object", ["messages[0]"]),
    "messages object": (b'{"id": "bad", "messages": {}}', "wrong type", ["a list"]),
    "id list": (b'{"id": [1], "messages": []}', "wrong type", ["'id'"]),
    "id empty": (b'{"id": "", "messages": []}', "wrong type", ["'id'"]),
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
    "same id": (json.dumps(good("a")).encode(), "duplicate id", ["'a'", "chats.jsonl:1"]),
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
    bad = [line for case, (line, *_) in BAD.items() if case not in ("same id", "no id")]
    lines = [(json.dumps(good(f"c{i}")).encode(), f"c{i}") for i in range(20)]
    lines += [(line, None) for line in draw.choices(bad, k=30)]
    draw.shuffle(lines)
    path = write(tmp_path, name, b"\n".join(line for line, _ in lines))
    conversations, report = read_conversations(path, on_error="skip")
    assert [c.id for c in conversations] == [identity for _, identity in lines if identity]
    assert sum(report.lost.values()) == 30
    assert report.records == 50


def test_same_id_in_two_files(tmp_path):
    first, second = (write(tmp_path, name, [good("x")]) for name in ("a.jsonl", "b.jsonl"))
    with pytest.raises(InputError) as caught:
        read_conversations(str(tmp_path))
    assert str(caught.value).startswith(f"{second}:1: duplicate id") and first in str(caught.value)
    conversations, report = read_conversations(str(tmp_path), on_error="skip")
    assert len(conversations) == 1 and report.lost == {"duplicate id": 1}


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


# -------------------------------------------------------------------------------------- the report


def test_report_names_counts_and_causes(tmp_path):
    bad = [native(("user", "")).decode(), native(("user", " ")).decode(), "{"]
    lines = [json.dumps(good("a")), *bad, json.dumps(chat("b", "Hi"))]
    path = write(tmp_path, "a.jsonl", "\n".join(lines))
    _, report = read_conversations(path, on_error="skip")
    assert isinstance(report, ReadReport)
    first, *rest = report.lines()
    assert "1 file(s), 5 record(s): 1 conversation(s) with 1 interaction(s)" in first
    assert rest[0].startswith(f"  2 x empty message, such as {path}:2: ")
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
