"""Turns mean the same whatever a format calls them, and what is not used of them is told."""

import itertools
import json

import pytest

from interact_jax.data.conversations import read_conversations
from interact_jax.data.messages import Fault
from interact_jax.data.turns import ROLE_KEYS, ROLE_OF, TEXT_KEYS, read_turn, read_turns
from interact_jax.schema import InputError
from tests.logs import chat, good, write

TEXTS = ("Tell me a fact", "The sea is salt.", "Shorter")
PLAIN = [("user", TEXTS[0]), ("assistant", TEXTS[1]), ("user", TEXTS[2])]


def read(tmp_path, *records: dict, **options: str):
    return read_conversations(write(tmp_path, "chats.jsonl", list(records)), **options)


def said(conversation) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in conversation.messages]


def turns(user: str, assistant: str, role: str, text: str) -> list[dict]:
    names = (user, assistant, user)
    return [{role: name, text: said} for name, said in zip(names, TEXTS, strict=True)]


@pytest.mark.parametrize("dialogue", ["messages", "conversations", "conversation"])
@pytest.mark.parametrize(
    ("user", "assistant", "role", "text"),
    [
        ("user", "assistant", "role", "content"),
        ("human", "gpt", "from", "value"),
        ("Human", "AI", "from", "value"),
        ("USER", " Bot ", "role", "value"),
        ("prompter", "model", "role", "text"),
        ("Person", "ChatGPT", "speaker", "text"),
    ],
)
def test_keys_and_roles_of_one_format_inside_another(
    tmp_path, dialogue, user, assistant, role, text
):
    [conversation], report = read(tmp_path, {dialogue: turns(user, assistant, role, text)})
    assert said(conversation) == PLAIN
    assert [i.id for i in conversation.interactions()] == ["chats.1_1"]
    assert not (report.lost or report.mended or report.unused)


def test_reasoning_has_two_names(tmp_path):
    """One of them is read; what else stands under the other is told."""
    record = chat("c", *TEXTS)
    record["messages"][1]["reasoning"] = "Salt, then."
    [conversation], report = read(tmp_path, record)
    assert conversation.messages[1].fields == {"reasoning_content": "Salt, then."}
    assert not report.unused
    record["messages"][1]["reasoning_content"] = "Salt, then."
    assert not read(tmp_path, record)[1].unused
    for other in ("Pepper.", {"effort": "high"}):
        record["messages"][1]["reasoning"] = other
        [conversation], report = read(tmp_path, record)
        assert conversation.messages[1].fields == {"reasoning_content": "Salt, then."}
        assert [n for reason, n in report.unused.items() if "reasoning" in reason] == [1]


@pytest.mark.parametrize("identity", [None, "", "absent"])
def test_an_id_in_some_lines_only(tmp_path, identity):
    """Where there is none, a name is made up; the others keep theirs."""
    record = {**chat("", *TEXTS), "id": identity}
    if identity == "absent":
        del record["id"]
    conversations, report = read(tmp_path, record, good("b"), record)
    assert [c.id for c in conversations] == ["chats.1", "b", "chats.3"] and not report.lost
    conversations, _ = read(tmp_path, record, good("b"), format="native")
    assert [c.id for c in conversations] == ["chats.1", "b"]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "a fact"}],
        ["Tell me a fact"],
        {"content_type": "text", "parts": ["Tell me a fact"]},
        {"type": "input_text", "text": "Tell me a fact"},
        [{"type": "text", "text": {"value": "Tell me a fact", "annotations": []}}],
    ],
)
def test_content_in_parts(tmp_path, content):
    record = chat("c", *TEXTS)
    record["messages"][0]["content"] = content
    [conversation], report = read(tmp_path, record)
    assert said(conversation) == PLAIN and not report.mended


def test_parts_that_are_no_text_are_told(tmp_path):
    """The text is read; each kind of what is left out is counted."""
    record = chat("c", *TEXTS)
    parts = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": TEXTS[0]}]
    record["messages"][0]["content"] = [*parts, {"type": "image_url"}, 7]
    [conversation], report = read(tmp_path, record)
    assert said(conversation) == PLAIN
    assert report.mended == {
        "part of kind 'image_url' left out": 2,
        "part of kind 'int' left out": 1,
    }
    conversations, report = read(tmp_path, record, good("b"), repair="drop")
    assert [c.id for c in conversations] == ["b"]
    with pytest.raises(InputError, match=r"part of kind 'image_url' left out: messages\[0\]"):
        read(tmp_path, record, repair="stop")


@pytest.mark.parametrize("key", ["system", "system_prompt"])
@pytest.mark.parametrize("prompt", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_a_system_prompt_beside_the_turns(tmp_path, key, prompt):
    """It is the first message; ids count the turns as they stand."""
    beside = {"conversations": turns("human", "gpt", "from", "value"), key: prompt}
    among = chat("c", *TEXTS)
    among = {**among, key: "Be brief.", "messages": [SYSTEM, *among["messages"]]}
    both, report = read(tmp_path, beside)
    assert said(both[0]) == [("system", "Be brief."), *PLAIN]
    assert [i.id for i in both[0].interactions()] == ["chats.1_1"]
    assert [m.role for m in next(both[0].interactions()).x] == ["system", "user"]
    assert key not in both[0].meta and not report.mended
    [conversation], report = read(tmp_path, among)
    assert said(conversation) == [("system", "Be brief."), *PLAIN] and not report.mended
    assert [i.id for i in conversation.interactions()] == ["c_2"]
    among["messages"][0] = {"role": "developer", "content": "In French."}
    [conversation], report = read(tmp_path, among)
    assert said(conversation)[0] == ("system", "Be brief.\n\nIn French.")
    assert report.mended == {"two messages of one role in a row": 1}


SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"id": "t", "type": "function", "function": {"name": "f", "arguments": {"at": 1}}}


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "function_call": CALL["function"]},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
    ],
)
def test_calls_of_tools_are_turns(tmp_path, turn):
    """In the older form and the newer one, their arguments as text or as what the text says; no y
    is a call, and what follows from the results is."""
    record = chat("c", "Q", "A", "P")
    answer = {"role": "function", "name": "f", "content": "3"}
    record["messages"][1:1] = [turn, answer]
    [conversation], report = read(tmp_path, record)
    assert [i.id for i in conversation.interactions()] == ["c_3"] and not report.lost
    roles = [m.role for m in conversation.messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    [call] = conversation.messages[1].fields["tool_calls"]
    assert call["function"] == CALL["function"]
    text = {**CALL, "function": {"name": "f", "arguments": '{"at": 1}'}}
    record["messages"][1] = {"role": "assistant", "content": None, "tool_calls": [text]}
    [conversation], _ = read(tmp_path, record)
    assert conversation.messages[1].fields["tool_calls"] == [CALL]


def test_fields_that_are_not_used_are_told(tmp_path):
    """Of messages and of records, by name, with the first place; empty ones say nothing."""
    first, second = good("a"), good("b")
    first["messages"][0] |= {"rating": 5, "images": [], "note": None}
    first["messages"][2] |= {"rating": 4}
    second |= {"images": ["x"], "source": "web", "tools": [{"name": "f"}]}
    conversations, report = read(tmp_path, first, second)
    assert report.unused == {"field 'rating' not used": 2, "field 'images' not used": 1}
    assert conversations[1].meta == {"source": "web"}
    assert conversations[1].tools == ({"name": "f"},)
    [line] = [line for line in report.lines() if "rating" in line]
    assert line == f"  2 x field 'rating' not used, such as {tmp_path}/chats.jsonl:1: messages[0]"


def test_ratings_of_a_whole_record_are_told(tmp_path):
    """Its scalars are what a function of data.weigh may look at; nothing else does."""
    report = read(tmp_path, good("a") | {"rating": 1, "source": "web"}, good("b") | {"rating": 5})[
        1
    ]
    line = "  fields that nothing but data.weigh uses: 'rating' (2), 'source' (1)"
    assert report.lines()[-1] == line
    many = read(tmp_path, good("a") | {f"f{n}": n for n in range(20)})[1]
    assert many.lines()[-1].endswith("'f11' (1) and 8 more")


def test_many_fields_make_no_long_report(tmp_path):
    record = {**good("a"), **{f"key {n}": [n] for n in range(1000)}}
    _, report = read(tmp_path, record)
    assert len(report.unused) == 1000 and len(report.lines()) < 20
    assert report.lines()[-1] == "  and 988 more fields not used"


def test_plain_turns_are_read_as_others_are():
    """They have a way of their own, which is shorter."""
    names = [*ROLE_OF, "User", " bot ", "nobody", "", None, 3]
    texts = ["Hi", "", "Grüße \U0001f600", "half \ud83d", None, 7, ["Hi"], [{"text": "Hi"}]]
    keys = [pair for each in itertools.product(ROLE_KEYS, TEXT_KEYS) for pair in (each, each[::-1])]
    messages = 0
    for name, text, (first, second) in itertools.product(names, texts, keys):
        of = {first: name, second: text} if first in ROLE_KEYS else {first: text, second: name}
        try:
            expected = read_turn(of, 0, "messages[0]")
        except Fault:
            (turn,) = _turns_or_fault(of)
            assert turn is None or turn.fault is not None
        else:
            messages += 1
            assert list(read_turns([of], "messages")) == [expected]
    assert messages > 1000


def _turns_or_fault(value):
    try:
        return list(read_turns([value], "messages"))
    except Fault:  # of a system message
        return [None]
