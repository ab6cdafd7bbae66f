"""Reading conversations: every format means the same, no bad input passes, no good one is lost."""

import gzip
import json
import random
from pathlib import Path

import pytest

from interact_jax.data.conversations import FORMATS, ReadReport, read_conversations
from interact_jax.schema import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "real" / "conversations"


def shared(name: str) -> str:
    """A real file that stands beside the checkout on our own machines; nobody else has it."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    return str(SHARED / name)


def write(directory: Path, name: str, data: bytes | str | list) -> str:
    """Write bytes, text, or a list of records as JSON lines; gzip where the name says so."""
    if isinstance(data, list):
        data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in data)
    if isinstance(data, str):
        data = data.encode()
    if name.endswith(".gz"):
        data = gzip.compress(data)
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def chat(identity: str, *texts: str) -> dict:
    """A native record in which user and assistant take turns."""
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"id": identity, "messages": turns}


def good(identity: str) -> dict:
    return chat(identity, "Hi", "Hello!", f"Thanks from {identity}")


def ids(path: str, **options: str) -> list[str]:
    return [conversation.id for conversation in read_conversations(path, **options)[0]]


# -------------------------------------------------------------------------- one meaning, many forms

TEXTS = ("What is 2 + 2?", "It is 4.\n\nSure.", "And \u2028 in\x85words? ñ 🙂", "Four.", "Thanks!")
ROLES = ("user", "assistant", "user", "assistant", "user")


def tree(texts: tuple[str, ...], replies: str = "replies") -> dict:
    """A nested OpenAssistant message with one reply at each step."""
    node: dict = {}
    for i in reversed(range(len(texts))):
        role = ("prompter", "assistant")[i % 2]
        below = [node] if node else []
        node = {"message_id": f"m{i}", "role": role, "text": texts[i], replies: below}
    return node


def flat(texts: tuple[str, ...]) -> list[dict]:
    return [
        {
            "message_id": f"m{i}",
            "parent_id": f"m{i - 1}" if i else None,
            "role": ("prompter", "assistant")[i % 2],
            "text": text,
            "lang": "en",
        }
        for i, text in enumerate(texts)
    ]


def turns(names: tuple[str, ...], role: str, text: str) -> list[dict]:
    return [{role: names[i % len(names)], text: TEXTS[i]} for i in range(len(TEXTS))]


def wildchat(**more: object) -> dict:
    said = turns(("user", "assistant"), "role", "content")
    return {"conversation": said, "model": "gpt-4", "language": "English", "toxic": False, **more}


PARTS = [
    {"role": r, "content": [{"type": "text", "text": t}]} for r, t in zip(ROLES, TEXTS, strict=True)
]
HH = "".join(f"\n\n{'HA'[i % 2]}{('uman', 'ssistant')[i % 2]}: {t}" for i, t in enumerate(TEXTS))

# case -> format, the records of a file "chats", the id that the dialogue gets
FORMS = {
    "native": ("native", [chat("c", *TEXTS)], "c"),
    "openai": (
        "openai",
        [{"messages": turns(("user", "assistant"), "role", "content")}],
        "chats.1",
    ),
    "openai_parts": ("openai", [{"messages": PARTS}], "chats.1"),
    "sharegpt": (
        "sharegpt",
        [{"id": "s", "conversations": turns(("human", "gpt"), "from", "value")}],
        "s",
    ),
    "sharegpt_names": (
        "sharegpt",
        [{"conversations": turns(("user", "bing", "human", "bard"), "from", "value")}],
        "chats.1",
    ),
    "oasst_tree": ("oasst_tree", [{"message_tree_id": "t", "prompt": tree(TEXTS)}], "t.0"),
    "oasst_flat": ("oasst_flat", flat(TEXTS), "m0.0"),
    "oasst_seed": (
        "oasst_flat",
        [
            {
                "user_message_id": m["message_id"],
                "parent_message_id": m["parent_id"],
                "role": m["role"],
                "text": m["text"],
            }
            for m in flat(TEXTS)
        ],
        "m0.0",
    ),
    "hh_rlhf": ("hh_rlhf", [{"chosen": HH, "rejected": HH + " no"}], "chats.1"),
    "wildchat": ("wildchat", [wildchat(conversation_id="w", hashed_ip="ip")], "w"),
    "wildchat_1m": (
        "wildchat",
        [
            {
                **wildchat(conversation_hash="w"),
                "conversation": [
                    {**turn, "turn_identifier": 7 + i, "toxic": False}
                    for i, turn in enumerate(wildchat()["conversation"])
                ],
            }
        ],
        "w.7",
    ),
    "wildfeedback": (
        "wildfeedback",
        [
            {
                "conversations": turns(("human", "gpt"), "from", "value"),
                "chosen": {"from": "gpt", "value": "better"},
                "rejected": {"from": "gpt", "value": "worse"},
            }
        ],
        "chats.1",
    ),
    "wildfeedback_rows": ("wildfeedback", [wildchat(conversation_id="w")], "w"),
}


@pytest.mark.parametrize("named", [False, True], ids=["auto", "named"])
@pytest.mark.parametrize("layout", ["chats.jsonl", "chats.json", "chats.jsonl.gz"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_agree(tmp_path, form, layout, named):
    """One dialogue means the same in every format, as lines, list or gzip, found or named."""
    name, records, identity = FORMS[form]
    data = json.dumps(records, indent=1) if layout == "chats.json" else records
    path = write(tmp_path, layout, data)
    [conversation], report = read_conversations(path, name if named else "auto")
    # HH-RLHF's transcripts have no way to keep white space around a message; no text here has any.
    assert [m.role for m in conversation.messages] == list(ROLES)
    assert [m.content for m in conversation.messages] == list(TEXTS)
    assert conversation.id == identity
    assert [i.id for i in conversation.interactions()] == [f"{identity}_1", f"{identity}_3"]
    assert conversation.source.startswith(f"{path}:")
    assert (report.files, report.conversations, report.interactions) == (1, 1, 2)
    assert report.records == len(records) and not report.lost


def test_every_format_is_tried():
    assert {name for name, _, _ in FORMS.values()} | {"auto"} == set(FORMATS)


def test_metadata(tmp_path):
    """What a log says about a dialogue comes along: who spoke, language, toxicity, model."""
    path = write(tmp_path, "w.jsonl", [wildchat(conversation_id="w", hashed_ip="ip", turn=2)])
    [conversation], _ = read_conversations(path)
    assert conversation.user == "ip"
    known = {"model": "gpt-4", "language": "English", "toxic": False, "turn": 2}
    assert known.items() <= conversation.meta.items()


def test_sampled_tokens(tmp_path):
    """What a sampler produced stays with its reply, and the user with the dialogue."""
    record = {**good("a"), "user": "eve"}
    record["messages"][1] |= {"token_ids": [5, 6], "logps": [-0.5, -1]}
    [conversation], _ = read_conversations(write(tmp_path, "a.jsonl", [record]))
    assert conversation.user == "eve"
    assert conversation.messages[1].token_ids == (5, 6)
    assert conversation.messages[1].logps == (-0.5, -1.0)
    assert conversation.messages[0].token_ids is None


def test_lines_as_editors_leave_them(tmp_path):
    """A byte order mark, CRLF, blank lines and a last line without an end change nothing."""
    lines = [json.dumps(good(i)) for i in "abc"]
    path = write(tmp_path, "a.jsonl", "\ufeff" + "\r\n\r\n".join(lines))
    conversations, _ = read_conversations(path)
    assert [c.id for c in conversations] == ["a", "b", "c"]
    assert [c.source for c in conversations] == [f"{path}:1", f"{path}:3", f"{path}:5"]


def test_first_speaker(tmp_path):
    """The system may come first, an assistant may begin: then only what has an x is learned."""
    system = {"id": "s", "messages": [{"role": "system", "content": "Be brief."}]}
    system["messages"] += good("s")["messages"]
    greeting = {"id": "g", "messages": [{"role": "assistant", "content": "Welcome."}]}
    greeting["messages"] += good("g")["messages"]
    conversations, _ = read_conversations(write(tmp_path, "a.jsonl", [system, greeting]))
    assert [i.id for c in conversations for i in c.interactions()] == ["s_2", "g_2"]


# -------------------------------------------------------------------------------------- bad input


def native(*pairs: tuple, **more: object) -> bytes:
    """A native line; a pair is (role, content) or (role, content, further keys)."""
    said = [{"role": p[0], "content": p[1], **(p[2] if len(p) > 2 else {})} for p in pairs]
    return json.dumps({"id": "bad", "messages": said, **more}).encode()


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


BAD_ITEMS = {
    "unknown role": native(("tool", "Hi")),
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
        (b"]\n[]", 2, ["Expecting ',' or the end", REST]),
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


@pytest.mark.parametrize("first", [b"[broken", b'["a"', b'[{"id": "x", "messages"', b"[]"])
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


def test_gzip_by_bytes_and_in_members(tmp_path):
    """gzip is known by its bytes, whatever its name; members stand one behind the other."""
    members = [gzip.compress(json.dumps(good(i)).encode() + b"\n") for i in "abc"]
    path = write(tmp_path, "chats.jsonl", b"".join(members) + b"\0\0")
    assert ids(path) == ["a", "b", "c"]


def test_gzip_in_name_only(tmp_path):
    (tmp_path / "a.jsonl.gz").write_text(json.dumps(good("a")))
    with pytest.raises(InputError, match=r"a\.jsonl\.gz.*damaged gzip.*on_error=skip"):
        read_conversations(str(tmp_path / "a.jsonl.gz"))


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


def test_same_id_in_two_files(tmp_path):
    first, second = (write(tmp_path, name, [good("x")]) for name in ("a.jsonl", "b.jsonl"))
    with pytest.raises(InputError) as caught:
        read_conversations(str(tmp_path))
    assert str(caught.value).startswith(f"{second}:1: duplicate id") and first in str(caught.value)
    conversations, report = read_conversations(str(tmp_path), on_error="skip")
    assert len(conversations) == 1 and report.lost == {"duplicate id": 1}


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


def test_wrong_choices(tmp_path):
    path = write(tmp_path, "a.jsonl", [good("a")])
    with pytest.raises(InputError, match=r"data\.format.*'shargpt'.*oasst_flat.*'sharegpt'\?"):
        read_conversations(path, "shargpt")
    with pytest.raises(InputError, match=r"data\.on_error.*'skp'.*stop, skip.*'skip'\?"):
        read_conversations(path, on_error="skp")


@pytest.mark.parametrize("named", sorted(set(FORMATS) - {"auto"}))
@pytest.mark.parametrize("form", FORMS)
def test_format_that_does_not_fit(tmp_path, form, named):
    """Read as another format, a file gives the same or an error that names the right format."""
    right, records, _ = FORMS[form]
    path = write(tmp_path, "chats.jsonl", records)
    try:
        [conversation], _ = read_conversations(path, named)
        assert [m.content for m in conversation.messages] == list(TEXTS)
    except InputError as error:
        looks = "wildchat" if form == "wildfeedback_rows" else right
        assert f"{path}:1" in str(error) and f"looks like {looks}" in str(error)


def test_unknown_format(tmp_path):
    """The error lists the keys that were seen and what each format looks like."""
    path = write(tmp_path, "a.jsonl", [{"prompt": "Hi", "completion": "Hello"}, good("b")])
    with pytest.raises(InputError) as caught:
        read_conversations(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:1: unknown format") and "'prompt', 'completion'" in message
    assert all(name in message for name in FORMATS if name != "auto")
    assert ids(path, on_error="skip") == ["b"]


# ----------------------------------------------------------------------------------- message trees


def grow(draw: random.Random, size: int) -> list[dict]:
    """A random message tree in flat form; all texts differ."""
    nodes = [{"message_id": "n0", "parent_id": None, "role": "prompter", "text": "text 0"}]
    for i in range(1, size):
        parent = nodes[max(0, draw.randrange(-3, i))]
        role = "assistant" if parent["role"] == "prompter" else "prompter"
        parent_id = parent["message_id"]
        nodes.append(
            {"message_id": f"n{i}", "parent_id": parent_id, "role": role, "text": f"text {i}"}
        )
    return nodes


def nest(nodes: list[dict], root: str = "n0") -> dict:
    by_id = {node["message_id"]: {**node, "replies": []} for node in nodes}
    for node in nodes:
        if node["parent_id"] in by_id:
            by_id[node["parent_id"]]["replies"].append(by_id[node["message_id"]])
    return by_id[root]


def expected(nodes: list[dict]) -> list[tuple[str, ...]]:
    """The texts from the root to o, for every o that follows a reply: what there is to learn."""
    by_id = {node["message_id"]: node for node in nodes}
    found = []
    for o in nodes:
        chain, node = [], o
        while node:
            chain.append(node["text"])
            node = by_id.get(node["parent_id"])
        if o["role"] == "prompter" and len(chain) > 2:
            found.append(tuple(reversed(chain)))
    return sorted(found)


def told(path: str, **options: str) -> list[tuple[str, ...]]:
    conversations, report = read_conversations(path, **options)
    found = [
        tuple(m.content for m in (*i.x, i.y, i.o)) for c in conversations for i in c.interactions()
    ]
    every = [i.id for c in conversations for i in c.interactions()]
    assert len(set(every)) == len(every) == report.interactions
    return sorted(found)


@pytest.mark.parametrize("seed", range(5))
def test_trees_tell_every_interaction_once(tmp_path, seed):
    """Nested or flat, in any order of lines: each follow-up in a tree is told exactly once."""
    draw = random.Random(seed)
    nodes = grow(draw, 60)
    nested = write(tmp_path, "n.jsonl", [{"message_tree_id": "t", "prompt": nest(nodes)}])
    assert told(nested) == expected(nodes)
    assert told(write(tmp_path, "f.jsonl", nodes)) == expected(nodes)
    shuffled = draw.sample(nodes, len(nodes))
    assert told(write(tmp_path, "s.jsonl", shuffled)) == expected(nodes)


def test_shared_interactions_belong_to_the_first_path(tmp_path):
    """The picture in the docstring of `_paths`, for both forms."""
    names = ["u1", "y1", "u2", "y2", "u3", "y3", "y4"]
    above = [None, "u1", "y1", "u2", "y1", "u3", "u3"]
    nodes = [
        {
            "message_id": name,
            "parent_id": parent,
            "role": {"u": "prompter", "y": "assistant"}[name[0]],
            "text": name,
        }
        for name, parent in zip(names, above, strict=True)
    ]
    flat_path = write(tmp_path, "f.jsonl", nodes)
    nested = [{"message_tree_id": "u1", "prompt": nest(nodes, "u1")}]
    for path in (flat_path, write(tmp_path, "n.jsonl", nested)):
        conversations, report = read_conversations(path)
        assert [c.id for c in conversations] == ["u1.0", "u1.1"]
        assert ["".join(m.content for m in c.messages) for c in conversations] == [
            "u1y1u2y2",
            "u1y1u3y3",
        ]
        assert [[i.o.content for i in c.interactions()] for c in conversations] == [["u2"], ["u3"]]
        assert report.lost == {"only repeats": 1}


@pytest.mark.parametrize("form", ["nested", "flat"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"deleted": True}, "deleted message"),
        ({"text": " "}, "empty message"),
        ({"role": "bot"}, "unknown role"),
        ({"text": None}, "wrong type"),
    ],
)
def test_bad_message_falls_with_its_replies(tmp_path, form, change, reason):
    """The rest of the tree stays whole. Only deleted messages are no error."""
    nodes = grow(random.Random(1), 40)
    spoilt = next(n for n in nodes[1:] if sum(m["parent_id"] == n["message_id"] for m in nodes) > 1)
    gone = {spoilt["message_id"]}
    for node in nodes:
        if node["parent_id"] in gone:
            gone.add(node["message_id"])
    assert 2 < len(gone) < 30
    rest = [node for node in nodes if node["message_id"] not in gone]
    spoilt |= change
    records = nodes if form == "flat" else [{"message_tree_id": "t", "prompt": nest(nodes)}]
    path = write(tmp_path, "t.jsonl", records)
    assert told(path, on_error="skip") == expected(rest)
    assert read_conversations(path, on_error="skip")[1].lost[reason] == 1
    if reason != "deleted message":
        line = nodes.index(spoilt) + 1 if form == "flat" else 1
        with pytest.raises(
            InputError, match=rf"t\.jsonl:{line}: {reason}: .*{spoilt['message_id']}"
        ):
            read_conversations(path)
    else:
        assert told(path) == expected(rest)


def test_reply_to_oneself(tmp_path):
    """A turn that a tree has in two parts is joined on that path only, and counted."""
    said = [
        ("a", None, "prompter", "Q"),
        ("b", "a", "assistant", "part 1"),
        ("c", "b", "assistant", "part 2"),
        ("d", "c", "prompter", "after both"),
        ("e", "b", "prompter", "after one"),
    ]
    keys = ("message_id", "parent_id", "role", "text")
    path = write(tmp_path, "t.jsonl", [dict(zip(keys, row, strict=True)) for row in said])
    assert told(path) == [("Q", "part 1", "after one"), ("Q", "part 1\npart 2", "after both")]
    assert read_conversations(path)[1].lost == {"joined to its parent": 1}


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"parent_id": "gone"}, "parent not found", "'gone' of 'm2' is not in the file"),
        ({"parent_id": "m2"}, "parent not found", "leads to no first message"),
        ({"message_id": "m1"}, "duplicate id", "'m1'"),
        ({"message_id": None}, "wrong type", "message_id"),
        ({"parent_id": {}}, "wrong type", "parent_id"),
    ],
)
def test_flat_without_parent(tmp_path, change, reason, words):
    """A message that hangs on nothing is an error, and costs no other tree anything."""
    nodes = flat(TEXTS)
    nodes[2] |= change
    other = [{**n, "message_id": f"o{n['message_id']}"} for n in flat(TEXTS)]
    for node in other[1:]:
        node["parent_id"] = f"o{node['parent_id']}"
    path = write(tmp_path, "t.jsonl", nodes + other)
    with pytest.raises(InputError, match=rf"t\.jsonl:3: {reason}: .*{words}"):
        read_conversations(path)
    assert ids(path, on_error="skip") == ["om0.0"]


def test_long_thread(tmp_path):
    """A dialogue may be longer than Python's stack is deep."""
    texts = tuple(f"text {i}" for i in range(1501))
    [conversation], report = read_conversations(write(tmp_path, "t.jsonl", flat(texts)))
    assert len(conversation.messages) == 1501 and report.interactions == 750


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
def test_real_files(name, records, interactions):
    """Every record is read, and every interaction once."""
    conversations, report = read_conversations(shared(name))
    every = [i for c in conversations for i in c.interactions()]
    assert len({i.id for i in every}) == len(every) == report.interactions == interactions
    assert report.records == records
